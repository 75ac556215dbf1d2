"""Snapshots on disk: collected trials as Parquet, read whole, one by one, or by NCT id.

A snapshot that follows an earlier one may hold that one's `trials.parquet` as it was, and beside it
`overlay.parquet`, the rows that stand instead of those of the same number or are new, and
`gone.json`, the numbers that are no more. Every reader here sees one sorted collection.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialese.artifacts import read_manifest
from trialese.collect.merge import SOURCE_COLUMNS, TRIAL_COLUMNS
from trialese.collect.parse import FIELDS_OF_FORMAT
from trialese.collect.source import Reject
from trialese.errors import ArtifactError
from trialese.records import Snapshot, Trial

__all__ = [
    "GONE_NAME",
    "OVERLAY_NAME",
    "REJECTS_NAME",
    "TRIALS_NAME",
    "Identity",
    "find_trials",
    "interleave",
    "lying_over",
    "open_snapshot",
    "read_gone",
    "read_identities",
    "read_lists",
    "read_rejects",
    "read_rows",
    "read_trials",
]


TRIALS_NAME = "trials.parquet"
OVERLAY_NAME = "overlay.parquet"
GONE_NAME = "gone.json"
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
        rows = read_rows(snapshot, TRIAL_COLUMNS.names, at_once=_READ_TRIALS)
        verified = False
        for table in rows:
            if not verified:
                read_manifest(snapshot.path, verify=True)
                verified = True
            yield from msgspec.convert(table.to_pylist(), list[Trial])
    except (pa.ArrowException, OSError, KeyError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


def read_gone(snapshot: Snapshot) -> tuple[str, ...]:
    """The numbers in `trials.parquet` that are no more; () where nothing lies over it.

    Raises:
        ArtifactError: the file is damaged.
    """
    file = snapshot.path / GONE_NAME
    try:
        return msgspec.json.decode(file.read_bytes(), type=tuple[str, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


def read_rows(
    snapshot: Snapshot, columns: Sequence[str], *, at_once: int = 10_000
) -> Iterator[pa.Table]:
    """These columns of all rows, by NCT id, in tables of about `at_once` rows; none is empty.

    Raises:
        pa.ArrowException, OSError, KeyError: the files cannot be read, or lack a column.
    """
    columns = list(dict.fromkeys(["nct_id", *columns]))
    with pq.ParquetFile(snapshot.path / TRIALS_NAME) as parquet:
        tables = (
            pa.Table.from_batches([batch]).select(columns)
            for batch in parquet.iter_batches(at_once, columns=columns)
        )
        if not (snapshot.path / OVERLAY_NAME).is_file():
            yield from (table for table in tables if table.num_rows)
            return
        overlay = pq.read_table(snapshot.path / OVERLAY_NAME, columns=columns).select(columns)
        replaced = [*overlay["nct_id"].to_pylist(), *read_gone(snapshot)]
        hidden = pa.array(replaced, pa.string())

        def keep(table: pa.Table) -> pa.Table:
            return table.filter(pc.invert(pc.is_in(table["nct_id"], hidden)))

        yield from interleave(tables, overlay, keep)


def interleave(
    tables: Iterable[pa.Table], new: pa.Table, keep: Callable[[pa.Table], pa.Table]
) -> Iterator[pa.Table]:
    """What `keep` leaves of each table, and the rows of `new` between them: all by NCT id.

    The tables follow one another by NCT id and none is empty, `new` is sorted; what comes out has
    no empty table.
    """
    ids = new["nct_id"].to_pylist()
    taken = 0
    for table in tables:
        until = bisect_right(ids, table["nct_id"][-1].as_py())
        kept = keep(table)
        if until > taken:
            kept = pa.concat_tables([kept, new.slice(taken, until - taken)]).sort_by("nct_id")
            taken = until
        if kept.num_rows:
            yield kept
    if taken < len(ids):
        yield new.slice(taken)


class Identity(NamedTuple):
    """What tells a snapshot's trial from others, and its content from another content."""

    nct_id: str
    aliases: tuple[str, ...]
    content_digest: str
    formats: tuple[str, ...] | None
    """The kinds of file that it is made of; None in an older snapshot of several kinds."""
    not_held: frozenset[str]
    """Fields that none of them could hold."""


