"""AACT's pipe-delimited tables (a zip, a folder, or one of them), joined to one row a study.

AACT (aact.ctti-clinicaltrials.org) is the registry as relational tables. Its exporter writes one
record a line, turns line breaks into `~` and deletes every `""`, so quotes may be unbalanced: a
line that does not read as CSV is split at its bars. The tables are in no common order and too
large to hold, so their rows are first divided by NCT id into files in a temporary folder.
"""

from __future__ import annotations

import csv
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from trialese.collect.source import Entry, FileError, RawStudy, Reject
from trialese.collect.vocabulary import nct_id_in
from trialese.collect.zip_files import DAMAGE, printable
from trialese.errors import RecordError

__all__ = ["aact_entries", "aact_table", "read_aact", "read_aact_tables"]

BUCKETS = 64
"""The largest of so many parts of 600,000 studies takes about 60 MB."""
MAX_LINE_BYTES = 16 * 2**20
_STUDIES = "studies.txt"


class _Table(NamedTuple):
    """Columns to take: their names here; `only` is a column and the value that it must have."""

    columns: dict[str, str]
    listed: bool = False
    only: tuple[str, str] | None = None


_TABLES: dict[str, tuple[_Table, ...]] = {
    _STUDIES: (
        _Table(
            {
                name: name
                for name in (
                    "brief_title", "official_title", "acronym", "overall_status", "why_stopped",
                    "study_type", "phase", "enrollment", "study_first_posted_date",
                    "last_update_posted_date", "start_month_year", "start_date",
                    "completion_month_year", "completion_date",
                )
            }
        ),
    ),
    "brief_summaries.txt": (_Table({"description": "brief_summary"}),),
    "detailed_descriptions.txt": (_Table({"description": "detailed_description"}),),
    "eligibilities.txt": (
        _Table(
            {
                name: name
                for name in (
                    "criteria", "gender", "gender_based", "gender_description",
                    "healthy_volunteers", "minimum_age", "maximum_age",
                )
            }
        ),
    ),
    "designs.txt": (
        _Table(
            {
                name: name
                for name in ("allocation", "intervention_model", "primary_purpose", "masking")
            }
        ),
    ),
    "conditions.txt": (_Table({"name": "conditions"}, listed=True),),
    "keywords.txt": (_Table({"name": "keywords"}, listed=True),),
    "interventions.txt": (_Table({"name": "interventions"}, listed=True),),
    "design_outcomes.txt": (
        _Table({"measure": "primary_outcomes"}, listed=True, only=("outcome_type", "primary")),
    ),
    "sponsors.txt": (_Table({"name": "lead_sponsor"}, only=("lead_or_collaborator", "lead")),),
    # The column that names the kind of an id was renamed in 2023.
    "id_information.txt": tuple(
        _Table({"id_value": target}, listed=target == "nct_id_aliases", only=(column, value))
        for column in ("id_source", "id_type")
        for value, target in (("org_study_id", "org_study_id"), ("nct_alias", "nct_id_aliases"))
    ),
}  # fmt: skip


class _Cell(msgspec.Struct, array_like=True, gc=False):
    """One value of one study, as bytes: not all of them need be UTF-8."""

    nct_id: bytes
    name: str
    value: bytes
    listed: bool


_BY_COLUMNS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"overall_status", "brief_title"}), _STUDIES),
    (frozenset({"criteria", "gender"}), "eligibilities.txt"),
    (frozenset({"allocation", "masking"}), "designs.txt"),
    (frozenset({"intervention_type", "name"}), "interventions.txt"),
    (frozenset({"outcome_type", "measure"}), "design_outcomes.txt"),
    (frozenset({"lead_or_collaborator", "name"}), "sponsors.txt"),
    (frozenset({"id_value"}), "id_information.txt"),
)
"""Columns that tell a table whatever its file is called; the others are alike."""
_UNUSED = frozenset(
    f"{name}.txt"
    for name in (
        "baseline_counts", "baseline_measurements", "browse_conditions", "browse_interventions",
        "calculated_values", "central_contacts", "countries", "design_group_interventions",
        "design_groups", "documents", "drop_withdrawals", "facilities", "facility_contacts",
        "facility_investigators", "intervention_other_names", "ipd_information_types", "links",
        "milestones", "outcome_analyses", "outcome_analysis_groups", "outcome_counts",
        "outcome_measurements", "outcomes", "overall_officials", "participant_flows",
        "pending_results", "provided_documents", "reported_event_totals", "reported_events",
        "responsible_parties", "result_agreements", "result_contacts", "result_groups",
        "retractions", "search_results", "search_term_results", "study_references",
        "study_searches",
    )
)  # fmt: skip
"""Tables of the export that hold nothing of a `Trial`."""


