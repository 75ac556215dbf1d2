""""""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from trialese.errors import LeakageError, RecordError
from trialese.records import Predictions
from trialese.settings import VerdictSettings
from trialese.thresholds import best_cut, choose_thresholds, decide, f1_averages, shrunk_cuts

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


def tune(scores: Any, truth: Any, **changes: Any) -> Predictions:
    scores = np.asarray(scores, np.float64)
    values = {
        "task": "toy",
        "kind": "multilabel",
        "labels": tuple("abcdef"[: scores.shape[1]]),
        "system": "base",
        "split": "tune",
        "seed": 1,
        "fold": 0,
        "ids": tuple(f"t{i}" for i in range(len(scores))),
        "clusters": tuple(f"c{i}" for i in range(len(scores))),
        "scores": scores,
        "truth": np.asarray(truth, bool),
    }
    return Predictions(**(values | changes))


def test_rare_label_stays_near_the_common_cut_off_and_a_common_one_goes_its_own_way() -> None:
    random = np.random.default_rng(0)
    truth = np.column_stack([random.random(2000) < 0.5, random.random(2000) < 0.002])
    scores = (
        np.column_stack([np.where(truth[:, 0], 0.8, 0.4), np.where(truth[:, 1], 0.06, 0.02)])
        + random.random((2000, 2)) * 0.01
    )
    assert 0 < truth[:, 1].sum() < 10
    free = choose_thresholds(tune(scores, truth), VerdictSettings(threshold_shrinkage=0.0))
    drawn = choose_thresholds(tune(scores, truth), VerdictSettings(threshold_shrinkage=10.0))
    pinned = choose_thresholds(tune(scores, truth), VerdictSettings(threshold_shrinkage=1e9))
    assert free.values[1] < drawn.values[1] < pinned.values[1]
    assert abs(free.values[0] - drawn.values[0]) < 0.02
    assert pinned.values[0] == pytest.approx(pinned.values[1], abs=1e-3)


def test_label_without_positives_gets_the_common_cut_off() -> None:
    chosen = choose_thresholds(
        tune([[0.9, 0.9], [0.2, 0.1]], [[1, 0], [0, 0]]), VerdictSettings(threshold_shrinkage=0.0)
    )
    common = best_cut(np.array([0.9, 0.9, 0.2, 0.1]), np.array([1, 0, 0, 0], bool), near=0.5)
    assert chosen.values[1] == pytest.approx(common)


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_tune_will_do(split: str) -> None:
    with pytest.raises(LeakageError, match=f"chosen on {split}; choose them on tune"):
        choose_thresholds(tune([[0.5]], [[1]], split=split), VerdictSettings())


def test_empty_tune_is_refused() -> None:
    with pytest.raises(RecordError, match="tune is empty"):
        choose_thresholds(tune(np.zeros((0, 2)), np.zeros((0, 2))), VerdictSettings())
    with pytest.raises(RecordError, match=r"tune holds no label \(seed 1, fold 0\); raise tune"):
        choose_thresholds(tune(np.zeros((3, 2)), np.zeros((3, 2))), VerdictSettings())


def test_what_was_chosen_from_is_kept() -> None:
    chosen = choose_thresholds(tune([[0.9], [0.1]], [[1], [0]]), VerdictSettings())
    assert chosen.chosen_on == "tune"
    assert chosen.chosen_from == {"c0", "c1"}


def test_multiclass_has_no_cut_offs() -> None:
    run = tune([[0.9, 0.1], [0.3, 0.7]], [[1, 0], [0, 1]], kind="multiclass")
    assert choose_thresholds(run, VerdictSettings()).values == (0.0, 0.0)
    empty = tune(np.zeros((0, 2)), np.zeros((0, 2)), kind="multiclass")
    assert choose_thresholds(empty, VerdictSettings()).values == (0.0, 0.0)


def test_fixed_cut_off_is_chosen_from_no_row() -> None:
    fixed = VerdictSettings(threshold=0.3)
    chosen = choose_thresholds(tune([[0.9, 0.2], [0.1, 0.1]], [[1, 0], [0, 0]]), fixed)
    assert chosen.values == (0.3, 0.3)
    assert chosen.chosen_from == frozenset()
    empty = tune(np.zeros((0, 2)), np.zeros((0, 2)))
    assert choose_thresholds(empty, fixed).values == (0.3, 0.3)
