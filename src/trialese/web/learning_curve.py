"""The learning curve of the labels so far, and what more of them would bring.

A cheap stand-in for the classifier (TF-IDF of pieces of words, one logistic regression a label) is
fitted on growing parts of the labelled texts and scored on others, in many bootstrap resamples. In
each, the error is taken to fall as a power of the number of texts (Hestness et al. 2017), and the
fall is carried on to more texts, twice as many at most; the spread over resamples is the interval.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from trialese.web.active_learning import word_pieces
from trialese.web.annotations import Event, Settled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.records import Task

__all__ = [
    "LEAST_TEXTS",
    "CurvePoint",
    "CurveWatcher",
    "LearningCurve",
    "answers_per_hour",
    "fit_curve",
]

LEAST_TEXTS = 60
"""Of fewer labelled texts no curve is made: it would be noise."""
_LEAST_POSITIVES = 5
_MOST_TEXTS = 2_000
_RESAMPLES = 40
_SHARES = (0.25, 0.5, 1.0)
"""Parts of a resample's texts that are learnt from."""
_GROWTH = 1.1
"""The curve is made anew when there are so many times the texts."""
_LONGEST_PAUSE_SECONDS = 300.0
_LEAST_PAUSES = 10
_ANSWERS_WITHOUT_PACE = 100


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Micro-F1 on other texts after learning from so many, with a 95 % interval."""

    texts: int
    f1: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """What the labels so far have brought, and what more would."""

    state: Literal["too_few", "computing", "ready"]
    message: str
    """One line for people."""
    texts: int
    """Labelled texts that the curve is made of; duplicates count once."""
    per_hour: float | None
    """Answers an hour at the annotators' own pace; None: too few to tell."""
    more: int
    """Further answers that `gain` speaks of: those of an hour (100 where the pace is unknown), but
    never more than there are."""
    points: tuple[CurvePoint, ...] = ()
    """Measured; then one that is forecast, for `more` further texts."""
    gain: float | None = None
    """Micro-F1 that `more` further texts would add."""
    low: float | None = None
    high: float | None = None


def answers_per_hour(standing: Mapping[str, Mapping[str, Event]]) -> float | None:
    """Answers an hour of one annotator at work; None where there are too few to tell.

    Pauses of more than five minutes are no work.
    """
    pauses: list[float] = []
    for answers in standing.values():
        times = sorted(datetime.fromisoformat(event.at) for event in answers.values() if event.at)
        steps = [(later - sooner).total_seconds() for sooner, later in pairwise(times)]
        pauses += [step for step in steps if step <= _LONGEST_PAUSE_SECONDS]
    if len(pauses) < _LEAST_PAUSES or sum(pauses) <= 0:
        return None
    return 3600 * len(pauses) / sum(pauses)


def fit_curve(
    task: Task,
    settled: Sequence[Settled],
    *,
    per_hour: float | None = None,
    resamples: int = _RESAMPLES,
    seed: int = 7,
) -> LearningCurve:
    """The learning curve of these labelled texts; seconds of work for some hundreds.

    Of more than 2,000 the latest are taken. One text a cluster of duplicates, so that none stands
    on both sides.
    """
    more = max(1, round(per_hour)) if per_hour else _ANSWERS_WITHOUT_PACE
    more = min(more, max(1, len(settled)))
    lacking = _lacking(task, settled)
    if lacking:
        return LearningCurve(
            state="too_few", message=lacking, texts=len(settled), per_hour=per_hour, more=more
        )
    used = settled[-_MOST_TEXTS:]
    features = word_pieces().fit_transform([each.members[0].text for each in used])
    truth = np.array([[label in each.labels for label in task.labels] for each in used])
    random = np.random.default_rng(seed)
    sizes, scores = [], []
    for _ in range(resamples):
        drawn = np.unique(random.integers(len(used), size=len(used)))
        others = np.setdiff1d(np.arange(len(used)), drawn)
        drawn = random.permutation(drawn)
        parts = [drawn[: max(2, round(share * len(drawn)))] for share in _SHARES]
        sizes.append([len(part) for part in parts])
        scores.append([_score(features, truth, part, others, task.kind) for part in parts])
    return _carried_on(np.array(sizes), np.array(scores), len(used), per_hour, more)


def _lacking(task: Task, settled: Sequence[Settled]) -> str:
    """What is lacking for a curve, in words; "" if nothing is."""
    if len(settled) < LEAST_TEXTS:
        return (
            f"{len(settled)} of the {LEAST_TEXTS} labelled texts that a learning curve needs: "
            "too few to say what more would bring."
        )
    common = [
        label
        for label in task.labels
        if sum(label in each.labels for each in settled) >= _LEAST_POSITIVES
    ]
    if len(common) < 2:
        return (
            f"Fewer than two labels have {_LEAST_POSITIVES} texts each: too few to say what more "
            "would bring."
        )
    return ""


