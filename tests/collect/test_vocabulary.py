import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.collect.source import StudyError
from trialese.collect.vocabulary import (
    BROAD_AREAS,
    areas_of,
    broad_area,
    choice,
    data_date_of,
    iso_date,
    masking_level,
    nct_id_in,
    nct_id_of,
    optional_age,
    phases_of,
    sex_of,
    truth_of,
    whole_number,
    yes_or_no,
)
from trialese.records import Trial


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("October 12, 2001", "2001-10-12"),
        ("May 1984", "1984-05"),
        ("may 3 2020", "2020-05-03"),
        ("2024-09-24", "2024-09-24"),
        ("2004-09", "2004-09"),
        ("1999", "1999"),
        ("2024-09-24 00:00:00", "2024-09-24"),
        ("2024-09-24T00:00:00.000Z", "2024-09-24"),
        ("", None),
        ("  ", None),
        (None, None),
    ],
)
def test_dates_become_iso_as_exact_as_given(written, expected):
    assert iso_date(written, "x") == expected


@pytest.mark.parametrize("wrong", ["Octember 1, 2001", "2024-13-01", "2024-09-32", "soon", "٢٠٢٤"])
def test_a_wrong_date_is_refused_with_its_origin(wrong):
    with pytest.raises(StudyError, match=r"file\.xml") as caught:
        iso_date(wrong, "file.xml")
    assert caught.value.reason == "bad_date"


@pytest.mark.parametrize(
    ("legacy", "word"),
    [
        ("Active, not recruiting", "ACTIVE_NOT_RECRUITING"),
        ("Unknown status", "UNKNOWN"),
        ("Approved for marketing", "APPROVED_FOR_MARKETING"),
        ("Observational [Patient Registry]", "OBSERVATIONAL"),
        ("Educational/Counseling/Training", "ECT"),
        ("Single Group Assignment", "SINGLE_GROUP"),
        ("Non-Randomized", "NON_RANDOMIZED"),
        ("N/A", "NA"),
        ("", None),
        (None, None),
    ],
)
def test_choices_become_the_words_of_v2(legacy, word):
    assert choice(legacy) == word


@given(st.text())
def test_a_choice_is_stable(text):
    word = choice(text)
    assert word is None or re.fullmatch(r"[A-Z0-9]+(_[A-Z0-9]+)*", word)
    assert choice(word) == word


@pytest.mark.parametrize(
    ("words", "phases"),
    [
        (["Phase 1/Phase 2"], ("PHASE1", "PHASE2")),
        (["Phase 2|Phase 3"], ("PHASE2", "PHASE3")),
        (["PHASE4"], ("PHASE4",)),
        (["N/A"], ("NA",)),
        (["Not Applicable"], ("NA",)),
        (["Early Phase 1"], ("EARLY_PHASE1",)),
        (["Phase 0"], ("EARLY_PHASE1",)),
        (["Phase I/Phase II"], ("PHASE1", "PHASE2")),
        ([""], ()),
        ([], ()),
    ],
)
def test_phases_are_split_and_renamed(words, phases):
    assert phases_of(words) == phases


def test_masking_drops_who_is_masked():
    assert masking_level("Double (Participant, Investigator)") == "DOUBLE"
    assert masking_level("None (Open Label)") == "NONE"
    assert masking_level("SINGLE (OUTCOMES_ASSESSOR)") == "SINGLE"
    assert masking_level(None) is None


def test_sex_in_the_words_of_all_formats():
    assert [sex_of(word, "x") for word in ("ALL", "Both", "Female", "MALE", "", None)] == [
        "All", "All", "Female", "Male", None, None,
    ]  # fmt: skip
    with pytest.raises(StudyError, match="Femme"):
        sex_of("Femme", "x")


def test_nct_numbers_are_checked():
    assert nct_id_of(" nct00000042 ", "x") == "NCT00000042"
    for wrong, reason in [
        ("", "no_nct_id"),
        ("NCT0042", "bad_nct_id"),
        ("NCT0000004२", "bad_nct_id"),
    ]:
        with pytest.raises(StudyError) as caught:
            nct_id_of(wrong, "x")
        assert caught.value.reason == reason


