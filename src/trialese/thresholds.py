"""Label sets from scores: the best cut-off for F1, common to all labels or shrunk towards it.

Arrays in, arrays out. Which split the arrays come from is the caller's business: fitting looks
at tune to stop, and `verdict.choose_thresholds` refuses anything else.


Cut-offs per label, chosen on tune only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trialese.errors import LeakageError, RecordError
from trialese.records import Predictions, Thresholds
from trialese.settings import VerdictSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PUBLISHED_CUT",
    "best_cut",
    "choose_thresholds",
    "decide",
    "f1_averages",
    "log_odds",
    "probabilities",
    "shrunk_cuts",
    "sigmoid",
]


PUBLISHED_CUT = 0.3
"""Open Targets' preset, and the prior art's: a label is given from this probability up."""

_EDGE = 1e-6  # keeps log-odds finite


def f1_averages(truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> tuple[float, float]:
    """(micro-F1, macro-F1) of label sets (rows, labels).

    A label that is neither true nor given anywhere scores 0, as in scikit-learn.
    """
    hits = (truth & given).sum(axis=0)
    sizes = truth.sum(axis=0) + given.sum(axis=0)
    micro = 2 * hits.sum() / max(1, sizes.sum())
    return float(micro), float(np.mean(2 * hits / np.maximum(1, sizes)))


def decide(
    scores: NDArray[np.floating[Any]],
    kind: Literal["multilabel", "multiclass"],
    cuts: float | NDArray[np.float64] = 0.5,
) -> NDArray[np.bool_]:
    """Label sets (rows, labels): scores from the cut-offs up; multiclass: each row's largest."""
    if kind == "multilabel":
        return np.asarray(scores >= cuts)
    return np.asarray(np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None])


def shrunk_cuts(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], *, shrinkage: float
) -> NDArray[np.float64]:
    """The cut-off of each label: the best one for its F1, drawn towards the common one.

    The common cut-off is best for micro-F1. A label with n positives keeps n / (n + shrinkage)
    of its own cut-off, on the scale of log-odds; one without positives gets the common one.
    """
    common = best_cut(scores.ravel(), truth.ravel(), near=0.5)
    own = np.array(
        [best_cut(scores[:, i], truth[:, i], near=common) for i in range(scores.shape[1])]
    )
    positives = truth.sum(axis=0)
    kept = positives / np.maximum(positives + shrinkage, 1e-12)
    return sigmoid(kept * log_odds(own) + (1 - kept) * log_odds(np.array(common)))


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


def log_odds(chance: NDArray[np.float64], *, edge: float = _EDGE) -> NDArray[np.float64]:
    """Natural log-odds of each probability, clipped to [edge, 1 - edge]; any shape."""
    inside = np.clip(chance, edge, 1 - edge)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def sigmoid(odds: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The probability of each log-odds: the inverse of `log_odds`; any shape."""
    return np.asarray((1 + np.tanh(odds.astype(np.float64) / 2)) / 2)  # which cannot overflow so


def probabilities(
    logits: NDArray[np.floating[Any]], kind: Literal["multilabel", "multiclass"]
) -> NDArray[np.float64]:
    """Probabilities of logits (texts, labels): sigmoid if several labels may hold, else softmax."""
    if kind == "multilabel":
        return sigmoid(logits)
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def choose_thresholds(predictions: Predictions, settings: VerdictSettings) -> Thresholds:
    """The cut-off of each label: the best one for its F1, drawn towards the common one.

    The common cut-off is best for micro-F1; see `shrunk_cuts`. A fixed `settings.threshold` is
    taken as it is, chosen from no row. A multiclass task takes the highest score, so its cut-offs
    are 0.0 and play no part.

    Raises:
        LeakageError: the predictions are not of the tune split.
        RecordError: a multilabel task's tune split has no rows, or none with a label.
    """
    if predictions.split != "tune":
        raise LeakageError(
            f"thresholds of {predictions.system} on {predictions.task} would be chosen on "
            f"{predictions.split}; choose them on tune"
        )
    fixed = settings.threshold is not None and predictions.kind == "multilabel"
    if predictions.kind == "multiclass":
        values = np.zeros(len(predictions.labels))
    elif fixed:
        values = np.full(len(predictions.labels), settings.threshold)
    elif predictions.truth.any():
        values = shrunk_cuts(
            predictions.scores, predictions.truth, shrinkage=settings.threshold_shrinkage
        )
    else:
        lack = "holds no label" if predictions.ids else "is empty"
        raise RecordError(
            f"thresholds of {predictions.system} on {predictions.task}: tune {lack} "
            f"(seed {predictions.seed}, fold {predictions.fold}); raise tune_share"
        )
    return Thresholds(
        labels=predictions.labels,
        values=tuple(float(value) for value in values),
        chosen_on=predictions.split,
        chosen_from=frozenset() if fixed else frozenset(predictions.clusters),
    )
