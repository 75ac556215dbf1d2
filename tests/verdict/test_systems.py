from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trialese.errors import RecordError
from trialese.records import Predictions
from trialese.verdict.systems import align_systems

Runs = dict[str, list[Predictions]]


def test_rows_are_ordered_and_rounds_sorted(made: Callable[..., Runs]) -> None:
    comparison = align_systems(made(seeds=(2, 1), folds=2, systems=("base", "tfidf")))
    assert [(r.seed, r.fold) for r in comparison.rounds] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(list(r.ids) == sorted(r.ids) for r in comparison.rounds)
    assert (comparison.models, comparison.baselines, comparison.seeds) == (
        ("base",),
        ("tfidf",),
        (1, 2),
    )


def test_no_verdict_without_a_rival(runs: Runs) -> None:
    with pytest.raises(RecordError, match="only base was given; a verdict needs a rival"):
        align_systems({"base": runs["base"]})
    with pytest.raises(RecordError, match="only nothing was given"):
        align_systems({})


def test_missing_half_or_round_is_named(runs: Runs) -> None:
    with pytest.raises(RecordError, match="base: no test predictions of seed 1, fold 2"):
        align_systems({**runs, "base": runs["base"][:-1]})
    with pytest.raises(RecordError, match="base lacks seed 1, fold 2"):
        align_systems({**runs, "base": runs["base"][:-2]})
    with pytest.raises(RecordError, match="adapted lacks seed 1, fold 2"):
        align_systems({**runs, "adapted": runs["adapted"][:-2]})
    with pytest.raises(RecordError, match="base: no predictions"):
        align_systems({**runs, "base": []})


def test_run_given_twice(runs: Runs) -> None:
    with pytest.raises(RecordError, match="test of seed 1, fold 0 was given twice"):
        align_systems({**runs, "base": [*runs["base"], runs["base"][1]]})


def test_different_texts_truth_or_labels(
    runs: Runs, changed: Callable[..., Predictions], made: Callable[..., Runs]
) -> None:
    tune, test, *others = runs["base"]
    other_texts = changed(test, ids=("t99999", *test.ids[1:]))
    with pytest.raises(RecordError, match="were tested on different texts, such as 't"):
        align_systems({**runs, "base": [tune, other_texts, *others]})
    with pytest.raises(RecordError, match="disagree on the truth"):
        align_systems({**runs, "base": [tune, changed(test, truth=~test.truth), *others]})
    with pytest.raises(RecordError, match="one list of labels at a time"):
        align_systems({**runs, "base": made(labels=("a", "b"))["base"]})


def test_text_in_two_folds(made: Callable[..., Runs], changed: Callable[..., Predictions]) -> None:
    runs = made(folds=2, systems=("base", "tfidf"))
    for given in runs.values():
        given[3] = changed(given[1], fold=1)
    with pytest.raises(RecordError, match="is tested in folds 0 and 1 of seed 1"):
        align_systems(runs)


def test_empty_test(runs: Runs, changed: Callable[..., Predictions]) -> None:
    tune, test, *others = runs["base"]
    empty = changed(test, ids=(), clusters=(), scores=test.scores[:0], truth=test.truth[:0])
    with pytest.raises(RecordError, match="test of seed 1, fold 0 is empty"):
        align_systems({**runs, "base": [tune, empty, *others]})


def test_fold_of_a_single_class_or_without_labels(
    runs: Runs, made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    tune, test, *others = runs["base"]
    without = changed(test, truth=np.zeros_like(test.truth))
    with pytest.raises(RecordError, match="fold 0 holds no label at all; use fewer folds"):
        align_systems({**runs, "base": [tune, without, *others]})
    sex = made(task="sex", kind="multiclass", labels=("All", "Female", "Male"))
    tune, test, *others = sex["base"]
    rows = np.tile([False, True, False], (len(test.ids), 1))
    with pytest.raises(RecordError, match="fold 0 holds only Female, so nothing can be told"):
        align_systems({**sex, "base": [tune, changed(test, truth=rows), *others]})
