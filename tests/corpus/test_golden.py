"""Hand-written studies, one for each way in which sources break text -> their documents, by eye."""

from pathlib import Path

import msgspec
import pytest

from trialese.collect import RawStudy, parse_trial
from trialese.corpus.clean import clean_text
from trialese.corpus.render import render_document
from trialese.settings import RenderSettings

FOLDER = Path(__file__).parents[1] / "data" / "golden"
STUDIES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".txt")


def read_study(path: Path) -> RawStudy:
    if path.name.endswith(".aact.json"):
        return RawStudy(path.name, "aact", msgspec.json.decode(path.read_bytes()))
    return RawStudy(path.name, "xml" if path.suffix == ".xml" else "v2", path.read_bytes())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_study_becomes_its_document(path: Path) -> None:
    document = render_document(parse_trial(read_study(path)), RenderSettings())
    expected = (FOLDER / f"{path.name.split('.')[0]}.txt").read_text("utf-8")
    assert document.text + "\n" == expected
    assert clean_text(document.text) == document.text  # a whole document is clean text too


def test_there_are_twenty() -> None:
    assert len(STUDIES) == 20