def lying_over(snapshot: Snapshot) -> frozenset[str]:
    """The numbers for which `trials.parquet` does not say what there is: those that lie over it.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    file = snapshot.path / OVERLAY_NAME
    try:
        ids = pq.read_table(file, columns=["nct_id"])["nct_id"].to_pylist()
    except FileNotFoundError:
        ids = []
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error
    return frozenset(ids).union(read_gone(snapshot))


def read_identities(
    snapshot: Snapshot, only: Collection[str] | None = None, *, and_aliased: bool = False
) -> Iterator[Identity]:
    """The identity of each trial, by NCT id; the trials themselves are not read.

    `only`: of these numbers, and of every trial that has aliases if `and_aliased`.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    file = snapshot.path / TRIALS_NAME
    names = ["nct_id", "nct_id_aliases", "content_digest"]
    try:
        with pq.ParquetFile(file) as parquet:
            tells = set(SOURCE_COLUMNS.names) <= set(parquet.schema_arrow.names)
        formats, not_held = _only_format(snapshot)
        names += SOURCE_COLUMNS.names if tells else []
        rows: Iterable[tuple[Any, ...]]
        wanted = None if only is None else pa.array(sorted(only), pa.string())
        for whole in read_rows(snapshot, names):
            table = whole
            if wanted is not None:
                chosen = pc.is_in(whole["nct_id"], wanted)
                if and_aliased:
                    lengths = pc.list_value_length(whole["nct_id_aliases"]).fill_null(0)
                    chosen = pc.or_(chosen, pc.greater(lengths, 0))
                table = whole.filter(chosen)
            ids, digests = table["nct_id"].to_pylist(), table["content_digest"].to_pylist()
            aliases = read_lists(table["nct_id_aliases"])
            if tells:
                kinds, lacking = (read_lists(table[name]) for name in SOURCE_COLUMNS.names)
                sets = {each: frozenset(each) for each in set(lacking)}
                rows = zip(ids, aliases, digests, kinds, map(sets.get, lacking), strict=True)
            else:
                rows = zip(ids, aliases, digests, repeat(formats), repeat(not_held))
            yield from map(Identity._make, rows)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


def read_lists(column: pa.ChunkedArray) -> list[tuple[str, ...]]:
    """The lists of strings in a column, where few differ: equal ones are one tuple; none is ()."""
    offsets = np.cumsum([0, *pc.list_value_length(column).fill_null(0).to_pylist()])
    values = pc.list_flatten(column).to_pylist()
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    found = []
    for start, end in pairwise(offsets.tolist()):
        each = tuple(values[start:end])
        found.append(known.setdefault(each, each))
    return found


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
    wanted = set(nct_ids)
    found: dict[str, Trial] = {}
    try:
        if (snapshot.path / OVERLAY_NAME).is_file():
            ids = pq.read_table(snapshot.path / OVERLAY_NAME, columns=["nct_id"])["nct_id"]
            over = wanted.intersection(ids.to_pylist())
            found = _find_in(snapshot.path / OVERLAY_NAME, over)
            wanted -= over.union(read_gone(snapshot))
        return {**found, **_find_in(file, wanted)}
    except (pa.ArrowException, OSError, KeyError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


def _find_in(file: Path, nct_ids: Collection[str]) -> dict[str, Trial]:
    if not nct_ids:
        return {}
    wanted = [("nct_id", "in", sorted(nct_ids))]
    table = pq.read_table(file, columns=TRIAL_COLUMNS.names, filters=wanted)
    trials = msgspec.convert(table.to_pylist(), list[Trial])
    return {trial.nct_id: trial for trial in trials}
