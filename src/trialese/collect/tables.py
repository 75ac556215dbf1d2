"""The one reader of tables, of whatever kind, for every command that takes one.

Text is read by `trialese.collect.delimited`, rows of JSON here, and Excel, Parquet and Arrow by a
process of their own (`trialese.collect.guarded`); `read_table` tells them apart by their content.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, cast

from trialese.collect.delimited import (
    HEADER_LINES,
    NAMING_COLUMNS,
    TEXT_COLUMNS,
    BadRow,
    Lines,
    TableRow,
    column_named,
    columns_of,
    columns_told,
    find_column,
    format_of_columns,
    header_place,
    known_columns,
    plain_name,
    read_delimited,
    text_lines,
)
from trialese.collect.guarded import is_columnar, is_workbook, read_guarded
from trialese.collect.source import RawStudy, Reject, StudyFormat
from trialese.collect.vocabulary import nct_id_in
from trialese.errors import RecordError

__all__ = [
    "begins_as_a_file",
    "column_of_ids",
    "column_of_texts",
    "read_columnar",
    "read_csv",
    "read_json_rows",
    "read_table",
    "text_cells",
    "unnested",
]

logger = logging.getLogger(__name__)

MAX_JSON_CHARACTERS = 256 * 2**20
"""Of one JSON document that is no JSON lines, which must be held whole."""
_NESTED = ("data", "fields", "inputs")
"""Where label tools put a row's own columns: Label Studio, Argilla 2, Argilla 1."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_FILE_BEGINS = re.compile(
    rb"PK\x03\x04|PAR1|ARROW1|\x1f\x8b|\x28\xb5\x2f\xfd|\xd0\xcf\x11\xe0"
    rb"|(?:\xef\xbb\xbf)?\s*(?:\{\s*\"|\[\s*[{\"]|<\?xml|<clinical_study)"
)
"""Archives, Parquet, Arrow, old workbooks; JSON and XML, which no sentence begins as."""


def begins_as_a_file(stream: BufferedReader, where: str) -> bool:
    """Whether bytes begin as a table or a file of records does, not as lines of text.

    Nothing is read.

    Raises:
        RecordError: a first line that names columns, but none that is known to hold texts.
    """
    if _FILE_BEGINS.match(stream.peek(256)[:256]):
        return True
    names = columns_told(stream)
    if names:
        format_of_columns(names, where)
    return bool(names)


def column_of_texts(names: Sequence[str], where: str, cure: str) -> str | None:
    """The one column of a table with a known name of texts, which is logged; None without one.

    Raises:
        RecordError: there are several, so that it would be a guess; ends with the `cure`.
    """
    found = known_columns(names, TEXT_COLUMNS)
    if len(found) > 1:
        which = " or ".join(map(repr, found))
        raise RecordError(f"{where}: the texts may be those of {which}; {cure}")
    if found and plain_name(found[0]) != TEXT_COLUMNS[0]:
        logger.info("%s: texts from the column %r", where, found[0])
    return found[0] if found else None


def column_of_ids(names: Sequence[str], where: str) -> str | None:
    """The column that names a table's rows, the best known one; told where it is one of several.

    A mere index, such as pandas writes, is none.
    """
    best = find_column(names, NAMING_COLUMNS)
    others = [name for name in known_columns(names, NAMING_COLUMNS) if name != best]
    if others:
        logger.info(
            "%s: rows are named by the column %r, not %s; --id-column NAME names another",
            where, best, " or ".join(map(repr, others)),
        )  # fmt: skip
    return best


