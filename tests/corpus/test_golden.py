"""Hand-written studies, one for each way in which sources break text -> their documents, by eye."""

import re
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from trialese.collect.files import read_raw
from trialese.collect.parse import parse_trial
from trialese.collect.source import RawStudy
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


AS_XML = """<clinical_study>
  <id_info><nct_id>NCT00000045</nct_id></id_info>
  <brief_title>Socks &amp; Sugar</brief_title>
  <brief_summary><textblock>
      Warm socks may lower sugar. This study asks whether they do, in people who&#xD;
      have worn none before.&#xD;
  </textblock></brief_summary>
  <eligibility><criteria><textblock>
        Inclusion Criteria:

          -  Age ≥ 18 years

          -  HbA1c &gt; 7.5% measured within the last four weeks before the first
             visit of the study

        Exclusion Criteria:

          -  Allergy to wool
  </textblock></criteria></eligibility>
</clinical_study>"""
AS_JSON = {
    "protocolSection": {
        "identificationModule": {"nctId": "NCT00000045", "briefTitle": "Socks & Sugar"},
        "descriptionModule": {
            "briefSummary": "Warm socks may lower sugar. This study asks whether they do, in "
            "people who have worn none before."
        },
        "eligibilityModule": {
            "eligibilityCriteria": "Inclusion Criteria:\n\n* Age ≥ 18 years\n* HbA1c \\> 7.5% "
            "measured within the last four weeks before the first visit of the study\n\n"
            "Exclusion Criteria:\n\n* Allergy to wool"
        },
    }
}


def test_one_study_told_in_both_formats_is_one_document() -> None:
    ways = (RawStudy("x", "xml", AS_XML.encode()), RawStudy("x", "v2", AS_JSON))
    texts = [render_document(parse_trial(way), RenderSettings()).text for way in ways]
    assert texts[0] == texts[1]
    assert "- HbA1c > 7.5% measured" in texts[0]


REGISTRY = Path(__file__).parents[3] / "shared" / "data" / "registry"


@pytest.mark.skipif(not REGISTRY.is_dir(), reason="needs the registry files beside the checkout")
@pytest.mark.parametrize("name", ["legacy-xml-2023-02-03.zip", "api-v2-2024-09-24.json.zip"])
def test_real_records_of_both_kinds_render_to_one_shape(name: str) -> None:
    order = ["Title", "Official title", "Summary", "Description", "Eligibility criteria"]
    trials = (parse_trial(raw) for raw in islice(read_raw(REGISTRY / name), 0, 600, 5))
    for trial in trials:
        text = render_document(trial, RenderSettings()).text
        sections = re.findall(rf"(?:^|\n\n)({'|'.join(order)}):", text)
        told = dict.fromkeys(section for section in sections)
        assert list(told) == [section for section in order if section in told], trial.nct_id
        assert {"Title", "Summary", "Eligibility criteria"} <= told.keys(), trial.nct_id
        assert not re.search(r"\\[*\[\]<>]|&[a-z]+;|&#|\r|\t|  |\n\n\n|^[*•]", text, re.MULTILINE)
