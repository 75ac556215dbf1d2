"""A snapshot is read back whole, one by one, or by NCT id; damage is told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trialese.artifacts import read_manifest, verify_files
from trialese.collect.collection import collect_snapshot, open_source, snapshot_inputs
from trialese.collect.files import read_trials_from_file
from trialese.collect.sample import SampleSource
from trialese.collect.snapshot import (
    TRIALS_NAME,
    find_trials,
    open_snapshot,
    read_rejects,
    read_trials,
)
from trialese.errors import ArtifactError, RecordError, RegistryError
from trialese.settings import CollectSettings, SampleSettings

DATA = Path(__file__).parents[1] / "data"
STUDY = (DATA / "study_v2.json").read_bytes()
LEGACY = (DATA / "study_legacy.xml").read_bytes()
REGISTRY = Path(__file__).parents[2].parent / "shared" / "data" / "registry"
real = pytest.mark.skipif(not REGISTRY.is_dir(), reason="../shared/data/registry is absent")


def from_files(*paths):
    return CollectSettings(source="files", paths=tuple(str(path) for path in paths))


def mixed_zip(folder):
    path = folder / "mixed.zip"
    newer = STUDY.replace(b"2022-09-14", b"2023-01-01").replace(b"Warm Socks for", b"Socks for")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("newer.json", newer)
        archive.writestr("older.json", STUDY)
        archive.writestr("legacy.xml", LEGACY)
        archive.writestr("bad.json", b'{"protocolSection": {}}')
    return path


def test_a_snapshot_of_files_counts_everything(tmp_path):
    path = mixed_zip(tmp_path)
    settings = from_files(path)
    snapshot = collect_snapshot(settings, tmp_path / "snapshot")
    trials = list(read_trials(snapshot))
    assert [trial.nct_id for trial in trials] == ["NCT00000042", "NCT00000043"]
    assert trials[0].brief_title == "Socks for Cold Feet"
    manifest = snapshot.manifest
    assert manifest.counts == {
        "trials": 2,
        "records": 4,
        "duplicates": 1,
        "aliases": 0,
        "formats": {"v2": 2, "xml": 1},
        "rejects": {"no_nct_id": 1},
        "synthetic": 0,
    }
    assert manifest.notes["source"] == "files"
    assert manifest.notes["data_timestamp"] == "2024-09-24"
    assert manifest.notes["oldest_data_timestamp"] == "2023-02-03"
    assert "National Library of Medicine" in manifest.notes["attribution"]
    assert "no endorsement" in manifest.notes["attribution"]
    assert manifest.inputs == snapshot_inputs(settings)
    (reject,) = read_rejects(snapshot)
    assert (reject.origin, reject.reason) == ("mixed.zip:bad.json", "no_nct_id")
    verify_files(tmp_path / "snapshot")
    assert open_snapshot(tmp_path / "snapshot") == snapshot


def test_the_order_of_files_does_not_change_the_trials(tmp_path):
    path = mixed_zip(tmp_path)
    other = tmp_path / "other.json"
    other.write_bytes(STUDY)
    one = collect_snapshot(from_files(path, other), tmp_path / "one")
    two = collect_snapshot(from_files(other, path), tmp_path / "two")
    assert (one.path / "trials.parquet").read_bytes() == (two.path / "trials.parquet").read_bytes()
    assert one.manifest.counts == two.manifest.counts


def test_equal_input_gives_equal_bytes(tmp_path):
    settings = CollectSettings(sample=SampleSettings(studies=50))
    for name in ("one", "two"):
        collect_snapshot(settings, tmp_path / name)
    for name in ("manifest.json", "trials.parquet", "rejects.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_sample_is_marked_synthetic_and_claims_no_source(tmp_path):
    snapshot = collect_snapshot(
        CollectSettings(sample=SampleSettings(studies=50)), tmp_path / "sample"
    )
    notes = snapshot.manifest.notes
    assert notes["synthetic"] is True
    assert "made up by trialese" in notes["synthetic_notice"]
    assert "attribution" not in notes
    assert snapshot.manifest.counts["synthetic"] == 50
    assert all(trial.synthetic for trial in read_trials(snapshot))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"a": 1}', "this JSON is no study"),
        (b"<html/>", "no <clinical_study> in this XML"),
        (b"a,b\n1,2\n", "a table needs a column 'text'"),
        (b"PK\x03\x04 cut off", "truncated or damaged zip"),
        (b"", "empty"),
    ],
)
def test_a_file_without_a_study_leaves_nothing_behind(tmp_path, data, complaint):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=complaint) as caught:
        collect_snapshot(from_files(path), tmp_path / "snapshot")
    assert "file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "snapshot").exists()


def test_a_failed_collection_leaves_the_earlier_snapshot(tmp_path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_bytes(STUDY)
    bad.write_bytes(b"{}")
    snapshot = collect_snapshot(from_files(good), tmp_path / "snapshot")
    with pytest.raises(RecordError):
        collect_snapshot(from_files(bad), tmp_path / "snapshot")
    assert open_snapshot(tmp_path / "snapshot") == snapshot
    verify_files(tmp_path / "snapshot")


def test_a_damaged_snapshot_is_named(tmp_path):
    path = tmp_path / "study.json"
    path.write_bytes(STUDY)
    snapshot = collect_snapshot(from_files(path), tmp_path / "snapshot")
    (tmp_path / "snapshot" / "trials.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ArtifactError, match=r"trials\.parquet: damaged .*; collect again"):
        list(read_trials(snapshot))
    with pytest.raises(ArtifactError, match="no such folder"):
        open_snapshot(tmp_path / "nowhere")


def test_trials_straight_from_a_file(tmp_path):
    path = mixed_zip(tmp_path)
    with pytest.raises(RecordError, match=r"mixed\.zip:bad\.json: the record has no NCT number"):
        list(read_trials_from_file(path))
    told = []
    trials = list(read_trials_from_file(path, on_reject=told.append))
    assert len(trials) == 3
    assert [reject.reason for reject in told] == ["no_nct_id"]
    path.write_bytes(b'{"a": 1}')
    with pytest.raises(RecordError, match="this JSON is no study"):
        list(read_trials_from_file(path))


def test_sources_by_name(tmp_path):
    assert isinstance(open_source(CollectSettings()), SampleSource)
    with pytest.raises(RecordError, match="no files"):
        open_source(from_files())


def registry_settings(registry, **changes):
    return CollectSettings(
        source="registry", url=registry.url, page_size=5, pause_seconds=0.0, timeout_seconds=5,
        **changes,
    )  # fmt: skip


def test_a_snapshot_of_the_registry(registry, tmp_path):
    snapshot = collect_snapshot(registry_settings(registry), tmp_path / "snapshot")
    assert {trial.nct_id for trial in read_trials(snapshot)} == registry.ids
    notes = snapshot.manifest.notes
    assert notes["data_timestamp"] == "2024-09-24T09:00:05"
    assert notes["query"]["sort"] == "StudyFirstPostDate:asc"
    assert "attribution" in notes
    assert [path.name for path in tmp_path.iterdir() if "work" in path.name] == []


def test_pages_are_kept_until_the_snapshot_stands(registry, tmp_path):
    registry.faults = dict.fromkeys(range(5, 20), "500")
    with pytest.raises(RegistryError):
        collect_snapshot(registry_settings(registry, retries=0), tmp_path / "snapshot")
    assert len(list((tmp_path / ".snapshot.work").glob("page-*"))) == 4
    assert not (tmp_path / "snapshot").exists()


COLLECT = """
import sys
from pathlib import Path
from trialese.collect.collection import collect_snapshot
from trialese.settings import CollectSettings
settings = CollectSettings(
    source="registry", url=sys.argv[1], page_size=5, pause_seconds=0.0, timeout_seconds=5
)
collect_snapshot(settings, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("killed_at", range(8))
def test_killed_at_any_request_the_same_command_ends_in_the_same_bytes(
    registry, tmp_path, killed_at
):
    expected = collect_snapshot(registry_settings(registry), tmp_path / "expected")
    registry.asked.clear()
    path = tmp_path / "snapshot"
    command = [sys.executable, "-c", COLLECT, registry.url, str(path)]
    process = subprocess.Popen(command)
    registry.on_request = lambda number: (
        os.kill(process.pid, signal.SIGKILL) if number == killed_at else None
    )
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not path.exists()
    registry.on_request = None
    asked = len(registry.asked)
    again = collect_snapshot(registry_settings(registry), path)
    assert len(registry.asked) - asked <= 8 - max(killed_at - 1, 0) + 1
    for name in expected.manifest.files:
        assert (path / name).read_bytes() == (expected.path / name).read_bytes(), name
    assert again.manifest == expected.manifest
    assert not (tmp_path / ".snapshot.work").exists()


@real
def test_every_real_v2_record_and_a_few_hundred_legacy_ones(tmp_path):
    some = tmp_path / "some.zip"
    with (
        zipfile.ZipFile(REGISTRY / "legacy-xml-2023-02-03.zip") as source,
        zipfile.ZipFile(some, "w") as target,
    ):
        for name in source.namelist()[::30]:
            target.writestr(name, source.read(name))
    snapshot = collect_snapshot(
        from_files(REGISTRY / "api-v2-2024-09-24.json.zip", some), tmp_path / "snapshot"
    )
    counts = snapshot.manifest.counts
    assert counts["rejects"] == {}
    assert counts["formats"] == {"v2": 635, "xml": 227}
    trials = list(read_trials(snapshot))
    assert len(trials) == counts["trials"] == 635 + 227 - counts["duplicates"]
    assert all(trial.first_posted and len(trial.first_posted) == 10 for trial in trials)
    assert all(trial.sex for trial in trials)
    assert sum(bool(trial.why_stopped) for trial in trials) > 43
    assert not any("\r" in trial.eligibility_criteria for trial in trials)


@real
@pytest.mark.slow
def test_every_real_record(tmp_path):
    names = ("legacy-xml-2023-02-03.zip", "api-v2-2024-09-24.json.zip", "ctg-studies.csv")
    snapshot = collect_snapshot(
        from_files(*(REGISTRY / name for name in names)), tmp_path / "snapshot"
    )
    counts = snapshot.manifest.counts
    assert counts["formats"] == {"csv": 1605, "v2": 635, "xml": 6785}
    assert counts["rejects"] == {}
    assert counts["trials"] + counts["duplicates"] + counts["aliases"] == 9025


def test_manifest_holds_no_clock_and_no_folder(tmp_path):
    path = tmp_path / "study.json"
    path.write_bytes(STUDY)
    with contextlib.chdir(tmp_path):
        collect_snapshot(from_files("study.json"), Path("snapshot"))
    text = json.dumps(json.loads((tmp_path / "snapshot" / "manifest.json").read_text()))
    assert str(tmp_path) not in text
    assert read_manifest(tmp_path / "snapshot").inputs.keys() == {"0:study.json"}


def test_some_trials_by_their_ids(tmp_path: Path) -> None:
    settings = CollectSettings(sample=SampleSettings(studies=50))
    snapshot = collect_snapshot(settings, tmp_path / "snapshot")
    everything = {trial.nct_id: trial for trial in read_trials(snapshot)}
    wanted = [*list(everything)[::7], "NCT00000001", next(iter(everything))]
    assert find_trials(snapshot, wanted) == {
        nct_id: everything[nct_id] for nct_id in wanted if nct_id in everything
    }
    assert find_trials(snapshot, []) == {}
    (snapshot.path / TRIALS_NAME).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="collect again"):
        find_trials(snapshot, wanted)


def test_a_bit_that_flipped_on_disk_is_found_before_a_trial_is_read(tmp_path, study_maker):
    path = tmp_path / "studies.json"
    path.write_text(json.dumps([study_maker(number) for number in range(1, 30)]))
    settings = CollectSettings(source="files", paths=(str(path),))
    snapshot = collect_snapshot(settings, tmp_path / "snapshot")
    file = snapshot.path / "trials.parquet"
    whole = file.read_bytes()
    for place in range(100, len(whole) // 2, len(whole) // 20):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ArtifactError, match=r"altered|damaged"):
            next(read_trials(snapshot))
    file.write_bytes(whole)
    assert next(read_trials(snapshot)).nct_id == "NCT00000001"
