"""Collecting: a source's studies written as a snapshot, and what that would cost beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
from trialese.collect.api import RegistryClient, query_of
from trialese.collect.crawl import RegistrySource, WholeRegistrySource
from trialese.collect.diff import read_earlier, read_ids, unchanged_since
from trialese.collect.files import (
    FilesSource,
    digests_by_name,
    is_zip,
    read_stream,
    regular_files,
)
from trialese.collect.merge import RunWriter, Tally, TrialMerger, take_in
from trialese.collect.sample import SampleSource
from trialese.collect.snapshot import REJECTS_NAME, TRIALS_NAME, open_snapshot
from trialese.collect.source import Chunk, RawStudy, Reject, Source
from trialese.collect.zip_files import read_chunk, safe_entries
from trialese.errors import RecipeError, RecordError
from trialese.parallel import count_cores, map_in_processes
from trialese.progress import Progress, silent
from trialese.records import Snapshot
from trialese.settings import CollectSettings, ReadLimits

__all__ = [
    "PARALLEL_ENTRIES",
    "Estimate",
    "collect_snapshot",
    "describe_settings",
    "estimate_collection",
    "open_source",
    "snapshot_inputs",
]

PARALLEL_ENTRIES = 8_000
"""Below so many entries of archives, starting processes costs more than it saves."""


def open_source(
    settings: CollectSettings, *, work: Path | None = None, progress: Progress = silent
) -> Source:
    """The source that the settings name; `work` is where a long crawl keeps what it has.

    Raises:
        RecordError: a file is not there.
    """
    if settings.source == "none":
        raise RecipeError(
            "collect.source: none, so there is nothing to collect; set it to files, registry or "
            "sample"
        )
    if settings.source == "files":
        return FilesSource(settings.paths, limits=settings.limits, progress=progress)
    if settings.source == "registry":
        if settings.whole:
            if work is None:
                raise RecipeError("collect.whole: a download needs a folder; collect a snapshot")
            return WholeRegistrySource(settings, work=work, progress=progress)
        return RegistrySource(settings, work=work, progress=progress)
    return SampleSource(settings.sample)


def describe_settings(settings: CollectSettings) -> dict[str, Any]:
    """The settings as a snapshot notes them: without limits, which change no record.

    Months of the sample came later: without any, what was collected before stays finished.
    """
    stated = as_settings(settings)
    stated.pop("limits")
    if not settings.sample.months:
        del stated["sample"]["months"]
    return stated


def snapshot_inputs(
    settings: CollectSettings, paths: tuple[Path, ...] | None = None
) -> dict[str, str]:
    """sha256 of each input file, by its role, position and name.

    `paths` are those of a `FilesSource` that is open already: what came through a pipe is there.

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
                inputs[role] = digest_of(digests_by_name(path))
            else:
                raise RecordError(f"{path}: no such file or snapshot; check `collect.{role}`")
    if settings.source != "files":
        return inputs
    for position, path in enumerate(paths or FilesSource(settings.paths).paths):
        inputs |= {f"{position}:{name}": digest for name, digest in digests_by_name(path).items()}
    return inputs


def collect_snapshot(
    settings: CollectSettings,
    path: str | Path,
    *,
    partial: bool = False,
    progress: Progress = silent,
) -> Snapshot:
    """The snapshot written at `path` from the source that the settings name.

    One row a study, sorted by NCT id; several records of a study are merged field by field, the
    newest first. What could not be parsed stands in `rejects.jsonl` with its reason, and is counted
    in the manifest. `partial`: it is only what changed since, of which every record may be refused.

    Raises:
        RecordError: a file cannot be read, or not one of its records is a study.
        RegistryError: the registry cannot be read to the end; the same call goes on from there.
        ArtifactError: the snapshot cannot be written.
    """
    path = Path(path)
    source = open_source(settings, work=work_folder(path), progress=progress)
    inputs = snapshot_inputs(settings, getattr(source, "paths", None))
    stated = describe_settings(settings)
    with write_artifact(path, kind="snapshot", settings=stated, inputs=inputs) as draft:
        runs_folder = draft.folder / ".runs"
        runs_folder.mkdir()
        known = unchanged = None
        if settings.new_since:
            earlier = Path(settings.new_since)
            known = read_earlier(earlier)
            if (earlier / MANIFEST_NAME).is_file():
                unchanged = unchanged_since(open_snapshot(earlier))
        merger = TrialMerger(runs_folder, known=known, unchanged=unchanged)
        tally = _take_in_all(source, merger, runs_folder, settings.limits, progress)
        if not partial:
            tally.refuse_nothing_but_rejects()
        draft.counts["trials"] = merger.write(draft.folder / TRIALS_NAME)
        draft.counts["duplicates"] = merger.duplicates
        draft.counts["aliases"] = merger.aliases
        if merger.texts_apart:
            draft.counts["texts_of_one_number"] = merger.texts_apart
        if merger.merged:
            draft.counts["merged"] = merger.merged
            draft.counts["merged_fields"] = dict(sorted(merger.merged_fields.items()))
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


class _Done(NamedTuple):
    """What became of a chunk: its counts, the runs written, and the aliases in it."""

    tally: Tally
    runs: list[str]
    renamed: dict[str, str]


