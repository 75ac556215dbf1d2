""""""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from trialese.errors import LeakageError, RecipeError, RecordError
from trialese.records import Predictions, Thresholds
from trialese.settings import VerdictSettings
from trialese.thresholds import (
    best_cut,
    choose_thresholds,
    decide,
    f1_averages,
    measure_points,
    needs_person,
    prefer,
    read_preference,
    shrunk_cuts,
    sigmoid,
)

SEEDS = st.integers(0, 10_000)


def drawn(seed: int, rows: int = 40, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.random((rows, labels)) < 0.3
    return np.clip(truth * 0.3 + generator.random((rows, labels)) * 0.7, 0, 1), truth


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_f1_averages_are_scikit_learns(seed: int) -> None:
    scores, truth = drawn(seed)
    given_ = scores >= 0.5
    micro, macro = f1_averages(truth, given_)
    assert micro == pytest.approx(f1_score(truth, given_, average="micro", zero_division=0))
    assert macro == pytest.approx(f1_score(truth, given_, average="macro", zero_division=0))


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_no_cut_is_better_than_the_best(seed: int) -> None:
    scores, truth = drawn(seed, labels=1)
    scores, truth = scores[:, 0], truth[:, 0]
    if not truth.any():
        assert best_cut(scores, truth, near=0.4) == 0.4
        return
    best = f1_score(truth, scores >= best_cut(scores, truth, near=0.5))
    assert all(f1_score(truth, scores >= cut, zero_division=0) <= best + 1e-12 for cut in scores)


def test_shrinkage_runs_from_own_to_common() -> None:
    scores, truth = drawn(3)
    common = best_cut(scores.ravel(), truth.ravel(), near=0.5)
    own = [best_cut(scores[:, i], truth[:, i], near=common) for i in range(4)]
    np.testing.assert_allclose(shrunk_cuts(scores, truth, shrinkage=0.0), own, atol=1e-9)
    np.testing.assert_allclose(shrunk_cuts(scores, truth, shrinkage=1e12), common, atol=1e-6)
    between = shrunk_cuts(scores, truth, shrinkage=10.0)
    assert (between >= np.minimum(own, common) - 1e-9).all()
    assert (between <= np.maximum(own, common) + 1e-9).all()


def test_one_label_tasks_take_the_largest() -> None:
    scores = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    np.testing.assert_array_equal(
        decide(scores, "multiclass"), [[False, False, True], [True, False, False]]
    )


def tune(scores: Any, truth: Any, **changes: Any) -> Predictions:
    scores = np.asarray(scores, np.float64)
    values = {
        "task": "toy",
        "kind": "multilabel",
        "labels": tuple("abcdef"[: scores.shape[1]]),
        "system": "base",
        "split": "tune",
        "seed": 1,
        "fold": 0,
        "ids": tuple(f"t{i}" for i in range(len(scores))),
        "clusters": tuple(f"c{i}" for i in range(len(scores))),
        "scores": scores,
        "truth": np.asarray(truth, bool),
    }
    return Predictions(**(values | changes))


def test_rare_label_stays_near_the_common_cut_off_and_a_common_one_goes_its_own_way() -> None:
    random = np.random.default_rng(0)
    truth = np.column_stack([random.random(2000) < 0.5, random.random(2000) < 0.002])
    scores = (
        np.column_stack([np.where(truth[:, 0], 0.8, 0.4), np.where(truth[:, 1], 0.06, 0.02)])
        + random.random((2000, 2)) * 0.01
    )
    assert 0 < truth[:, 1].sum() < 10
    free = choose_thresholds(tune(scores, truth), VerdictSettings(threshold_shrinkage=0.0))
    drawn = choose_thresholds(tune(scores, truth), VerdictSettings(threshold_shrinkage=10.0))
    pinned = choose_thresholds(tune(scores, truth), VerdictSettings(threshold_shrinkage=1e9))
    assert free.values[1] < drawn.values[1] < pinned.values[1]
    assert abs(free.values[0] - drawn.values[0]) < 0.02
    assert pinned.values[0] == pytest.approx(pinned.values[1], abs=1e-3)


def test_label_without_positives_gets_the_common_cut_off() -> None:
    chosen = choose_thresholds(
        tune([[0.9, 0.9], [0.2, 0.1]], [[1, 0], [0, 0]]), VerdictSettings(threshold_shrinkage=0.0)
    )
    common = best_cut(np.array([0.9, 0.9, 0.2, 0.1]), np.array([1, 0, 0, 0], bool), near=0.5)
    assert chosen.values[1] == pytest.approx(common)


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_tune_will_do(split: str) -> None:
    with pytest.raises(LeakageError, match=f"chosen on {split}; choose them on tune"):
        choose_thresholds(tune([[0.5]], [[1]], split=split), VerdictSettings())


def test_empty_tune_is_refused() -> None:
    with pytest.raises(RecordError, match="tune is empty"):
        choose_thresholds(tune(np.zeros((0, 2)), np.zeros((0, 2))), VerdictSettings())
    with pytest.raises(RecordError, match=r"tune holds no label \(seed 1, fold 0\); raise tune"):
        choose_thresholds(tune(np.zeros((3, 2)), np.zeros((3, 2))), VerdictSettings())


def test_what_was_chosen_from_is_kept() -> None:
    chosen = choose_thresholds(tune([[0.9], [0.1]], [[1], [0]]), VerdictSettings())
    assert chosen.chosen_on == "tune"
    assert chosen.chosen_from == {"c0", "c1"}


def test_multiclass_has_no_cut_offs() -> None:
    run = tune([[0.9, 0.1], [0.3, 0.7]], [[1, 0], [0, 1]], kind="multiclass")
    assert choose_thresholds(run, VerdictSettings()).values == (0.0, 0.0)
    empty = tune(np.zeros((0, 2)), np.zeros((0, 2)), kind="multiclass")
    assert choose_thresholds(empty, VerdictSettings()).values == (0.0, 0.0)


def test_fixed_cut_off_is_chosen_from_no_row() -> None:
    fixed = VerdictSettings(threshold=0.3)
    chosen = choose_thresholds(tune([[0.9, 0.2], [0.1, 0.1]], [[1, 0], [0, 0]]), fixed)
    assert chosen.values == (0.3, 0.3)
    assert chosen.chosen_from == frozenset()
    empty = tune(np.zeros((0, 2)), np.zeros((0, 2)))
    assert choose_thresholds(empty, fixed).values == (0.3, 0.3)


def drawn_cuts(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Thresholds]:
    """(chances that are right, outcomes, cut-offs for F1): a common, a rare, an absent label."""
    random = np.random.default_rng(seed)
    scores = sigmoid(random.normal(0, 2.5, (rows, 3)) - np.array([1.0, 6.0, 30.0]))
    truth = random.random(scores.shape) < scores
    cuts = Thresholds(
        labels=("common", "rare", "absent"),
        values=tuple(shrunk_cuts(scores, truth, shrinkage=10.0).tolist()),
        chosen_on="tune",
        points=measure_points(scores, truth, "multilabel"),
    )
    return scores, truth, cuts


def test_points_count_what_each_cut_off_gives() -> None:
    scores, truth, cuts = drawn_cuts()
    assert [len(each.cuts) for each in cuts.points] == [40, 40, 0]
    for label, points in enumerate(cuts.points):
        assert points.support == truth[:, label].sum()
        for cut, count, hits in zip(points.cuts, points.given, points.hits, strict=True):
            reached = scores[:, label] >= cut
            assert (reached.sum(), (reached & truth[:, label]).sum()) == (count, hits)
    assert cuts.points[0].hits[-1] == cuts.points[0].support


def test_a_promise_is_kept_on_other_texts_and_who_cannot_says_so() -> None:
    _, _, cuts = drawn_cuts()
    scores, truth, _ = drawn_cuts(seed=1)
    precise, unable = prefer(cuts, "multilabel", "precision=0.8")
    assert precise.prefer == "precision=0.8" and precise.usual == cuts.values
    assert set(unable) == {"rare", "absent"} and "texts" in unable["rare"]
    chosen = decide(scores, "multilabel", np.array(precise.values))
    assert chosen[:, 0].any() and not chosen[:, 1:].any()
    assert truth[:, 0][chosen[:, 0]].mean() >= 0.8
    complete, unable = prefer(cuts, "multilabel", "recall=0.9")
    chosen = decide(scores, "multilabel", np.array(complete.values))
    assert chosen[:, 0][truth[:, 0]].mean() >= 0.9 and set(unable) == {"absent"}
    back, none = prefer(precise, "multilabel", "f1")
    assert (back.values, back.usual, back.prefer, none) == (cuts.values, (), "f1", {})


def test_a_label_that_cannot_be_promised_is_not_given_for_the_surest_score_either() -> None:
    scores = np.array([[1.0, 1.0], [1.0, 0.2]])  # log-odds above 37 are 1.0 in floats
    points = measure_points(scores, np.array([[True, False], [True, False]]), "multilabel")
    cuts = Thresholds(labels=("a", "b"), values=(0.5, 0.5), chosen_on="tune", points=points)
    precise, unable = prefer(cuts, "multilabel", "precision=0.9")
    assert set(unable) == {"a", "b"}
    given = decide(scores, "multilabel", np.array(precise.values))
    assert not given.any()
    assert needs_person(scores, given, "multilabel", precise, below=0.5).all()
    single, one = np.array([[1.0, 0.0]]), np.array([[True, False]])
    assert needs_person(single, one, "multiclass", precise, below=0.5).all()


@pytest.mark.parametrize("text", ["", "best", "precision", "precision=2", "recall=x", "f1=0.5"])
def test_what_is_no_preference_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="write f1, or precision or recall with a share"):
        read_preference(text)


