"""Snapshots: collected trials as Parquet with a manifest that says where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trialese.artifacts import (
    as_settings,
    digest_of_file,
    read_manifest,
    work_folder,
    write_artifact,
)
from trialese.collect.archives import FilesSource, read_raw
from trialese.collect.parse import parse_study
from trialese.collect.source import (
    ATTRIBUTION,
    SYNTHETIC_NOTICE,
    RawStudy,
    Reject,
    Source,
    StudyError,
)
from trialese.errors import ArtifactError, RecordError
from trialese.progress import Progress, silent
from trialese.records import Snapshot, Trial
from trialese.settings import CollectSettings

if TYPE_CHECKING:
    from trialese.collect.merge import TrialSorter

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
_REPORT_EVERY = 1_000
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
        from trialese.collect.crawl import RegistrySource

        return RegistrySource(settings, work=work, progress=progress)
    from trialese.collect.sample import SampleSource

    return SampleSource(settings.sample)


def snapshot_inputs(settings: CollectSettings) -> dict[str, str]:
    """sha256 of each input file by position and name; empty unless the source is `files`.

    Raises:
        RecordError: a file is not there.
    """
    if settings.source != "files":
        return {}
    inputs = {}
    for position, path in enumerate(FilesSource(settings.paths).paths):
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file():
                name = file.relative_to(path.parent).as_posix()
                inputs[f"{position}:{name}"] = digest_of_file(file)
    return inputs


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
        from trialese.collect.merge import TrialSorter

        sorter = TrialSorter(draft.folder / ".runs")
        tally = _sort_all(source, sorter, progress)
        draft.counts["trials"] = sorter.write(draft.folder / TRIALS_NAME)
        draft.counts["duplicates"] = sorter.duplicates
        draft.counts["aliases"] = sorter.aliases
        tally.into(draft.counts, draft.notes)
        facts = source.facts()
        draft.notes["source"] = facts.name
        draft.notes["data_timestamp"] = facts.data_timestamp or tally.newest_data
        draft.notes.update(facts.notes)
        encoded = msgspec.json.Encoder().encode_lines(sorted(tally.rejects))
        (draft.folder / REJECTS_NAME).write_bytes(encoded)
    source.close()
    return open_snapshot(path)


class _Tally:
    """Counts over all records of a source."""

    def __init__(self) -> None:
        self.records = 0
        self.formats: Counter[str] = Counter()
        self.rejects: list[Reject] = []
        self.synthetic = 0
        self.newest_data: str | None = None
        self.oldest_data: str | None = None

    def saw_data_of(self, date: str) -> None:
        self.newest_data = max(self.newest_data or date, date)
        self.oldest_data = min(self.oldest_data or date, date)

    def into(self, counts: dict[str, Any], notes: dict[str, Any]) -> None:
        counts["records"] = self.records
        counts["formats"] = dict(sorted(self.formats.items()))
        counts["rejects"] = dict(sorted(Counter(r.reason for r in self.rejects).items()))
        counts["synthetic"] = self.synthetic
        if self.oldest_data != self.newest_data:
            notes["oldest_data_timestamp"] = self.oldest_data
        notes["synthetic"] = self.synthetic > 0
        parsed = self.records - len(self.rejects)
        if parsed > self.synthetic:
            notes["attribution"] = ATTRIBUTION
        if self.synthetic:
            notes["synthetic_notice"] = SYNTHETIC_NOTICE
        if self.formats.get("csv"):
            notes["csv"] = (
                "the website's CSV holds no eligibility criteria, no detailed description, "
                "no keywords and no reason for stopping"
            )


def _sort_all(source: Source, sorter: TrialSorter, progress: Progress) -> _Tally:
    tally = _Tally()
    for item in source.studies():
        tally.records += 1
        if tally.records % _REPORT_EVERY == 0:
            progress("records", tally.records, source.total)
        if isinstance(item, Reject):
            tally.rejects.append(item)
            continue
        try:
            parsed = parse_study(item)
        except StudyError as bad:
            tally.rejects.append(bad.reject())
            continue
        tally.formats[item.format] += 1
        tally.synthetic += parsed.trial.synthetic
        if parsed.data_date:
            tally.saw_data_of(parsed.data_date)
        sorter.add(parsed)
    progress("records", tally.records, tally.records)
    if tally.rejects and len(tally.rejects) == tally.records:
        first = min(tally.rejects)
        raise RecordError(
            f"{first.origin}: {first.detail or first.reason} "
            f"(all {tally.records:,} records were refused)"
        )
    return tally


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