def aact_table(name: str, header: bytes, *, unused: bool = False) -> str | None:
    """Which table of AACT a file of that name and first line is, None if it is none.

    With `unused`, a table of the export of which nothing is needed is "" instead.
    """
    if b"|" not in header or b"nct_id" not in header:
        return None
    columns = set(_split(header.removeprefix(b"\xef\xbb\xbf"), 0) or ())
    plain = name.rpartition("/")[2].lower()
    for packing in (".gz", ".zst", ".bz2", ".xz"):
        plain = plain.removesuffix(packing)
    if "nct_id" not in columns:
        return None
    if plain in _TABLES and columns & {
        column for table in _TABLES[plain] for column in table.columns
    }:
        return plain
    if unused and plain in _UNUSED:
        return ""
    return next((table for needed, table in _BY_COLUMNS if needed <= columns), None)


def aact_entries(path: Path, entries: list[Entry]) -> tuple[set[str], set[str]]:
    """Names of the entries of an archive that are AACT's tables, and of those not needed."""
    named = [entry for entry in entries if entry.name.rpartition("/")[2].lower() in _TABLES]
    if not named:
        return set(), set()
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in named:
                with archive.open(entry.name) as file:
                    if aact_table(entry.name, file.readline(2**16)):
                        break
            else:
                return set(), set()
    except DAMAGE as error:
        raise _damaged(path, error) from error
    unused = {entry.name for entry in entries if entry.name.rpartition("/")[2].lower() in _UNUSED}
    return {entry.name for entry in named}, unused


def read_aact(path: Path, names: Collection[str] | None = None) -> Iterator[RawStudy | Reject]:
    """One row for each study of an archive's tables, and a reject for each line not readable.

    `names` are the entries that are tables; None: those that are called as in the export.

    Raises:
        RecordError: a table is damaged, or lacks its `nct_id` column.
    """
    with zipfile.ZipFile(path) as archive:
        among = archive.namelist() if names is None else names
        named = [(name.rpartition("/")[2].lower(), name) for name in sorted(among)]
        opened = [(table, _Entry(archive, name)) for table, name in named if table in _TABLES]
        yield from read_aact_tables(opened, printable(path.name))


class _Entry(NamedTuple):
    """A table in an archive."""

    archive: zipfile.ZipFile
    name: str

    def open(self) -> IO[bytes]:
        return self.archive.open(self.name)


def read_aact_tables(tables: list[tuple[str, Any]], origin: str) -> Iterator[RawStudy | Reject]:
    """One row for each study of the tables, and a reject for each line that cannot be read.

    A table is its name in the export, such as "studies.txt", and its path or stream. Studies are
    those of `studies.txt`; without it, those that any of the tables names.

    Raises:
        RecordError: a table is damaged, or lacks its `nct_id` column.
    """
    whole = any(table == _STUDIES for table, _ in tables)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            yield from _divide(tables, origin, folder, whole=whole)
        except DAMAGE as error:
            raise _damaged(origin, error) from error
        for bucket in range(BUCKETS):
            if (folder / f"{bucket}").is_file():
                yield from _joined(folder / f"{bucket}", origin)


def _damaged(what: object, error: Exception) -> FileError:
    return FileError(f"{what}: damaged ({error}); download it again", reason="damaged_file")


