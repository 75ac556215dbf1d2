"""Merging of records: raw studies in any order to one sorted Parquet file, in bounded memory.

External sort: sorted runs are spilled to Arrow files and merged. Several records of one study
become one row, field by field: each value is that of the newest record whose kind of file can
hold the field. Which record is newer does not depend on the order in which they came, so the
same records always give the same bytes. Every record is counted in a tally.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialese.collect.parse import Parsed, parse_study
from trialese.collect.source import SYNTHETIC_NOTICE, RawStudy, Reject, StudyError
from trialese.collect.vocabulary import study_number
from trialese.errors import RecordError
from trialese.records import ATTRIBUTION, Trial

__all__ = [
    "ROW_COLUMNS",
    "ROW_GROUP_TRIALS",
    "SOURCE_COLUMNS",
    "TRIAL_COLUMNS",
    "RunWriter",
    "Tally",
    "TrialMerger",
    "take_in",
    "write_rows",
]


ROW_GROUP_TRIALS = 2_000
RUN_TRIALS = 20_000
RUN_BYTES = 96 * 2**20
BATCH_TRIALS = 250
_KEPT_WORDS = ["sex", "overall_status", "study_type", "allocation", "intervention_model",
               "primary_purpose", "masking", "phases.list.element", "formats.list.element",
               "not_held.list.element"]  # fmt: skip


def _arrow_type(annotation: Any) -> pa.DataType:
    """The column type of a `Trial` field."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not type(None))
        return _arrow_type(inner)
    if origin is tuple:
        return pa.list_(pa.string())
    if annotation is str or origin is Literal:
        return pa.string()
    return {bool: pa.bool_(), int: pa.int64()}[annotation]


TRIAL_COLUMNS = pa.schema(
    [pa.field(name, _arrow_type(hint)) for name, hint in get_type_hints(Trial).items()]
)
"""One column a field of `Trial`, under its name."""
_EVERY_FIELD = (1 << len(TRIAL_COLUMNS)) - 1
_RUN_COLUMNS = pa.schema([
    *TRIAL_COLUMNS,
    pa.field("content_digest", pa.string()),
    pa.field("packed_bytes", pa.int64()),
    pa.field("format", pa.string()),
    pa.field("held", pa.int64()),  # one bit a field of `Trial`
])  # fmt: skip
SOURCE_COLUMNS = pa.schema(
    [pa.field("formats", pa.list_(pa.string())), pa.field("not_held", pa.list_(pa.string()))]
)
"""Of each row of a snapshot, the kinds of file that it is made of, newest record first, and the
fields that none of them could hold. Snapshots of before November 2026 have no such columns."""
ROW_COLUMNS = pa.schema([*TRIAL_COLUMNS, pa.field("content_digest", pa.string()), *SOURCE_COLUMNS])
"""The columns of a snapshot's rows."""
_NEWEST_FIRST = [
    ("nct_id", "ascending"),
    ("last_update_posted", "descending"),  # a missing date sorts last
    ("packed_bytes", "descending"),  # the fuller record: a CSV row lacks what JSON has
    ("content_digest", "ascending"),
]


class RunWriter:
    """Takes trials one at a time and spills them as sorted runs `folder`/`prefix`-0, ..."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        self._held: list[Parsed] = []
        self._held_bytes = 0
        self.runs: list[str] = []
        """Names of the runs, complete once `flush` has been called."""
        self.renamed: dict[str, str] = {}
        """Alias -> the id that lists it."""

    def add(self, parsed: Parsed) -> None:
        """Take one trial."""
        self._held.append(parsed)
        self._held_bytes += len(parsed.packed)
        for alias in parsed.trial.nct_id_aliases:
            self.renamed[alias] = parsed.trial.nct_id
        if len(self._held) >= RUN_TRIALS or self._held_bytes >= RUN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Spill what is held."""
        if not self._held:
            return
        table = _sorted(_table_of(self._held))
        name = f"{self._prefix}-{len(self.runs)}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(self._folder / name, _RUN_COLUMNS, options=options) as writer:
            writer.write_table(table, max_chunksize=BATCH_TRIALS)
        self.runs.append(name)
        self._held, self._held_bytes = [], 0