def _take_in_chunk(job: tuple[Chunk, Path, str, ReadLimits]) -> _Done:
    """Read a chunk into sorted runs in the folder, under names with the prefix; any process may."""
    chunk, folder, prefix, limits = job
    runs = RunWriter(folder, prefix)
    tally = take_in(read_chunk(chunk, read_stream, limits), runs)
    runs.flush()
    return _Done(tally, runs.runs, runs.renamed)


def _take_in_all(
    source: Source, merger: TrialMerger, folder: Path, limits: ReadLimits, progress: Progress
) -> Tally:
    """The tally of all records of the source, whose runs go to the merger.

    Large archives are read by as many processes as there are cores; what comes out is the same.
    """
    tally = Tally()
    streams: list[Iterator[RawStudy | Reject]] = []
    chunks: list[Chunk] = []
    for part in source.parts():
        if isinstance(part, Chunk):
            chunks.append(part)
        else:
            streams.append(part)
    processes = count_cores()
    if processes == 1 or sum(len(chunk.entries) for chunk in chunks) < PARALLEL_ENTRIES:
        streams = [*(read_chunk(chunk, read_stream, limits) for chunk in chunks), *streams]
        chunks = []
    jobs = [(chunk, folder, f"chunk{n:05d}", limits) for n, chunk in enumerate(chunks)]
    total = sum(len(chunk.entries) for chunk in chunks)
    for done in map_in_processes(_take_in_chunk, jobs, processes=processes):
        tally.add(done.tally)
        _check_rejects(tally, limits)
        merger.adopt(done.runs, done.renamed)
        progress("records", tally.records, total)
    runs = RunWriter(folder, "stream")
    for stream in streams:
        told = _telling(progress, tally.records, source.total)
        tally.add(take_in(_until_refused(stream, tally, limits), runs, told=told))
        _check_rejects(tally, limits)
    runs.flush()
    merger.adopt(runs.runs, runs.renamed)
    progress("records", tally.records, tally.records)
    return tally


def _check_rejects(tally: Tally, limits: ReadLimits, more: int = 0) -> None:
    if len(tally.rejects) + more > limits.rejects:
        raise RecordError(
            f"over {limits.rejects:,} records were refused (`collect.limits.rejects`); "
            "is it the right file?"
        )


def _until_refused(
    items: Iterator[RawStudy | Reject], tally: Tally, limits: ReadLimits
) -> Iterator[RawStudy | Reject]:
    """The items, of which only so many may be rejects already."""
    rejects = 0
    for item in items:
        if isinstance(item, Reject):
            rejects += 1
            _check_rejects(tally, limits, rejects)
        yield item


def _telling(progress: Progress, before: int, total: int | None) -> Callable[[int], None]:
    return lambda records: progress("records", before + records, total)


SAMPLE_BYTES = 3_500
KEPT_SHARE = 0.4
"""Of a study's bytes, about what the modules asked for make up (measured on 635 records)."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection would read."""

    studies: int | None
    """None where only reading would tell."""
    json_bytes: int
    """About so many bytes of records (for files: on disk as they are)."""
    requests: int = 0
    seconds: float = 0.0
    """At least so long, for the pauses between requests."""


def estimate_collection(settings: CollectSettings) -> Estimate:
    """What collecting with these settings would read; asks the registry two small questions.

    Raises:
        RecordError: a file cannot be read.
        RegistryError: the registry does not answer.
    """
    if settings.source == "sample":
        studies = settings.sample.studies
        return Estimate(studies=studies, json_bytes=studies * SAMPLE_BYTES)
    if settings.source == "files":
        source = FilesSource(settings.paths, limits=settings.limits)
        return _of_files(source.paths)
    asked = query_of(settings)  # which refuses wrong dates before anything is asked
    client = RegistryClient(settings)
    size = client.size()
    if settings.whole:
        found, share = size.total_studies, 1.0
    elif settings.ids:
        found, share = len(read_ids(Path(settings.ids))), KEPT_SHARE
    else:
        query = {**asked, "pageSize": "1", "countTotal": "true", "fields": "NCTId"}
        found, share = client.page(query)[1].total_count or 0, KEPT_SHARE
    pages = 1 if settings.whole else found // max(settings.page_size, 1) + 1
    return Estimate(
        studies=found,
        json_bytes=int(found * size.average_size_bytes * share),
        requests=pages + 2,
        seconds=(pages + 1) * settings.pause_seconds,
    )


def _of_files(paths: tuple[Path, ...]) -> Estimate:
    files = [file for path in paths for file in ([path] if path.is_file() else regular_files(path))]
    studies: int | None = 0
    json_bytes = 0
    for file in files:
        if is_zip(file):
            try:
                entries = safe_entries(file)
            except RecordError:
                if len(files) == 1:
                    raise
                entries = []  # a reject of the collection
            json_bytes += sum(entry.plain_bytes for entry in entries)
            if len(entries) > 1 and studies is not None:
                studies += len(entries)
                continue
        else:
            json_bytes += file.stat().st_size
        studies = None
    return Estimate(studies=studies, json_bytes=json_bytes)
