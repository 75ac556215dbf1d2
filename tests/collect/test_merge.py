import json
import random
import re
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.collect import merge
from trialese.collect.merge import TRIAL_COLUMNS, RunWriter, TrialMerger
from trialese.collect.parse import FIELDS_OF_FORMAT, Parsed, parse_study
from trialese.collect.source import RawStudy
from trialese.collect.vocabulary import study_number
from trialese.records import Trial


def parsed(trial):
    return Parsed(trial, None, msgspec.msgpack.encode(trial))


def study(**modules):
    """An API v2 record with these modules beside its number."""
    identity = {"nctId": "NCT00000001", "briefTitle": "Socks", "orgStudyIdInfo": {"id": "S-1"}}
    protocol = {"identificationModule": identity, **modules}
    return RawStudy("v2", "v2", {"protocolSection": protocol})


def row(**cells):
    return RawStudy("csv", "csv", {"NCT Number": "NCT00000001", **cells})


def merged(*records, folder):
    """The row that the records become, and the counts; the same in whatever order they come."""
    rows = []
    for turn, ordered in enumerate([records, records[::-1]]):
        inside = folder / f"{turn}"
        inside.mkdir()
        runs = RunWriter(inside, "run")
        for record in ordered:
            runs.add(parse_study(record))
        runs.flush()
        merger = TrialMerger(inside)
        merger.adopt(runs.runs, runs.renamed)
        assert merger.write(inside / "trials.parquet") == 1
        rows += pq.read_table(inside / "trials.parquet").to_pylist()
    assert rows[0] == rows[1]
    return rows[0], merger


def sort(trials, folder, *, prefix="run"):
    runs = RunWriter(folder, prefix)
    for trial in trials:
        runs.add(parsed(trial))
    runs.flush()
    merger = TrialMerger(folder)
    merger.adopt(runs.runs, runs.renamed)
    path = folder / "trials.parquet"
    assert merger.write(path) == pq.read_metadata(path).num_rows
    return path, merger


def stored(path):
    rows = pq.read_table(path, columns=TRIAL_COLUMNS.names).to_pylist()
    return msgspec.convert(rows, list[Trial])


def plainly(trials):
    """What the sorter must give, the slow way; and how many duplicates it drops."""
    best = {}
    for trial in trials:
        packed = msgspec.msgpack.encode(trial)
        rank = (trial.last_update_posted or "", len(packed))
        if trial.nct_id not in best or rank > best[trial.nct_id][0]:
            best[trial.nct_id] = (rank, trial)
    return [best[nct_id][1] for nct_id in sorted(best)], len(trials) - len(best)


ids = st.integers(0, 12).map(lambda n: f"NCT{n:08d}")
dates = st.sampled_from([None, "2020", "2020-01", "2020-01-02", "2021-05-05"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(ids, dates), max_size=60), st.randoms(use_true_random=False))
def test_sorting_agrees_with_the_slow_way(tmp_path_factory, rows, rng):
    trials = [
        Trial(nct_id=nct_id, last_update_posted=date, brief_title="x" * position)
        for position, (nct_id, date) in enumerate(rows)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "RUN_TRIALS", 7)
        patch.setattr(merge, "BATCH_TRIALS", 2)
        patch.setattr(merge, "ROW_GROUP_TRIALS", 5)
        path, sorter = sort(trials, tmp_path_factory.mktemp("a"))
        expected, duplicates = plainly(trials)
        assert stored(path) == expected
        assert sorter.duplicates == duplicates
        groups = pq.read_metadata(path)
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        assert all(size == 5 for size in sizes[:-1])
        shuffled = list(trials)
        rng.shuffle(shuffled)
        again, _ = sort(shuffled, tmp_path_factory.mktemp("b"))
        assert again.read_bytes() == path.read_bytes()


def test_the_size_of_runs_does_not_show(tmp_path, monkeypatch):
    rng = random.Random(7)
    trials = [
        Trial(nct_id=f"NCT{rng.randrange(300):08d}", keywords=("a", str(i)), enrollment=i)
        for i in range(700)
    ]
    (tmp_path / "one").mkdir()
    whole, _ = sort(trials, tmp_path / "one")
    monkeypatch.setattr(merge, "RUN_BYTES", 900)
    monkeypatch.setattr(merge, "BATCH_TRIALS", 3)
    (tmp_path / "many").mkdir()
    pieces, _ = sort(trials, tmp_path / "many")
    assert pieces.read_bytes() == whole.read_bytes()


