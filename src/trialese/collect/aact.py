"""AACT's pipe-delimited export (a zip of tables) -> one row a study, joined by NCT id.

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
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import msgspec

from trialese.collect.source import RawStudy, Reject
from trialese.collect.zip_files import Entry
from trialese.errors import RecordError

__all__ = ["is_aact", "read_aact"]

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


def is_aact(entries: list[Entry]) -> bool:
    """Whether the entries of an archive are AACT's tables."""
    names = {entry.name.rpartition("/")[2] for entry in entries}
    return _STUDIES in names and len(names & _TABLES.keys()) > 1


def read_aact(path: Path) -> Iterator[RawStudy | Reject]:
    """One row for each study of the export, and a reject for each line that cannot be read.

    Raises:
        RecordError: a table is damaged, or lacks its `nct_id` column.
    """
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(path) as archive:
        folder = Path(name)
        try:
            yield from _divide(archive, path, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise RecordError(f"{path}: damaged ({error}); download it again") from error
        for bucket in range(BUCKETS):
            yield from _joined(folder / f"{bucket}", path)


def _divide(archive: zipfile.ZipFile, path: Path, folder: Path) -> Iterator[Reject]:
    """Write every value needed into the bucket of its study."""
    encode = msgspec.msgpack.Encoder().encode
    with ExitStack() as stack:
        buckets = [stack.enter_context((folder / f"{n}").open("wb")) for n in range(BUCKETS)]
        for info in archive.infolist():
            table = PurePosixPath(info.filename).name
            if table not in _TABLES:
                continue
            origin = f"{path.name}:{table}"
            with archive.open(info) as lines:
                for item in _cells(lines, _TABLES[table], origin, mark=table == _STUDIES):
                    if isinstance(item, Reject):
                        yield item
                        continue
                    packed = encode(item)
                    bucket = buckets[zlib.crc32(item.nct_id) % BUCKETS]
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
            yield Reject(origin=f"{origin}:{number}", reason="bad_row", detail=detail)
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


def _joined(file: Path, path: Path) -> Iterator[RawStudy]:
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
        yield RawStudy(f"{path.name}:{name!a}".replace("'", ""), "aact", row)