def text_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row as text, {} unless one of its columns holds texts.

    What a label tool nests below `data`, `fields` or `inputs` counts as columns of the row.
    """
    row = unnested(row)
    if find_column(list(row), TEXT_COLUMNS) is None:
        return {}
    return {name: _text(value) for name, value in row.items()}


def unnested(row: Mapping[str, Any], wanted: Sequence[str | None] = ()) -> Mapping[str, Any]:
    """The row with the columns that a label tool nests below `data`, `fields` or `inputs`, if one
    of them is `wanted` or, unless the row has one itself, known to hold texts.

    Of nested columns of which neither is true, the only one that is text is the text.
    """
    asked = [name for name in wanted if name and find_column(list(row), [name]) is None]
    if find_column(list(row), TEXT_COLUMNS) is not None and not asked:
        return row
    for name in _NESTED:
        inner = row.get(name)
        if not isinstance(inner, dict):
            continue
        written = [key for key, value in inner.items() if isinstance(value, str)]
        if find_column(list(inner), asked or TEXT_COLUMNS) is None:
            if asked or len(written) != 1:
                continue
            inner = {**inner, TEXT_COLUMNS[0]: inner[written[0]]}
        return {**{key: value for key, value in row.items() if key != name}, **inner}
    return row


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def read_csv(stream: BufferedReader, origin: str) -> Iterator[RawStudy | Reject]:
    """The rows of a delimited table with a header, as mappings from column name to cell.

    Raises:
        RecordError: the header has neither the website's columns nor a text column.
    """
    kind: StudyFormat | None = None
    for row in read_delimited(stream, origin):
        where = f"{origin}:{row.line}"
        if isinstance(row, BadRow):
            yield Reject(origin=where, reason=row.reason, detail=row.detail, nct_id=row.nct_id)
        else:
            kind = kind or format_of_columns(list(row.cells), origin)
            yield RawStudy(where, kind, row.cells)


def read_json_rows(stream: BufferedReader, origin: str) -> Iterator[TableRow | BadRow]:
    """The objects of a JSON array, or of JSON lines, as rows.

    Columns of values, as pandas writes them, and an array in the only field are understood too.

    Raises:
        RecordError: no JSON, or a line that is beyond the limits.
    """
    with text_lines(stream, origin) as lines:
        yield from _json_rows(lines)


def _json_rows(lines: Lines) -> Iterator[TableRow | BadRow]:
    number = characters = 0
    held: list[tuple[int, str]] = []  # an array, or one object, which may stand over several lines
    while (taken := lines.take()) is not None:
        line, content = taken
        characters += len(content or "")
        if content is None or (held and characters > MAX_JSON_CHARACTERS):
            raise RecordError(
                f"{lines.origin}: line {line}: too long for one JSON (MAX_ROW_CHARACTERS, "
                "MAX_JSON_CHARACTERS); write one object a line"
            )
        if not content.strip():
            continue
        if len(held) == 1 and _parsed(held[0][1])[1] is not None:
            number += 1
            yield _json_row(number, *held.pop())
        if number:
            number += 1
            yield _json_row(number, line, content)
        else:
            held.append((line, content))
    if held:
        yield from _json_document(held, lines.origin)


def _json_document(held: list[tuple[int, str]], origin: str) -> Iterator[TableRow | BadRow]:
    """The rows of a document over these lines; where it is none, what is wrong with each line."""
    what, found = _parsed("".join(content for _, content in held), any_json=True)
    if what and held[0][1].lstrip().startswith("["):
        raise RecordError(f"{origin}: no JSON ({what}); write an array of objects")
    if what:
        for position, (line, content) in enumerate(held, start=1):
            yield _json_row(position, line, content)
        return
    for position, row in enumerate(_unboxed(found), start=1):
        if isinstance(row, dict):
            yield TableRow(position, position, row)
        else:
            detail = "is no JSON object; write an array of objects"
            yield BadRow(position, position, "bad_json", detail)


def _parsed(content: str, *, any_json: bool = False) -> tuple[str, Any]:
    """What is wrong with a JSON text, and the object in it."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        return getattr(error, "msg", "nested too deeply"), None
    return ("", found) if any_json or isinstance(found, dict) else ("", None)


def _json_row(number: int, line: int, content: str) -> TableRow | BadRow:
    what, row = _parsed(content)
    if row is not None:
        return TableRow(number, line, row)
    detail = f"is no JSON ({what})" if what else "is no JSON object"
    return BadRow(
        number,
        line,
        "bad_json",
        f"{detail}; write one object a line",
        nct_id_in(content[:100_000].encode(errors="replace")),
    )


def _unboxed(found: Any) -> list[Any]:
    """The rows in a JSON document: an array of them, one of them, or columns of values."""
    if isinstance(found, list):
        return found
    if not isinstance(found, dict) or not found:
        return [found]
    values = list(found.values())
    if len(values) == 1 and isinstance(values[0], list):
        return values[0]
    column = find_column(list(found), TEXT_COLUMNS)
    if column is not None and isinstance(found[column], (dict, list)):
        if all(isinstance(each, dict) for each in values):
            keys = list(found[column])
            return [{name: each.get(key) for name, each in found.items()} for key in keys]
        if all(isinstance(each, list) and len(each) == len(values[0]) for each in values):
            return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]
    return [found]


def read_columnar(path: Path) -> Iterator[RawStudy]:
    """The rows of a Parquet, Arrow or Excel file, as mappings from column name to text.

    Raises:
        RecordError: damaged, hostile or beyond a limit, or without a text column.
    """
    kind: StudyFormat | None = None
    for row in _guarded_rows(path, (), any_header=False):
        kind = kind or format_of_columns(list(row.cells), path.name)
        cells = {name: _text(value) for name, value in row.cells.items()}
        yield RawStudy(f"{path.name}:{row.line}", kind, cells)


