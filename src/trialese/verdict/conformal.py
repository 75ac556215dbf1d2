"""Label sets with a promise: on average at most a given share of a text's labels is missed.

Conformal risk control (Angelopoulos et al. 2022, theorem 1) with the loss "share of the text's
true labels outside its set"; with one true label a text this is split conformal prediction. The
promise holds where tune and test clusters are exchangeable. It is made over clusters, because
near-identical texts are not independent. Weights that were stopped on tune weaken it, so the
verdict measures it on test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose_level", "missed_share", "set_figures"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def choose_level(
    scores: Floats, truth: Bools, clusters: Sequence[str], *, miss_rate: float
) -> float:
    """The highest level at which the sets `score >= level` keep the promise; 0 if none does.

    For tune rows. With n clusters and total loss R the level is the highest with
    (R + 1) / (n + 1) <= miss_rate; level 0 takes every label.
    """
    count = len(set(clusters))
    rows, labels = np.nonzero(truth)
    if not len(rows) or 1 / (count + 1) > miss_rate:
        return 0.0
    loss = 1 / truth.sum(axis=1)[rows] / _cluster_sizes(clusters)[rows]
    order = np.argsort(scores[rows, labels], kind="stable")
    level, loss = scores[rows, labels][order], loss[order]
    below = np.concatenate([[0.0], np.cumsum(loss)[:-1]])
    first_of_equals = np.concatenate([[True], level[1:] != level[:-1]])
    kept = first_of_equals & ((below + 1) / (count + 1) <= miss_rate + 1e-12)
    return float(level[kept].max()) if kept.any() else 0.0


def missed_share(sets: Bools, truth: Bools) -> Floats:
    """The share of each row's true labels outside its set, (rows,); 0 for a row without labels."""
    return np.asarray((truth & ~sets).sum(axis=1) / np.maximum(truth.sum(axis=1), 1))


def set_figures(
    sets: Bools, predicted: Bools, truth: Bools, clusters: Sequence[str], *, most_labels: int
) -> Floats:
    """Figures of each row, (rows, 8), for sums over rows.

    A text is left to a person if its set is empty or holds more than `most_labels`. Columns: the
    row's missed share divided by the rows of its cluster; 1 divided by those; labels in the set;
    1 if left to a person; true positives, false positives and false negatives of `predicted` if
    not; and 1, which counts rows.
    """
    sizes = sets.sum(axis=1)
    answered = (sizes > 0) & (sizes <= most_labels)
    weight = 1 / _cluster_sizes(clusters)
    return np.column_stack(
        [
            missed_share(sets, truth) * weight,
            weight,
            sizes,
            ~answered,
            (predicted & truth).sum(axis=1) * answered,
            (predicted & ~truth).sum(axis=1) * answered,
            (~predicted & truth).sum(axis=1) * answered,
            np.ones(len(truth)),
        ]
    ).astype(np.float64)


def _cluster_sizes(clusters: Sequence[str]) -> NDArray[np.int64]:
    """Of each row, how many rows its cluster has."""
    _, place, counts = np.unique(np.array(clusters), return_inverse=True, return_counts=True)
    return np.asarray(counts[place])
