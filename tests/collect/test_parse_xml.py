from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.collect.parse import parse_study
from trialese.collect.parse_xml import parse_xml
from trialese.collect.source import RawStudy, StudyError
from trialese.records import Trial

STUDY = (Path(__file__).parents[1] / "data" / "study_legacy.xml").read_bytes()


def raw(data):
    return RawStudy("here", "xml", data)


def test_every_field_of_a_study():
    trial, data_date = parse_xml(raw(STUDY))
    assert data_date == "2023-02-03"
    assert trial == Trial(
        nct_id="NCT00000043",
        nct_id_aliases=("NCT00000044",),
        org_study_id="HAND-2",
        brief_title="Cold Hands & Gloves",
        official_title="Gloves in Adults With Cold Hands",
        brief_summary="Do gloves help people whose hands are cold in winter? This line is wrapped\n"
        "as the registry did.",
        eligibility_criteria="Inclusion Criteria:\n\n  -  Cold hands for at least a\n     year",
        sex="All",
        gender_based=True,
        healthy_volunteers=True,
        minimum_age="18 Years",
        overall_status="ACTIVE_NOT_RECRUITING",
        why_stopped="no yarn",
        study_type="INTERVENTIONAL",
        phases=("PHASE1", "PHASE2"),
        allocation="NON_RANDOMIZED",
        intervention_model="CROSSOVER",
        primary_purpose="ECT",
        masking="NONE",
        enrollment=23,
        conditions=("Cold Hands",),
        keywords=("yarn",),
        interventions=("Gloves",),
        primary_outcomes=("Finger temperature",),
        lead_sponsor="Glove Institute",
        first_posted="1999-11-04",
        last_update_posted="2005-06-24",
        start_date="1984-05",
        completion_date="2001-10-12",
    )


def test_records_from_before_2017_are_read_too():
    old = (
        STUDY.replace(b"study_first_posted", b"firstreceived_date")
        .replace(b"last_update_posted", b"lastchanged_date")
        .replace(b"<gender>All<", b"<gender>Both<")
    )
    head, _, rest = old.partition(b"<study_design_info>")
    _, _, tail = rest.partition(b"</study_design_info>")
    design = b"Allocation:  Randomized, Masking:  Double-Blind, Primary Purpose:  Supportive Care"
    trial, _ = parse_xml(raw(head + b"<study_design>" + design + b"</study_design>" + tail))
    assert trial.first_posted == "1999-11-04"
    assert trial.last_update_posted == "2005-06-24"
    assert trial.sex == "All"
    assert (trial.allocation, trial.primary_purpose) == ("RANDOMIZED", "SUPPORTIVE_CARE")
    assert trial.masking == "DOUBLE"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<clinical_study>", "bad_xml"),
        (STUDY[:-20], "bad_xml"),
        (b"<html><body>busy</body></html>", "no_study"),
        (b"<list><clinical_study/></list>", "no_study"),
        (b"<clinical_study_index/>", "no_study"),
        (b'<!DOCTYPE x [<!ENTITY a "aaa">]>' + STUDY, "forbidden_doctype"),
        (STUDY.replace(b"NCT00000043", b"43"), "bad_nct_id"),
        (STUDY.replace(b"Cold Hands", b"\x00"), "bad_xml"),
        (b'<?xml version="1.0" encoding="klingon"?>' + STUDY, "bad_xml"),
    ],
)
def test_what_is_no_study_is_refused_with_a_reason(data, reason):
    with pytest.raises(StudyError, match="here: ") as caught:
        parse_study(raw(data))
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong", "field"),
    [
        (b">23<", b">many<", "enrollment"),
        (b"May 1984", b"Mai 1984", "start_date"),
        (b"<gender>All<", b"<gender>Queen<", "sex"),
        (b"<healthy_volunteers>", b"<healthy_volunteers>perhaps ", "healthy_volunteers"),
    ],
)
def test_a_side_field_that_cannot_be_read_costs_the_field_and_not_the_study(right, wrong, field):
    assert right in STUDY
    parsed = parse_study(raw(STUDY.replace(right, wrong)))
    assert [name for name, _ in parsed.unreadable] == [field]
    assert getattr(parsed.trial, field) is None
    assert parsed.trial.conditions == ("Cold Hands",)


def test_a_refused_document_is_named_by_its_number():
    with pytest.raises(StudyError) as caught:
        parse_study(raw(STUDY[:-20]))
    assert caught.value.reject().nct_id == "NCT00000043"


