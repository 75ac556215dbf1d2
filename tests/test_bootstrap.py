from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.bootstrap import cluster_sums, distinct_rows, interval, resampled_sums


def draw(sums: np.ndarray, resamples: int, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate(list(resampled_sums(sums, resamples=resamples, random=random)))


def test_sums_by_cluster_keep_the_total_and_the_order_of_names() -> None:
    figures = np.arange(8.0).reshape(4, 2)
    sums = cluster_sums(figures, ["b", "a", "b", "c"], ["a", "b", "c", "d"])
    assert sums.tolist() == [[2, 3], [4, 6], [6, 7], [0, 0]]


def test_same_spread_as_drawing_clusters_one_by_one() -> None:
    random = np.random.default_rng(3)
    sums = random.integers(0, 3, (40, 2)).astype(float)
    fast = draw(sums, 20_000)
    slow = np.stack([sums[random.integers(0, 40, 40)].sum(axis=0) for _ in range(20_000)])
    np.testing.assert_allclose(fast.mean(axis=0), slow.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose(fast.std(axis=0), slow.std(axis=0), rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(fast.T), np.corrcoef(slow.T), atol=0.03)
    np.testing.assert_allclose(
        np.quantile(fast, [0.025, 0.975], axis=0),
        np.quantile(slow, [0.025, 0.975], axis=0),
        rtol=0.03,
    )


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_distinct_rows_are_numpys(rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.array([-1.5, -0.0, 0.0, 1e-300, 0.5, 2.0, -1e9])
    table = random.choice(values, (rows, columns))
    found, counts = distinct_rows(table)
    wanted, wanted_counts = np.unique(table, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(counts, wanted_counts)


def test_same_seed_same_draws_whatever_the_order_of_clusters() -> None:
    sums = np.random.default_rng(0).integers(0, 4, (30, 3)).astype(float)
    np.testing.assert_array_equal(draw(sums, 50), draw(sums[::-1], 50))
    assert not np.array_equal(draw(sums, 50), draw(sums, 50, seed=2))


def test_portions_do_not_depend_on_how_many_resamples_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((30, 2))
    whole = draw(sums, 11)
    monkeypatch.setattr("trialese.bootstrap._CELLS_AT_ONCE", 60)
    np.testing.assert_allclose(draw(sums, 11), whole)


def test_interval_of_a_known_distribution() -> None:
    found = interval(0.5, np.linspace(0, 1, 1001), confidence=0.9)
    assert (found.point, found.low, found.high) == (0.5, 0.05, 0.95)
