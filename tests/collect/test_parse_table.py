import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.collect.parse import parse_study
from trialese.collect.parse_table import parse_aact, parse_csv, parse_text
from trialese.collect.source import RawStudy, StudyError
from trialese.records import Trial

NEWER = {
    "NCT Number": "NCT00000045",
    "Study Title": "Hats for Cold Heads",
    "Acronym": "HAT",
    "Study Status": "ACTIVE_NOT_RECRUITING",
    "Brief Summary": "Do hats help?\n\nWe ask.",
    "Conditions": "Cold Head|Wind",
    "Interventions": "DEVICE: Hat: wool|DRUG: Tea",
    "Primary Outcome Measures": "Ear temperature, in degrees, 1 week",
    "Sponsor": "Hat Institute",
    "Sex": "MALE",
    "Age": "ADULT, OLDER_ADULT",
    "Phases": "PHASE1|PHASE2",
    "Enrollment": "12.0",
    "Study Type": "INTERVENTIONAL",
    "Study Design": "Allocation: RANDOMIZED|Intervention Model: PARALLEL|"
    "Masking: SINGLE (PARTICIPANT)|Primary Purpose: PREVENTION",
    "Other IDs": "HAT-1|HAT-2",
    "Start Date": "2020-11-05",
    "Completion Date": "2021-07",
    "First Posted": "2020-11-19",
    "Last Update Posted": "2021-01-19",
}
OLDER = {
    "NCT Number": "NCT00000045",
    "Title": "Hats for Cold Heads",
    "Acronym": "HAT",
    "Status": "Active, not recruiting",
    "Conditions": "Cold Head|Wind",
    "Interventions": "Device: Hat: wool|Drug: Tea",
    "Sponsor/Collaborators": "Hat Institute|Wool Fund",
    "Gender": "Male",
    "Age": "18 Years to 65 Years   (Adult, Older Adult)",
    "Phases": "Phase 1|Phase 2",
    "Enrollment": "12",
    "Study Type": "Interventional",
    "Study Designs": "Allocation: Randomized|Intervention Model: Parallel Assignment|"
    "Masking: Single (Participant)|Primary Purpose: Prevention",
    "Other IDs": "HAT-1|HAT-2",
    "Start Date": "November 5, 2020",
    "Completion Date": "July 2021",
    "First Posted": "November 19, 2020",
    "Last Update Posted": "January 19, 2021",
}


def test_both_generations_of_the_csv_download_agree():
    newer = parse_csv(RawStudy("x", "csv", NEWER))
    assert newer == Trial(
        nct_id="NCT00000045",
        org_study_id="HAT-1",
        brief_title="Hats for Cold Heads",
        acronym="HAT",
        brief_summary="Do hats help?\n\nWe ask.",
        sex="Male",
        overall_status="ACTIVE_NOT_RECRUITING",
        study_type="INTERVENTIONAL",
        phases=("PHASE1", "PHASE2"),
        allocation="RANDOMIZED",
        intervention_model="PARALLEL",
        primary_purpose="PREVENTION",
        masking="SINGLE",
        enrollment=12,
        conditions=("Cold Head", "Wind"),
        interventions=("Hat: wool", "Tea"),
        primary_outcomes=("Ear temperature, in degrees, 1 week",),
        lead_sponsor="Hat Institute",
        first_posted="2020-11-19",
        last_update_posted="2021-01-19",
        start_date="2020-11-05",
        completion_date="2021-07",
    )
    older = parse_csv(RawStudy("x", "csv", OLDER))
    assert (older.minimum_age, older.maximum_age) == ("18 Years", "65 Years")
    differing = ("minimum_age", "maximum_age", "brief_summary", "primary_outcomes")
    for name in Trial.__struct_fields__:
        if name not in differing:
            assert getattr(older, name) == getattr(newer, name), name


@pytest.mark.parametrize(
    ("age", "low", "high"),
    [("18 Years and older", "18 Years", ""), ("up to 6 Months", "", "6 Months"), ("Adult", "", "")],
)
def test_age_limits(age, low, high):
    trial = parse_csv(RawStudy("x", "csv", {**OLDER, "Age": age}))
    assert (trial.minimum_age, trial.maximum_age) == (low, high)


