"""Bootstrap over clusters of near-duplicates: sums by cluster, their resamples, intervals.

Sums over rows decide every metric (see `verdict.metrics`), so clusters with equal sums are
interchangeable: a resample is one multinomial draw of how often each *kind* of cluster comes up,
which is exactly the distribution of drawing clusters one by one. All systems and seeds share
the draws, so their differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trialese.records import Interval

__all__ = ["cluster_sums", "distinct_rows", "interval", "resampled_sums"]


Floats = NDArray[np.float64]

_CELLS_AT_ONCE = 4_000_000


def cluster_sums(figures: Floats, clusters: Sequence[str], names: Sequence[str]) -> Floats:
    """Sums of the rows' figures by cluster, (names, columns), in the order of `names`.

    A name without rows has zeros. Every cluster must be among the names.
    """
    position = {name: place for place, name in enumerate(names)}
    sums = np.zeros((len(names), figures.shape[1]))
    np.add.at(sums, [position[cluster] for cluster in clusters], figures)
    return sums


def resampled_sums(
    sums: Floats, *, resamples: int, random: np.random.Generator
) -> Iterator[Floats]:
    """Total sums of each resample, in portions (some resamples, columns) that add up to all.

    `sums` is (clusters, columns), one column for every figure of every system and seed; each
    resample draws as many clusters as there are, with replacement (Efron & Tibshirani 1993).
    The portions hold about 32 MB of weights each, whatever the number of clusters.
    """
    kinds, counts = distinct_rows(sums)
    portion = max(1, _CELLS_AT_ONCE // len(kinds))
    for start in range(0, resamples, portion):
        size = min(portion, resamples - start)
        weights = random.multinomial(counts.sum(), counts / counts.sum(), size=size)
        yield weights.astype(np.float64) @ kinds


def distinct_rows(rows: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The distinct rows, sorted, and how often each is there: np.unique(rows, axis=0, ...).

    As bytes in the order of their numbers, rows are compared much faster.
    """
    numbers = np.ascontiguousarray(rows + 0.0)  # -0.0 is 0.0
    bits = numbers.view(np.uint64)
    if (numbers < 0).any():
        bits = np.where(numbers < 0, ~bits, bits | np.uint64(1 << 63))
    whole = bits.astype(">u8").view(f"V{8 * rows.shape[1]}").ravel()
    _, first, counts = np.unique(whole, return_index=True, return_counts=True)
    return rows[first], counts


def interval(point: float, draws: Floats, *, confidence: float = 0.95) -> Interval:
    """The figure with its percentile interval, rounded to ten decimals.

    Rounding hides the last bits, which depend on how many threads added the sums up.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(*(round(float(value), 10) + 0.0 for value in (point, low, high)))
