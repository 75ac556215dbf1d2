"""The input ablation: variants over the same rows, and what the verdict makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialese.collect.collection import collect_snapshot
from trialese.errors import RecipeError
from trialese.pipeline.evaluate import judge_classifiers
from trialese.predictions import load_predictions
from trialese.records import Snapshot
from trialese.settings import (
    CollectSettings,
    FinetuneSettings,
    SampleSettings,
    SexSettings,
    TasksSettings,
    VerdictSettings,
)
from trialese.tasks.ablate import ablate_sex
from trialese.verdict.report import load_verdicts
from trialese.verdict.text import summarise

SETTINGS = TasksSettings(
    sex=SexSettings(max_trials=100, run_folds=1, finetune=FinetuneSettings(epochs=1, max_tokens=32))
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    settings = CollectSettings(sample=SampleSettings(studies=150))
    return collect_snapshot(settings, tmp_path_factory.mktemp("ablation") / "snapshot")


def test_variants_score_the_same_rows_and_end_in_a_verdict(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    folders = ablate_sex(snapshot, None, SETTINGS, tmp_path)
    assert [f.name for f in folders] == [
        "full", "titles", "criteria", "no-sex-words", "keywords", "prior",
    ]  # fmt: skip
    tests = [load_predictions(f / "predictions.parquet")[1] for f in folders]
    assert len({run.ids for run in tests}) == len({run.clusters for run in tests}) == 1
    judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "verdict")
    (verdict,) = load_verdicts(tmp_path / "verdict")
    said = summarise(verdict)
    assert "is left without the sentences that say a sex, so the classifier" in said
    assert "from titles alone" in said and "from criteria alone" in said
    page = (tmp_path / "verdict" / "report.html").read_text(encoding="utf-8")
    assert "without the sentences that say a sex" in page


def test_a_language_model_can_be_asked(
    snapshot: Snapshot, tiny_backbone: Path, tmp_path: Path
) -> None:
    folders = ablate_sex(
        snapshot, tiny_backbone, SETTINGS, tmp_path, variants=("full", "no-sex-words")
    )
    assert [f.name for f in folders] == ["full", "no-sex-words", "keywords", "prior"]
    judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "verdict")


def test_bad_requests_are_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="variant 'abstract' is unknown; use full, titles"):
        ablate_sex(snapshot, None, SETTINGS, tmp_path, variants=("abstract",))
    labelled = TasksSettings(sex=SexSettings(labelled="a.tsv"))
    with pytest.raises(RecipeError, match="an ablation renders trials anew; give a snapshot"):
        ablate_sex(snapshot, None, labelled, tmp_path)
    assert not list(tmp_path.iterdir())
