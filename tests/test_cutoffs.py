from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from trialese.thresholds import best_cut, decide, f1_averages, shrunk_cuts

SEEDS = st.integers(0, 10_000)


def drawn(seed: int, rows: int = 40, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.random((rows, labels)) < 0.3
    return np.clip(truth * 0.3 + generator.random((rows, labels)) * 0.7, 0, 1), truth


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_f1_averages_are_scikit_learns(seed: int) -> None:
    scores, truth = drawn(seed)
    given_ = scores >= 0.5
    micro, macro = f1_averages(truth, given_)
    assert micro == pytest.approx(f1_score(truth, given_, average="micro", zero_division=0))
    assert macro == pytest.approx(f1_score(truth, given_, average="macro", zero_division=0))


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_no_cut_is_better_than_the_best(seed: int) -> None:
    scores, truth = drawn(seed, labels=1)
    scores, truth = scores[:, 0], truth[:, 0]
    if not truth.any():
        assert best_cut(scores, truth, near=0.4) == 0.4
        return
    best = f1_score(truth, scores >= best_cut(scores, truth, near=0.5))
    assert all(f1_score(truth, scores >= cut, zero_division=0) <= best + 1e-12 for cut in scores)


def test_shrinkage_runs_from_own_to_common() -> None:
    scores, truth = drawn(3)
    common = best_cut(scores.ravel(), truth.ravel(), near=0.5)
    own = [best_cut(scores[:, i], truth[:, i], near=common) for i in range(4)]
    np.testing.assert_allclose(shrunk_cuts(scores, truth, shrinkage=0.0), own, atol=1e-9)
    np.testing.assert_allclose(shrunk_cuts(scores, truth, shrinkage=1e12), common, atol=1e-6)
    between = shrunk_cuts(scores, truth, shrinkage=10.0)
    assert (between >= np.minimum(own, common) - 1e-9).all()
    assert (between <= np.maximum(own, common) + 1e-9).all()


def test_one_label_tasks_take_the_largest() -> None:
    scores = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    np.testing.assert_array_equal(
        decide(scores, "multiclass"), [[False, False, True], [True, False, False]]
    )
