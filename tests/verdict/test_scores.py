"""The coarser view against scikit-learn on merged columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from tests.conftest import load_script
from trialese.errors import RecordError
from trialese.records import Interval, Predictions
from trialese.settings import VerdictSettings
from trialese.tasks.stop_reasons import STOP_REASON_GROUPS, STOP_REASONS
from trialese.thresholds import choose_thresholds
from trialese.verdict.judge import judge
from trialese.verdict.scores import Scoreboard, Table, score, tabulate
from trialese.verdict.systems import Round, align_systems
from trialese.verdict.text import format_markdown, group_rows

Runs = dict[str, list[Predictions]]


def right(system: str, each: Round) -> np.ndarray:
    best = each.test[system].scores.argmax(axis=1)
    return np.column_stack([each.truth[np.arange(len(best)), best], np.ones(len(best))])


def share(sums: np.ndarray) -> np.ndarray:
    return sums[..., :1] / sums[..., 1:]


def table_of(runs: Runs) -> Table:
    settings = VerdictSettings(resamples=300)
    return tabulate(align_systems(runs), right, share, ["accuracy"], settings)


def test_points_and_spread_are_those_of_plain_resampling(made: Callable[..., Runs]) -> None:
    runs = made(kind="multiclass", labels=("a", "b", "c"), systems=("base", "tfidf"), rows=300)
    table = table_of(runs)
    tests = runs["base"][1::2]
    hits = np.concatenate([right("base", r)[:, 0] for r in align_systems(runs).rounds])
    clusters = np.concatenate([r.clusters for r in align_systems(runs).rounds])
    assert table.point("base", "accuracy") == hits.mean()
    assert sum(len(run.ids) for run in tests) == len(hits)
    names = sorted(set(clusters.tolist()))
    members = [hits[clusters == name] for name in names]
    random = np.random.default_rng(0)
    plain = [
        np.concatenate([members[i] for i in random.integers(0, len(names), len(names))]).mean()
        for _ in range(300)
    ]
    found = table.interval("base", "accuracy")
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.015
    )


def test_seeds_share_their_resamples(
    made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    """Two seeds with the same answers are no more certain than one."""
    runs = made(systems=("base", "tfidf"), kind="multiclass", labels=("a", "b"))
    twice = {
        system: [changed(run, seed=seed) for seed in (1, 2) for run in given]
        for system, given in runs.items()
    }
    assert table_of(runs).interval("base", "accuracy") == table_of(twice).interval(
        "base", "accuracy"
    )
    assert table_of(twice).seeds_of("base", "accuracy").shape == (2,)


def test_threshold_free_scores_rank_the_systems(made: Callable[..., Runs]) -> None:
    board = board_of(made(rows=800))
    scores = {system: board.scores(system).extra for system in ("adapted", "tfidf", "prior")}
    assert scores["prior"]["auroc"] == Interval(0.5, 0.5, 0.5)
    for name in ("average_precision", "auroc"):
        points = [scores[system][name].point for system in ("adapted", "tfidf", "prior")]
        assert points == sorted(points, reverse=True)
        found = scores["adapted"][name]
        assert found.low < found.point < found.high


def test_a_label_of_one_text_is_ranked_as_far_as_it_goes(
    made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    """A third of the resamples lack that text; that is no warning and no NaN."""
    runs = made(labels=("x",), systems=("base", "tfidf"), rows=60, run_folds=1)
    for given in runs.values():
        for place, run in enumerate(given):
            truth = np.zeros_like(run.truth)
            truth[0] = True
            given[place] = changed(run, truth=truth)
    for scores in judge(runs, VerdictSettings(resamples=100)).scores:
        for name in ("average_precision", "auroc"):
            found = scores.extra[name]
            assert 0 <= found.low <= found.high <= 1


def test_texts_with_several_labels_are_told_apart(runs: Runs) -> None:
    verdict = judge(runs, FIXED)
    name, _ = verdict.notes["slices"]  # the other: those with contradictory labels
    parts = {each["part"]: each for each in verdict.notes["slices"][name]}
    assert set(parts) == {"no label", "one label", "several labels"}
    test = [run for run in runs["base"] if run.split == "test"]
    truth = np.concatenate([run.truth for run in test])
    given = np.concatenate([run.scores for run in test]) >= 0.4
    several = truth.sum(axis=1) > 1
    assert parts["several labels"]["texts"] == several.sum()
    found = parts["several labels"]["scores"]["base"]
    missed = (truth & ~given)[several]
    assert found["all_found"]["point"] == pytest.approx((~missed.any(axis=1)).mean())
    assert found["recall"]["point"] == pytest.approx(1 - missed.sum() / truth[several].sum())
    assert found["micro-f1"]["point"] == pytest.approx(
        f1_score(truth[several], given[several], average="micro")
    )


def test_slices_are_scored_where_texts_have_a_part(runs: Runs) -> None:
    ids = [text for run in runs["base"][1::2] for text in run.ids]
    phases = {text: f"PHASE{int(text[1:]) % 2}" for text in ids[:300]}
    verdict = judge(runs, FIXED, slices={"phase": phases, "nothing": {}})
    assert [each["part"] for each in verdict.notes["slices"]["phase"]] == ["PHASE0", "PHASE1"]
    assert sum(each["texts"] for each in verdict.notes["slices"]["phase"]) == 300
    assert "nothing" not in verdict.notes["slices"]


def test_coverage_of_each_label_and_sets_by_label(made: Callable[..., Runs]) -> None:
    """One common level covers the labels unequally; one for each label evens that out."""
    runs = made(rows=3000, labels=("common", "rarer", "rarest"), skill={"base": 1.2})
    settings = [
        VerdictSettings(resamples=100, threshold=0.4, label_sets=sets)
        for sets in ("common", "by_label")
    ]
    common, by_label = (judge(runs, each) for each in settings)
    lowest = [
        min(each["point"] for each in verdict.notes["set_coverage"]["base"])
        for verdict in (common, by_label)
    ]
    assert lowest[0] < lowest[1] - 0.05
    assert lowest[1] > 0.8
    assert "|sets=by_label|" in by_label.signature
    assert "sets=" not in common.signature


def test_centred_interval_lies_around_the_figure(made: Callable[..., Runs]) -> None:
    table = table_of(made(systems=("base", "tfidf")))
    table.draws[:] += 0.5  # a figure that resampling inflates
    plain, centred = table.interval("base", "accuracy"), table.interval(
        "base", "accuracy", centred=True
    )  # fmt: skip
    assert plain.low > plain.point
    assert centred.low < centred.point < centred.high


def board_of(runs: Runs, settings: VerdictSettings | None = None) -> Scoreboard:
    settings = settings or VerdictSettings(resamples=100)
    comparison = align_systems(runs)
    thresholds = {
        (s, r.seed, r.fold): choose_thresholds(r.tune[s], settings)
        for s in comparison.systems
        for r in comparison.rounds
    }
    return score(comparison, thresholds, settings)


def test_sets_keep_their_promise_on_honest_folds(made: Callable[..., Runs]) -> None:
    scores = board_of(made(rows=2000)).scores("base")
    assert scores.extra["set_recall"].point > 0.87
    loose = board_of(made(rows=2000), VerdictSettings(resamples=100, miss_rate=0.4)).scores("base")
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
    assert extra["ece_cooled"].point < extra["ece"].point
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
    for each in board.comparison.rounds:
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


FIXED = VerdictSettings(resamples=100, threshold=0.4)


def test_figures_are_those_of_merged_labels(runs: Runs) -> None:
    verdict = judge(runs, FIXED, groups=STOP_REASON_GROUPS)
    rows = group_rows(verdict)
    assert [row.name for row in rows[:6]] == [
        "Neutral", "Suspicious", "Invalid", "Negative", "Safety", "Success"
    ]  # fmt: skip
    test = [run for run in runs["adapted"] if run.split == "test"]
    truth = np.concatenate([run.truth for run in test])
    given = np.concatenate([run.scores for run in test]) >= 0.4
    merged = []
    for labels in (truth, given):
        columns = {
            row.name: labels[:, [x in row.members for x in STOP_REASONS.labels]].any(axis=1)
            for row in rows[:6]
        }
        merged.append(np.stack(list(columns.values()), axis=1))
    expected = f1_score(*merged, average=None, zero_division=0)
    assert [row.cells[0].point for row in rows[:6]] == pytest.approx(expected.tolist())
    by_name = {row.name: row.cells[0].point for row in rows}
    for average in ("micro", "macro", "weighted", "samples"):
        assert by_name[f"{average} avg"] == pytest.approx(
            f1_score(*merged, average=average, zero_division=0)
        )
    assert all(c.low <= c.point <= c.high for row in rows for c in row.cells)
    text = format_markdown([verdict])
    assert "## By coarser groups" in text and "| Suspicious | " in text


def test_without_groups_there_is_no_second_view(runs: Runs) -> None:
    verdict = judge(runs, FIXED)
    assert group_rows(verdict) == []
    assert "coarser" not in format_markdown([verdict])


def test_every_label_needs_a_group(runs: Runs, made: Callable[..., Runs]) -> None:
    with pytest.raises(RecordError, match="no group for Covid19; give every label one"):
        groups = {k: v for k, v in STOP_REASON_GROUPS.items() if k != "Covid19"}
        judge(runs, FIXED, groups=groups)


GOLD = Path(__file__).parents[3] / "shared" / "data" / "stop_reasons" / "gold.tsv"


@pytest.fixture(scope="module")
def coverage() -> Any:
    """The benchmark that simulates how often intervals hold the truth."""
    return load_script("benchmarks/interval_coverage.py")


def test_intervals_hold_the_truth_where_labels_are_rare(coverage: Any) -> None:
    """300 texts, 17 labels, the rarest expected once; the plain bootstrap holds it far less."""
    truths = coverage.read_truth(None, np.random.default_rng(0))
    held, plain = (
        coverage.simulate(
            truths,
            "medium",
            300,
            rounds=60,
            resamples=200,
            random=np.random.default_rng(1),
            smoothed=smoothed,
        )
        for smoothed in (True, False)
    )
    assert held["macro"].mean() >= 0.88  # of 95 %, less is a one in two hundred chance
    assert held["difference"].mean() >= 0.88
    assert held["labels"].mean() >= 0.93
    assert not held["zero_width"].any()
    assert plain["macro"].mean() < 0.8
    assert plain["zero_width"].mean() > 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not GOLD.is_file(), reason="../shared/data is not here")
@pytest.mark.parametrize("texts", [300, 600, 1500, 3015])
def test_intervals_cover_with_the_label_sets_of_real_texts(coverage: Any, texts: int) -> None:
    random = np.random.default_rng(texts)
    truths = coverage.read_truth(GOLD, random)
    for kind in coverage.SYSTEMS:
        held = coverage.simulate(truths, kind, texts, rounds=400, resamples=400, random=random)
        macro, difference = held["macro"].mean(), held["difference"].mean()
        # Of 400 rounds the share itself has a standard deviation of one per cent.
        assert 0.90 <= macro <= 0.99, (kind, macro)
        assert difference >= 0.92, (kind, difference)
        assert held["labels"].mean() >= 0.93, kind
        many = truths.mean(axis=0) * texts >= 20
        assert held["label_differences"][:, many].mean() >= 0.92, kind
        assert not held["zero_width"].any()
