"""Snapshots: collected trials as Parquet with a manifest that says where they come from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trialese.artifacts import (
    MANIFEST_NAME,
    as_settings,
    digest_of,
    digest_of_file,
    read_manifest,
    work_folder,
    write_artifact,
)
from trialese.collect.archives import FilesSource, read_raw, read_stream
from trialese.collect.parse import parse_study
from trialese.collect.source import (
    RawStudy,
    Reject,
    Source,
    StudyError,
)
from trialese.collect.zipped import Chunk, read_chunk
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.progress import Progress, silent
from trialese.records import Snapshot, Trial
from trialese.settings import CollectSettings

if TYPE_CHECKING:
    from trialese.collect.intake import Tally
    from trialese.collect.merge import TrialMerger

__all__ = [
    "REJECTS_NAME",
    "TRIALS_NAME",
    "collect_snapshot",
    "open_snapshot",
    "open_source",
    "read_rejects",
    "read_trials",
    "read_trials_from_file",
    "snapshot_inputs",
]

TRIALS_NAME = "trials.parquet"
REJECTS_NAME = "rejects.jsonl"
PARALLEL_ENTRIES = 8_000
"""Below so many entries of archives, starting processes costs more than it saves."""
_READ_TRIALS = 500


def open_source(
    settings: CollectSettings, *, work: Path | None = None, progress: Progress = silent
) -> Source:
    """The source that the settings name; `work` is where a long crawl keeps what it has.

    Raises:
        RecordError: a file is not there.
    """
    if settings.source == "files":
        return FilesSource(settings.paths, progress=progress)
    if settings.source == "registry":
        if settings.whole:
            from trialese.collect.whole import WholeRegistrySource

            if work is None:
                raise RecipeError("collect.whole: a download needs a folder; collect a snapshot")
            return WholeRegistrySource(settings, work=work, progress=progress)
        from trialese.collect.crawl import RegistrySource

        return RegistrySource(settings, work=work, progress=progress)
    from trialese.collect.sample import SampleSource

    return SampleSource(settings.sample)


def snapshot_inputs(settings: CollectSettings) -> dict[str, str]:
    """sha256 of each input file, by its role, position and name.

    Raises:
        RecordError: a file is not there.
    """
    inputs: dict[str, str] = {}
    for role, name in (("ids", settings.ids), ("new_since", settings.new_since)):
        if name is not None:
            path = Path(name)
            if (path / MANIFEST_NAME).is_file():
                inputs[role] = read_manifest(path).digest
            elif path.is_file():
                inputs[role] = digest_of_file(path)
            elif path.is_dir() and role == "new_since":  # a data set saved to disk
                inputs[role] = digest_of(_digests_of(path))
            else:
                raise RecordError(f"{path}: no such file or snapshot; check `collect.{role}`")
    if settings.source != "files":
        return inputs
    for position, path in enumerate(FilesSource(settings.paths).paths):
        inputs |= {f"{position}:{name}": digest for name, digest in _digests_of(path).items()}
    return inputs


def _digests_of(path: Path) -> dict[str, str]:
    """sha256 of the file, or of every file below the folder, by its name."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {
        file.relative_to(path.parent).as_posix(): digest_of_file(file)
        for file in files
        if file.is_file()
    }


def collect_snapshot(
    settings: CollectSettings, path: Path, *, progress: Progress = silent
) -> Snapshot:
    """The snapshot written at `path` from the source that the settings name.

    One row a study, sorted by NCT id; of several records of a study the newest stays. What could
    not be parsed stands in `rejects.jsonl` with its reason, and is counted in the manifest.

    Raises:
        RecordError: a file cannot be read, or not one of its records is a study.
        RegistryError: the registry cannot be read to the end; the same call goes on from there.
        ArtifactError: the snapshot cannot be written.
    """
    source = open_source(settings, work=work_folder(path), progress=progress)
    inputs = snapshot_inputs(settings)
    with write_artifact(
        path, kind="snapshot", settings=as_settings(settings), inputs=inputs
    ) as draft:
        from trialese.collect.merge import TrialMerger

        runs_folder = draft.folder / ".runs"
        runs_folder.mkdir()
        known = None
        if settings.new_since:
            from trialese.collect.earlier import read_earlier

            known = read_earlier(Path(settings.new_since))
        merger = TrialMerger(runs_folder, known=known)
        tally = _take_in_all(source, merger, runs_folder, progress)
        tally.refuse_nothing_but_rejects()
        draft.counts["trials"] = merger.write(draft.folder / TRIALS_NAME)
        draft.counts["duplicates"] = merger.duplicates
        draft.counts["aliases"] = merger.aliases
        if known is not None:
            draft.counts["known"] = merger.known
        draft.counts.update(tally.counts())
        facts = source.facts()
        draft.notes.update(
            {"source": facts.name, "data_timestamp": None, **tally.notes(), **facts.notes}
        )
        if facts.data_timestamp:
            draft.notes["data_timestamp"] = facts.data_timestamp
        encoded = msgspec.json.Encoder().encode_lines(sorted(tally.rejects))
        (draft.folder / REJECTS_NAME).write_bytes(encoded)
        shutil.rmtree(runs_folder)
    source.close()
    return open_snapshot(path)