class TrialMerger:
    """Sorted runs in `folder` -> one sorted Parquet file."""

    def __init__(
        self,
        folder: Path,
        *,
        known: Mapping[str, str | None] | None = None,
        unchanged: Callable[[pa.Table], Collection[str]] | None = None,
    ) -> None:
        self._folder = folder
        self._known = known or {}
        self._unchanged = unchanged
        self._runs: list[str] = []
        self._renamed: dict[str, str] = {}
        self.duplicates = 0
        """Records beyond the newest of their study."""
        self.texts_apart = 0
        """Bare texts that share a number with another, different one, and got a suffix to it."""
        self.merged = 0
        """Studies whose row has a value from an older record, since the newest cannot hold it."""
        self.merged_fields: dict[str, int] = {}
        """Field -> studies whose value of it is from an older record."""
        self.aliases = 0
        """Records dropped because their id is an obsolete alias of another study here."""
        self.known = 0
        """Studies left out because somebody has them already, as they are."""

    def adopt(self, runs: list[str], renamed: dict[str, str]) -> None:
        """Take what a `RunWriter` made."""
        self._runs.extend(runs)
        for alias, owner in renamed.items():
            # Of several owners the smallest, so that the order of the runs does not show.
            self._renamed[alias] = min(owner, self._renamed.get(alias, owner))

    def write(self, path: Path) -> int:
        """How many trials stand in the Parquet file written at `path`, sorted by NCT id."""
        return write_rows(path, self._merged())

    def _merged(self) -> Iterator[pa.Table]:
        """Tables in order, each study in one of them only and once."""
        heads = [_Head(self._folder / name) for name in sorted(self._runs)]
        while heads:
            # Up to the frontier, all runs have shown everything that they hold.
            frontier = min((head.last for head in heads if not head.ended), default=None)
            ready = [head.take_below(frontier) for head in heads if head.reaches(frontier)]
            for head in heads:
                if not head.ended and head.last == frontier:
                    head.read_on()
            heads = [head for head in heads if not head.ended or head.table.num_rows]
            if ready:
                table = self._deduplicated(pa.concat_tables(ready))
                if table.num_rows:
                    yield table

    def _deduplicated(self, table: pa.Table) -> pa.Table:
        table = self._one_row_a_study(self._texts_set_apart(_sorted(table)))
        keep = []
        digests = table["content_digest"].to_pylist() if self._known else ()
        aliases = table["nct_id_aliases"].to_pylist() if self._known else ()
        for row, nct_id in enumerate(table["nct_id"].to_pylist()):
            owner = self._renamed.get(nct_id)
            if owner not in (None, nct_id) and self._renamed.get(owner or "") != nct_id:
                self.aliases += 1
            elif self._known and self._is_known(
                (nct_id, *aliases[row], study_number(nct_id)), digests[row]
            ):
                self.known += 1
            else:
                keep.append(row)
        if len(keep) < table.num_rows:
            table = table.take(pa.array(keep, pa.int64()))
        if self._unchanged is not None and (held := self._unchanged(table)):
            self.known += len(held)
            table = table.filter(pc.invert(pc.is_in(table["nct_id"], pa.array(sorted(held)))))
        return table.select(ROW_COLUMNS.names)

    def _texts_set_apart(self, table: pa.Table) -> pa.Table:
        """The table in which different bare texts of one number each have a number of their own.

        Passages of one trial: the first keeps the number, which a full record may share, the others
        have the beginning of their digest behind it. A reason and a description fill one row, be
        they of one record or of two.
        """
        ids, formats = table["nct_id"].to_pylist(), table["format"].to_pylist()
        if "text" not in formats or len(set(ids)) == len(ids):
            return table
        digests = table["content_digest"].to_pylist()
        filled = [
            pc.not_equal(table[name], "").to_pylist()
            for name in ("why_stopped", "detailed_description")
        ]
        first: dict[tuple[str, int], str] = {}
        named = list(ids)
        for row, name in enumerate(ids):
            if formats[row] != "text":
                continue
            fields = [field for field, rows in enumerate(filled) if rows[row]]
            if {first.setdefault((name, field), digests[row]) for field in fields} - {digests[row]}:
                named[row] = f"{name}-{digests[row][:12]}"
        if named == ids:
            return table
        self.texts_apart += len(set(named) - set(ids))
        place = table.schema.get_field_index("nct_id")
        return _sorted(table.set_column(place, "nct_id", pa.array(named, pa.string())))

    def _one_row_a_study(self, table: pa.Table) -> pa.Table:
        """The table with the records of each study, newest first, merged into one row."""
        ids = table["nct_id"].to_pylist()
        starts = [row for row, name in enumerate(ids) if row == 0 or name != ids[row - 1]]
        self.duplicates += len(ids) - len(starts)
        formats = [[name] for name in table["format"].to_pylist()]
        not_held = [_names_without(mask) for mask in _can_hold(table)]
        table = table.append_column(
            SOURCE_COLUMNS.field(0), pa.array(formats, pa.list_(pa.string()))
        )
        table = table.append_column(
            SOURCE_COLUMNS.field(1), pa.array(not_held, pa.list_(pa.string()))
        )
        if len(starts) == len(ids):
            return table
        alone, merged = [], []
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            row = self._merge(table.slice(start, end - start)) if end - start > 1 else None
            if row is None:
                alone.append(start)
            else:
                merged.append(row)
        kept = table.take(pa.array(alone, pa.int64())).select(ROW_COLUMNS.names)
        if not merged:
            return kept
        both = pa.concat_tables([kept, pa.Table.from_pylist(merged, ROW_COLUMNS)])
        return both.sort_by("nct_id")

    def _merge(self, records: pa.Table) -> dict[str, Any] | None:
        """The row of one study's records; None where it is the newest as it stands."""
        digests = records["content_digest"].to_pylist()
        held = records["held"].to_pylist()
        told = held[0]
        for mask in held[1:]:
            told |= mask
        if len(set(digests)) == 1 and told == held[0]:
            return None
        rows = [
            row
            for row in records.to_pylist()
            if row["synthetic"] == records["synthetic"][0].as_py()  # never real and made up
        ]
        merged, sources = dict(rows[0]), {0}
        for place, name in enumerate(TRIAL_COLUMNS.names):
            holders = [index for index, row in enumerate(rows) if row["held"] >> place & 1]
            filled = [index for index, row in enumerate(rows) if row[name] not in (None, "", [])]
            chosen = (holders or filled or [0])[0]
            if chosen and rows[chosen][name] not in (None, "", []):
                merged[name] = rows[chosen][name]
                sources.add(chosen)
                self.merged_fields[name] = self.merged_fields.get(name, 0) + 1
            elif chosen:
                merged[name] = rows[chosen][name]
        if len(sources) > 1:
            self.merged += 1
        trial = msgspec.convert({name: merged[name] for name in TRIAL_COLUMNS.names}, Trial)
        merged["content_digest"] = _digest(msgspec.msgpack.encode(trial))
        merged["formats"] = list(dict.fromkeys(rows[index]["format"] for index in sorted(sources)))
        merged["not_held"] = _names_without(functools.reduce(operator.or_, _can_hold(records)))
        return {name: merged[name] for name in ROW_COLUMNS.names}

    def _is_known(self, names: tuple[str, ...], digest: str) -> bool:
        held = [self._known[name] for name in names if name in self._known]
        return bool(held) and held[0] in (None, digest)


