"""Any set of classifier folders can be judged, with the same bytes each time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trialese.errors import ArtifactError, RecordError
from trialese.pipeline.evaluate import judge_classifiers
from trialese.recipe import Recipe
from trialese.settings import VerdictSettings


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