def _take_in_all(source: Source, merger: TrialMerger, folder: Path, progress: Progress) -> Tally:
    """The tally of all records of the source, whose runs go to the merger.

    Large archives are read by as many processes as there are cores; what comes out is the same.
    """
    from trialese.collect.intake import Tally, take_in
    from trialese.collect.merge import RunWriter
    from trialese.collect.workers import Job, run_jobs

    tally = Tally()
    streams: list[Iterator[RawStudy | Reject]] = []
    chunks: list[Chunk] = []
    for part in source.parts():
        if isinstance(part, Chunk):
            chunks.append(part)
        else:
            streams.append(part)
    processes = os.cpu_count() or 1
    if processes == 1 or sum(len(chunk.entries) for chunk in chunks) < PARALLEL_ENTRIES:
        streams = [*(read_chunk(chunk, read_stream) for chunk in chunks), *streams]
        chunks = []
    jobs = [Job(chunk, str(folder), f"chunk{number:05d}") for number, chunk in enumerate(chunks)]
    total = sum(len(chunk.entries) for chunk in chunks)
    for done in run_jobs(jobs, processes=processes):
        tally.add(done.tally)
        merger.adopt(done.runs, done.renamed)
        progress("records", tally.records, total)
    runs = RunWriter(folder, "stream")
    for stream in streams:
        tally.add(take_in(stream, runs, told=_telling(progress, tally.records, source.total)))
    runs.flush()
    merger.adopt(runs.runs, runs.renamed)
    progress("records", tally.records, tally.records)
    return tally


def _telling(progress: Progress, before: int, total: int | None) -> Callable[[int], None]:
    return lambda records: progress("records", before + records, total)


def open_snapshot(path: Path) -> Snapshot:
    """The snapshot at `path`.

    Raises:
        ArtifactError: nothing there, half-written, or another kind of artifact.
    """
    return Snapshot(path, read_manifest(path, kind="snapshot"))


def read_trials(snapshot: Snapshot) -> Iterator[Trial]:
    """The snapshot's trials one at a time, by NCT id; a few hundred are held at once.

    Raises:
        ArtifactError: the Parquet file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trialese.collect.merge import TRIAL_COLUMNS

    file = snapshot.path / TRIALS_NAME
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_READ_TRIALS, columns=TRIAL_COLUMNS.names):
                yield from msgspec.convert(batch.to_pylist(), list[Trial])
    except (pa.ArrowException, OSError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


def read_rejects(snapshot: Snapshot) -> list[Reject]:
    """The records that could not be parsed, sorted by origin.

    Raises:
        ArtifactError: the file is damaged.
    """
    file = snapshot.path / REJECTS_NAME
    try:
        return msgspec.json.Decoder(Reject).decode_lines(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


def read_trials_from_file(
    path: Path, *, on_reject: Callable[[Reject], None] | None = None
) -> Iterator[Trial]:
    """The trials in a file of any known kind, in its order.

    `on_reject` is told of every record that is no study; without it the first one raises.

    Raises:
        RecordError: the file or, without `on_reject`, a record in it cannot be understood.
    """
    for item in read_raw(path):
        try:
            if isinstance(item, RawStudy):
                yield parse_study(item).trial
                continue
            reject = item
        except StudyError as bad:
            if on_reject is None:
                raise
            reject = bad.reject()
        if on_reject is None:
            raise RecordError(f"{reject.origin}: {reject.detail or reject.reason}")
        on_reject(reject)
