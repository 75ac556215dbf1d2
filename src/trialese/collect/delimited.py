"""Tables in text: separators, encodings, quotes, headers, and the names of columns we know.

A row that cannot be read is a `BadRow` with its line, so that it is told or counted. The names of
columns are here alone: every command that takes a table knows the same.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedReader
from typing import Any, NamedTuple

from trialese.collect.guarded import MAX_CELL_CHARACTERS
from trialese.collect.source import StudyFormat
from trialese.collect.vocabulary import nct_id_in
from trialese.errors import RecordError

__all__ = [
    "CSV_ID_COLUMN",
    "CSV_REASON_COLUMN",
    "HEADER_LINES",
    "ID_COLUMNS",
    "LABEL_COLUMNS",
    "MAX_ROW_CHARACTERS",
    "NAMING_COLUMNS",
    "REASON_COLUMNS",
    "TEXT_COLUMNS",
    "TITLE_COLUMNS",
    "BadRow",
    "Lines",
    "TableRow",
    "column_named",
    "columns_of",
    "columns_told",
    "find_column",
    "format_of_columns",
    "header_place",
    "is_unicode",
    "known_columns",
    "plain_name",
    "read_delimited",
    "text_lines",
]

logger = logging.getLogger(__name__)

MAX_ROW_CHARACTERS = 2 * MAX_CELL_CHARACTERS
"""Of one row, and of one line: longer ones are refused, and never held."""
MAX_RESCANNED_CHARACTERS = 8 * MAX_CELL_CHARACTERS
"""After looking in vain for the ends of quoted cells for so long, a cell must end on its line."""
MAX_CELL_LINES = 100_000
"""A quoted cell over more lines is taken for one whose quote is never closed."""
HEADER_LINES = 20
"""The header is looked for in so many lines: titles may stand above it."""
MANY_LINES = 50
"""A cell over more lines is told: long criteria have so many, swallowed rows as well."""

REASON_COLUMNS = (
    "why_stopped", "stop_reason", "why_study_stopped", "reason_stopped", "reason_for_stopping",
    "stopping_reason", "termination_reason",
)  # fmt: skip
TEXT_COLUMNS = (
    "text", "document", "input", *REASON_COLUMNS, "sentence", "content", "contents", "passage",
)  # fmt: skip
"""Names of the column that holds a text, best first; compared as `plain_name` gives them."""
ID_COLUMNS = (
    "nct_id", "nct_number", "nct", "id", "trial_id", "example_id", "doc_id", "document_id", "",
    "Unnamed: 0",
)  # fmt: skip
"""Names of the column that names a row, best first; "" is pandas' index, the first column."""
NAMING_COLUMNS = ID_COLUMNS[:-2]
"""Without pandas' index, which is a mere number."""
TITLE_COLUMNS = ("title", "brief_title", "study_title")
LABEL_COLUMNS = ("label_text", "label_name", "label_names", "labels", "label", "annotation")
"""Names of the column of labels, best first: beside `label_text`, `label` holds mere numbers."""
CSV_ID_COLUMN = "NCT Number"
CSV_REASON_COLUMN = "Why Stopped"
"""Not the website's own: people add it to what they have downloaded, under several names."""
_CSV_TITLES = ("Study Title", "Title")
_CSV_COLUMNS = (
    CSV_ID_COLUMN, *_CSV_TITLES, "Study URL", "URL", "Acronym", "Study Status", "Status",
    "Brief Summary", "Study Results", "Conditions", "Interventions", "Primary Outcome Measures",
    "Secondary Outcome Measures", "Other Outcome Measures", "Outcome Measures", "Sponsor",
    "Collaborators", "Sponsor/Collaborators", "Sex", "Gender", "Age", "Phases", "Enrollment",
    "Funder Type", "Funded Bys", "Study Type", "Study Design", "Study Designs", "Other IDs",
    "Start Date", "Primary Completion Date", "Completion Date", "First Posted",
    "Results First Posted", "Last Update Posted", "Locations", "Study Documents", "Rank",
)  # fmt: skip
"""The columns of the website's download in both of its generations, as `parse_csv` reads them."""
_DELIMITERS = ",\t;|"
_NONE = "\x1f"
"""The delimiter of a table of one column, which has none: a unit separator stands in no text."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: its position among the rows, from 1, the line (or position) it begins on, cells."""

    number: int
    line: int
    cells: Mapping[str, Any]
    """By the name in the header; text in delimited tables, any value in the others."""
    repaired: str = ""
    """What is wrong with a quote in it, which was then read as text; "" if nothing is."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, and why."""

    number: int
    line: int
    reason: str
    """A short snake_case word to count by."""
    detail: str
    nct_id: str = ""


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """The name as names are compared: letters and digits alone, in lower case."""
    return "".join(filter(str.isalnum, name.casefold()))


