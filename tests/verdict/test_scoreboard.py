from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.metrics import confusion_matrix

from trialese.records import Predictions
from trialese.settings import VerdictSettings
from trialese.thresholds import choose_thresholds
from trialese.verdict.scores import Scoreboard, score
from trialese.verdict.systems import line_up

Runs = dict[str, list[Predictions]]


def board_of(runs: Runs, settings: VerdictSettings | None = None) -> Scoreboard:
    settings = settings or VerdictSettings(resamples=100)
    lineup = line_up(runs)
    thresholds = {
        (s, r.seed, r.fold): choose_thresholds(r.tune[s], settings)
        for s in lineup.systems
        for r in lineup.rounds
    }
    return score(lineup, thresholds, settings)


def test_sets_keep_their_promise_on_honest_folds(made: Callable[..., Runs]) -> None:
    scores = board_of(made(rows=2000)).scores("base")
    assert scores.extra["set_recall"].point > 0.87
    loose = board_of(made(rows=2000), VerdictSettings(resamples=50, miss_rate=0.4)).scores("base")
    assert 0.55 < loose.extra["set_recall"].point < 0.75
    assert loose.extra["set_labels"].point < scores.extra["set_labels"].point


def test_texts_left_to_a_person_were_the_harder_ones(made: Callable[..., Runs]) -> None:
    runs = made(kind="multiclass", labels=("All", "Female", "Male"), rows=1500, skill={"base": 1.0})
    scores = board_of(runs).scores("base")
    assert 0.02 < scores.extra["abstained"].point < 0.9
    assert scores.extra["answered_f1"].point > scores.averages["micro"].f1.point


def test_temperature_lowers_the_calibration_error_of_sharpened_scores(
    made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    def sharpen(run: Predictions) -> Predictions:
        odds = (run.scores / (1 - run.scores)) ** 4
        return changed(run, scores=odds / (1 + odds))

    runs = made(rows=1500)
    runs["base"] = [sharpen(run) for run in runs["base"]]
    board = board_of(runs)
    extra = board.scores("base").extra
    assert extra["ece_cooled"].high < extra["ece"].low
    assert extra["brier_cooled"].point < extra["brier"].point
    assert board.reliability_notes("base")["temperature_median"] > 1.4
    for name in ("ece", "ece_cooled"):
        assert extra[name].low <= extra[name].point <= extra[name].high


def test_reliability_counts_every_forecast(runs: Runs) -> None:
    notes = board_of(runs).reliability_notes("base")
    for name in ("as_given", "cooled"):
        assert sum(notes[name]["count"]) == 400 * 17


def test_confusions_of_a_multiclass_task_are_scikit_learns(made: Callable[..., Runs]) -> None:
    runs = made(kind="multiclass", labels=("All", "Female", "Male"), skill={"base": 0.8})
    tests = runs["base"][1::2]
    theirs = confusion_matrix(
        np.concatenate([r.truth.argmax(1) for r in tests]),
        np.concatenate([r.scores.argmax(1) for r in tests]),
    )
    assert board_of(runs).confusions("base") == theirs.tolist()


def test_confusions_of_a_multilabel_task_count_what_was_taken_for_what(runs: Runs) -> None:
    board = board_of(runs)
    expected = np.zeros((17, 17))
    for each in board.lineup.rounds:
        predicted = board.decided["base", each.seed, each.fold]
        for truth, chosen in zip(each.truth, predicted, strict=True):
            for i in np.flatnonzero(truth & ~chosen):
                for j in np.flatnonzero(chosen & ~truth):
                    expected[i, j] += 1
    assert expected.sum() > 0
    assert board.confusions("base") == expected.tolist()


def test_a_multiclass_task_has_plain_accuracy(made: Callable[..., Runs]) -> None:
    extra = board_of(made(kind="multiclass", labels=("a", "b", "c"))).scores("base").extra
    assert "accuracy" in extra
    assert "label_accuracy" not in extra
    assert set(extra) >= {"brier", "ece", "ece_cooled", "set_recall", "abstained"}


def test_support_is_a_count_of_texts(runs: Runs) -> None:
    labels = board_of(runs).scores("base").labels
    truth = np.vstack([r.truth for r in runs["base"][1::2]])
    assert [label.support for label in labels] == truth.sum(axis=0).tolist()
