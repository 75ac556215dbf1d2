"""Calibration of scores: Brier score, calibration error, temperature, conformal label sets.

A multilabel task makes one forecast a row and label; a multiclass task one a row, the highest
score against whether that label is right (Guo et al. 2017).

Label sets come from conformal risk control (Angelopoulos et al. 2022, theorem 1) with the loss
"share of the text's true labels outside its set"; with one true label a text this is split
conformal prediction. The promise holds where tune and test clusters are exchangeable. It is made
over clusters, because near-identical texts are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trialese.temperature import apply_temperature, fit_temperature

__all__ = [
    "Reliability",
    "apply_temperature",
    "calibration_figures",
    "choose_label_levels",
    "choose_level",
    "fit_temperature",
    "measure_calibration",
    "missed_share",
    "reliability",
    "risk_coverage",
    "set_figures",
]


Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Kind = Literal["multilabel", "multiclass"]

BINS = 15
FLOOR = 0.05
"""Forecasts below it play no part in the calibration error."""
_CURVE_POINTS = 40
_FEWEST_ANSWERED = 50  # texts; a share among fewer jumps about
_EDGES = np.array([FLOOR, 0.2, 0.4, 0.6, 0.8, 1.0])


@dataclass(frozen=True, slots=True)
class Reliability:
    """Of the forecasts in each bin of equal width: how many, their mean, and how many were true."""

    count: NDArray[np.int64]  # (bins,)
    forecast: Floats  # (bins,), mean score; 0 in an empty bin
    share: Floats  # (bins,), share that came true; 0 in an empty bin


def calibration_figures(scores: Floats, truth: Bools) -> Floats:
    """Figures of each row, (rows, 2 + 15 x labels), whose sums `measure_calibration` takes.

    Columns: mean squared error of the row's scores; of each label in each of five bins from
    `FLOOR` up the gap forecast - outcome, the variance of the outcome if the forecast is right,
    and a count; and 1, which counts rows. Forecasts below the floor are left out: nearly all of
    a rare label's are close to 0 and right whatever the system.
    """
    rows, labels = scores.shape
    bins = np.clip(np.searchsorted(_EDGES, scores, side="right") - 1, 0, len(_EDGES) - 2)
    parts = np.stack([scores - truth, scores * (1 - scores), np.ones(scores.shape)])
    cells = np.zeros((3, rows, labels, len(_EDGES) - 1))
    np.put_along_axis(cells, bins[None, ..., None], (parts * (scores >= FLOOR))[..., None], axis=-1)
    squared = ((scores - truth) ** 2).mean(axis=1)
    by_part = cells.transpose(1, 0, 2, 3).reshape(rows, -1)
    return np.column_stack([squared, by_part, np.ones(rows)])


def measure_calibration(sums: Floats, labels: int) -> tuple[Floats, Floats]:
    """Brier score and squared calibration error from sums of `calibration_figures`, each (...).

    Brier (1950): the mean squared error of a score. Calibration error: of each label the squared
    gap between mean forecast and share that came true, weighted by the forecasts in each bin, less
    what chance alone adds to it (Ferro & Fricker 2012; Kumar et al. 2019), and averaged over the
    labels. It is about 0, and below it half the time, for a model that is right; its root is on
    the scale of a probability.
    """
    parts = sums[..., 1:-1].reshape(*sums.shape[:-1], 3, labels, -1)
    gap, variance, count = np.moveaxis(parts, -3, 0)
    excess = (gap**2 - variance) / np.maximum(count, 1e-12) * (count > 0)
    forecasts = count.sum(axis=-1)
    by_label = excess.sum(axis=-1) / np.maximum(forecasts, 1e-12)
    told = np.maximum((forecasts > 0).sum(axis=-1), 1)
    rows = np.maximum(sums[..., -1], 1e-12)
    return sums[..., 0] / rows, by_label.sum(axis=-1) / told


def reliability(scores: Floats, truth: Bools, *, kind: Kind) -> Reliability:
    """The reliability diagram's points."""
    forecast, outcome = (part.ravel() for part in _forecasts(scores, truth, kind))
    bins = _bin(forecast)
    count = np.bincount(bins, minlength=BINS)
    kept = np.maximum(count, 1)
    return Reliability(
        count=count,
        forecast=np.bincount(bins, forecast, BINS) / kept,
        share=np.bincount(bins, outcome, BINS) / kept,
    )


def _forecasts(scores: Floats, truth: Bools, kind: Kind) -> tuple[Floats, Floats]:
    if kind == "multilabel":
        return scores, truth.astype(np.float64)
    best = scores.argmax(axis=1)[:, None]
    return (
        np.take_along_axis(scores, best, axis=1),
        np.take_along_axis(truth, best, axis=1).astype(np.float64),
    )


def _bin(forecast: Floats) -> NDArray[np.int64]:
    return np.minimum((forecast * BINS).astype(np.int64), BINS - 1)


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


def choose_label_levels(
    scores: Floats, truth: Bools, clusters: Sequence[str], *, miss_rate: float
) -> Floats:
    """A level for each label, (labels,), that keeps the promise for the texts with that label.

    For tune rows. A label in too few clusters to promise anything gets 0: it is in every set.
    """
    names = np.array(clusters)
    return np.array(
        [
            choose_level(
                scores[held][:, [label]],
                truth[held][:, [label]],
                names[held].tolist(),
                miss_rate=miss_rate,
            )
            for label in range(truth.shape[1])
            for held in (truth[:, label],)
        ]
    )


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


def risk_coverage(scores: Floats, given: Bools, truth: Bools) -> dict[str, list[float]]:
    """How many of the given labels are wrong while ever fewer texts are answered (El-Yaniv & Wiener
    2010): `coverage`, the share of texts that are, and `wrong`, of their labels, both falling.

    A text is as sure as its surest given label; texts without a label are answered by nobody.
    """
    answered = given.any(axis=1)
    surest = np.where(given, scores, -1.0).max(axis=1)[answered]
    order = np.argsort(-surest, kind="stable")
    wrong = np.cumsum((given & ~truth).sum(axis=1)[answered][order])
    labels = np.cumsum(given.sum(axis=1)[answered][order])
    ends = np.flatnonzero(np.append(np.diff(surest[order]) != 0, True)[: len(order)])
    ends = ends[ends >= min(_FEWEST_ANSWERED, len(order)) - 1]
    places = np.linspace(0, max(0, len(ends) - 1), min(len(ends), _CURVE_POINTS))
    kept = ends[np.unique(places.round().astype(int))][::-1]
    return {
        "coverage": [round(float(x), 6) for x in (kept + 1) / max(1, len(scores))],
        "wrong": [round(float(x), 6) for x in wrong[kept] / np.maximum(labels[kept], 1)],
    }


def _cluster_sizes(clusters: Sequence[str]) -> NDArray[np.int64]:
    """Of each row, how many rows its cluster has."""
    _, place, counts = np.unique(np.array(clusters), return_inverse=True, return_counts=True)
    return np.asarray(counts[place])