def write_rows(path: Path, tables: Iterable[pa.Table]) -> int:
    """How many rows stand in the Parquet file written at `path`; the tables come in their order."""
    written = 0
    with (
        pq.ParquetWriter(
            path, ROW_COLUMNS, compression="zstd", use_dictionary=_KEPT_WORDS
        ) as writer,
        ThreadPoolExecutor(1) as pool,  # one group is compressed while the next is merged
    ):
        writing: Future[None] | None = None
        for table in _in_groups(iter(tables)):
            if writing is not None:
                writing.result()
            writing = pool.submit(writer.write_table, table, ROW_GROUP_TRIALS)
            written += table.num_rows
        if writing is not None:
            writing.result()
    return written


class _Head:
    """A run that is being merged: the rows that are read and not yet taken."""

    def __init__(self, path: Path) -> None:
        self._batches = _batches(path)
        self.table: pa.Table = next(self._batches)
        self.ended = False
        self._mark()

    def reaches(self, frontier: str | None) -> bool:
        """Whether some row held is below the frontier (None: above everything)."""
        return self.table.num_rows > 0 and (frontier is None or self.first < frontier)

    def take_below(self, frontier: str | None) -> pa.Table:
        """The rows below the frontier, which are then no longer held."""
        rows = self.table.num_rows
        if frontier is not None:
            rows = pc.sum(pc.less(self.table["nct_id"], frontier)).as_py()
        taken, self.table = self.table.slice(0, rows), self.table.slice(rows)
        self._mark()
        return taken

    def read_on(self) -> None:
        """Hold one batch more, or be marked as ended."""
        more = next(self._batches, None)
        if more is None:
            self.ended = True
        else:
            self.table = pa.concat_tables([self.table, more])
            self._mark()

    def _mark(self) -> None:
        ids = self.table["nct_id"]
        if len(ids):
            self.first: str = ids[0].as_py()
            self.last: str = ids[-1].as_py()


