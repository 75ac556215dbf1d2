import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.collect.parse import parse_study
from trialese.collect.parse_v2 import parse_v2
from trialese.collect.source import RawStudy, StudyError
from trialese.records import Trial

STUDY = (Path(__file__).parents[1] / "data" / "study_v2.json").read_bytes()


def raw(data):
    return RawStudy("here", "v2", data)


def test_every_field_of_a_study():
    trial, data_date = parse_v2(raw(STUDY))
    assert data_date == "2024-09-24"
    assert trial == Trial(
        nct_id="NCT00000042",
        nct_id_aliases=("NCT00000041",),
        org_study_id="HAND-1",
        brief_title="Warm Socks for Cold Feet",
        official_title="A Randomized Study of Warm Socks in Adults With Cold Feet",
        acronym="SOCKS",
        brief_summary="Do warm socks help?\n\nPeople with cold feet often ask.",
        detailed_description="Toe temperature \\> 30 °C is the aim.",
        eligibility_criteria="Inclusion Criteria:\n\n* Age ≥ 18 years\n* Cold feet \\[both\\]"
        "\n\nExclusion Criteria:\n\n* Warm feet",
        sex="Female",
        gender_based=True,
        gender_description="self-identified",
        healthy_volunteers=False,
        minimum_age="18 Years",
        overall_status="TERMINATED",
        why_stopped="Slow accrual; wool no longer available",
        study_type="INTERVENTIONAL",
        phases=("PHASE1", "PHASE2"),
        allocation="RANDOMIZED",
        intervention_model="PARALLEL",
        primary_purpose="TREATMENT",
        masking="SINGLE",
        enrollment=17,
        conditions=("Cold Feet",),
        keywords=("socks", "wool"),
        interventions=("Wool socks", "Cotton socks"),
        primary_outcomes=("Toe temperature",),
        lead_sponsor="Hosiery Institute",
        first_posted="2021-02-17",
        last_update_posted="2022-09-14",
        start_date="2021-03",
        completion_date="2022-08-30",
    )


def test_decoded_json_gives_the_same_trial_as_its_bytes():
    assert parse_v2(raw(json.loads(STUDY))) == parse_v2(raw(STUDY))


def test_a_study_of_nothing_but_its_number_is_a_trial():
    bare = {"protocolSection": {"identificationModule": {"nctId": "NCT00000001"}}}
    assert parse_v2(raw(bare)) == (Trial(nct_id="NCT00000001"), None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad_json"),
        (STUDY[: len(STUDY) // 2], "bad_json"),
        (b'{"a": 1}', "no_study"),
        (b"[1, 2]", "wrong_type"),
        (b'{"protocolSection": {}}', "no_nct_id"),
        (b'{"protocolSection": {"identificationModule": {"nctId": 7}}}', "wrong_type"),
        (b'{"protocolSection": {"identificationModule": {"nctId": "7"}}}', "bad_nct_id"),
        (b'{"protocolSection": {"identificationModule": "NCT00000042"}}', "wrong_type"),
        (STUDY.replace(b"Warm Socks for", b"\\ud800 for"), "bad_json"),
        (STUDY.replace(b"Warm Socks for", b"\xff for"), "bad_json"),
        (b'{"deep": ' + b"[" * 100_000, "too_deep"),
    ],
)
def test_what_is_no_study_is_refused_with_a_reason(data, reason):
    with pytest.raises(StudyError, match="here: ") as caught:
        parse_study(raw(data))
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("right", "slip", "field"),
    [
        (b'"count": 17', b'"count": -17', "enrollment"),
        (b'"count": 17', b'"count": 1e400', "enrollment"),
        (b'"count": 17', b'"count": 99999999999999999999', "enrollment"),
        (b'"count": 17', b'"count": 17.5', "enrollment"),
        (b'"count": 17', b'"count": "some"', "enrollment"),
        (b'"FEMALE"', b'"QUEEN"', "sex"),
        (b"2021-02-17", b"17/2/2021", "first_posted"),
        (b'"healthyVolunteers": false', b'"healthyVolunteers": "perhaps"', "healthy_volunteers"),
        (b'"briefTitle": "', b'"briefTitle": {"en": 7}, "unused": "', "brief_title"),
        (b'"designModule": {', b'"designModule": "see above", "unused": {', "design_module"),
    ],
)
def test_a_side_field_that_cannot_be_read_costs_the_field_and_not_the_study(right, slip, field):
    assert right in STUDY
    parsed = parse_study(raw(STUDY.replace(right, slip)))
    assert parsed.trial.nct_id == "NCT00000042"
    assert [name for name, _ in parsed.unreadable] == [field]
    assert parsed.trial.conditions == ("Cold Feet",)
    if field in Trial.__struct_fields__:
        assert getattr(parsed.trial, field) in (None, "")


