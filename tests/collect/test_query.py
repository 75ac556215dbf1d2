from trialese.collect.api import FIELDS, query_of, year_windows
from trialese.collect.parse_v2 import parse_v2
from trialese.collect.source import RawStudy
from trialese.settings import CollectSettings


def test_the_query_asks_for_windows_modules_and_an_order():
    query = query_of(CollectSettings(since="2022-12-04", updated_since="2023-01-01", query="wool"))
    assert query["filter.advanced"] == (
        "AREA[StudyFirstPostDate]RANGE[2022-12-04,MAX] AND "
        "AREA[LastUpdatePostDate]RANGE[2023-01-01,MAX]"
    )
    assert query["query.term"] == "wool"
    assert query["sort"] == "StudyFirstPostDate:asc"
    assert "filter.advanced" not in query_of(CollectSettings())


def test_every_module_that_a_trial_needs_is_asked_for(study_maker):
    study = study_maker(1)
    protocol = study["protocolSection"]
    asked = {name[0].lower() + name[1:] for name in FIELDS}
    whole = parse_v2(RawStudy("x", "v2", study))
    study["protocolSection"] = {name: protocol[name] for name in protocol if name in asked}
    assert len(study["protocolSection"]) < len(protocol)
    assert parse_v2(RawStudy("x", "v2", study)) == whole


def test_windows_of_years_leave_no_day_out():
    windows = [
        query["filter.advanced"] for query in year_windows({"format": "json"}, last_year=2001)
    ]
    assert windows == [
        "AREA[StudyFirstPostDate]RANGE[MIN,1999-12-31]",
        "AREA[StudyFirstPostDate]RANGE[2000-01-01,2000-12-31]",
        "AREA[StudyFirstPostDate]RANGE[2001-01-01,MAX]",
    ]
