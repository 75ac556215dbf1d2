"""Tables -> raw studies: the website's CSV download, and texts with an identifier."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from io import BufferedReader

from trialese.collect.parse_table import CSV_ID_COLUMN, TEXT_COLUMNS
from trialese.collect.source import RawStudy, Reject, StudyFormat
from trialese.errors import RecordError

__all__ = ["MAX_CELL_CHARACTERS", "format_of_columns", "read_csv"]

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