def _table_of(held: list[Parsed]) -> pa.Table:
    rows = [msgspec.structs.astuple(parsed.trial) for parsed in held]
    columns = [
        pa.array(column, field.type)
        for column, field in zip(zip(*rows, strict=True), TRIAL_COLUMNS, strict=True)
    ]
    columns.append(pa.array([_digest(parsed.packed) for parsed in held], pa.string()))
    columns.append(pa.array([len(parsed.packed) for parsed in held], pa.int64()))
    columns.append(pa.array([parsed.format for parsed in held], pa.string()))
    columns.append(pa.array([_mask(parsed.held) for parsed in held], pa.int64()))
    return pa.table(columns, schema=_RUN_COLUMNS)


def _digest(packed: bytes) -> str:
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


@functools.cache
def _mask(fields: frozenset[str]) -> int:
    """One bit a field of `Trial`, set where the record tells of it."""
    return sum(1 << place for place, name in enumerate(TRIAL_COLUMNS.names) if name in fields)


def _can_hold(records: pa.Table) -> list[int]:
    """Of each record the fields that its file can hold, whether it tells of them or not.

    A part of a JSON or XML record can be compared with any other; a column or table that was not
    downloaded cannot.
    """
    columns = zip(records["format"].to_pylist(), records["held"].to_pylist(), strict=True)
    return [_EVERY_FIELD if name in ("v2", "xml") else held for name, held in columns]


@functools.cache
def _names_without(mask: int) -> list[str]:
    return [name for place, name in enumerate(TRIAL_COLUMNS.names) if not mask >> place & 1]


def _sorted(table: pa.Table) -> pa.Table:
    """The rows by NCT id, of one study the newest first; no copy where they stand so already."""
    order = pc.sort_indices(table, sort_keys=_NEWEST_FIRST)
    if order.equals(pa.array(range(len(order)), order.type)):
        return table
    return table.take(order)


def _batches(path: Path) -> Iterator[pa.Table]:
    with pa.ipc.open_file(path) as reader:
        for index in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(index)])


def _in_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of `ROW_GROUP_TRIALS`, the last one shorter."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        while rows >= ROW_GROUP_TRIALS:
            whole = pa.concat_tables(held)
            yield whole.slice(0, ROW_GROUP_TRIALS)
            held = [whole.slice(ROW_GROUP_TRIALS)]
            rows -= ROW_GROUP_TRIALS
    if rows:
        yield pa.concat_tables(held)


CSV_NOTICE = (
    "the website's CSV holds no eligibility criteria, no detailed description, no keywords and "
    "no reason for stopping"
)
_REPORT_EVERY = 500
_MOST_EXAMPLES = 10