def test_yes_no_and_ages():
    assert [truth_of(text) for text in ("Yes", "t", "Accepts Healthy Volunteers")] == [True] * 3
    assert [truth_of(text) for text in ("No", "f", "false")] == [False] * 3
    assert [truth_of(text) for text in ("", "maybe", None)] == [None] * 3
    assert [optional_age(t) for t in ("18 Years", "N/A", None)] == ["18 Years", "", ""]


def test_numbers_and_truths_as_programs_write_them():
    written = (120, 120.0, "120", " 120.00 ", "1,200", "", None, float("nan"))
    counts = [whole_number(value, "x") for value in written]
    assert counts == [120, 120, 120, 120, 1200, None, None, None]
    for wrong in (-1, 1.5, True, "12 or so", "1,2", "٣", float("inf")):
        with pytest.raises(StudyError, match="is no number"):
            whole_number(wrong, "x")
    assert [yes_or_no(word, "x") for word in ("Yes", "0", "", "N/A")] == [True, False, None, None]
    with pytest.raises(StudyError, match="neither yes nor no"):
        yes_or_no("maybe", "x")


def test_the_number_of_a_record_that_could_not_be_read():
    assert nct_id_in(b'{"nctId": "NCT00000007", "x": "see NCT00000008') == "NCT00000007"
    assert nct_id_in(b"<nct_id> nct00000007<") == "NCT00000007"
    assert nct_id_in(b"see NCT00000007 and NCT00000008") == ""
    assert nct_id_in(b"only NCT00000007, NCT00000007") == "NCT00000007"
    assert nct_id_in({"Rank": "1", "NCT Number": " nct00000007"}) == "NCT00000007"
    assert nct_id_in({"Rank": "1"}) == nct_id_in(b"") == ""


def test_the_date_of_data_is_a_day_or_nothing():
    assert data_date_of("February 03, 2023") == "2023-02-03"
    assert [data_date_of(t) for t in ("2023-02", "whenever", "", None)] == [None] * 4


@pytest.mark.parametrize(
    ("conditions", "keywords", "areas"),
    [
        (("Breast Cancer",), (), ("oncology",)),
        (("Adenocarcinoma of the Lung", "Brain Metastases"), (), ("oncology",)),
        (("Type 2 Diabetes",), ("insulin", "HbA1c"), ("endocrine and metabolic",)),
        (("Asthma",), ("COVID-19",), ("respiratory and allergy", "infections")),
        (("Acute Ischemic Stroke",), (), ("cardiovascular",)),
        (("Friendship",), ("skinny",), ()),
        (("Healthy",), (), ()),
        ((), (), ()),
    ],
)
def test_the_broad_areas_of_a_trial(conditions, keywords, areas):
    trial = Trial(nct_id="NCT00000001", conditions=conditions, keywords=keywords)
    assert areas_of(trial) == areas
    assert broad_area(trial) == (areas[0] if areas else "other")


@pytest.mark.parametrize(
    ("area", "condition"),
    [
        ("oncology", "Neuroblastoma"),
        ("infections", "HIV Infections"),
        ("cardiovascular", "Heart Failure"),
        ("mental health", "Major Depressive Disorder"),
        ("neurology", "Parkinson's Disease"),
        ("endocrine and metabolic", "Obesity"),
        ("respiratory and allergy", "Peanut Allergy"),
        ("digestive", "Crohn's Disease"),
        ("musculoskeletal", "Rheumatoid Arthritis"),
        ("kidney and urology", "Erectile Dysfunction"),
        ("reproduction and pregnancy", "Preterm Birth"),
        ("skin", "Psoriasis"),
        ("eye and ear", "Glaucoma"),
        ("blood and immune system", "Sickle Cell Anemia"),
        ("other", "Quality of Life"),
    ],
)
def test_every_area_has_its_conditions(area, condition):
    assert broad_area(Trial(nct_id="NCT00000001", conditions=(condition,))) == area
    assert area in BROAD_AREAS
    assert len(BROAD_AREAS) == 15