def _score(
    features: NDArray[np.float32],
    truth: NDArray[np.bool_],
    learnt: NDArray[np.int64],
    others: NDArray[np.int64],
    kind: Literal["multilabel", "multiclass"],
) -> float:
    """Micro-F1 on `others` of logistic regressions fitted on `learnt`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    odds = np.full((len(others), truth.shape[1]), -np.inf)
    for column in range(truth.shape[1]):
        positive = truth[learnt, column]
        if positive.all() or not positive.any():  # nothing to fit: always, or never given
            odds[:, column] = np.inf if positive.all() else -np.inf
            continue
        model = LogisticRegression(  # the dual is far faster where features outnumber texts
            C=10.0, class_weight="balanced", solver="liblinear", dual=True, random_state=0,
            max_iter=1000,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a stand-in
            model.fit(features[learnt], positive)
        odds[:, column] = model.decision_function(features[others])
    given = odds == odds.max(axis=1, keepdims=True) if kind == "multiclass" else odds >= 0
    hits = float((given & truth[others]).sum())
    return 2 * hits / max(1.0, float(given.sum() + truth[others].sum()))


def _carried_on(
    sizes: NDArray[np.int64],
    scores: NDArray[np.float64],
    texts: int,
    per_hour: float | None,
    more: int,
) -> LearningCurve:
    """The curve of (resamples, parts) sizes and scores, carried on to more texts."""
    logs = np.log(sizes)
    errors = np.log(np.clip(1 - scores, 1e-3, 1.0))
    centred = logs - logs.mean(axis=1, keepdims=True)
    slopes = (centred * errors).sum(axis=1) / (centred**2).sum(axis=1)
    heights = errors.mean(axis=1) - slopes * logs.mean(axis=1)

    def forecast(size: int) -> NDArray[np.float64]:
        return np.asarray(1 - np.exp(heights + slopes * np.log(size)))

    points = [
        _point(round(float(sizes[:, place].mean())), scores[:, place])
        for place in range(sizes.shape[1])
    ]
    gains = forecast(texts + more) - forecast(texts)
    low, gain, high = np.percentile(gains, [2.5, 50, 97.5])
    points += [_point(texts, forecast(texts)), _point(texts + more, forecast(texts + more))]
    told = f"{more:,} more answers"
    if per_hour and more < per_hour:  # carried on no further than that
        told += f" (about {60 * more / per_hour:.0f} minutes at the pace so far)"
    elif per_hour:
        told = f"Another hour (about {more:,} answers at the pace so far)"
    message = f"{told} would bring about {gain:+.3f} micro-F1 [{low:+.3f}, {high:+.3f}]."
    if low <= 0:
        message += " It may bring nothing."
    return LearningCurve(
        state="ready",
        message=message,
        texts=texts,
        per_hour=per_hour,
        more=more,
        points=tuple(points),
        gain=float(gain),
        low=float(low),
        high=float(high),
    )


def _point(texts: int, scores: NDArray[np.float64]) -> CurvePoint:
    low, middle, high = np.clip(np.percentile(scores, [2.5, 50, 97.5]), 0, 1)
    return CurvePoint(texts, float(middle), float(low), float(high))


class CurveWatcher:
    """Learning curves by model, each made in a thread of its own while nobody waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, LearningCurve] = {}
        self._threads: dict[str, threading.Thread] = {}

    def curve(
        self, name: str, task: Task, settled: Sequence[Settled], per_hour: float | None
    ) -> LearningCurve:
        """The latest curve; a newer one is begun where there are a tenth more texts."""
        lacking = _lacking(task, settled)
        with self._lock:
            made = self._made.get(name)
            thread = self._threads.get(name)
            changed = made is None or not made.texts <= len(settled) < made.texts * _GROWTH
            if not lacking and changed and (thread is None or not thread.is_alive()):
                thread = threading.Thread(
                    target=self._make, args=(name, task, tuple(settled), per_hour), daemon=True
                )
                self._threads[name] = thread
                thread.start()
        if lacking:
            return fit_curve(task, settled, per_hour=per_hour)
        if made is not None:
            return made
        return LearningCurve(
            state="computing",
            message="The learning curve is being computed.",
            texts=len(settled),
            per_hour=per_hour,
            more=_ANSWERS_WITHOUT_PACE,
        )

    def close(self) -> None:
        """Wait for the curves under way."""
        for thread in self._threads.values():
            thread.join()

    def _make(
        self, name: str, task: Task, settled: Sequence[Settled], per_hour: float | None
    ) -> None:
        made = fit_curve(task, settled, per_hour=per_hour)
        with self._lock:
            self._made[name] = made
