"""Cut-offs per label, chosen on tune only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trialese.errors import LeakageError, RecordError
from trialese.records import Predictions, Thresholds
from trialese.settings import VerdictSettings

__all__ = ["best_cut", "choose_thresholds"]

_EDGE = 1e-6  # keeps log-odds finite


def choose_thresholds(predictions: Predictions, settings: VerdictSettings) -> Thresholds:
    """The cut-off of each label: the best one for its F1, drawn towards the common one.

    The common cut-off is best for micro-F1. A label with n positives keeps n / (n + shrinkage)
    of its own cut-off, on the scale of log-odds; one without positives gets the common one. A
    multiclass task takes the highest score, so its cut-offs are 0.0 and play no part.

    Raises:
        LeakageError: the predictions are not of the tune split.
        RecordError: a multilabel task's tune split has no rows, or none with a label.
    """
    if predictions.split != "tune":
        raise LeakageError(
            f"thresholds of {predictions.system} on {predictions.task} would be chosen on "
            f"{predictions.split}; choose them on tune"
        )
    values = np.zeros(len(predictions.labels))
    if predictions.kind == "multilabel" and not predictions.truth.any():
        lack = "holds no label" if predictions.ids else "is empty"
        raise RecordError(
            f"thresholds of {predictions.system} on {predictions.task}: tune {lack} "
            f"(seed {predictions.seed}, fold {predictions.fold}); raise tune_share"
        )
    if predictions.kind == "multilabel":
        scores, truth = predictions.scores, predictions.truth
        common = best_cut(scores.ravel(), truth.ravel(), near=0.5)
        own = np.array(
            [best_cut(scores[:, i], truth[:, i], near=common) for i in range(len(values))]
        )
        positives = truth.sum(axis=0)
        kept = positives / np.maximum(positives + settings.threshold_shrinkage, 1e-12)
        values = _chance(kept * _log_odds(own) + (1 - kept) * _log_odds(np.array(common)))
    return Thresholds(
        labels=predictions.labels,
        values=tuple(float(value) for value in values),
        chosen_on=predictions.split,
        chosen_from=frozenset(predictions.clusters),
    )


def best_cut(scores: NDArray[np.float64], truth: NDArray[np.bool_], *, near: float) -> float:
    """The cut-off, halfway between two neighbouring scores, with the highest F1 of `score >= cut`.

    Of equally good ones the nearest to `near`; without any positive `near` itself, because then
    nothing can be learnt here.
    """
    if not truth.any():
        return near
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
    lower = np.append(ranked[1:], 0.0)
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    cuts, f1 = ((ranked + lower) / 2)[last_of_equals], f1[last_of_equals]
    best = cuts[np.isclose(f1, f1.max(), rtol=0, atol=1e-12)]
    return float(best[np.abs(best - near).argmin()])


def _log_odds(chance: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(chance, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _chance(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-log_odds)))
