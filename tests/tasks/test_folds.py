"""Test texts that are given: by a file of their own, or by date."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.collect.collection import collect_snapshot
from trialese.collect.snapshot import read_trials
from trialese.errors import LeakageError, RecipeError, RecordError
from trialese.predictions import load_predictions
from trialese.records import Example, Snapshot, Task
from trialese.settings import (
    CollectSettings,
    DeclaredTaskSettings,
    DedupSettings,
    SampleSettings,
    SexSettings,
    SilverSettings,
    StopReasonsSettings,
    TasksSettings,
    UnlabelledSettings,
    VerdictSettings,
)
from trialese.tasks.finetune import finetune
from trialese.tasks.folds import (
    build_examples,
    describe_section,
    files_of,
    gather_examples,
    split_fold,
    with_columns,
)
from trialese.verdict.judge import judge

TEXTS = ("slow accrual", "no money", "toxic effects", "drug was inferior", "moved away")
LABELS = ("Insufficient_Enrollment", "Business_Administrative", "Safety_Sideeffects", "Negative",
          "Study_Staff_Moved")  # fmt: skip


def table(path: Path, words: str, rows: int) -> str:
    """A labelled file whose texts all hold the words."""
    lines = [
        f"{TEXTS[n % 5]} {words} {'abcdefgh'[n // 5] * 5}\t{LABELS[n % 5]}" for n in range(rows)
    ]
    path.write_text("text\tlabels\n" + "\n".join(lines) + "\n")
    return str(path)


def settings_of(folder: Path, words: str, **more: object) -> TasksSettings:
    section = StopReasonsSettings(
        labelled=table(folder / "train.tsv", "in winter", 40),
        test_labelled=table(folder / "test.tsv", words, 10),
        run_folds=1,
        tune_share=0.4,
    )
    return TasksSettings(stop_reasons=section, **more)  # type: ignore[arg-type]


def test_the_texts_of_the_test_file_are_tested_and_no_others(tmp_path: Path) -> None:
    found = build_examples("stop-reasons", settings_of(tmp_path, "under heavy rain"), None)
    divided = split_fold(found.examples, folds=5, fold=0, tune_share=0.4, seed=7)
    tested = [e for e in divided if e.split == "test"]
    assert len(tested) == 10
    assert all("rain" in e.text for e in tested)
    assert not {e.cluster for e in tested} & {e.cluster for e in divided if e.split != "test"}


def test_an_overlapping_test_file_is_refused_or_brands_the_report(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "in winter")
    with pytest.raises(LeakageError, match=r"10 of 10 test texts .* such as 'slow accrual in win"):
        build_examples("stop-reasons", settings, None)
    settings = settings_of(tmp_path, "in winter", allow_overlap=True)
    runs = {}
    for system in ("tfidf", "prior"):
        finetune("stop-reasons", system, settings=settings, path=tmp_path / system)
        runs[system] = load_predictions(tmp_path / system / "predictions.parquet")
    with pytest.raises(LeakageError, match="10 of 10 test rows"):
        judge(runs, VerdictSettings(resamples=100))
    verdict = judge(runs, VerdictSettings(resamples=100), allow_overlap=True)
    assert "OVERLAP=10" in verdict.signature


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    settings = CollectSettings(sample=SampleSettings(studies=120))
    return collect_snapshot(settings, tmp_path_factory.mktemp("late") / "snapshot")


@pytest.mark.parametrize("name", ["sex", "phase"])
def test_the_latest_trials_are_tested(name: str, snapshot: Snapshot) -> None:
    declared = DeclaredTaskSettings(
        name="phase", kind="multilabel", field="phases",
        labels=("EARLY_PHASE1", "PHASE1", "PHASE2", "PHASE3", "PHASE4", "NA"),
        test_from="2021-01-01", run_folds=1,
    )  # fmt: skip
    settings = TasksSettings(sex=SexSettings(test_from="2021-01-01"), declared=(declared,))
    found = build_examples(name, settings, snapshot)
    posted = {trial.nct_id: trial.first_posted or "" for trial in read_trials(snapshot)}
    divided = split_fold(found.examples, folds=5, fold=0, tune_share=0.15, seed=7)
    began: dict[str, str] = {}
    for each in divided:
        began[each.cluster] = min(began.get(each.cluster, "9999"), posted[each.example_id])
    assert {e.split for e in divided} == {"train", "tune", "test"}
    for each in divided:
        assert (each.split == "test") == (began[each.cluster] >= "2021-01-01")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (SexSettings(test_from="2020-01-01", run_folds=2), "there is one fold; set run_folds = 1"),
        (SexSettings(test_from="2020-01-01", labelled="a.tsv"), "test_from needs the dates of"),
        (SexSettings(test_labelled="a.tsv"), "test_labelled needs labelled"),
        (
            SexSettings(test_from="2020-01-01", test_labelled="a.tsv", labelled="b.tsv"),
            "give either test_labelled or test_from",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(section: SexSettings, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_examples("sex", TasksSettings(sex=section), None)


def test_texts_at_odds_are_counted_and_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "odd.tsv"
    path.write_text("text\tlabels\nsame text\tSuccess\nsame text\tnone\nother\tNegative\n")
    settings = TasksSettings(stop_reasons=StopReasonsSettings(labelled=str(path)))
    assert build_examples("stop-reasons", settings, None).contradictions == 1
    assert "1 texts stand more than once with different labels, such as 'same text'" in caplog.text


def test_a_fold_of_one_class_is_told_before_anything_is_fitted(tmp_path: Path) -> None:
    path = tmp_path / "men.tsv"
    rows = [f"{letter * 6} {letter * 4}\tMale" for letter in "abcdefghijklmnopqrst"]
    path.write_text("\n".join(["text\tlabel", *rows, "zzzzz yyyy\tFemale"]))
    settings = TasksSettings(sex=SexSettings(labelled=str(path), tune_share=0.4))
    with pytest.raises(RecordError, match=r"sex, fold 0 of 5: every \w+ text is Male, so nothing"):
        build_examples("sex", settings, None)


TASK = Task("toy", ("a", "b"), "multilabel")
DEDUP = DedupSettings(shingle_words=1)


def examples_of(texts: list[str]) -> list[Example]:
    return [Example(f"e{row:03d}", text, ("a",)) for row, text in enumerate(texts)]


def test_duplicates_share_a_cluster_and_contradictions_are_counted() -> None:
    examples = [
        Example("1", "Low accrual.", ("a",)),
        Example("2", "low ACCRUAL", ("b",)),
        Example("3", "funding ended", ("a",)),
        Example("4", "Funding ended!", ("a",)),
        Example("5", "the drug was not safe", ()),
    ]
    found = gather_examples(TASK, examples, DEDUP, {})
    assert [e.cluster for e in found.examples] == ["1", "1", "3", "3", "5"]
    assert found.contradictions == 1
    assert found.counts["labels"] == {"a": 3, "b": 1}
    assert found.counts["clusters"] == 3


def test_equal_texts_are_one_cluster_of_duplicates_and_not_too_few() -> None:
    same = [Example(f"e{row}", "The same words.", ("a",)) for row in range(40)]
    with pytest.raises(RecordError, match=r"40 usable examples .dropped: none. are one cluster of"):
        gather_examples(TASK, same, DEDUP, {})
    with pytest.raises(RecordError, match=r"1 usable examples .dropped: 3 x., too few to learn"):
        gather_examples(TASK, same[:1], DEDUP, {"x": 3})


@pytest.mark.parametrize("name", ["text_column", "label_column", "id_column"])
def test_columns_without_a_labelled_file_are_refused(tmp_path: Path, name: str) -> None:
    collect = CollectSettings(source="sample", sample=SampleSettings(studies=50))
    snapshot = collect_snapshot(collect, tmp_path / "snapshot")
    settings = TasksSettings(sex=SexSettings(**{name: "x"}))
    with pytest.raises(RecipeError, match=f"sex: {name} is of a labelled file, and .* labelled"):
        build_examples("sex", settings, snapshot)


def test_columns_of_one_task_may_be_named() -> None:
    declared = DeclaredTaskSettings(name="mine", labels=("a",), kind="multilabel", labelled="x")
    whole = TasksSettings(declared=(declared,))
    changed = with_columns(whole, "mine", text="reason", id_="key")
    assert (changed.declared[0].text_column, changed.declared[0].id_column) == ("reason", "key")
    assert changed.stop_reasons == whole.stop_reasons
    assert with_columns(whole, "sex", label="who").sex.label_column == "who"
    assert "text_column" not in describe_section(declared, is_model=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(0, 1000))
def test_no_cluster_is_divided_and_order_does_not_matter(fold: int, seed: int) -> None:
    examples = [Example(f"e{row:03d}", "x", ("a",), cluster=f"c{row // 3}") for row in range(300)]
    how = {"folds": 5, "fold": fold, "tune_share": 0.2, "seed": seed}
    divided = split_fold(examples, **how)  # type: ignore[arg-type]
    homes: dict[str, set[str | None]] = {}
    for example in divided:
        homes.setdefault(example.cluster, set()).add(example.split)
    assert all(len(splits) == 1 for splits in homes.values())
    shuffled = random.Random(seed).sample(examples, len(examples))
    again = split_fold(shuffled, **how)  # type: ignore[arg-type]
    assert {e.example_id: e.split for e in again} == {e.example_id: e.split for e in divided}


def test_every_example_is_tested_in_exactly_one_fold() -> None:
    examples = [Example(f"e{row}", "x", ("a",), cluster=f"e{row}") for row in range(400)]
    tested = [
        example.example_id
        for fold in range(5)
        for example in split_fold(examples, folds=5, fold=fold, tune_share=0.15, seed=7)
        if example.split == "test"
    ]
    assert sorted(tested) == sorted(e.example_id for e in examples)


def test_too_few_texts_for_a_fold_are_refused() -> None:
    examples = [Example("1", "x", ("a",), cluster="1"), Example("2", "y", ("a",), cluster="2")]
    with pytest.raises(RecordError, match=r"fold 0 of 5: .* give more texts or fewer folds"):
        split_fold(examples, folds=5, fold=0, tune_share=0.1, seed=7)


def test_nothing_usable_says_what_was_dropped() -> None:
    with pytest.raises(RecordError, match=r"0 usable examples \(dropped: 9 unlabelled\)"):
        gather_examples(TASK, [], DEDUP, {"unlabelled": 9})


def test_build_examples_from_a_labelled_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabels\nslow accrual\tInsufficient_Enrollment\ncovid\tCovid19\n")
    recipe = TasksSettings(stop_reasons=StopReasonsSettings(labelled=str(path)))
    found = build_examples("stop-reasons", recipe, None)
    assert [e.labels for e in found.examples] == [("Insufficient_Enrollment",), ("Covid19",)]
    assert found.digest == build_examples("stop-reasons", recipe, None).digest
    path.write_text("text\tlabels\nslow accrual\tInsufficient_Enrollment\ncovid\tSuccess\n")
    assert build_examples("stop-reasons", recipe, None).digest != found.digest


def test_build_examples_needs_a_source() -> None:
    with pytest.raises(RecipeError, match="no snapshot"):
        build_examples("sex", TasksSettings(), None)


def test_no_table_that_a_fit_reads_is_forgotten_where_its_digest_counts() -> None:
    section = StopReasonsSettings(
        labelled="a.tsv", test_labelled="b.tsv", behaviour_tests="c.tsv",
        silver=SilverSettings(table="d.tsv"), unlabelled=UnlabelledSettings(table="e.tsv"),
    )  # fmt: skip
    assert sorted(files_of(section, is_model=True)) == ["a.tsv", "b.tsv", "c.tsv", "d.tsv", "e.tsv"]
    assert "e.tsv" not in files_of(section, is_model=False)
    assert files_of(StopReasonsSettings(), is_model=True) == []
