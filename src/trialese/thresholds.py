"""Label sets from scores: cut-offs for F1 or a promise, common to all labels or shrunk towards it.

Which split the arrays come from is the caller's business: fitting looks at tune to stop, and
`choose_thresholds` refuses anything else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trialese.errors import LeakageError, RecipeError, RecordError
from trialese.records import OperatingPoints, Predictions, Thresholds
from trialese.settings import VerdictSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PERSON_BELOW",
    "PUBLISHED_CUT",
    "best_cut",
    "choose_thresholds",
    "decide",
    "f1_averages",
    "log_odds",
    "measure_points",
    "needs_person",
    "prefer",
    "probabilities",
    "read_preference",
    "shrunk_cuts",
    "sigmoid",
]


PUBLISHED_CUT = 0.3
"""Open Targets' preset, and the prior art's: a label is given from this probability up."""

PERSON_BELOW = 0.5
"""A text whose surest label has a lower chance needs a person."""

Aim = Literal["f1", "precision", "recall"]

_AIMS: tuple[Aim, ...] = ("f1", "precision", "recall")
_MOST_POINTS = 40
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
    """Label sets (rows, labels): scores from the cut-offs up; multiclass: each row's largest.

    A label whose cut-off is 1 is never given: log-odds above 37 are 1.0 in floats.
    """
    if kind == "multilabel":
        return np.asarray((scores >= cuts) & (np.asarray(cuts) < 1))
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


def measure_points(
    scores: NDArray[np.float64],
    truth: NDArray[np.bool_],
    kind: Literal["multilabel", "multiclass"],
) -> tuple[OperatingPoints, ...]:
    """Of each label, what up to 40 cut-offs do; for tune texts.

    Each cut-off is halfway between the score of a text with the label and the next lower score: a
    higher one loses that text for nothing. Of one label a text, texts are those whose highest
    score is the label's.
    """
    found = []
    for label in range(scores.shape[1]):
        rows = slice(None) if kind == "multilabel" else scores.argmax(axis=1) == label
        mine, holds = scores[rows, label], truth[rows, label]
        order = np.argsort(-mine, kind="stable")
        ranked, hits = mine[order], np.cumsum(holds[order])
        lower = np.append(ranked[1:], 0.0)
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
        gains = ends[np.diff(hits[ends], prepend=0) > 0]
        spaced = np.linspace(0, max(0, len(gains) - 1), min(len(gains), _MOST_POINTS))
        kept = gains[np.unique(spaced.round().astype(int))]
        cuts = np.floor(((ranked + lower) / 2)[kept] * 1e6) / 1e6
        found.append(
            OperatingPoints(
                support=int(truth[:, label].sum()),
                cuts=tuple(cuts.tolist()),
                given=tuple((kept + 1).tolist()),
                hits=tuple(hits[kept].tolist()),
            )
        )
    return tuple(found)


def read_preference(
    text: str, kind: Literal["multilabel", "multiclass"] = "multilabel"
) -> tuple[Aim, float]:
    """What is preferred, and the share that is promised (0 for f1).

    Raises:
        RecipeError: neither f1 nor precision or recall with a share, or recall of a task with one
            label a text.
    """
    aim, _, share = text.replace(" ", "").partition("=")
    try:
        promise = float(share or 0)
    except ValueError:
        promise = -1.0
    if aim == "recall" and kind == "multiclass":
        raise RecipeError(
            f"prefer {text}: each text gets exactly one label here, so that recall cannot be "
            "bought; prefer a precision"
        )
    for known in _AIMS:
        if aim == known and (0 < promise < 1 if known != "f1" else not share):
            return known, promise
    raise RecipeError(
        f"prefer {text!r}: write f1, or precision or recall with a share, such as precision=0.9"
    )


def prefer(
    thresholds: Thresholds, kind: Literal["multilabel", "multiclass"], preference: str
) -> tuple[Thresholds, dict[str, str]]:
    """Cut-offs that keep a promise, and of each label that cannot why not.

    A precision or recall is promised where the lower end of its one-sided 90 % interval (Wilson)
    on tune reaches it. A label that cannot promise the precision is never given; one that cannot
    promise the recall is given as freely as any text with it needed.

    Raises:
        RecipeError: a preference that cannot be read, recall of a task with one label a text, or
            a classifier that does not know what its cut-offs do.
    """
    aim, promise = read_preference(preference, kind)
    if thresholds.usual:
        thresholds = replace(thresholds, values=thresholds.usual, usual=(), prefer="f1")
    if aim == "f1":
        return thresholds, {}
    if not thresholds.points:
        raise RecipeError(
            f"prefer {preference}: this classifier does not hold what its cut-offs do; fit it again"
        )
    values, unable = [], {}
    for label, points in zip(thresholds.labels, thresholds.points, strict=True):
        hits = np.array(points.hits, np.float64)
        of = np.array(points.given) if aim == "precision" else np.full(len(hits), points.support)
        kept = np.flatnonzero(_lower_end(hits, of) >= promise)
        if len(kept):
            values.append(points.cuts[kept[-1] if aim == "precision" else kept[0]])
            continue
        best = float(_lower_end(hits, of).max()) if len(hits) else 0.0
        values.append(min((1.0,) if aim == "precision" else (*points.cuts, 1.0)))
        unable[label] = f"({best:.2f} at most, from {points.support} texts)"
    chosen = replace(
        thresholds,
        values=tuple(values),
        usual=thresholds.values,
        prefer=f"{aim}={promise:g}",
    )
    return chosen, unable


def _lower_end(hits: NDArray[np.float64], of: NDArray[Any]) -> NDArray[np.float64]:
    """The lower end of Wilson's one-sided 90 % interval of each share."""
    z = 1.2815515655446004
    spread = z * np.sqrt(hits * (of - hits) / np.maximum(of, 1) + z * z / 4)
    return np.asarray((hits + z * z / 2 - spread) / (of + z * z))


def needs_person(
    scores: NDArray[np.float64],
    given: NDArray[np.bool_],
    kind: Literal["multilabel", "multiclass"],
    thresholds: Thresholds | None,
    *,
    below: float,
) -> NDArray[np.bool_]:
    """Which texts (rows) somebody should look at.

    Those that are given no label; whose surest given label has a score under `below`; and, where a
    promise is to be kept, those where a label would usually be given that cannot be promised.
    """
    surest = np.where(given, scores, -1.0).max(axis=1, initial=-1.0)
    unsure = ~given.any(axis=1) | (surest < below)
    if thresholds is not None and thresholds.usual:
        if kind == "multiclass":
            kept = decide(scores, "multilabel", np.array(thresholds.values))
            return np.asarray(unsure | (given & ~kept).any(axis=1))
        unsure |= ((scores >= np.array(thresholds.usual)) & ~given).any(axis=1)
    return np.asarray(unsure)


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
