import io
import json
import os
import subprocess
import sys
import zipfile

import msgspec
import pytest

from trialese.collect import snapshot, workers
from trialese.collect.collection import collect_snapshot
from trialese.collect.workers import Done, Job, run_jobs, serve
from trialese.collect.zip_files import Chunk, safe_entries, split_entries
from trialese.errors import ArtifactError
from trialese.settings import CollectSettings


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
    monkeypatch.setattr(snapshot, "PARALLEL_ENTRIES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("trialese.collect.zip_files.CHUNK_ENTRIES", 25)
    several = collect_snapshot(settings, tmp_path / "several")
    assert several.manifest == one.manifest
    assert one.manifest.counts["duplicates"] == 10
    assert one.manifest.counts["rejects"] == {"no_study": 1}
    for name in one.manifest.files:
        assert (several.path / name).read_bytes() == (one.path / name).read_bytes()


def test_jobs_are_lines_of_json(archive, tmp_path):
    (tmp_path / "runs").mkdir()
    job = Job(Chunk(str(archive), safe_entries(archive)), str(tmp_path / "runs"), "a")
    answers = io.BytesIO()
    serve(io.BytesIO(msgspec.json.encode(job) + b"\n"), answers)
    done = msgspec.json.decode(answers.getvalue(), type=Done)
    assert done.tally.records == 61
    assert done.tally.formats == {"v2": 60}
    assert [(tmp_path / "runs" / name).is_file() for name in done.runs] == [True]


def test_a_worker_that_dies_is_one_line(archive, tmp_path, monkeypatch):
    def start():
        command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(workers, "_start", start)
    job = Job(Chunk(str(archive), safe_entries(archive)), str(tmp_path), "a")
    with pytest.raises(ArtifactError, match="a worker process died") as caught:
        list(run_jobs([job], processes=2))
    assert "\n" not in str(caught.value)


def test_chunks_hold_every_entry_once(archive, monkeypatch):
    entries = safe_entries(archive)
    monkeypatch.setattr("trialese.collect.zip_files.CHUNK_ENTRIES", 7)
    monkeypatch.setattr("trialese.collect.zip_files.WHOLE_BYTES", entries[0].plain_bytes)
    chunks, large = split_entries(archive, entries)
    assert all(len(chunk.entries) <= 7 for chunk in chunks)
    again = [entry for chunk in chunks for entry in chunk.entries] + large
    assert sorted(entry.name for entry in again) == sorted(entry.name for entry in entries)