@pytest.mark.parametrize("missing", ["null", "NULL", "nan", " null ", "<NA>"])
def test_a_word_for_an_empty_cell_is_an_empty_cell(missing):
    emptied = ("Completion Date", "Enrollment", "Gender", "Acronym", "Phases", "Study Designs")
    row = {**OLDER, **dict.fromkeys(emptied, missing)}
    parsed = parse_study(RawStudy("x", "csv", row))
    assert parsed.trial == parse_csv(RawStudy("x", "csv", {**OLDER, **dict.fromkeys(emptied, "")}))
    assert parsed.unreadable == ()


@pytest.mark.parametrize(
    ("column", "cell", "field"),
    [
        ("Enrollment", "a few", "enrollment"),
        ("Gender", "Queen", "sex"),
        ("Start Date", "44140", "start_date"),
    ],
)
def test_an_odd_cell_costs_the_field_and_not_the_study(column, cell, field):
    parsed = parse_study(RawStudy("x", "csv", {**OLDER, column: cell}))
    assert [name for name, _ in parsed.unreadable] == [field]
    assert getattr(parsed.trial, field) is None
    assert parsed.trial.brief_title == "Hats for Cold Heads"


def test_dates_that_excel_wrote_are_read_where_the_row_tells_their_order():
    american = {**NEWER, "First Posted": "11/19/2020", "Last Update Posted": "1/9/2021"}
    trial = parse_csv(RawStudy("x", "csv", american))
    assert (trial.first_posted, trial.last_update_posted) == ("2020-11-19", "2021-01-09")
    european = {**NEWER, "First Posted": "19/11/2020", "Last Update Posted": "9/1/2021"}
    trial = parse_csv(RawStudy("x", "csv", european))
    assert (trial.first_posted, trial.last_update_posted) == ("2020-11-19", "2021-01-09")
    either = {**NEWER, "First Posted": "1/2/2020", "Last Update Posted": "3/3/2021"}
    parsed = parse_study(RawStudy("x", "csv", either))
    assert (parsed.trial.first_posted, parsed.trial.last_update_posted) == (None, "2021-03-03")
    ((name, why),) = parsed.unreadable
    assert name == "first_posted"
    assert "Excel" in why


def test_a_bare_text_is_named_by_its_number_or_its_content():
    named = parse_text(RawStudy("x", "text", {"": "7", "text": " Hats. ", "nct_id": "nct00000045"}))
    assert named == Trial(nct_id="NCT00000045", detailed_description="Hats.")
    digest = hashlib.sha256(b"Hats.").hexdigest()[:12]
    unnamed = parse_text(RawStudy("x", "text", {"": "7", "Text": "Hats."}))
    assert unnamed.nct_id == f"TEXT-{digest}"
    with pytest.raises(StudyError, match="no text"):
        parse_text(RawStudy("x", "text", {"text": "  "}))


def test_aact_rows():
    row = {
        "nct_id": "NCT00000046",
        "brief_title": "Scarves",
        "brief_summary": "One.~~Two.",
        "criteria": "Inclusion:~- Cold~- Neck",
        "gender": "All",
        "gender_based": "t",
        "healthy_volunteers": "f",
        "minimum_age": "N/A",
        "overall_status": "Unknown status",
        "phase": "Phase 2/Phase 3",
        "enrollment": "5",
        "study_first_posted_date": "2012-01-02",
        "start_month_year": "2011-12",
        "start_date": "2011-12-31",
        "conditions": ("Cold Neck", "Wind"),
    }
    assert parse_aact(RawStudy("x", "aact", row)) == Trial(
        nct_id="NCT00000046",
        brief_title="Scarves",
        brief_summary="One.\n\nTwo.",
        eligibility_criteria="Inclusion:\n- Cold\n- Neck",
        sex="All",
        gender_based=True,
        healthy_volunteers=False,
        overall_status="UNKNOWN",
        phases=("PHASE2", "PHASE3"),
        enrollment=5,
        conditions=("Cold Neck", "Wind"),
        first_posted="2012-01-02",
        start_date="2011-12",
    )


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["csv", "aact", "text"]),
    st.sampled_from([NEWER, OLDER]),
    st.dictionaries(
        st.sampled_from([*NEWER, *OLDER, "text", "nct_id", "", "gender", "enrollment", "phase"]),
        st.text(alphabet=st.characters(codec=None)),
    ),
)
def test_any_cells_give_a_storable_trial_or_a_reason(kind, start, cells):
    try:
        parsed = parse_study(RawStudy("x", kind, {**start, **cells}))
    except StudyError as error:
        assert error.reason.isidentifier()
        assert error.detail
    else:
        assert parsed.trial.nct_id
