"""Any set of classifier folders can be judged, with the same bytes each time."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trialese.artifacts import read_manifest, write_artifact
from trialese.errors import ArtifactError, RecordError
from trialese.pipeline.evaluate import (
    judge_alone,
    judge_classifiers,
    slice_by_length,
    slice_by_novelty,
)
from trialese.predictions import load_predictions, save_predictions
from trialese.recipe import Recipe
from trialese.records import Example
from trialese.settings import VerdictSettings
from trialese.verdict.report import load_verdicts


def test_judging_folders_by_hand_gives_the_same_verdict(toy: Recipe, tmp_path: Path) -> None:
    home = Path(toy.folder) / "toy"
    folders = [home / "sex" / system for system in ("prior", "tfidf", "base", "adapted")]
    judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "one")
    judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "two")
    one, two = ((tmp_path / name / "verdict.json").read_bytes() for name in ("one", "two"))
    assert one == two
    with pytest.raises(RecordError, match="second 'prior'"):
        judge_classifiers([folders[0], *folders], VerdictSettings(), tmp_path / "three")
    with pytest.raises(ArtifactError, match="a classifier is needed here"):
        judge_classifiers([home / "corpus"], VerdictSettings(), tmp_path / "three")


def test_evaluate_needs_no_torch_and_gives_the_same_bytes(toy: Recipe, tmp_path: Path) -> None:
    """The verb itself, in a process of its own with another hash seed."""
    home = Path(toy.folder) / "toy" / "stop-reasons"
    folders = [str(home / system) for system in ("prior", "tfidf", "base")]
    judge_classifiers(
        [Path(folder) for folder in folders], VerdictSettings(resamples=100), tmp_path / "one"
    )
    arguments = ["evaluate", *folders, "-o", str(tmp_path / "two"), "-s", "verdict.resamples=100"]
    script = (
        "import sys\n"
        "from trialese.cli.main import main\n"
        f"sys.argv = ['trialese', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'sklearn', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    environment = {"PYTHONHASHSEED": "5", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=120)
    for name in ("verdict.json", "verdict.md", "report.html", "manifest.json"):
        one, two = ((tmp_path / way / name).read_bytes() for way in ("one", "two"))
        assert one == two, name


def test_a_classifier_alone_is_judged_against_the_prior(toy: Recipe, tmp_path: Path) -> None:
    folder = Path(toy.folder) / "toy" / "sex" / "tfidf"
    judge_classifiers([folder], VerdictSettings(resamples=100), tmp_path / "v")
    (verdict,) = load_verdicts(tmp_path / "v")
    assert [scores.system for scores in verdict.scores] == ["tfidf", "prior"]
    assert "tune texts" in verdict.notes["models"]["prior"]
    alone = judge_alone(folder, VerdictSettings(resamples=100))
    assert not isinstance(alone, str) and alone.signature == verdict.signature
    assert str(judge_alone(folder, VerdictSettings(resamples=5))).startswith(
        "no held-out scores: sex: 5 resamples are too few"
    )


def test_unequal_folds_are_judged_on_those_that_are_shared(toy: Recipe, tmp_path: Path) -> None:
    home = Path(toy.folder) / "toy" / "stop-reasons"
    shutil.copytree(home / "prior", tmp_path / "prior")
    runs = load_predictions(home / "tfidf" / "predictions.parquet")
    more = [dataclasses.replace(run, seed=run.seed + 100) for run in runs]
    made = read_manifest(home / "tfidf")
    with write_artifact(tmp_path / "tfidf", kind="classifier", settings=made.settings) as draft:
        draft.notes |= made.notes
        save_predictions(draft.folder / "predictions.parquet", [*runs, *more])
    folders = [tmp_path / "prior", tmp_path / "tfidf"]
    judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "v")
    (verdict,) = load_verdicts(tmp_path / "v")
    (found,) = [audit for audit in verdict.audits if "same folds" in audit.name]
    assert f"seed {runs[0].seed + 100}, fold {runs[0].fold} (prior lacks it)" in found.finding
    assert not found.passed
    assert verdict.notes["seeds"] == sorted({run.seed for run in runs})


def test_what_the_masked_lm_read_is_told_by_system_and_only_where_it_is_classified(
    toy: Recipe,
) -> None:
    """Stop reasons are no part of what the masked-LM reads; sex is told from the same text."""
    reasons, sex = sorted(
        load_verdicts(Path(toy.folder) / "toy" / "verdict"), key=lambda v: v.task != "stop-reasons"
    )
    names = [audit.name for audit in reasons.audits]
    assert "masked-LM training read the test trials" not in names
    (found,) = [audit for audit in sex.audits if audit.name.startswith("masked-LM training")]
    assert "adapted's " in found.finding and " labels unseen: " in found.finding
    assert {"length", "nearest other text", "phase", "year of first posting"} <= set(
        sex.notes["slices"]
    )


def test_thirds_by_likeness_to_the_nearest_other_text() -> None:
    """A text alone in its words is new; copies in its own cluster do not make it known."""
    texts = ["slow accrual of patients", "slow accrual of subjects", "funding ended"]
    texts += ["zebra quagga okapi", "zebra quagga okapi", "funding withdrawn by sponsor"]
    clusters = ["a", "b", "c", "d", "d", "e"]
    examples = [
        Example(f"t{n}", text, (), cluster)
        for n, (text, cluster) in enumerate(zip(texts, clusters, strict=True))
    ]
    thirds = slice_by_novelty(examples)
    assert thirds["t3"] == thirds["t4"] == "1: likeness up to 0.00"
    assert thirds["t0"][0] == thirds["t1"][0] == "3"
    assert thirds["t2"][0] == thirds["t5"][0] == "2"
    assert slice_by_novelty(examples[:2]) == {}


def test_thirds_by_length() -> None:
    thirds = slice_by_length({"a": 2, "b": 9, "c": 4, "d": 30, "e": 2, "f": 12})
    assert thirds["a"] == thirds["e"] == "1: up to 2 words"
    assert thirds["c"] == thirds["b"] == "2: up to 9 words"
    assert thirds["d"] == thirds["f"] == "3: over 9 words"
    assert slice_by_length({}) == {}