def _guarded_rows(path: Path, wanted: Sequence[str], *, any_header: bool) -> Iterator[TableRow]:
    """Lines count from 1 where a header stands in them, as in a workbook, else they are rows."""
    titled = is_workbook(path)
    sheet = 0
    notes, held, rows = _beginning(path, sheet, titled=titled)
    named, place = _named(held, wanted)
    while titled and place is None:  # notes may stand on the first sheet, the table on another
        sheet += 1
        more = _beginning(path, sheet, titled=titled)
        if not more[1]:
            break
        found, place = _named(more[1], wanted)
        if place is not None:
            (notes, held, rows), named = more, found
    if not held:
        raise RecordError(f"{path}: no header; give a table that names its columns")
    for note in notes:
        logger.warning("%s: %s", path, note)
    if place is None:
        for name in wanted:
            column_named(named[0], name, str(path))
        if not any_header:
            format_of_columns(named[0], path.name)
        place = 0
    elif place:
        logger.warning("%s: left out: %d rows above the header", path, place)
    names = columns_of(named[place], str(path), wanted)
    number = 0
    rest = (row for row in rows if not isinstance(row, str))
    for line, row in enumerate(chain(held[place + 1 :], rest), start=place + 2 if titled else 1):
        if titled and all(cell is None or cell == "" for cell in row):
            continue  # a blank line
        number += 1
        pairs = enumerate(zip(names, row, strict=False))
        cells = {name: cell for column, (name, cell) in pairs if name or not column}
        yield TableRow(number, line, cells)


_Rows: TypeAlias = "Iterator[list[Any] | str]"


def _beginning(path: Path, sheet: int, *, titled: bool) -> tuple[list[str], list[list[Any]], _Rows]:
    """(what is odd, the rows that may hold the header, the rest) of a file or of a sheet of it."""
    rows = read_guarded(path, sheet=sheet)
    notes: list[str] = []
    held: list[list[Any]] = []
    for row in rows:
        if isinstance(row, str):
            notes.append(row)
            continue
        held.append(row)
        if not titled or len(held) == HEADER_LINES:
            break
    return notes, held, rows


def _named(held: list[list[Any]], wanted: Sequence[str]) -> tuple[list[list[str]], int | None]:
    """The first rows as names of columns, and which of them is the header."""
    named = [["" if cell is None else str(cell).strip() for cell in row] for row in held]
    return named, header_place(named, wanted)


def read_table(path: Path, *, wanted: Sequence[str] = ()) -> Iterator[TableRow | BadRow]:
    """The rows of a table of any kind, told by its content; bare, gzip or zstd.

    `wanted` are columns that must be there, whatever they hold.

    Raises:
        RecordError: no such file, of no known kind, or one that cannot be read as a whole.
    """
    try:
        with path.open("rb") as file:
            head = file.peek(8)[:8]
            if is_columnar(head) or is_workbook(path):
                yield from _guarded_rows(path, wanted, any_header=True)
                return
            _refuse_foreign(path, head)
            with _unpacked(file, head) as stream:
                first = stream.peek(256)[:256].lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")[:1]
                if first in (b"{", b"["):
                    yield from read_json_rows(stream, str(path))
                else:
                    yield from read_delimited(stream, str(path), wanted=wanted, any_header=True)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise RecordError(f"{path}: no such file; check the path") from error
    except (EOFError, zlib.error, OSError) as error:
        raise RecordError(f"{path}: truncated or damaged ({error}); make it again") from error


def _refuse_foreign(path: Path, head: bytes) -> None:
    """Do nothing with text; what is named as another kind, or begins as one, is no table here."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        raise RecordError(f"{path}: no readable Parquet file; make it again")
    binary = head.startswith((b"PK\x03\x04", b"%PDF", b"\x89PNG", b"\xff\xd8"))
    if binary or suffix in (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".arrow"):
        raise RecordError(
            f"{path}: unknown kind of file; give .tsv, .csv, .json, .jsonl or .parquet "
            "(a workbook: save it as CSV)"
        )


@contextmanager
def _unpacked(file: BufferedReader, head: bytes) -> Iterator[BufferedReader]:
    if head.startswith(_GZIP):
        with gzip.GzipFile(fileobj=file) as inner:
            yield io.BufferedReader(cast(Any, inner))
    elif head.startswith(_ZSTD):
        import pyarrow as pa

        with pa.CompressedInputStream(file, "zstd") as inner:
            yield io.BufferedReader(inner)
    else:
        yield file
