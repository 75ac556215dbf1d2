from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from trialese.verdict.metrics import measure, row_figures
from trialese.verdict.significance import holm, mcnemar, randomisation_p


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    theirs = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), theirs, atol=1e-12)


def test_holm_of_nothing() -> None:
    assert holm([]) == []


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 400))
def test_mcnemar_agrees_with_statsmodels(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    right, rival = random.random(rows) < 0.7, random.random(rows) < 0.6
    table = [
        [(right & rival).sum(), (right & ~rival).sum()],
        [(~right & rival).sum(), (~right & ~rival).sum()],
    ]
    only, rival_only, p_value = mcnemar(right, rival)
    assert (only, rival_only) == (table[0][1], table[1][0])
    assert p_value == pytest.approx(their_mcnemar(table, exact=True).pvalue, abs=1e-9)


def test_mcnemar_of_many_rows_does_not_overflow() -> None:
    right = np.arange(5000) % 2 == 0
    assert mcnemar(right, ~right) == (2500, 2500, 1.0)


def means(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[:, :1] / one[:, 1:] - other[:, :1] / other[:, 1:]


def test_on_single_rows_randomisation_is_mcnemar() -> None:
    random = np.random.default_rng(0)
    right, rival = random.random(300) < 0.75, random.random(300) < 0.67
    sums = [np.column_stack([each, np.ones(300)]).astype(float) for each in (right, rival)]
    p_value = randomisation_p(
        *sums, means, rounds=20_000, random=np.random.default_rng(1)
    )  # the exact test counts ties as this one does
    assert p_value[0] == pytest.approx(mcnemar(right, rival)[2], abs=0.01)


def f1(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return measure(one).label_f1 - measure(other).label_f1


def systems(seed: int, clusters: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random((clusters, 2)) < 0.4
    figures = []
    for flip in (0.2, 0.2 + gain):
        predicted = truth ^ (random.random(truth.shape) < flip)
        figures.append(row_figures(predicted, truth))
    return figures[0], figures[1]


def test_same_as_swapping_clusters_one_by_one() -> None:
    one, other = systems(3, 40, 0.1)
    fast = randomisation_p(one, other, f1, rounds=2000, random=np.random.default_rng(0))
    random = np.random.default_rng(1)
    found = np.abs(f1(one.sum(axis=0)[None], other.sum(axis=0)[None]))[0]
    as_large = np.zeros(2)
    for _ in range(2000):
        swap = (random.random(40) < 0.5)[:, None]
        a, b = np.where(swap, other, one).sum(axis=0), np.where(swap, one, other).sum(axis=0)
        as_large += np.abs(f1(a[None], b[None])[0]) >= found - 1e-12
    np.testing.assert_allclose(fast, (as_large + 1) / 2001, atol=0.05)


def test_equal_systems_have_p_of_one_and_a_clear_gain_a_small_one() -> None:
    one, other = systems(1, 400, 0.2)
    random = np.random.default_rng(0)
    assert (randomisation_p(one, one, f1, rounds=99, random=random) == 1).all()
    assert (randomisation_p(one, other, f1, rounds=999, random=random) == 1 / 1000).all()


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Equally good systems, 400 times: p below 5 % in about 5 % of them."""
    p_values = [
        randomisation_p(*systems(n, 60, 0.0), f1, rounds=199, random=np.random.default_rng(n))
        for n in range(400)
    ]
    share = (np.array(p_values) <= 0.05).mean()
    assert 0.02 < share < 0.08
