"""Any set of classifier folders can be judged, with the same bytes each time."""

from pathlib import Path

import pytest

from trialese.errors import ArtifactError, RecordError
from trialese.judging import judge_classifiers
from trialese.recipe import Recipe
from trialese.settings import VerdictSettings


def test_judging_folders_by_hand_gives_the_same_verdict(toy: Recipe, tmp_path: Path) -> None:
    home = Path(toy.folder) / "toy"
    folders = [home / "sex" / system for system in ("prior", "tfidf", "base", "adapted")]
    judge_classifiers(folders, VerdictSettings(resamples=50), tmp_path / "one")
    judge_classifiers(folders, VerdictSettings(resamples=50), tmp_path / "two")
    one, two = ((tmp_path / name / "verdict.json").read_bytes() for name in ("one", "two"))
    assert one == two
    with pytest.raises(RecordError, match="second 'prior'"):
        judge_classifiers([folders[0], *folders], VerdictSettings(), tmp_path / "three")
    with pytest.raises(ArtifactError, match="a classifier is needed here"):
        judge_classifiers([home / "corpus"], VerdictSettings(), tmp_path / "three")
