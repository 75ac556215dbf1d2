"""Snapshots on disk: collected trials as Parquet, read whole, one by one, or by NCT id."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from trialese.artifacts import read_manifest
from trialese.collect.merge import SOURCE_COLUMNS, TRIAL_COLUMNS
from trialese.collect.parse import FIELDS_OF_FORMAT
from trialese.collect.source import Reject
from trialese.errors import ArtifactError
from trialese.records import Snapshot, Trial

__all__ = [
    "REJECTS_NAME",
    "TRIALS_NAME",
    "Identity",
    "find_trials",
    "open_snapshot",
    "read_identities",
    "read_rejects",
    "read_trials",
]


TRIALS_NAME = "trials.parquet"
REJECTS_NAME = "rejects.jsonl"
_READ_TRIALS = 500


def open_snapshot(path: str | Path) -> Snapshot:
    """The snapshot at `path`.

    Raises:
        ArtifactError: nothing there, half-written, or another kind of artifact.
    """
    path = Path(path)
    return Snapshot(path, read_manifest(path, kind="snapshot"))


def read_trials(snapshot: Snapshot) -> Iterator[Trial]:
    """The snapshot's trials one at a time, by NCT id; a few hundred are held at once.

    The files are first compared with their digests, once in a process: a bit that flipped on disk
    would otherwise read as another text.

    Raises:
        ArtifactError: the Parquet file is damaged or was altered.
    """
    file = snapshot.path / TRIALS_NAME
    try:
        with pq.ParquetFile(file) as parquet:
            read_manifest(snapshot.path, verify=True)
            for batch in parquet.iter_batches(_READ_TRIALS, columns=TRIAL_COLUMNS.names):
                yield from msgspec.convert(batch.to_pylist(), list[Trial])
    except (pa.ArrowException, OSError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


class Identity(NamedTuple):
    """What tells a snapshot's trial from others, and its content from another content."""

    nct_id: str
    aliases: tuple[str, ...]
    content_digest: str
    formats: tuple[str, ...] | None
    """The kinds of file that it is made of; None in an older snapshot of several kinds."""
    not_held: frozenset[str]
    """Fields that none of them could hold."""


def read_identities(snapshot: Snapshot) -> Iterator[Identity]:
    """The identity of each trial, by NCT id; the trials themselves are not read.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    file = snapshot.path / TRIALS_NAME
    names = ["nct_id", "nct_id_aliases", "content_digest"]
    try:
        with pq.ParquetFile(file) as parquet:
            tells = set(SOURCE_COLUMNS.names) <= set(parquet.schema_arrow.names)
            formats, not_held = _only_format(snapshot)
            for batch in parquet.iter_batches(
                10_000, columns=names + (SOURCE_COLUMNS.names if tells else [])
            ):
                columns = [batch[name].to_pylist() for name in batch.schema.names]
                for nct_id, aliases, digest, *source in zip(*columns, strict=True):
                    if tells:
                        formats, not_held = tuple(source[0]), frozenset(source[1])
                    yield Identity(nct_id, tuple(aliases or ()), digest, formats, not_held)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


def _only_format(snapshot: Snapshot) -> tuple[tuple[str, ...] | None, frozenset[str]]:
    """The kind of file and what it lacks, for a snapshot of one kind whose rows do not tell."""
    told = list(snapshot.manifest.counts.get("formats", {}))
    if len(told) != 1 or told[0] not in FIELDS_OF_FORMAT:
        return None, frozenset()
    return (told[0],), frozenset(TRIAL_COLUMNS.names) - FIELDS_OF_FORMAT[told[0]]


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


def find_trials(snapshot: Snapshot, nct_ids: Collection[str]) -> dict[str, Trial]:
    """NCT id -> trial, of those that the snapshot holds.

    Trials are sorted by NCT id in groups of some thousand; only groups that may hold one are read.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    if not nct_ids:
        return {}
    file = snapshot.path / TRIALS_NAME
    try:
        table = pq.read_table(
            file,
            columns=TRIAL_COLUMNS.names,
            filters=[("nct_id", "in", sorted(set(nct_ids)))],
        )
        found = msgspec.convert(table.to_pylist(), list[Trial])
    except (pa.ArrowException, OSError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error
    return {trial.nct_id: trial for trial in found}