def test_an_obsolete_number_gives_way_to_the_study_that_lists_it(tmp_path):
    trials = [
        Trial(nct_id="NCT00000001"),
        Trial(nct_id="NCT00000002", nct_id_aliases=("NCT00000001",)),
        # Two that name each other: neither is obsolete, and neither may get lost.
        Trial(nct_id="NCT00000003", nct_id_aliases=("NCT00000004",)),
        Trial(nct_id="NCT00000004", nct_id_aliases=("NCT00000003",)),
        Trial(nct_id="NCT00000005", nct_id_aliases=("NCT00000005",)),
    ]
    path, sorter = sort(trials, tmp_path)
    assert [trial.nct_id[-1] for trial in stored(path)] == ["2", "3", "4", "5"]
    assert sorter.aliases == 1


def test_nothing_at_all_is_an_empty_table(tmp_path):
    path, _ = sort([], tmp_path)
    assert stored(path) == []
    assert pq.read_schema(path).names[: len(TRIAL_COLUMNS)] == list(Trial.__struct_fields__)


FULL = study(
    statusModule={
        "overallStatus": "SUSPENDED",
        "whyStopped": "No wool",
        "lastUpdatePostDateStruct": {"date": "2017-01-01"},
    },
    descriptionModule={"briefSummary": "Old.", "detailedDescription": "Long."},
    eligibilityModule={"eligibilityCriteria": "Cold feet", "sex": "ALL"},
    sponsorCollaboratorsModule={"leadSponsor": {"name": "Wool Fund"}},
    conditionsModule={"conditions": ["Cold Feet"], "keywords": ["yarn"]},
    designModule={"studyType": "INTERVENTIONAL"},
)


def test_a_newer_row_of_a_table_erases_nothing_that_it_cannot_hold(tmp_path):
    newer = row(
        **{"Brief Summary": "New.", "Conditions": "", "Other IDs": "",
           "Last Update Posted": "2018-07-17",
           "Study Status": "COMPLETED", "Enrollment": "many", "Age": "ADULT"}
    )  # fmt: skip
    trial, merger = merged(FULL, newer, folder=tmp_path)
    kept = ("eligibility_criteria", "why_stopped", "detailed_description", "lead_sponsor", "sex")
    assert [trial[name] for name in kept] == ["Cold feet", "No wool", "Long.", "Wool Fund", "All"]
    assert (trial["brief_summary"], trial["overall_status"]) == ("New.", "COMPLETED")
    assert trial["conditions"] == ["Cold Feet"]  # no study is without: an empty cell is a gap
    assert trial["org_study_id"] == ""  # it has the column, and nothing stands in it
    assert trial["keywords"] == ["yarn"]
    assert trial["last_update_posted"] == "2018-07-17"
    assert (trial["formats"], trial["not_held"]) == (["csv", "v2"], [])
    assert (merger.duplicates, merger.merged) == (1, 1)
    assert set(merger.merged_fields) >= {*kept, "keywords"}


def test_a_newer_whole_record_erases_what_it_no_longer_says(tmp_path):
    newer = json.loads(json.dumps(FULL.data))
    protocol = newer["protocolSection"]
    protocol["statusModule"] = {
        "overallStatus": "RECRUITING",
        "lastUpdatePostDateStruct": {"date": "2019-01-01"},
    }
    del protocol["descriptionModule"]["detailedDescription"]
    trial, merger = merged(FULL, RawStudy("v2", "v2", newer), folder=tmp_path)
    assert (trial["why_stopped"], trial["detailed_description"]) == ("", "")
    assert trial["formats"] == ["v2"]
    assert (merger.duplicates, merger.merged) == (1, 0)


def test_a_part_of_a_record_erases_nothing_that_was_not_asked_for(tmp_path):
    part = study(
        statusModule={
            "overallStatus": "TERMINATED",
            "lastUpdatePostDateStruct": {"date": "2019-01-01"},
        }
    )
    trial, _ = merged(FULL, part, folder=tmp_path)
    assert trial["overall_status"] == "TERMINATED"
    assert (trial["why_stopped"], trial["eligibility_criteria"]) == ("No wool", "Cold feet")


def test_a_value_that_cannot_be_read_erases_none_that_can(tmp_path):
    newer = json.loads(json.dumps(FULL.data))
    newer["protocolSection"]["statusModule"]["lastUpdatePostDateStruct"]["date"] = "2019-01-01"
    newer["protocolSection"]["eligibilityModule"]["sex"] = "QUEEN"
    trial, _ = merged(FULL, RawStudy("v2", "v2", newer), folder=tmp_path)
    assert (trial["sex"], trial["last_update_posted"]) == ("All", "2019-01-01")