def is_unicode(text: str) -> bool:
    """Whether the text can be stored: lone surrogates stand for bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_column(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The column of a table that is the first of the `known` ones, best first; None without one.

    An unnamed column counts only as the first of the table.
    """
    plain = {plain_name(name): name for name in reversed(names) if plain_name(name)}
    for name in known:
        if name == "" and names and names[0] == "":
            return ""
        if (found := plain.get(plain_name(name))) is not None:
            return found
    return None


def known_columns(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """All columns of a table that have one of the `known` names, in the table's order."""
    plain = set(map(plain_name, known)) - {""}
    return [name for name in names if plain_name(name) in plain]


def column_named(names: Sequence[str], asked: str, where: str, cure: str = "") -> str:
    """The column that somebody asked for by name, compared as all names are.

    Raises:
        RecordError: there is none; lists those that there are, and ends with the `cure`.
    """
    if asked in names:
        return asked
    found = find_column(names, [asked]) if plain_name(asked) else None
    if found is None:
        end = f"; {cure}" if cure else ""
        raise RecordError(f"{where}: no column {asked!r}; the table has {_shown(names)}{end}")
    return found


def format_of_columns(names: Sequence[str], origin: str) -> StudyFormat:
    """What a table with these columns holds.

    Raises:
        RecordError: nothing known.
    """
    kind = _kind_of(names)
    if kind is None:
        raise RecordError(
            f"{origin}: a table needs a column {TEXT_COLUMNS[0]!r}, or {CSV_ID_COLUMN!r} and "
            f"'Study Title' as the website writes them; this one has {_shown(names)!r}; texts are "
            f"also taken from {', '.join(TEXT_COLUMNS[1:])} (predict: from --column NAME)"
        )
    return kind


def _kind_of(names: Sequence[str]) -> StudyFormat | None:
    plain = {plain_name(name) for name in names}
    if plain_name(CSV_ID_COLUMN) in plain and not plain.isdisjoint(map(plain_name, _CSV_TITLES)):
        return "csv"
    return None if find_column(names, TEXT_COLUMNS) is None else "text"


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(filter(None, (name.strip() for name in names)))
    return shown if len(shown) <= 200 else f"{shown[:199]}…"


def read_delimited(
    stream: BufferedReader,
    origin: str,
    *,
    wanted: Sequence[str] = (),
    any_header: bool = False,
) -> Iterator[TableRow | BadRow]:
    """The rows of a table in text: separated by comma, tab, semicolon, pipe or what `sep=` says.

    UTF-8, UTF-16 (told by its mark or its zeros) or UTF-32; a line that is no UTF-8 is read as
    Windows-1252, which is told. Lines end in LF, CRLF or CR. The header is the first line with a
    column that holds texts, or all those `wanted`; what stands above it is told as a title. With
    `any_header` the first line is the header where there is no such line.

    A quoted cell may span lines. Where its quote is never closed, is closed within a word, or
    would swallow lines that are rows themselves, the line is read with the quote as text.

    Raises:
        RecordError: no such header, a known column twice, or no text at all.
    """
    with text_lines(stream, origin) as lines:
        header = _header(lines, wanted, any_header=any_header)
        yield from _rows(lines, *header)


@contextmanager
def text_lines(stream: BufferedReader, origin: str) -> Iterator[Lines]:
    """The lines of a stream of bytes, in any encoding; what is odd in them is told at last.

    Raises:
        RecordError: not the encoding that it begins as.
    """
    encoding = _encoding_of(stream.peek(256)[:256])
    # Bytes that are no UTF-8 become lone surrogates, which tell the lines to look at again.
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
    lines = Lines(text, origin)
    try:
        yield lines
        lines.tell()
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{origin}: not UTF-8, and not the {encoding.upper()} that it begins as "
            f"({error.reason}); save it as UTF-8"
        ) from error
    finally:
        text.detach()  # the stream is the caller's to close


