"""Two snapshots are compared by NCT number, and what somebody has is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trialese.artifacts import write_artifact
from trialese.collect.collection import collect_snapshot
from trialese.collect.diff import (
    Changes,
    changed_fields,
    compare_snapshots,
    read_earlier,
    read_ids,
)
from trialese.collect.snapshot import TRIALS_NAME, open_snapshot, read_trials
from trialese.errors import RecordError
from trialese.settings import CollectSettings


def snapshot_of(studies, folder):
    folder.mkdir()
    path = folder / "studies.json"
    path.write_text(json.dumps(studies))
    return collect_snapshot(
        CollectSettings(source="files", paths=(str(path),)), Path(folder / "snapshot")
    )


def test_new_changed_vanished_and_renamed(tmp_path, study_maker):
    older = [study_maker(number) for number in (1, 2, 3, 4, 5)]
    newer = [study_maker(number) for number in (1, 2, 4, 6, 7)]
    newer[1]["protocolSection"]["statusModule"]["overallStatus"] = "COMPLETED"
    newer[4]["protocolSection"]["identificationModule"]["nctIdAliases"] = ["NCT00000005"]
    changes = compare_snapshots(
        snapshot_of(newer, tmp_path / "newer"), snapshot_of(older, tmp_path / "older")
    )
    assert changes.new == ("NCT00000006",)
    assert changes.changed == ("NCT00000002", "NCT00000007")
    assert changes.vanished == ("NCT00000003",)
    assert changes.renamed == (("NCT00000005", "NCT00000007"),)
    assert changes.unchanged == 2


def test_an_alias_known_to_the_older_snapshot_only(tmp_path, study_maker):
    older, newer = study_maker(2), study_maker(1)
    older["protocolSection"]["identificationModule"]["nctIdAliases"] = ["NCT00000001"]
    changes = compare_snapshots(
        snapshot_of([newer], tmp_path / "newer"), snapshot_of([older], tmp_path / "older")
    )
    assert changes.new == changes.vanished == ()
    assert changes.renamed == (("NCT00000002", "NCT00000001"),)


def test_a_snapshot_is_unchanged_against_itself(tmp_path, study_maker):
    snapshot = snapshot_of([study_maker(n) for n in range(1, 9)], tmp_path / "one")
    changes = compare_snapshots(snapshot, snapshot)
    assert (changes.new, changes.changed, changes.vanished) == ((), (), ())
    assert changes.unchanged == 8


CSV_HEADER = "NCT Number,Study Title,Study Status,Brief Summary,Conditions,Last Update Posted\n"


def test_only_fields_that_both_sides_can_hold_are_compared(tmp_path, study_maker):
    same, other = study_maker(1), study_maker(2)
    for each in (same, other):
        protocol = each["protocolSection"]
        protocol["identificationModule"]["briefTitle"] = "Socks"
        protocol["statusModule"] = {"overallStatus": "COMPLETED"}
        protocol["descriptionModule"] = {"briefSummary": "Warm \\> cold.\n\n* wool"}
        protocol["eligibilityModule"] = {"eligibilityCriteria": "Cold feet"}
        protocol["conditionsModule"] = {"conditions": ["Feet"]}
    older = snapshot_of([same, other], tmp_path / "older")
    table = tmp_path / "table.csv"
    row = 'Socks,{},"Warm > cold. - wool",Feet,\n'
    table.write_text(
        f"{CSV_HEADER}NCT00000001,{row.format('COMPLETED')}NCT00000002,{row.format('TERMINATED')}"
    )
    newer = collect_snapshot(from_file(table), tmp_path / "newer")
    changes = compare_snapshots(newer, older)
    assert changes.changed == ("NCT00000002",)
    assert changes.unchanged == 1
    assert changes.not_compared["eligibility_criteria"] == 2
    assert changed_fields(newer, older, changes) == {"NCT00000002": ("overall_status",)}
    backwards = compare_snapshots(older, newer)
    assert (backwards.changed, backwards.unchanged) == (("NCT00000002",), 1)


def test_what_a_study_newly_says_is_a_change(tmp_path, study_maker):
    silent, telling = study_maker(1), study_maker(1)
    silent["protocolSection"].pop("eligibilityModule", None)
    telling["protocolSection"]["eligibilityModule"] = {"eligibilityCriteria": "Cold feet"}
    older = snapshot_of([silent], tmp_path / "older")
    newer = snapshot_of([telling], tmp_path / "newer")
    assert compare_snapshots(newer, older).changed == ("NCT00000001",)


def test_a_sign_that_changed_between_two_files_of_one_kind_is_a_change(tmp_path, study_maker):
    before, after = study_maker(1), study_maker(1)
    before["protocolSection"]["eligibilityModule"] = {"eligibilityCriteria": "* Age"}
    after["protocolSection"]["eligibilityModule"] = {"eligibilityCriteria": "- Age"}
    older = snapshot_of([before], tmp_path / "older")
    newer = snapshot_of([after], tmp_path / "newer")
    assert compare_snapshots(newer, older).changed == ("NCT00000001",)


@pytest.mark.parametrize("formats", [{"csv": 1}, {"csv": 1, "v2": 9}])
def test_snapshots_from_before_rows_told_their_source_are_compared_too(
    tmp_path, study_maker, formats
):
    table = tmp_path / "table.csv"
    table.write_text(f"{CSV_HEADER}NCT00000001,Socks,,,,\n")
    older = collect_snapshot(from_file(table), tmp_path / "older")
    study = study_maker(1)
    study["protocolSection"]["identificationModule"] |= {"briefTitle": "Socks", "acronym": "S"}
    study["protocolSection"].pop("statusModule", None)
    study["protocolSection"].pop("descriptionModule", None)
    study["protocolSection"]["eligibilityModule"] = {"eligibilityCriteria": "Cold feet"}
    newer = snapshot_of([study], tmp_path / "newer")
    rows = pq.read_table(older.path / TRIALS_NAME).drop_columns(["formats", "not_held"])
    with write_artifact(tmp_path / "former", kind="snapshot") as draft:
        pq.write_table(rows, draft.folder / TRIALS_NAME)
        draft.counts["formats"] = formats
    older = open_snapshot(tmp_path / "former")
    assert [trial.nct_id for trial in read_trials(older)] == ["NCT00000001"]
    fields = changed_fields(newer, older, Changes(new=(), changed=("NCT00000001",), vanished=()))
    assert "eligibility_criteria" not in fields["NCT00000001"]
    assert "acronym" in fields["NCT00000001"]


@pytest.fixture
def studies_file(tmp_path, study_maker):
    def write(name, numbers):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(study_maker(number)) for number in numbers))
        return path

    return write


def from_file(path, **changes):
    return CollectSettings(source="files", paths=(str(path),), **changes)


def test_numbers_from_any_text(tmp_path):
    path = tmp_path / "list.md"
    path.write_text("- NCT00000002 and NCT00000001.\nXNCT00000003 NCT000000044 NCT00000001")
    assert read_ids(path) == ("NCT00000001", "NCT00000002")
    path.write_text("nothing here")
    with pytest.raises(RecordError, match="no NCT number stands in it"):
        read_ids(path)
    with pytest.raises(RecordError, match="no such file"):
        read_ids(tmp_path / "nowhere")


def test_numbers_of_records_and_tables_are_those_of_the_studies(tmp_path, studies_file):
    assert read_ids(studies_file("a.jsonl", [1, 2])) == ("NCT00000001", "NCT00000002")
    table = tmp_path / "texts.csv"
    table.write_text("nct_id,text\nNCT00000005,As NCT00000001 showed.\n")
    assert read_ids(table) == ("NCT00000005",)


def test_only_what_an_earlier_snapshot_does_not_hold_as_it_is(tmp_path, studies_file, study_maker):
    collect_snapshot(from_file(studies_file("old.jsonl", [1, 2, 3])), tmp_path / "old")
    changed = study_maker(2)
    changed["protocolSection"]["statusModule"]["overallStatus"] = "COMPLETED"
    renamed = study_maker(7)
    renamed["protocolSection"]["identificationModule"]["nctIdAliases"] = ["NCT00000003"]
    path = tmp_path / "new.json"
    path.write_text(json.dumps([study_maker(1), changed, renamed, study_maker(4)]))
    snapshot = collect_snapshot(from_file(path, new_since=str(tmp_path / "old")), tmp_path / "new")
    ids = [trial.nct_id for trial in read_trials(snapshot)]
    assert ids == ["NCT00000002", "NCT00000004", "NCT00000007"]
    assert snapshot.manifest.counts["known"] == 1
    old = open_snapshot(tmp_path / "old")
    assert snapshot.manifest.inputs["new_since"] == old.manifest.digest
    assert read_earlier(tmp_path / "old").keys() == {f"NCT0000000{n}" for n in (1, 2, 3)}


def test_a_table_of_what_an_earlier_snapshot_holds_brings_only_what_it_says_anew(
    tmp_path, study_maker
):
    studies = [study_maker(number) for number in (1, 2)]
    for study in studies:
        study["protocolSection"]["statusModule"] = {"overallStatus": "COMPLETED"}
    snapshot_of(studies, tmp_path / "old")
    table = tmp_path / "table.csv"
    table.write_text(
        "NCT Number,Study Title,Study Status\nNCT00000001,Study 1,Completed\n"
        "NCT00000002,Study 2,Terminated\nNCT00000003,Study 3,Completed\n"
    )
    earlier = str(tmp_path / "old" / "snapshot")
    snapshot = collect_snapshot(from_file(table, new_since=earlier), tmp_path / "new")
    ids = [trial.nct_id for trial in read_trials(snapshot)]
    assert ids == ["NCT00000002", "NCT00000003"]
    assert snapshot.manifest.counts["known"] == 1


def test_a_list_of_numbers_counts_as_held_whatever_it_says(tmp_path, studies_file):
    held = tmp_path / "held.txt"
    held.write_text("NCT00000001\nNCT00000003")
    path = studies_file("all.jsonl", [1, 2, 3, 4])
    snapshot = collect_snapshot(from_file(path, new_since=str(held)), tmp_path / "new")
    assert [t.nct_id for t in read_trials(snapshot)] == ["NCT00000002", "NCT00000004"]
    with pytest.raises(RecordError, match=r"no such file or snapshot; check `collect\.new_since`"):
        collect_snapshot(from_file(path, new_since="nowhere"), tmp_path / "new")


def test_a_folder_below_which_studies_lie_counts_as_held_and_is_known_by_its_files(
    tmp_path, studies_file
):
    held = tmp_path / "held"
    (held / "train").mkdir(parents=True)
    path = studies_file("all.jsonl", [1, 2, 3])
    with pytest.raises(RecordError, match=r"no (stud|file)"):
        collect_snapshot(from_file(path, new_since=str(held)), tmp_path / "new")
    inside = held / "train" / "part.jsonl"
    inside.write_bytes(studies_file("some.jsonl", [1, 3]).read_bytes())
    first = collect_snapshot(from_file(path, new_since=str(held)), tmp_path / "new")
    assert [t.nct_id for t in read_trials(first)] == ["NCT00000002"]
    inside.write_bytes(studies_file("other.jsonl", [1, 2]).read_bytes())
    second = collect_snapshot(from_file(path, new_since=str(held)), tmp_path / "newer")
    assert [t.nct_id for t in read_trials(second)] == ["NCT00000003"]
    assert first.manifest.inputs["new_since"] != second.manifest.inputs["new_since"]
