"""The making of what ships: two makings give the same bytes, with a card that tells the weights."""

from __future__ import annotations

from pathlib import Path

from trialese.artifacts import read_manifest, verify_files
from trialese.pipeline.shipping import _make
from trialese.progress import silent
from trialese.recipe import Recipe
from trialese.settings import StopReasonsSettings, TasksSettings, VerdictSettings
from trialese.tasks.predict import load_scorer
from trialese.tasks.shipped import FITTED_ON


def test_two_makings_are_the_same_bytes_and_the_card_tells_the_weights(tmp_path: Path) -> None:
    words = {"Covid19": "pandemic covid", "Insufficient_Enrollment": "slow accrual"}
    rows = [f"{words[label]} site {n * 7919}\t{label}" for n in range(30) for label in words]
    (tmp_path / "gold.tsv").write_text("\n".join(["text\tlabels", *rows]) + "\n")
    section = StopReasonsSettings(labelled=str(tmp_path / "gold.tsv"), folds=2, tune_share=0.4)
    recipe = Recipe(
        tasks=TasksSettings(stop_reasons=section), verdict=VerdictSettings(resamples=50)
    )
    for each in ("one", "two"):
        _make(
            recipe, "stop-reasons", ("small",), tmp_path / f"{each}-work", tmp_path / each, silent
        )
    made = tmp_path / "one" / "stop-reasons" / "small"
    again = tmp_path / "two" / "stop-reasons" / "small"
    files = sorted(file.relative_to(made) for file in made.rglob("*") if file.is_file())
    assert [(made / file).read_bytes() for file in files] == [
        (again / file).read_bytes() for file in files
    ]
    verify_files(made)
    assert load_scorer(made).predict(["covid pandemic"]) == [("Covid19",)]
    card = (made / "README.md").read_text("utf-8")
    assert "fitted on all 60 texts; the scores are of 2 other fits, which left them out" in card
    assert "Must not be tested on" in card and "| all |" in card
    assert len((made / FITTED_ON).read_text("utf-8").split()) == 60
    finished = read_manifest(tmp_path / "one-work" / "stop-reasons-small").digest
    _make(recipe, "stop-reasons", ("small",), tmp_path / "one-work", tmp_path / "one", silent)
    assert read_manifest(tmp_path / "one-work" / "stop-reasons-small").digest == finished