def columns_told(stream: BufferedReader) -> list[str]:
    """The columns that the first line names, one of which we know; [] if it is no header.

    Nothing is read. A line by itself is the name of a column only if it is one of texts.
    """
    head = stream.peek(2**13)[: 2**13]
    encoding = _encoding_of(head[:256])
    lines = head.decode(encoding, errors="ignore").lstrip().splitlines()[:2]
    if lines and lines[0].lower().startswith("sep="):
        lines = lines[1:]
    named = [_names(line, each) for line in lines[:1] for each in _DELIMITERS]
    known = (*filter(None, ID_COLUMNS), *TITLE_COLUMNS)
    headers = [
        names
        for names in named
        if _kind_of(names) is not None or (len(names) > 1 and find_column(names, known) is not None)
    ]
    return max(headers, key=lambda names: (_known(names, ()), len(names)), default=[])


def _encoding_of(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    half = len(head) // 2
    even, odd = head[0::2].count(0), head[1::2].count(0)
    # A header is mostly ASCII, so every other byte of it is zero in UTF-16.
    if half >= 4 and odd > 0.7 * half and even < 0.1 * half:
        return "utf-16-le"
    if half >= 4 and even > 0.7 * half and odd < 0.1 * half:
        return "utf-16-be"
    return "utf-8-sig"


class Lines:
    """The lines of a text with their numbers, of which some can be put back; notes what is odd."""

    def __init__(self, text: io.TextIOWrapper, origin: str) -> None:
        self._text, self.origin = text, origin
        self._back: deque[tuple[int, str | None]] = deque()
        self._number = 0
        self._notes: dict[str, tuple[int, int]] = {}

    def take(self) -> tuple[int, str | None] | None:
        """The next line, with its end; None in the place of one beyond all limits, at last None."""
        if self._back:
            return self._back.popleft()
        line = self._text.readline(MAX_ROW_CHARACTERS + 1)
        if not line:
            return None
        self._number += 1
        if len(line) > MAX_ROW_CHARACTERS and not line.endswith(("\n", "\r")):
            while (more := self._text.readline(2**20)) and not more.endswith(("\n", "\r")):
                pass
            return self._number, None
        return self._number, line if line.isascii() else self._decoded(line)

    def __iter__(self) -> Iterator[str]:
        """The rest of the lines.

        Raises:
            RecordError: one is beyond the limit.
        """
        while (taken := self.take()) is not None:
            number, line = taken
            if line is None:
                raise RecordError(
                    f"{self.origin}: line {number} has over {MAX_ROW_CHARACTERS:,} characters "
                    "(MAX_ROW_CHARACTERS); divide it"
                )
            yield line

    def put_back(self, lines: Sequence[tuple[int, str | None]]) -> None:
        """The lines come again, before all others."""
        self._back.extendleft(reversed(lines))

    def note(self, what: str, line: int) -> None:
        """Something to tell once the table is read: how often, and where first."""
        first, count = self._notes.get(what, (line, 0))
        self._notes[what] = first, count + 1

    def tell(self) -> None:
        """Log the notes."""
        for what, (first, count) in self._notes.items():
            where = f"line {first}" if count == 1 else f"{count:,} lines, the first line {first}"
            logger.warning("%s: %s: %s", self.origin, where, what)

    def _decoded(self, line: str) -> str:
        """The line, read as Windows-1252 if it is no UTF-8; a damaged UTF-8 one as it is."""
        try:
            line.encode()
        except UnicodeEncodeError:
            odd = [char for char in line if ord(char) > 0x7F]
            if all("\udc80" <= char <= "\udcff" for char in odd):
                try:
                    found = line.encode("utf-8", "surrogateescape").decode("cp1252")
                except UnicodeDecodeError:
                    return line
                self.note("not UTF-8, read as Windows-1252; check its accents", self._number)
                return found
        return line


class _Header(NamedTuple):
    delimiter: str
    names: list[str]


def _header(lines: Lines, wanted: Sequence[str], *, any_header: bool) -> _Header:
    """The delimiter and the names of the columns; the lines behind the header are put back."""
    held: list[tuple[int, str]] = []
    options: list[_Header] = []
    delimiters = _DELIMITERS
    place: int | None = None
    while place is None and len(held) < HEADER_LINES and (taken := lines.take()) is not None:
        number, line = taken
        if line is None:
            raise RecordError(
                f"{lines.origin}: line {number} has over {MAX_ROW_CHARACTERS:,} characters "
                "(MAX_ROW_CHARACTERS); this is no table"
            )
        bare = line.rstrip("\r\n").strip('"')
        if number == 1 and bare.lower().startswith("sep=") and len(bare) == 5:
            delimiters = bare[4]  # what Excel writes and reads
        elif line.strip():
            held.append((number, line))
            found = [_Header(each, _names(line, each)) for each in delimiters]
            options.append(max(found, key=lambda each: (_known(each.names, wanted), len(each[1]))))
            place = header_place([option.names for option in options], wanted)
    if not held:
        raise RecordError(f"{lines.origin}: no header; give a table that names its columns")
    if place is None:
        for name in wanted:
            column_named(options[0].names, name, lines.origin)
        if not any_header:
            format_of_columns(options[0].names, lines.origin)
        lines.put_back(held[1:])
    elif place:
        lines.note("left out: a title above the header", held[0][0])
    delimiter, names = options[place or 0]
    names = columns_of(names, f"{lines.origin}: line {held[place or 0][0]}", wanted)
    return _Header(delimiter if len(names) > 1 else _NONE, names)


def _names(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return [line.strip()]


def _known(names: Sequence[str], wanted: Sequence[str]) -> int:
    columns = (TEXT_COLUMNS, ID_COLUMNS, TITLE_COLUMNS, LABEL_COLUMNS, _CSV_COLUMNS, wanted)
    known = {plain_name(name) for each in columns for name in each} - {""}
    return len(known.intersection(map(plain_name, names)))


def header_place(rows: Sequence[Sequence[str]], wanted: Sequence[str]) -> int | None:
    """Which of the first rows is the header; None if none has a column that is needed.

    Above it stand only rows with fewer cells, such as a title.
    """
    most = 0
    for place, names in enumerate(rows):
        filled = sum(map(bool, names))
        fits = (
            all(name in names or find_column(names, [name]) is not None for name in wanted)
            if wanted
            else _kind_of(names) is not None
        )
        if fits and (not place or filled > most):
            return place
        most = max(most, filled)
    return None


def columns_of(names: Sequence[str], where: str, wanted: Sequence[str]) -> list[str]:
    """The names, each once (a second `x` is `x.1`), the website's as the website writes them."""
    names = list(names)
    if _kind_of(names) == "csv":
        website = {plain_name(name): CSV_REASON_COLUMN for name in REASON_COLUMNS}
        website |= {plain_name(name): name for name in _CSV_COLUMNS}
        names = [website.get(plain_name(name), name) for name in names]
    known = {plain_name(name) for name in (*TEXT_COLUMNS, *LABEL_COLUMNS, *wanted)}
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        count = seen[name] = seen.get(name, -1) + 1
        if count and plain_name(name) in known:
            raise RecordError(f"{where}: a column name twice ({name!r}); name each column once")
        if count and name:
            names[place] = f"{name}.{count}"
    return names


class _TooLongError(Exception):
    """A quoted cell goes on beyond the limit."""


class _Feed:
    """What the csv module reads of: lines, of which those of the row at hand are known."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.taken: list[tuple[int, str]] = []
        self.characters = 0
        self.most_characters = MAX_ROW_CHARACTERS

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        found = self._lines.take()
        if found is None:
            raise StopIteration
        number, line = found
        self.characters += len(line or "")
        over = self.characters > self.most_characters or len(self.taken) >= MAX_CELL_LINES
        if self.taken and (line is None or over):
            self._lines.put_back([found])
            raise _TooLongError
        self.taken.append((number, "" if line is None else line))
        if line is None:
            raise _TooLongError
        return line


def _rows(lines: Lines, delimiter: str, names: list[str]) -> Iterator[TableRow | BadRow]:
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    number = rescanned = 0
    while True:
        feed.taken, feed.characters = [], 0
        try:
            cells, problem = next(reader), ""
        except StopIteration:
            return
        except _TooLongError:
            cells, problem = [], "a quote is not closed"
        except csv.Error as error:
            cells, problem = [], f"{error}"
        (line, first), *others = feed.taken
        if not problem and others and _swallows(feed.taken, delimiter, len(names)):
            problem = "a quote swallows rows"
        if not problem:
            if len(others) >= MANY_LINES:
                what = f"a cell over {len(others) + 1:,} lines; is a quote astray?"
                lines.note(what, line)
            if not _is_blank(cells, len(names)):
                number += 1
                yield _row(number, line, cells, names, first)
            continue
        number += 1
        lines.put_back(others)
        rescanned += sum(len(each or "") for _, each in others)
        if rescanned > MAX_RESCANNED_CHARACTERS:
            feed.most_characters = 0
        row = _read_otherwise(number, feed.taken, problem, delimiter, names)
        if isinstance(row, TableRow) and row.repaired:
            lines.note("a stray quote, read as text", line)
        yield row


def _read_otherwise(
    number: int, taken: list[tuple[int, str]], problem: str, delimiter: str, names: list[str]
) -> TableRow | BadRow:
    """The first of the lines as a row by itself, since its quotes are not as they should be."""
    line, first = taken[0]
    if not first or ("field larger" in problem and len(taken) == 1):
        limit = "MAX_CELL_CHARACTERS" if first else "MAX_ROW_CHARACTERS"
        detail = f"over {MAX_CELL_CHARACTERS if first else MAX_ROW_CHARACTERS:,} characters"
        return BadRow(number, line, "too_long", f"{detail} ({limit})", _nct_id(first))
    cells = _with_backslashes(first, delimiter)
    if len(cells) == len(names):
        return _row(number, line, cells, names, first)
    row = _row(number, line, _as_it_stands(first, delimiter, len(names)), names, first)
    if isinstance(row, BadRow):
        return replace(row, detail=f"{row.detail} once a quote is text ({problem})")
    return replace(row, repaired=problem)


def _is_blank(cells: list[str], width: int) -> bool:
    """Whether this is a blank line; a row whose cells are there, but empty, is none."""
    return not any(map(str.strip, cells)) and (len(cells) != width or width == 1)


def _row(
    number: int, line: int, cells: list[str], names: list[str], first: str
) -> TableRow | BadRow:
    width = len(names)
    if len(cells) > width and not any(cells[width:]):
        cells = cells[:width]  # separators behind the last column, as spreadsheets leave them
    if len(cells) < width and not any(names[len(cells) :]):
        cells = [*cells, *[""] * (width - len(cells))]
    if len(cells) != width:
        detail = f"has {len(cells)} cells where the header has {width}"
        return BadRow(number, line, "bad_row", detail, _nct_id(first))
    # Of unnamed columns only the first of the table, pandas' index, is read.
    pairs = enumerate(zip(names, cells, strict=True))
    return TableRow(number, line, {name: cell for at, (name, cell) in pairs if name or not at})


def _nct_id(line: str) -> str:
    return nct_id_in(line[:100_000].encode(errors="replace"))


def _with_backslashes(line: str, delimiter: str) -> list[str]:
    """The cells of a line whose quotes within a cell have backslashes before them, as databases
    write them; [] of any other line."""
    if '\\"' not in line:
        return []
    how = {"escapechar": "\\", "doublequote": False, "strict": True}
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter, **how), [])  # type: ignore[arg-type]
    except csv.Error:
        return []


def _as_it_stands(line: str, delimiter: str, width: int) -> list[str]:
    """The cells of a line whose quotes are text; or, if they do not fit, of its quotes as meant."""
    bare = line.rstrip("\r\n")
    cells = bare.split(delimiter)
    if len(cells) != width:
        try:
            meant = next(csv.reader([bare], delimiter=delimiter), [])
        except csv.Error:
            return cells
        if len(meant) == width:
            return meant
    return cells


def _swallows(taken: list[tuple[int, str]], delimiter: str, width: int) -> bool:
    """Whether a row over several lines is rather one row a line, with a quote astray in it.

    Every line must have the header's number of cells, and first cells that look alike (`12` and
    `13`, NCT numbers); of tabs, which stand in no prose, their number is enough.
    """
    if width < 2:
        return False
    rows = [line.rstrip("\r\n").split(delimiter) for _, line in taken]
    if any(len(cells) != width for cells in rows):
        return False
    shapes = {re.sub(r"[0-9]+", "0", cells[0].strip(' "')) for cells in rows}
    return delimiter == "\t" or (len(shapes) == 1 and "0" in next(iter(shapes)))
