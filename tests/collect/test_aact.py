import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.collect.aact import read_aact
from trialese.collect.files import read_raw
from trialese.collect.parse import parse_study, parse_trial
from trialese.collect.source import RawStudy, Reject, StudyError
from trialese.errors import RecordError
from trialese.records import Trial

TABLES = {
    "studies.txt": (
        "nct_id|brief_title|official_title|overall_status|why_stopped|phase|enrollment|"
        "study_first_posted_date|start_month_year|start_date\n"
        'NCT00000046|Scarves|"A | B"|Terminated|no "wool left|Phase 2/Phase 3|5|2012-01-02|2011-12|'
        "2011-12-31\n"
        "NCT00000047|Mittens||Completed||N/A||2013-01-02|2012-11|2012-11-30\n"
        "NCT00000048|too few cells\n"
    ),
    "brief_summaries.txt": (
        "id|nct_id|description\n2|NCT00000047|Two.\n1|NCT00000046|One.~~More (\u2265 5%).\n"
        "3|NCT00000099|of no study\n"
    ),
    "eligibilities.txt": (
        "id|nct_id|gender|minimum_age|healthy_volunteers|criteria\n"
        '1|NCT00000046|Female|18 Years|f|"Inclusion:~- say "cold" twice~- Age > 5"\n'
    ),
    "conditions.txt": "id|nct_id|name\n1|NCT00000046|Cold Neck\n2|NCT00000046|Wind\n",
    "design_outcomes.txt": (
        "id|nct_id|outcome_type|measure\n1|NCT00000046|primary|Warmth\n2|NCT00000046|secondary|No\n"
    ),
    "sponsors.txt": (
        "id|nct_id|lead_or_collaborator|name\n1|NCT00000046|collaborator|B\n2|NCT00000046|lead|A\n"
    ),
    "id_information.txt": (
        "id|nct_id|id_source|id_value\n1|NCT00000046|org_study_id|S-1\n"
        "2|NCT00000046|nct_alias|NCT00000045\n"
    ),
    "facilities.txt": "id|nct_id|name\n1|NCT00000046|not read\n",
}


def export(folder, tables):
    path = folder / "aact.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in tables.items():
            archive.writestr(name, text if isinstance(text, bytes) else text.encode())
    return path


def test_tables_are_joined_by_study(tmp_path):
    items = list(read_raw(export(tmp_path, TABLES)))
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.origin, reject.reason) == ("aact.zip:studies.txt:4", "bad_row")
    trials = sorted(
        (parse_trial(item) for item in items if isinstance(item, RawStudy)),
        key=lambda trial: trial.nct_id,
    )
    assert trials[0] == Trial(
        nct_id="NCT00000046",
        nct_id_aliases=("NCT00000045",),
        org_study_id="S-1",
        brief_title="Scarves",
        official_title="A | B",
        overall_status="TERMINATED",
        why_stopped='no "wool left',
        phases=("PHASE2", "PHASE3"),
        enrollment=5,
        first_posted="2012-01-02",
        start_date="2011-12",
        brief_summary="One.\n\nMore (≥ 5%).",
        sex="Female",
        minimum_age="18 Years",
        healthy_volunteers=False,
        eligibility_criteria=trials[0].eligibility_criteria,
        conditions=("Cold Neck", "Wind"),
        primary_outcomes=("Warmth",),
        lead_sponsor="A",
    )
    assert trials[0].eligibility_criteria.startswith("Inclusion:\n- say ")
    assert "> 5" in trials[0].eligibility_criteria
    assert trials[1].brief_title == "Mittens"
    assert trials[1].phases == ("NA",)
    assert len(trials) == 2


def test_a_table_without_its_key_is_refused(tmp_path):
    path = export(tmp_path, {**TABLES, "conditions.txt": "id|name\n1|Cold\n"})
    with pytest.raises(RecordError, match=r"conditions\.txt: no column nct_id"):
        list(read_aact(path))


def test_bytes_that_are_no_text_spoil_their_study_only(tmp_path):
    spoilt = TABLES["brief_summaries.txt"].encode().replace(b"Two.", b"\xff.")
    items = list(read_aact(export(tmp_path, {**TABLES, "brief_summaries.txt": spoilt})))
    reasons = []
    for item in items:
        if isinstance(item, RawStudy):
            try:
                parse_study(item)
            except StudyError as error:
                reasons.append(error.reason)
    assert reasons == ["not_utf8"]


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(TABLES)))
def test_any_bytes_in_any_table_give_rows_or_rejects(tmp_path_factory, data, name):
    tables = {**TABLES, name: TABLES[name].encode() + data}
    for item in read_aact(export(tmp_path_factory.mktemp("aact"), tables)):
        assert isinstance(item, (RawStudy, Reject))
        if isinstance(item, RawStudy):
            try:
                parse_study(item)
            except StudyError as error:
                assert error.detail