def design_in(element):
    head, _, rest = STUDY.partition(b"<study_design_info>")
    _, _, tail = rest.partition(b"</study_design_info>")
    trial = parse_study(raw(head + element.encode() + tail)).trial
    return trial.allocation, trial.intervention_model, trial.primary_purpose, trial.masking


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "Prevention, Non-Randomized, Double Blind (Subject, Caregiver), Placebo Control, "
            "Crossover Assignment, Safety Study",
            ("NON_RANDOMIZED", "CROSSOVER", "PREVENTION", "DOUBLE"),
        ),
        (
            "Educational/Counseling/Training, Randomized, Open Label, Single Group Assignment",
            ("RANDOMIZED", "SINGLE_GROUP", "ECT", "NONE"),
        ),
        ("Treatment", (None, None, "TREATMENT", None)),
        (
            "Allocation:  Randomized, Endpoint Classification:  Safety/Efficacy Study, "
            "Masking:  Double Blind (Subject, Investigator), Primary Purpose:  Treatment",
            ("RANDOMIZED", None, "TREATMENT", "DOUBLE"),
        ),
        (
            "Masking:  Subject, Caregiver, Investigator, Primary Purpose:  Screening",
            (None, None, "SCREENING", "TRIPLE"),
        ),
    ],
)
def test_a_design_on_one_line_is_read_with_names_and_without(line, expected):
    assert design_in(f"<study_design>{line}</study_design>") == expected


@pytest.mark.parametrize(
    ("masking", "level"),
    [
        ("No masking", "NONE"),
        ("None (Open Label)", "NONE"),
        ("Participant", "SINGLE"),
        ("Participant, Investigator", "DOUBLE"),
        ("Participant, Care Provider, Outcomes Assessor", "TRIPLE"),
        ("Participant, Care Provider, Investigator, Outcomes Assessor", "QUADRUPLE"),
        ("Triple (Participant, Investigator, Outcomes Assessor)", "TRIPLE"),
    ],
)
def test_masking_by_level_by_role_or_by_none(masking, level):
    element = f"<study_design_info><masking>{masking}</masking></study_design_info>"
    assert design_in(element) == (None, None, None, level)


def test_words_of_an_observational_design_are_no_purpose():
    head, _, rest = STUDY.partition(b"<study_design_info>")
    _, _, tail = rest.partition(b"</study_design_info>")
    old = head + b"<study_design>Screening, Longitudinal, Prospective Study</study_design>" + tail
    assert b"<study_type>Interventional" in old
    old = old.replace(b"<study_type>Interventional", b"<study_type>Observational")
    assert parse_study(raw(old)).trial.primary_purpose is None


@pytest.mark.parametrize(
    "words",
    [
        b"ClinicalTrials.gov processed this data on February 03, 2023",
        b"Information obtained from ClinicalTrials.gov on February 03, 2023",
        b"Processed by ClinicalTrials.gov on February 3, 2023",
    ],
)
def test_the_date_of_the_data_in_the_words_of_every_year(words):
    before = b"ClinicalTrials.gov processed this data on February 03, 2023"
    assert before in STUDY
    assert parse_xml(raw(STUDY.replace(before, words)))[1] == "2023-02-03"


def test_deep_nesting_is_survived():
    deep = STUDY.replace(b"<keyword>", b"<a>" * 20_000 + b"</a>" * 20_000 + b"<keyword>", 1)
    assert parse_xml(raw(deep))[0].nct_id == "NCT00000043"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_anywhere_gives_a_trial_or_a_reason(data):
    start = data.draw(st.integers(0, len(STUDY)))
    end = min(len(STUDY), start + data.draw(st.integers(0, 60)))
    damaged = STUDY[:start] + data.draw(st.binary(max_size=8)) + STUDY[end:]
    try:
        parsed = parse_study(raw(damaged))
    except StudyError as error:
        assert error.reason.isidentifier()
        assert error.detail
    else:
        assert parsed.trial.nct_id.startswith("NCT")


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE clinical_study [<!ENTITY a "b">]>',
        "<!-- <clinical_study> --><!DOCTYPE clinical_study>",
        "<?note <clinical_study> ?>\n<!DOCTYPE clinical_study SYSTEM 'file:///etc/passwd'>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_wherever_it_hides(prolog, encoding):
    # The root's name stands in the bytes in any case, so that the document is taken for a study.
    text = f'<?xml version="1.0" encoding="{encoding}"?>{prolog}<clinical_study>x</clinical_study>'
    data = text.encode(encoding) + (b"" if encoding == "utf-8" else b"<clinical_study")
    with pytest.raises(StudyError) as caught:
        parse_study(RawStudy("a.xml", "xml", data))
    assert caught.value.reason == "forbidden_doctype"