def test_three_kinds_of_file_fill_one_row(tmp_path):
    text = RawStudy("text", "text", {"nct_id": "NCT00000001", "why_stopped": "Moths"})
    table = row(**{"Study Title": "Socks", "Last Update Posted": "2018-07-17"})
    part = study(eligibilityModule={"eligibilityCriteria": "Cold feet"})
    trial, merger = merged(text, table, part, folder=tmp_path)
    assert (trial["why_stopped"], trial["eligibility_criteria"]) == ("Moths", "Cold feet")
    assert trial["formats"] == ["csv", "v2", "text"]
    assert merger.duplicates == 2


def test_a_made_up_study_is_never_mixed_with_a_real_one(tmp_path):
    made_up = {**FULL.data, "synthetic": True}
    newer = row(**{"Study Title": "Socks", "Last Update Posted": "2018-07-17"})
    trial, merger = merged(newer, RawStudy("v2", "v2", made_up), folder=tmp_path)
    assert (trial["eligibility_criteria"], trial["synthetic"]) == ("", False)
    assert (merger.duplicates, merger.merged) == (1, 0)


def test_every_row_says_what_its_kind_of_file_cannot_hold(tmp_path):
    trial, _ = merged(row(**{"Study Title": "Socks"}), folder=tmp_path)
    assert {"eligibility_criteria", "why_stopped", "sex"} <= set(trial["not_held"])
    assert "brief_title" not in trial["not_held"]
    (tmp_path / "v2").mkdir()
    assert merged(FULL, folder=tmp_path / "v2")[0]["not_held"] == []
    assert FIELDS_OF_FORMAT["v2"] == set(Trial.__struct_fields__)


def test_the_page_says_what_each_kind_of_file_cannot_hold():
    page = (Path(__file__).parents[2] / "docs" / "collect.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (API v2|legacy XML|AACT|website CSV)\b.*?\| (.*) \|$", page, re.M))
    for name, format_name in [("API v2", "v2"), ("legacy XML", "xml"), ("AACT", "aact")]:
        assert rows[name] == "none"
        assert FIELDS_OF_FORMAT[format_name] == set(Trial.__struct_fields__)
    told = set(re.findall(r"`(\w+)`", rows["website CSV"]))
    assert told == set(Trial.__struct_fields__) - FIELDS_OF_FORMAT["csv"]


def text_rows(*cells, folder):
    runs = RunWriter(folder, "run")
    for row in cells:
        runs.add(parse_study(RawStudy("text", "text", {"nct_id": "NCT00000001", **row})))
    runs.flush()
    merger = TrialMerger(folder)
    merger.adopt(runs.runs, runs.renamed)
    merger.write(folder / "trials.parquet")
    return stored(folder / "trials.parquet"), merger


def test_different_texts_of_one_number_stay_as_many(tmp_path):
    passages = [{"text": f"Passage {number}."} for number in range(5)]
    trials, merger = text_rows(*passages, passages[2], folder=tmp_path)
    assert sorted(trial.detailed_description for trial in trials) == [
        f"Passage {number}." for number in range(5)
    ]
    assert merger.duplicates == 1
    ids = [trial.nct_id for trial in trials]
    assert ids[0] == "NCT00000001"
    assert ids == sorted(set(ids))
    assert {study_number(name) for name in ids} == {"NCT00000001"}
    (tmp_path / "again").mkdir()
    assert text_rows(*passages[::-1], folder=tmp_path / "again")[0] == trials


def test_a_reason_and_a_description_of_one_number_are_one_trial(tmp_path):
    trials, merger = text_rows({"why_stopped": "Moths"}, {"text": "Socks."}, folder=tmp_path)
    assert [(t.why_stopped, t.detailed_description) for t in trials] == [("Moths", "Socks.")]
    assert (merger.duplicates, merger.merged) == (1, 1)


def test_a_record_of_both_loses_none_to_records_of_one(tmp_path):
    both = {"why_stopped": "Moths", "text": "Socks."}
    others = [{"text": "Hats."}, {"why_stopped": "Rain"}]
    for turn, rows in enumerate([[both, *others], [*others[::-1], both]]):
        (tmp_path / str(turn)).mkdir()
        trials, _ = text_rows(*rows, folder=tmp_path / str(turn))
        assert {t.why_stopped for t in trials} - {""} == {"Moths", "Rain"}
        assert {t.detailed_description for t in trials} - {""} == {"Socks.", "Hats."}
