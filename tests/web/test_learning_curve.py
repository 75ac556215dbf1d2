"""The learning curve: honest when there is too little, and right where the truth is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from trialese.records import Task
from trialese.web.annotations import Event, Member, Settled, key_of
from trialese.web.learning_curve import (
    LEAST_TEXTS,
    CurveWatcher,
    LearningCurve,
    answers_per_hour,
    fit_curve,
)

TASK = Task("toy", ("Enrollment", "Money"), "multilabel")
WORDS = {"Enrollment": "accrual recruitment enrolment participants slow", "Money": "fund budget"}
NOISE = "the of a study was site drug trial early by review board sponsor because no more"


def settled(count: int, *, learnable: bool = True, seed: int = 1) -> list[Settled]:
    """Texts of seven words, one of which tells the label if it is learnable."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = ("Enrollment", "Money")[int(random.integers(2))]
        words = list(random.choice(NOISE.split(), 6))
        words.append(random.choice(WORDS[label].split()) if learnable else "x")
        text = " ".join(random.permutation(words))
        found.append(
            Settled(key=key_of(text), labels=(label,), members=(Member(str(number), text),))
        )
    return found


def event(second: float, number: int, annotator: str = "ann") -> Event:
    at = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).isoformat()
    return Event(
        id=number, at=at, task="toy", annotator=annotator, kind="answer", key=str(number),
        labels=(), members=(Member("x", "x"),),
    )  # fmt: skip


def test_too_few_texts_are_said_to_be_too_few() -> None:
    curve = fit_curve(TASK, settled(LEAST_TEXTS - 1))
    assert (curve.state, curve.gain, curve.points) == ("too_few", None, ())
    assert f"{LEAST_TEXTS - 1} of the {LEAST_TEXTS}" in curve.message
    one = [Settled(key=s.key, labels=("Money",), members=s.members) for s in settled(200)]
    assert "Fewer than two labels" in fit_curve(TASK, one).message


def test_what_can_be_learnt_is_forecast_to_be_and_the_truth_is_in_the_interval() -> None:
    curve = fit_curve(TASK, settled(80), resamples=20)
    assert curve.state == "ready" and len(curve.points) == 5
    assert [point.texts for point in curve.points[-2:]] == [80, 160]
    assert curve.gain is not None and curve.low is not None and curve.high is not None
    assert curve.low <= curve.gain <= curve.high and curve.gain > 0
    assert curve.points[0].f1 < curve.points[2].f1
    later = fit_curve(TASK, settled(160), resamples=20)
    assert curve.points[-1].low - 0.03 <= later.points[-2].f1 <= curve.points[-1].high + 0.03


def test_where_nothing_can_be_learnt_more_may_bring_nothing() -> None:
    curve = fit_curve(TASK, settled(120, learnable=False), resamples=20)
    assert curve.low is not None and curve.low <= 0 and "may bring nothing" in curve.message


def test_an_hour_is_as_many_answers_as_people_give_in_one() -> None:
    steady = {"ann": {str(n): event(30.0 * n, n) for n in range(12)}}
    assert answers_per_hour(steady) == pytest.approx(120)
    lunch = {"ann": {str(n): event(30.0 * n + 3600 * (n > 6), n) for n in range(12)}}
    assert answers_per_hour(lunch) == pytest.approx(120)
    assert answers_per_hour({"ann": {str(n): event(30.0 * n, n) for n in range(5)}}) is None
    assert answers_per_hour({"ann": {str(n): event(0.0, n) for n in range(50)}}) is None
    curve = fit_curve(TASK, settled(80), per_hour=60.0, resamples=5)
    assert curve.more == 60 and "Another hour (about 60 answers" in curve.message
    curve = fit_curve(TASK, settled(80), per_hour=240.0, resamples=5)  # no further than twice
    assert curve.more == 80 and "80 more answers (about 20 minutes" in curve.message


def test_the_same_labels_give_the_same_curve() -> None:
    assert fit_curve(TASK, settled(60), resamples=4) == fit_curve(TASK, settled(60), resamples=4)


def test_one_label_a_text_has_a_curve_too() -> None:
    task = Task("toy", ("Enrollment", "Money"), "multiclass")
    assert fit_curve(task, settled(60), resamples=4).state == "ready"


def wait_for(watcher: CurveWatcher, texts: list[Settled]) -> LearningCurve:
    watcher.curve("toy", TASK, texts, None)
    watcher.close()
    return watcher.curve("toy", TASK, texts, None)


def test_a_curve_is_made_in_the_background_and_anew_after_a_tenth_more() -> None:
    watcher = CurveWatcher()
    assert watcher.curve("toy", TASK, settled(20), None).state == "too_few"
    assert watcher.curve("toy", TASK, settled(60), None).state == "computing"
    watcher.close()
    assert watcher.curve("toy", TASK, settled(62), None).texts == 60
    assert wait_for(watcher, settled(70)).texts == 70
    assert watcher.curve("toy", TASK, settled(30), None).state == "too_few"