class Tally(msgspec.Struct):
    """Counts over records; tallies of parts add up to that of the whole."""

    records: int = 0
    synthetic: int = 0
    formats: dict[str, int] = {}
    rejects: list[Reject] = []
    unreadable: dict[str, int] = {}
    """Field -> studies that are kept without it, because what it says cannot be read."""
    unreadable_examples: list[str] = []
    oldest_data: str | None = None
    newest_data: str | None = None

    def saw(self, data_date: str | None) -> None:
        """Note the day that a record's data are of."""
        if data_date:
            self.newest_data = max(self.newest_data or data_date, data_date)
            self.oldest_data = min(self.oldest_data or data_date, data_date)

    def add(self, other: Tally) -> None:
        """Count the other's records too."""
        self.records += other.records
        self.synthetic += other.synthetic
        for name, count in other.formats.items():
            self.formats[name] = self.formats.get(name, 0) + count
        self.rejects.extend(other.rejects)
        for name, count in other.unreadable.items():
            self.unreadable[name] = self.unreadable.get(name, 0) + count
        self._keep_examples(other.unreadable_examples)
        self.saw(other.oldest_data)
        self.saw(other.newest_data)

    def could_not_read(self, nct_id: str, unreadable: Iterable[tuple[str, str]]) -> None:
        """Count the fields that a study is kept without."""
        for name, detail in unreadable:
            self.unreadable[name] = self.unreadable.get(name, 0) + 1
            self._keep_examples([f"{nct_id} {name}: {detail}"])

    def _keep_examples(self, examples: list[str]) -> None:
        # The smallest, so that the order of the records does not show.
        self.unreadable_examples = sorted({*self.unreadable_examples, *examples})[:_MOST_EXAMPLES]

    def counts(self) -> dict[str, Any]:
        """The counts as a manifest holds them."""
        reasons: dict[str, int] = {}
        for reject in self.rejects:
            reasons[reject.reason] = reasons.get(reject.reason, 0) + 1
        counts: dict[str, Any] = {
            "records": self.records,
            "formats": dict(sorted(self.formats.items())),
            "rejects": dict(sorted(reasons.items())),
            "synthetic": self.synthetic,
        }
        if self.unreadable:
            counts["unreadable"] = dict(sorted(self.unreadable.items()))
        return counts

    def notes(self) -> dict[str, Any]:
        """What a manifest must say because of what was in the records."""
        notes: dict[str, Any] = {"synthetic": self.synthetic > 0}
        if self.newest_data:
            notes["data_timestamp"] = self.newest_data
        if self.oldest_data != self.newest_data:
            notes["oldest_data_timestamp"] = self.oldest_data
        if sum(self.formats.values()) > self.synthetic:
            notes["attribution"] = ATTRIBUTION
        if self.synthetic:
            notes["synthetic_notice"] = SYNTHETIC_NOTICE
        if "csv" in self.formats:
            notes["csv"] = CSV_NOTICE
        if self.unreadable_examples:
            notes["unreadable_examples"] = self.unreadable_examples
        return notes

    def refuse_nothing_but_rejects(self) -> None:
        """Do nothing if some record became a trial.

        Raises:
            RecordError: not one did; names the first reject.
        """
        if self.rejects and len(self.rejects) == self.records:
            first = min(self.rejects)
            raise RecordError(
                f"{first.origin}: {first.detail or first.reason} "
                f"(all {self.records:,} records were refused)"
            )


def take_in(
    items: Iterable[RawStudy | Reject],
    runs: RunWriter,
    *,
    told: Callable[[int], None] = lambda records: None,
) -> Tally:
    """The tally of `items`, whose trials go to `runs`; `told` hears now and then how many."""
    tally = Tally()
    for item in items:
        tally.records += 1
        if tally.records % _REPORT_EVERY == 0:
            told(tally.records)
        if isinstance(item, Reject):
            tally.rejects.append(item)
            continue
        try:
            parsed = parse_study(item)
        except StudyError as error:
            tally.rejects.append(error.reject())
            continue
        tally.formats[item.format] = tally.formats.get(item.format, 0) + 1
        tally.synthetic += parsed.trial.synthetic
        tally.saw(parsed.data_date)
        tally.could_not_read(parsed.trial.nct_id, parsed.unreadable)
        runs.add(parsed)
    return tally
