"""Scores as chances: a temperature for all labels, and a line a label that is drawn towards it.

Of several labels at once, label l's log-odds z become `slope_l * z + offset_l` (Platt 1999). Of
one label a text, log-probabilities become `slope * log p + offset_l`, made to sum to 1 (bias-
corrected temperature scaling, Alexandari et al. 2020, arXiv 1901.06852). Both are a change of a
classifier's last layer alone. The line that suits all labels together is fitted first; a label
with few texts stays close to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from trialese.thresholds import log_odds, probabilities, sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = [
    "Calibration",
    "CalibrationKind",
    "apply_temperature",
    "calibrate",
    "fit_calibration",
    "fit_temperature",
    "log_loss",
]

CalibrationKind = Literal["labels", "temperature", "none"]
Kind = Literal["multilabel", "multiclass"]

_EDGE = 1e-7
_COLDEST, _HOTTEST = 0.05, 20.0
_GOLDEN = (5**0.5 - 1) / 2
_PULLS = (np.inf, 100.0, 30.0, 10.0, 3.0, 1.0)
"""How strongly a label is drawn to the common line; inf: every label has that line itself."""
_PARTS = 5
_ROUNDS = 60
_FEWEST = 50
"""Texts; with fewer nothing is fitted."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What turns scores into chances, and the texts it was fitted on."""

    slopes: tuple[float, ...]
    """One a label; of one label a text all are the same."""
    offsets: tuple[float, ...]
    temperature: float
    """1 / the common slope; above 1 the scores were too sure."""
    pull: float | None
    """Weight of the common line in each label's own; None: every label has the common line."""
    rows: int
    """Tune texts that it was fitted on."""
    loss: tuple[float, float]
    """Log loss of a text (nats) before and after, each part's by the fit of the others."""
    in_weights: bool = False
    """Whether the classifier's last layer holds it already, and nothing is left to be done."""


@dataclass(frozen=True, slots=True)
class _Line:
    slopes: Floats  # (labels,)
    offsets: Floats  # (labels,)


def fit_temperature(scores: Floats, truth: Bools, *, kind: Kind) -> float:
    """The temperature that gives the scores the lowest log loss; 1 leaves them as they are.

    Above 1 the system was too sure of itself. For tune rows only. Without any row, 1. The search
    is a golden section over the logarithm of the temperature, from 0.05 to 20.
    """
    if not len(scores):
        return 1.0

    def loss(log_temperature: float) -> float:
        cooled = apply_temperature(scores, float(np.exp(log_temperature)), kind=kind)
        return log_loss(cooled, truth, kind=kind)

    low, high = float(np.log(_COLDEST)), float(np.log(_HOTTEST))
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-4:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def apply_temperature(scores: Floats, temperature: float, *, kind: Kind) -> Floats:
    """The scores with their log-odds (multilabel) or log-probabilities divided by `temperature`.

    The order of scores, and so every decision by rank, stays.
    """
    if kind == "multilabel":
        return probabilities(log_odds(scores, edge=_EDGE) / temperature, kind)
    return probabilities(np.log(np.clip(scores, _EDGE, 1 - _EDGE)) / temperature, kind)


def calibrate(scores: Floats, calibration: Calibration | None, *, kind: Kind) -> Floats:
    """The scores (texts, labels) as chances; left as they are by None, and by a calibration that
    the weights hold already."""
    if calibration is None or calibration.in_weights:
        return scores
    line = _Line(np.array(calibration.slopes), np.array(calibration.offsets))
    return _along(_logits(scores, kind), line, kind)


def fit_calibration(
    scores: Floats,
    truth: Bools,
    clusters: Sequence[str],
    *,
    kind: Kind,
    how: CalibrationKind = "labels",
) -> Calibration | None:
    """The calibration of scores (texts, labels), for tune texts only; None: it cannot be fitted.

    How strongly labels are drawn to the common line is chosen by log loss, each fifth of the
    clusters judged by what the others give. None for `how` "none", for fewer than 50 texts, where
    not both answers stand among the texts, and where no fit does better than the scores as they
    are.
    """
    if how == "none" or len(scores) < _FEWEST or truth.all() or not truth.any():
        return None
    logits = _logits(scores, kind)
    names, place = np.unique(np.array(clusters), return_inverse=True)
    part = np.random.default_rng(0).permutation(len(names))[place] % _PARTS
    before = log_loss(scores, truth, kind=kind)
    tried: list[tuple[float, float]] = []
    for pull in _PULLS if how == "labels" else _PULLS[:1]:
        found = np.empty_like(scores)
        for held in (part == each for each in range(_PARTS)):
            line = _fit_line(logits[~held], truth[~held], kind, pull)
            found[held] = _along(logits[held], line, kind)
        tried.append((log_loss(found, truth, kind=kind), pull))
    after, pull = min(tried, key=lambda each: each[0])
    if not after < before:
        return None
    line, common = (_fit_line(logits, truth, kind, each) for each in (pull, np.inf))
    return Calibration(
        slopes=tuple(line.slopes.tolist()),
        offsets=tuple(line.offsets.tolist()),
        temperature=float(1 / common.slopes[0]),
        pull=None if np.isinf(pull) else pull,
        rows=len(scores),
        loss=(round(before, 6), round(after, 6)),
    )