def test_a_promise_needs_what_it_is_made_from() -> None:
    _, _, cuts = drawn_cuts()
    with pytest.raises(RecipeError, match="exactly one label"):
        prefer(cuts, "multiclass", "recall=0.9")
    with pytest.raises(RecipeError, match="does not hold what its cut-offs do; fit it again"):
        prefer(replace(cuts, points=()), "multilabel", "precision=0.9")


def test_a_person_is_asked_where_nothing_is_sure() -> None:
    cuts = Thresholds(
        labels=("a", "b"), values=(0.8, 1.0), chosen_on="tune", usual=(0.4, 0.4), prefer="x"
    )
    scores = np.array([[0.9, 0.1], [0.6, 0.1], [0.9, 0.6], [0.1, 0.1]])
    chosen = decide(scores, "multilabel", np.array(cuts.values))
    asked = needs_person(scores, chosen, "multilabel", cuts, below=0.5)
    assert asked.tolist() == [False, True, True, True]
    usual = Thresholds(labels=("a", "b"), values=(0.4, 0.4), chosen_on="tune")
    chosen = decide(scores, "multilabel", np.array(usual.values))
    asked = needs_person(scores, chosen, "multilabel", usual, below=0.7)
    assert asked.tolist() == [False, True, False, True]
    single = np.array([[0.7, 0.3], [0.9, 0.1]])
    chosen = decide(single, "multiclass")
    asked = needs_person(single, chosen, "multiclass", cuts, below=0.5)
    assert asked.tolist() == [True, False]
