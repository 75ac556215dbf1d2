"""Files and registry answers become snapshots; what it would cost is told beforehand."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from trialese.collect import collection
from trialese.collect.collection import SAMPLE_BYTES, collect_snapshot, estimate_collection
from trialese.collect.snapshot import read_rejects
from trialese.collect.zip_files import safe_entries, split_entries
from trialese.errors import ArtifactError, RecordError
from trialese.settings import CollectSettings, SampleSettings

STUDY = (Path(__file__).parents[1] / "data" / "study_v2.json").read_bytes()


def test_a_sample():
    estimate = estimate_collection(CollectSettings(sample=SampleSettings(studies=100)))
    assert (estimate.studies, estimate.json_bytes) == (100, 100 * SAMPLE_BYTES)


def test_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", STUDY)
        archive.writestr("b.json", STUDY)
    settings = CollectSettings(source="files", paths=(str(tmp_path / "two.zip"),))
    assert estimate_collection(settings).studies == 2
    assert estimate_collection(settings).json_bytes == 2 * len(STUDY)
    (tmp_path / "one.json").write_bytes(STUDY)
    folder = estimate_collection(CollectSettings(source="files", paths=(str(tmp_path),)))
    assert folder.studies is None  # a JSON file may hold any number
    assert folder.json_bytes == 3 * len(STUDY)
    with pytest.raises(RecordError, match="no such file"):
        estimate_collection(CollectSettings(source="files", paths=("nowhere",)))


def test_the_registry_is_asked_two_small_questions(registry, tmp_path):
    def estimate(**changes):
        return estimate_collection(
            CollectSettings(
                source="registry", url=registry.url, page_size=5, pause_seconds=0.01, **changes
            )
        )

    everything = estimate()
    assert everything.studies == 25
    assert everything.requests == 8
    assert len(registry.asked) == 2
    assert 0 < estimate(since="2014-01-01").studies < 25
    assert estimate(whole=True).json_bytes == 25 * 17_000
    (tmp_path / "ids.txt").write_text("NCT00000001 NCT00000002")
    assert estimate(ids=str(tmp_path / "ids.txt")).studies == 2


@pytest.fixture
def archive(tmp_path, study_maker):
    path = tmp_path / "studies.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for number in range(60, 0, -1):
            target.writestr(f"{number}.json", json.dumps(study_maker(number % 50)))
        target.writestr("bad.json", "{}")
    return path


def test_several_processes_make_the_same_bytes_as_one(archive, tmp_path, monkeypatch):
    settings = CollectSettings(source="files", paths=(str(archive),))
    one = collect_snapshot(settings, tmp_path / "one")
    monkeypatch.setattr(collection, "PARALLEL_ENTRIES", 1)
    monkeypatch.setattr(collection, "count_cores", lambda: 2)
    monkeypatch.setattr("trialese.collect.zip_files.CHUNK_ENTRIES", 25)
    several = collect_snapshot(settings, tmp_path / "several")
    assert several.manifest == one.manifest
    assert one.manifest.counts["duplicates"] == 10
    assert one.manifest.counts["rejects"] == {"no_study": 1}
    for name in one.manifest.files:
        assert (several.path / name).read_bytes() == (one.path / name).read_bytes()


def test_a_worker_that_dies_is_one_line(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "PARALLEL_ENTRIES", 1)
    monkeypatch.setattr(collection, "count_cores", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    settings = CollectSettings(source="files", paths=(str(archive),))
    with pytest.raises(ArtifactError, match="a worker process ended early") as caught:
        collect_snapshot(settings, tmp_path / "snapshot")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "snapshot").exists()


def test_chunks_hold_every_entry_once(archive, monkeypatch):
    entries = safe_entries(archive)
    monkeypatch.setattr("trialese.collect.zip_files.CHUNK_ENTRIES", 7)
    monkeypatch.setattr("trialese.collect.zip_files.WHOLE_BYTES", entries[0].plain_bytes)
    chunks, large = split_entries(archive, entries)
    assert all(len(chunk.entries) <= 7 for chunk in chunks)
    again = [entry for chunk in chunks for entry in chunk.entries] + large
    assert sorted(entry.name for entry in again) == sorted(entry.name for entry in entries)


def test_fields_that_cannot_be_read_are_counted_and_rejects_are_named(tmp_path, study_maker):
    odd, odder, broken = study_maker(1), study_maker(2), study_maker(3)
    odd["protocolSection"]["designModule"] = {"enrollmentInfo": {"count": "many"}}
    odder["protocolSection"]["designModule"] = {"enrollmentInfo": {"count": -1}}
    odder["protocolSection"]["eligibilityModule"] = {"sex": "QUEEN"}
    broken["protocolSection"]["descriptionModule"] = {"briefSummary": "\ud800"}
    path = tmp_path / "studies.jsonl"
    cut = json.dumps(study_maker(4))[:-9]
    path.write_text("\n".join([*(json.dumps(study) for study in (odd, odder, broken)), cut]))
    settings = CollectSettings(source="files", paths=(str(path),))
    snapshot = collect_snapshot(settings, tmp_path / "snapshot")
    assert snapshot.manifest.counts["trials"] == 2
    assert snapshot.manifest.counts["unreadable"] == {"enrollment": 2, "sex": 1}
    examples = snapshot.manifest.notes["unreadable_examples"]
    assert examples[0] == "NCT00000001 enrollment: enrollment 'many' is no number"
    assert len(examples) == 3
    assert [reject.nct_id for reject in read_rejects(snapshot)] == ["NCT00000003", "NCT00000004"]


def test_every_reject_names_its_study_where_a_number_can_be_made_out(tmp_path, study_maker):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "whole.json").write_text(json.dumps(study_maker(1)))
    (folder / "NCT00000002.json").write_bytes(b"")
    (folder / "cut.json").write_text(json.dumps(study_maker(3))[:-7])
    (folder / "cut.xml").write_text("<clinical_study><nct_id>NCT00000004</nct_id>")
    (folder / "table.csv").write_text("NCT Number,Study Title\nNCT00000005,a,b,c,d\n")
    with zipfile.ZipFile(folder / "studies.zip", "w") as archive:
        archive.writestr("NCT00000006.json", "")
        archive.writestr("NCT00000007.json", json.dumps(study_maker(7)))
    settings = CollectSettings(source="files", paths=(str(folder),))
    snapshot = collect_snapshot(settings, tmp_path / "snapshot")
    assert snapshot.manifest.counts["trials"] == 2
    rejects = {reject.origin: reject.nct_id for reject in read_rejects(snapshot)}
    assert sorted(rejects.values()) == [f"NCT0000000{number}" for number in range(2, 7)], rejects