@pytest.mark.parametrize(
    ("right", "slip"),
    [
        (b'"count": 17', b'"count": "17"'),
        (b'"count": 17', b'"count": 17.0'),
        (b'"count": 17', b'"count": "17.0"'),
        (b'"count": 17', b'"count": [17]'),
        (b'"count": 17', b'"count": {"value": "17"}'),
        (b'"healthyVolunteers": false', b'"healthyVolunteers": "No"'),
        (b'"healthyVolunteers": false', b'"healthyVolunteers": 0'),
        (b'"genderBased": true', b'"genderBased": "Yes"'),
        (b'"FEMALE"', b'"Female"'),
        (b'"FEMALE"', b'["FEMALE"]'),
        (b'"TERMINATED"', b'"Terminated"'),
        (b'["PHASE1", "PHASE2"]', b'"Phase 1/Phase 2"'),
        (b'["Cold Feet"]', b'"Cold Feet"'),
        (b'["Cold Feet"]', b'["Cold Feet", null]'),
        (b'"2021-02-17"', b'"2021-02-17T00:00:00"'),
        (b'{"date": "2021-02-17"', b'{"date": "February 17, 2021"'),
        (b'"briefTitle": "', b'"detailed": NaN, "briefTitle": "'),
    ],
)
def test_slips_of_type_and_spelling_are_understood(right, slip):
    assert right in STUDY
    parsed = parse_study(raw(STUDY.replace(right, slip)))
    assert parsed.trial == parse_study(raw(STUDY)).trial
    assert parsed.unreadable == ()


def test_slips_in_decoded_json_are_understood_too():
    study = json.loads(STUDY)
    study["protocolSection"]["designModule"]["enrollmentInfo"]["count"] = "17"
    study["protocolSection"]["identificationModule"]["acronym"] = float("nan")
    parsed = parse_study(raw(study))
    assert (parsed.trial.enrollment, parsed.trial.acronym, parsed.unreadable) == (17, "", ())


def test_a_refused_record_is_named_by_its_number_where_it_has_one():
    for data in (STUDY[: len(STUDY) // 2], STUDY.replace(b"Warm Socks for", b"\xff for")):
        with pytest.raises(StudyError) as caught:
            parse_study(raw(data))
        assert caught.value.reject().nct_id == "NCT00000042"
    study = json.loads(STUDY)
    study["protocolSection"]["descriptionModule"]["briefSummary"] = "\ud800"
    with pytest.raises(StudyError) as caught:
        parse_study(raw(study))
    assert caught.value.reject().nct_id == "NCT00000042"


def test_a_lone_surrogate_in_decoded_json_is_refused():
    study = json.loads(STUDY)
    study["protocolSection"]["identificationModule"]["briefTitle"] = "\ud800"
    with pytest.raises(StudyError) as caught:
        parse_study(raw(study))
    assert caught.value.reason == "not_utf8"


@pytest.mark.parametrize("value", ["nobody", 3, ["x"], [["x"]], True])
@pytest.mark.parametrize(
    "place", ["protocolSection", "derivedSection", "module", "enrollmentInfo", "leadSponsor"]
)
def test_a_word_where_a_part_should_be_costs_no_more_than_the_part(place, value):
    study = json.loads(STUDY)
    protocol = study["protocolSection"]
    if place in study:
        study[place] = value
    elif place == "module":
        protocol["outcomesModule"] = protocol["sponsorCollaboratorsModule"] = value
    elif place == "enrollmentInfo":
        protocol["designModule"]["enrollmentInfo"] = value
    else:
        protocol["sponsorCollaboratorsModule"]["leadSponsor"] = value
    if place == "protocolSection":
        with pytest.raises(StudyError):
            parse_study(raw(study))
        return
    parsed = parse_study(raw(study))
    assert msgspec.msgpack.decode(parsed.packed, type=Trial) == parsed.trial
    assert parsed.trial.nct_id == "NCT00000042"
    if place == "enrollmentInfo":
        assert parsed.trial.enrollment == (3 if value == 3 else None)


def test_a_part_of_one_value_may_be_that_value():
    study = json.loads(STUDY)
    study["protocolSection"]["designModule"]["enrollmentInfo"] = "120"
    study["protocolSection"]["statusModule"]["startDateStruct"] = "2020-01"
    parsed = parse_study(raw(study))
    assert (parsed.trial.enrollment, parsed.trial.start_date) == (120, "2020-01")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _places(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _places(inner, (*path, key))


PLACES = sorted(_places(json.loads(STUDY)))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), json_values, st.booleans())
def test_any_json_in_any_place_gives_a_storable_trial_or_a_reason(place, value, as_bytes):
    study = json.loads(STUDY)
    inner = study
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    data = json.dumps(study).encode() if as_bytes else study
    try:
        parsed = parse_study(raw(data))
    except StudyError as error:
        assert error.reason.isidentifier()
        assert error.detail
    else:
        assert msgspec.msgpack.decode(parsed.packed, type=Trial) == parsed.trial


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_and_never_crash(data):
    with pytest.raises(StudyError):
        parse_study(raw(data))