def log_loss(scores: Floats, truth: Bools, *, kind: Kind) -> float:
    """The mean log loss of a text in nats, summed over its labels."""
    if kind == "multiclass":
        return float(-np.log(np.clip(scores[truth], _EDGE, None)).mean())
    right = np.clip(np.where(truth, scores, 1 - scores), _EDGE, None)
    return float(-np.log(right).sum(axis=1).mean())


def _logits(scores: Floats, kind: Kind) -> Floats:
    if kind == "multilabel":
        return log_odds(scores, edge=_EDGE)
    return np.asarray(np.log(np.clip(scores, _EDGE, 1.0)))


def _along(logits: Floats, line: _Line, kind: Kind) -> Floats:
    return probabilities(logits * line.slopes + line.offsets, kind)


def _fit_line(logits: Floats, truth: Bools, kind: Kind, pull: float) -> _Line:
    """The common line, or each label's own drawn towards it with the weight `pull`."""
    labels = logits.shape[1]
    if kind == "multiclass":
        return _fit_classes(logits, truth, pull)
    common = _newton_line(logits.ravel(), truth.ravel(), np.array([1.0, 0.0]), 1e-3)
    if np.isinf(pull):
        return _Line(np.full(labels, common[0]), np.full(labels, common[1]))
    own = np.array(
        [_newton_line(logits[:, label], truth[:, label], common, pull) for label in range(labels)]
    )
    return _Line(own[:, 0], own[:, 1])


def _newton_line(logits: Floats, truth: Bools, towards: Floats, pull: float) -> Floats:
    """(slope, offset) of a logistic regression with a Gaussian prior around `towards`."""
    design = np.column_stack([logits, np.ones(len(logits))])
    return _newton(lambda at: _binary(design, truth, at), towards, np.full(2, pull))


def _binary(design: Floats, truth: Bools, at: Floats) -> tuple[float, Floats, Floats]:
    odds = design @ at
    chance = sigmoid(odds)
    loss = float(np.logaddexp(0, np.where(truth, -odds, odds)).sum())
    weight = chance * (1 - chance)
    return loss, design.T @ (chance - truth), (design * weight[:, None]).T @ design


def _fit_classes(logits: Floats, truth: Bools, pull: float) -> _Line:
    """One slope, and an offset a class; without offsets where `pull` is infinite."""
    labels = logits.shape[1]

    def figures(at: Floats) -> tuple[float, Floats, Floats]:
        scaled = at[0] * logits + at[1:]
        chance = probabilities(scaled, "multiclass")
        loss = float(-np.log(np.clip(chance[truth], 1e-300, None)).sum())
        gap = chance - truth
        gradient = np.concatenate([[(gap * logits).sum()], gap.sum(axis=0)])
        mean = (chance * logits).sum(axis=1)
        curve = np.empty((labels + 1, labels + 1))
        curve[0, 0] = ((chance * logits**2).sum(axis=1) - mean**2).sum()
        curve[0, 1:] = curve[1:, 0] = (chance * (logits - mean[:, None])).sum(axis=0)
        curve[1:, 1:] = np.diag(chance.sum(axis=0)) - chance.T @ chance
        return loss, gradient, curve

    pulls = np.full(labels + 1, 1e12 if np.isinf(pull) else pull)
    pulls[0] = 1e-3
    start = np.zeros(labels + 1)
    start[0] = 1.0
    found = _newton(figures, start, pulls)
    return _Line(np.full(labels, found[0]), found[1:])


def _newton(figures: Any, towards: Floats, pulls: Floats) -> Floats:
    """The minimum of loss + pulls / 2 * (at - towards)^2, by damped Newton steps.

    The slope, the first number, stays above 0.05: order never turns.
    """

    def whole(at: Floats) -> tuple[float, Floats, Floats]:
        loss, gradient, curve = figures(at)
        away = at - towards
        return (
            loss + float((pulls * away**2).sum()) / 2,
            gradient + pulls * away,
            curve + np.diag(pulls),
        )

    at = towards.copy()
    loss, gradient, curve = whole(at)
    for _ in range(_ROUNDS):
        step = np.linalg.solve(curve + 1e-9 * np.eye(len(at)), gradient)
        size = 1.0
        while size > 1e-4:
            trial = at - size * step
            trial[0] = max(trial[0], 0.05)
            tried = whole(trial)
            if tried[0] <= loss:
                break
            size /= 2
        else:
            break
        gain = loss - tried[0]
        at, (loss, gradient, curve) = trial, tried
        if gain < 1e-10 * max(1.0, abs(loss)):
            break
    return at
