"""Test texts that are given: by a file of their own, or by date."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialese.collect.collection import collect_snapshot
from trialese.collect.snapshot import read_trials
from trialese.errors import LeakageError, RecipeError, RecordError
from trialese.predictions import load_predictions
from trialese.records import Snapshot
from trialese.settings import (
    CollectSettings,
    DeclaredTaskSettings,
    SampleSettings,
    SexSettings,
    StopReasonsSettings,
    TasksSettings,
    VerdictSettings,
)
from trialese.tasks.finetune import finetune
from trialese.tasks.folds import build_examples, split_fold
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
        finetune("stop-reasons", system, None, None, settings, tmp_path / system)
        runs[system] = load_predictions(tmp_path / system / "predictions.parquet")
    with pytest.raises(LeakageError, match="10 of 10 test rows"):
        judge(runs, VerdictSettings(resamples=50))
    verdict = judge(runs, VerdictSettings(resamples=50), allow_overlap=True)
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
    path.write_text("text\tlabels\nsame text\tSuccess\nsame text\t\nother\tNegative\n")
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
