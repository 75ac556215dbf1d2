from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trialese.errors import RecordError
from trialese.records import Predictions
from trialese.verdict.systems import align_systems, guess_prior, share_folds

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


def test_a_prior_guessed_from_tune_is_honest(runs: Runs) -> None:
    """The shares of the labels among the tune texts of the same fold, nothing of the test."""
    prior = guess_prior(runs["base"])
    assert [(r.seed, r.fold, r.split, r.system) for r in prior] == [
        (r.seed, r.fold, r.split, "prior") for r in runs["base"]
    ]
    tune, test = runs["base"][:2]
    np.testing.assert_allclose(
        prior[1].scores, np.tile(tune.truth.mean(axis=0), (len(test.ids), 1))
    )
    assert prior[1].trained_on == frozenset(tune.clusters)
    assert align_systems({"base": runs["base"], "prior": prior}).baselines == ("prior",)


def test_systems_of_unequal_folds_are_cut_to_what_they_share(runs: Runs) -> None:
    given = {**runs, "base": runs["base"][:-2], "tfidf": runs["tfidf"][2:]}
    kept, left_out = share_folds(given)
    assert left_out == ["seed 1, fold 0 (tfidf lacks it)", "seed 1, fold 2 (base lacks it)"]
    assert [(r.seed, r.fold) for r in align_systems(kept).rounds] == [(1, 1)]
    assert share_folds(runs) == (runs, [])
    with pytest.raises(RecordError, match="base, tfidf share no seed and fold"):
        share_folds({"base": runs["base"][:2], "tfidf": runs["tfidf"][2:]})