def _divide(
    tables: list[tuple[str, Any]], origin: str, folder: Path, *, whole: bool
) -> Iterator[Reject]:
    """Write every value needed into the bucket of its study."""
    encode = msgspec.msgpack.Encoder().encode
    with ExitStack() as stack:
        buckets: dict[int, IO[bytes]] = {}
        for table, source in tables:
            where = f"{origin}:{table}" if len(tables) > 1 or isinstance(source, _Entry) else origin
            if isinstance(source, Path):
                opened: Any = source.open("rb")
            elif isinstance(source, _Entry):
                opened = source.open()
            else:
                opened = nullcontext(source)  # the stream is the caller's to close
            with opened as lines:
                for item in _cells(
                    lines, _TABLES[table], where, mark=not whole or table == _STUDIES
                ):
                    if isinstance(item, Reject):
                        yield item
                        continue
                    packed = encode(item)
                    number = zlib.crc32(item.nct_id) % BUCKETS
                    if number not in buckets:
                        file = (folder / f"{number}").open("wb")
                        buckets[number] = stack.enter_context(file)
                    bucket = buckets[number]
                    bucket.write(len(packed).to_bytes(4, "little"))
                    bucket.write(packed)


def _cells(
    lines: IO[bytes], wanted: tuple[_Table, ...], origin: str, *, mark: bool
) -> Iterator[_Cell | Reject]:
    """The values wanted of a table; with `mark`, also one that says that the study exists."""
    header = _split(lines.readline(MAX_LINE_BYTES).removeprefix(b"\xef\xbb\xbf"), 0)
    if header is None or "nct_id" not in header:
        raise RecordError(f"{origin}: no column nct_id; this is no AACT table, export it again")
    number = 1
    while line := lines.readline(MAX_LINE_BYTES):
        number += 1
        if not line.strip():
            continue
        cells = _split(line, len(header))
        if cells is None:
            detail = f"not the {len(header)} cells that the header has"
            yield Reject(
                origin=f"{origin}:{number}", reason="bad_row", detail=detail, nct_id=nct_id_in(line)
            )
            continue
        row = dict(zip(header, cells, strict=True))
        nct_id = row["nct_id"].strip().encode("utf-8", "surrogateescape")
        if mark:
            yield _Cell(nct_id, "", b"", False)
        for table in wanted:
            if table.only and row.get(table.only[0], "").strip().lower() != table.only[1]:
                continue
            for column, name in table.columns.items():
                value = row.get(column, "")
                if value:
                    packed = value.encode("utf-8", "surrogateescape")
                    yield _Cell(nct_id, name, packed, table.listed)


def _split(line: bytes, expected: int) -> list[str] | None:
    """The cells of a line: as CSV, or else at its bars; None if neither gives as many."""
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        cells = next(csv.reader([text], delimiter="|"), [])
    except csv.Error:
        cells = []
    if not expected or len(cells) == expected:
        return cells
    cells = [cell.removeprefix('"').removesuffix('"') for cell in text.split("|")]
    return cells if len(cells) == expected else None


def _joined(file: Path, origin: str) -> Iterator[RawStudy]:
    """The studies of one bucket, by NCT id; rows of studies that studies.txt lacks are left."""
    studies: dict[bytes, dict[str, str | tuple[str, ...]]] = {}
    known: set[bytes] = set()
    decode = msgspec.msgpack.Decoder(_Cell).decode
    with file.open("rb") as stream:
        while size := stream.read(4):
            cell = decode(stream.read(int.from_bytes(size, "little")))
            if not cell.name:
                known.add(cell.nct_id)
                continue
            row = studies.setdefault(cell.nct_id, {})
            value = cell.value.decode("utf-8", "surrogateescape")
            if cell.listed:
                held = row.get(cell.name, ())
                row[cell.name] = (*held, value)
            else:
                row[cell.name] = value
    for nct_id in sorted(known):
        name = nct_id.decode("utf-8", "surrogateescape")
        row = {"nct_id": name, **studies.get(nct_id, {})}
        yield RawStudy(f"{origin}:{name!a}".replace("'", ""), "aact", row)
