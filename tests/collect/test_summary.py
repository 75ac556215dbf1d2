import json

import pytest

from trialese.collect.collection import collect_snapshot
from trialese.collect.diff import changed_fields, compare_snapshots
from trialese.collect.summary import find_doubts, quality_report, summarise_snapshot
from trialese.records import Trial
from trialese.settings import CollectSettings, SampleSettings


def snapshot_of(studies, folder):
    folder.mkdir()
    (folder / "studies.json").write_text(json.dumps(studies))
    settings = CollectSettings(source="files", paths=(str(folder / "studies.json"),))
    return collect_snapshot(settings, folder / "snapshot")


def test_a_summary_counts_every_trial(tmp_path, study_maker):
    studies = [study_maker(number) for number in (1, 2, 3)]
    studies[1]["protocolSection"]["eligibilityModule"]["sex"] = "ALL"
    del studies[2]["protocolSection"]["designModule"]["phases"]
    del studies[2]["protocolSection"]["statusModule"]["whyStopped"]
    summary = summarise_snapshot(snapshot_of(studies, tmp_path / "s"))
    assert summary.trials == 3
    assert summary.sexes == {"Female": 2, "All": 1}
    assert summary.phases == {"PHASE1/PHASE2": 2, "none": 1}
    assert summary.years == {"2005": 1, "2006": 1, "2007": 1}
    assert summary.statuses == {"TERMINATED": 3}
    assert summary.stopped_with_reason == 2
    assert summary.missing["why_stopped"] == 1
    assert summary.missing["nct_id_aliases"] == 3
    assert "brief_title" not in summary.missing


def test_changed_fields_are_named(tmp_path, study_maker):
    older = [study_maker(1), study_maker(2), study_maker(3)]
    newer = [study_maker(1), study_maker(2), study_maker(4)]
    newer[1]["protocolSection"]["statusModule"]["overallStatus"] = "COMPLETED"
    newer[1]["protocolSection"]["identificationModule"]["briefTitle"] = "Other"
    newer[2]["protocolSection"]["identificationModule"]["nctIdAliases"] = ["NCT00000003"]
    new, old = snapshot_of(newer, tmp_path / "new"), snapshot_of(older, tmp_path / "old")
    fields = changed_fields(new, old, compare_snapshots(new, old))
    assert fields["NCT00000002"] == ("brief_title", "overall_status")
    assert {"nct_id", "nct_id_aliases", "brief_title"} <= set(fields["NCT00000004"])
    assert set(fields) == {"NCT00000002", "NCT00000004"}


GOOD = Trial(
    nct_id="NCT00000001",
    brief_summary="Do hats help?",
    eligibility_criteria="Inclusion Criteria: men and women. Exclusion Criteria: pregnant women",
    sex="All",
    overall_status="COMPLETED",
    first_posted="2020-01-01",
    last_update_posted="2020-01-01",
    start_date="2019-05",
    completion_date="2019-05-01",
)


def doubts(**changes):
    fields = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__}
    return {f.name for f in find_doubts([Trial(**{**fields, **changes})]) if f.trials}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"eligibility_criteria": " "}, {"empty_eligibility"}),
        ({"brief_summary": ""}, {"empty_summary"}),
        ({"brief_summary": "age \\> 5"}, {"escapes_left"}),
        ({"brief_summary": "a back\\slash"}, set()),
        ({"eligibility_criteria": "Women aged 18"}, {"sex_all_but_one_in_criteria"}),
        ({"eligibility_criteria": "Males"}, {"sex_all_but_one_in_criteria"}),
        ({"eligibility_criteria": "Women aged 18", "sex": "Female"}, set()),
        ({"eligibility_criteria": "Adults. Exclusion Criteria: pregnant women"}, set()),
        ({"why_stopped": "no wool"}, {"reason_but_not_stopped"}),
        ({"why_stopped": "no wool", "overall_status": "SUSPENDED"}, set()),
        ({"overall_status": "TERMINATED"}, {"stopped_without_reason"}),
        ({"start_date": "2019-06"}, {"dates_contradict"}),
        ({"last_update_posted": "2019-12-31"}, {"dates_contradict"}),
        ({"first_posted": None}, {"no_first_posting"}),
    ],
)
def test_each_doubt_is_raised_by_what_it_says_and_by_nothing_else(changes, expected):
    assert doubts(**changes) == expected


def test_the_report_names_examples(tmp_path):
    snapshot = collect_snapshot(
        CollectSettings(sample=SampleSettings(studies=400)), tmp_path / "sample"
    )
    report = {finding.name: finding for finding in quality_report(snapshot)}
    escapes = report["escapes_left"]
    assert escapes.trials > 300
    assert len(escapes.examples) == 5
    assert report["reason_but_not_stopped"].trials == 0
    assert 0 < report["sex_all_but_one_in_criteria"].trials < 40
    assert all(finding.meaning for finding in report.values())


@pytest.mark.parametrize(
    "criteria",
    [
        "Women with cold feet",
        "* Postmenopausal women with cold feet",
        "1. All pregnant women with cold feet, who knit",
        "Inclusion Criteria:\n\n* Cold feet\n* Male sex",
        "Age: 18 and over Sex: Women Shoes: any",
        "Cold feet. Patients must be female.",
    ],
)
def test_criteria_that_admit_one_sex_contradict_all(criteria):
    (found,) = doubts_on_sex(criteria)
    assert found == "NCT00000001"


@pytest.mark.parametrize(
    "criteria",
    [
        "* Women of childbearing potential must use birth control",
        "* Women of child-bearing age with a negative pregnancy test",
        "* If female, not lactating",
        "Cold feet\n\nNo pregnant or nursing women",
        "* Female participants:\n\n  * negative pregnancy test",
        "* Haemoglobin of women: > 11 g/dl",
        "* Women must have worn socks",
        "* Female patients who are postmenopausal, surgically sterile or use contraception",
        "* Consent of the male or female patient",
        "* Cold feet\n\nExclusion Criteria:\n\n* Women",
    ],
)
def test_rules_for_one_sex_and_words_on_child_bearing_contradict_nothing(criteria):
    assert doubts_on_sex(criteria) == ()


def doubts_on_sex(criteria):
    trial = Trial(nct_id="NCT00000001", sex="All", eligibility_criteria=criteria)
    findings = {finding.name: finding for finding in find_doubts([trial])}
    return findings["sex_all_but_one_in_criteria"].examples
