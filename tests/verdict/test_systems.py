from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trialese.errors import RecordError
from trialese.records import Predictions
from trialese.verdict.systems import line_up

Runs = dict[str, list[Predictions]]


def test_rows_are_ordered_and_rounds_sorted(made: Callable[..., Runs]) -> None:
    lineup = line_up(made(seeds=(2, 1), folds=2, systems=("base", "tfidf")))
    assert [(r.seed, r.fold) for r in lineup.rounds] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(list(r.ids) == sorted(r.ids) for r in lineup.rounds)
    assert (lineup.models, lineup.baselines, lineup.seeds) == (("base",), ("tfidf",), (1, 2))


def test_no_verdict_without_a_rival(runs: Runs) -> None:
    with pytest.raises(RecordError, match="only base was given; a verdict needs a rival"):
        line_up({"base": runs["base"]})
    with pytest.raises(RecordError, match="only nothing was given"):
        line_up({})


def test_missing_half_or_round_is_named(runs: Runs) -> None:
    with pytest.raises(RecordError, match="base: no test predictions of seed 1, fold 2"):
        line_up({**runs, "base": runs["base"][:-1]})
    with pytest.raises(RecordError, match="base lacks seed 1, fold 2"):
        line_up({**runs, "base": runs["base"][:-2]})
    with pytest.raises(RecordError, match="adapted lacks seed 1, fold 2"):
        line_up({**runs, "adapted": runs["adapted"][:-2]})
    with pytest.raises(RecordError, match="base: no predictions"):
        line_up({**runs, "base": []})


def test_run_given_twice(runs: Runs) -> None:
    with pytest.raises(RecordError, match="test of seed 1, fold 0 was given twice"):
        line_up({**runs, "base": [*runs["base"], runs["base"][1]]})


def test_different_texts_truth_or_labels(
    runs: Runs, changed: Callable[..., Predictions], made: Callable[..., Runs]
) -> None:
    tune, test, *others = runs["base"]
    other_texts = changed(test, ids=("t99999", *test.ids[1:]))
    with pytest.raises(RecordError, match="were tested on different texts, such as 't"):
        line_up({**runs, "base": [tune, other_texts, *others]})
    with pytest.raises(RecordError, match="disagree on the truth"):
        line_up({**runs, "base": [tune, changed(test, truth=~test.truth), *others]})
    with pytest.raises(RecordError, match="one list of labels at a time"):
        line_up({**runs, "base": made(labels=("a", "b"))["base"]})


def test_text_in_two_folds(made: Callable[..., Runs], changed: Callable[..., Predictions]) -> None:
    runs = made(folds=2, systems=("base", "tfidf"))
    for given in runs.values():
        given[3] = changed(given[1], fold=1)
    with pytest.raises(RecordError, match="is tested in folds 0 and 1 of seed 1"):
        line_up(runs)


def test_empty_test(runs: Runs, changed: Callable[..., Predictions]) -> None:
    tune, test, *others = runs["base"]
    empty = changed(test, ids=(), clusters=(), scores=test.scores[:0], truth=test.truth[:0])
    with pytest.raises(RecordError, match="test of seed 1, fold 0 is empty"):
        line_up({**runs, "base": [tune, empty, *others]})


def test_fold_of_a_single_class_or_without_labels(
    runs: Runs, made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    tune, test, *others = runs["base"]
    without = changed(test, truth=np.zeros_like(test.truth))
    with pytest.raises(RecordError, match="fold 0 holds no label at all; use fewer folds"):
        line_up({**runs, "base": [tune, without, *others]})
    sex = made(task="sex", kind="multiclass", labels=("All", "Female", "Male"))
    tune, test, *others = sex["base"]
    rows = np.tile([False, True, False], (len(test.ids), 1))
    with pytest.raises(RecordError, match="fold 0 holds only Female, so nothing can be told"):
        line_up({**sex, "base": [tune, changed(test, truth=rows), *others]})
