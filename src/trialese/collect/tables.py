"""Tables -> raw studies: the website's CSV download, and texts with an identifier.

Parquet and Arrow files (a `datasets` folder saved to disk) with texts -> raw studies."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from trialese.collect.parse_table import CSV_ID_COLUMN, TEXT_COLUMNS
from trialese.collect.source import RawStudy, Reject, StudyFormat
from trialese.errors import RecordError

__all__ = ["MAX_CELL_CHARACTERS", "format_of_columns", "is_columnar", "read_columnar", "read_csv"]


MAX_CELL_CHARACTERS = 16 * 2**20
"""Locations of the largest trials exceed the csv module's 131,072 by far."""
_DELIMITERS = ",\t|;"


def read_csv(stream: BufferedReader, origin: str) -> Iterator[RawStudy | Reject]:
    """The rows of a delimited table with a header, as mappings from column name to cell.

    Raises:
        RecordError: the header has neither the website's columns nor a text column.
    """
    # Bytes that are no UTF-8 become lone surrogates, so that only their row is rejected.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _rows(text, origin)
    finally:
        text.detach()  # the stream is the caller's to close


def _rows(text: io.TextIOWrapper, origin: str) -> Iterator[RawStudy | Reject]:
    header = text.readline(2**16)
    delimiter = max(_DELIMITERS, key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    kind = format_of_columns(names, origin)
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    rows = csv.reader(text, delimiter=delimiter)
    number = 1
    while True:
        number += 1
        where = f"{origin}:{number}"
        try:
            cells = next(rows, None)
        except csv.Error as error:
            yield Reject(origin=where, reason="bad_row", detail=f"{error}")
            continue
        if cells is None:
            return
        if cells and len(cells) != len(names):
            detail = f"{len(cells)} cells where the header has {len(names)}"
            yield Reject(origin=where, reason="bad_row", detail=detail)
        elif cells:
            yield RawStudy(where, kind, dict(zip(names, cells, strict=True)))


def format_of_columns(names: list[str], origin: str) -> StudyFormat:
    """What a table with these columns holds.

    Raises:
        RecordError: nothing known.
    """
    if CSV_ID_COLUMN in names and ("Study Title" in names or "Title" in names):
        return "csv"
    if any(name.lower() in TEXT_COLUMNS for name in names):
        return "text"
    shown = ", ".join(names)[:80]
    raise RecordError(
        f"{origin}: a table needs a column {TEXT_COLUMNS[0]!r}, or {CSV_ID_COLUMN!r} and "
        f"'Study Title' as the website writes them; this one has {shown!r}"
    )


_BATCH_ROWS = 500
_PARQUET = b"PAR1"
_ARROW_FILE = b"ARROW1"
_ARROW_STREAM = b"\xff\xff\xff\xff"
"""The continuation marker that a stream of record batches, as `datasets` writes it, begins with."""


def is_columnar(head: bytes) -> bool:
    """Whether a file that begins so is Parquet or Arrow."""
    return head.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM))


def read_columnar(path: Path) -> Iterator[RawStudy]:
    """The rows of the file, as mappings from column name to text; other cells become text.

    Raises:
        RecordError: damaged, or without a text column.
    """
    import pyarrow as pa

    position = 0
    try:
        for batch in _batches(path):
            kind = format_of_columns(batch.schema.names, path.name)
            for row in batch.to_pylist():
                position += 1
                cells = {name: _text(value) for name, value in row.items()}
                yield RawStudy(f"{path.name}:{position}", kind, cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: truncated or damaged ({error}); make it again") from error


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        head = file.read(len(_ARROW_FILE))
        file.seek(0)
        if head.startswith(_PARQUET):
            with pq.ParquetFile(file) as parquet:
                format_of_columns(parquet.schema_arrow.names, path.name)
                yield from parquet.iter_batches(_BATCH_ROWS)
        elif head.startswith(_ARROW_FILE):
            with pa.ipc.open_file(file) as reader:
                for index in range(reader.num_record_batches):
                    yield reader.get_batch(index)
        else:
            with pa.ipc.open_stream(file) as reader:
                yield from reader


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
