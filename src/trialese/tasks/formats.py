"""Inputs and outputs of prediction: records in their order, labelled texts as bytes.

Records are as their source holds them until `texts_of` reads them, so that those which another
process or an earlier run has done cost next to nothing. An output is a header and parts; a part is
a function of its rows alone, so that files can be written by several processes, or in several
goes, with the same bytes in the end."""

from __future__ import annotations

import csv
import io
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from trialese.artifacts import MANIFEST_NAME, digest_of_file
from trialese.collect.delimited import (
    ID_COLUMNS,
    TEXT_COLUMNS,
    BadRow,
    column_named,
    find_column,
    is_unicode,
    known_columns,
    text_lines,
)
from trialese.collect.source import RawStudy
from trialese.collect.tables import begins_as_a_file, column_of_ids, column_of_texts
from trialese.errors import RecipeError, RecordError
from trialese.records import Thresholds, Trial
from trialese.tasks.scorer import Agreement
from trialese.thresholds import PERSON_BELOW, decide, needs_person

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.collect.source import Reject
    from trialese.tasks.scorer import Preprocessing, Scorer

logger = logging.getLogger(__name__)

Record: TypeAlias = "str | Trial | RawStudy | Reject"
"""What an input is made of, as its source holds it."""

STDIN_SUFFIX = ".stdin"
"""Of a file with a text a line that came by standard input: a first line is never a header."""
_NCT_NUMBER = re.compile(r"\s*NCT[0-9]{8}\s*", re.IGNORECASE)

__all__ = [
    "FORMATS",
    "KNOWN_COLUMNS",
    "STDIN_SUFFIX",
    "About",
    "AskedColumns",
    "Format",
    "Layout",
    "Record",
    "TextToLabel",
    "about_file",
    "beginning",
    "count_characters",
    "describe_cuts",
    "format_of",
    "is_nct_number",
    "layout_of",
    "person_line",
    "read_finished",
    "read_records",
    "read_texts",
    "safe_cell",
    "text_of_trial",
    "texts_of",
]


@dataclass(frozen=True, slots=True)
class TextToLabel:
    """One text with what names it."""

    row: int
    """Position of its record in the input, from 1."""
    name: str
    """NCT id, or what stands in the table's identifying column."""
    text: str
    from_trial: bool = False
    """The text was put together from a trial's fields; the trial's id says it all."""


class AskedColumns(NamedTuple):
    """The columns of a table that somebody names; None: those with a known name."""

    text: str | None = None
    id: str | None = None


KNOWN_COLUMNS = AskedColumns()
"""Those with a known name."""


def read_records(path: Path, columns: AskedColumns = KNOWN_COLUMNS) -> Iterator[Record]:
    """The records of a snapshot, a `.txt` with a text a line, or any file that `collect` knows.

    A `.txt` whose first line names columns, as Excel writes "Unicode text", is a table. A blank
    line is "", so that the others keep their numbers. `columns` go with a table alone. The column
    that a table's texts are taken from is logged.

    Raises:
        RecordError: no such file, one that cannot be understood as a whole, or a table of which
            several columns may hold the texts.
        ArtifactError: an artifact that is no snapshot.
    """
    told: set[tuple[str, ...]] = set()
    for record in _records(path, columns):
        if isinstance(record, RawStudy) and record.format == "text":
            names = tuple(map(str, record.data))
            if names not in told and not any(columns):
                known = tuple(known_columns(names, (*TEXT_COLUMNS, *ID_COLUMNS)))
                if known not in told:
                    _tell_columns(known, record.origin, columns)
                told |= {names, known}
        yield record


def _tell_columns(names: Sequence[str], origin: str, columns: AskedColumns) -> None:
    """Log which columns hold texts and names; RecordError where that of texts would be a guess."""
    file = origin.rpartition(":")[0] or origin
    if columns.text is None:
        column_of_texts(names, file, _NAME_COLUMN)
    if columns.id is None:
        column_of_ids(names, file)


_NAME_COLUMN = (
    "name the column (--column NAME; on the page beside the file; in a recipe `column`), or leave "
    "the others out"
)


def is_nct_number(text: str) -> bool:
    """Whether a text is but the number of a trial: its labels would say nothing of the trial."""
    return _NCT_NUMBER.fullmatch(text) is not None


def _records(path: Path, columns: AskedColumns) -> Iterator[Record]:
    from trialese.collect.files import read_raw

    if any(columns):
        yield from _rows_of(path, columns)
    elif (path / MANIFEST_NAME).is_file():
        from trialese.collect.snapshot import open_snapshot, read_trials

        yield from read_trials(open_snapshot(path))
    elif path.suffix.lower() in (".txt", STDIN_SUFFIX):
        try:
            with path.open("rb") as file:
                is_table = path.suffix != STDIN_SUFFIX and begins_as_a_file(file, path.name)
                if not is_table:
                    with text_lines(file, str(path)) as lines:
                        yield from (line.strip() for line in lines)
        except OSError as error:
            raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
        if is_table:
            yield from read_raw(path)
    else:
        yield from read_raw(path)


def _rows_of(path: Path, columns: AskedColumns) -> Iterator[Record]:
    """The rows of a table whose columns are named by hand, as bare texts."""
    from trialese.collect.source import Reject
    from trialese.collect.tables import read_table, text_cells, unnested

    if not path.is_file():
        raise RecordError(f"{path}: columns can be named of a table alone; give a file of rows")
    first = True
    for row in read_table(path, wanted=[name for name in columns if name]):
        where = f"{path.name}:{row.line}"
        if isinstance(row, BadRow):
            yield Reject(origin=where, reason=row.reason, detail=row.detail, nct_id=row.nct_id)
            continue
        cells = unnested(row.cells, columns)
        names = list(cells)
        if first:
            _tell_columns(names, where, columns)
            first = False
        text, id_ = (
            column_named(names, asked, where) if asked else find_column(names, known)
            for asked, known in zip(columns, (TEXT_COLUMNS, ID_COLUMNS), strict=True)
        )
        if text is None:
            raise RecordError(f"{where}: no column of texts; name it with --column")
        found = {"id": cells.get(id_ or "") if id_ is not None else "", "text": cells[text]}
        yield RawStudy(where, "text", text_cells(found))


def count_characters(record: Record) -> int:
    """About how many characters, or bytes, a record holds."""
    if isinstance(record, str):
        return len(record)
    if isinstance(record, Trial):
        return len(record.detailed_description) + len(record.eligibility_criteria)
    data = getattr(record, "data", "")
    if isinstance(data, Mapping):
        return sum(len(value) for value in data.values() if isinstance(value, str))
    return len(data)


def texts_of(
    records: Sequence[Record],
    first_row: int,
    how: Preprocessing,
    left_out: dict[str, int],
) -> list[TextToLabel]:
    """What the task reads of each record; what holds no text is counted in `left_out` by reason."""
    from trialese.collect.parse import parse_trial
    from trialese.collect.parse_table import text_row
    from trialese.collect.source import Reject, StudyError

    texts: list[TextToLabel] = []
    for row, record in enumerate(records, start=first_row):
        try:
            if isinstance(record, Reject):
                reason = record.reason
            elif isinstance(record, str):
                if not is_unicode(record):
                    reason = "not_utf8"
                elif not record.strip():
                    reason = "blank_line"
                elif is_nct_number(record):
                    reason = "only_an_nct_number"
                else:
                    texts.append(TextToLabel(row, "", record))
                    continue
            elif isinstance(record, RawStudy) and record.format == "text":
                named = text_row(record)
                if not is_nct_number(named.text):
                    texts.append(TextToLabel(row, named.identifier, named.text))
                    continue
                reason = "only_an_nct_number"
            else:
                trial = record if isinstance(record, Trial) else parse_trial(record)
                if text := text_of_trial(trial, how):
                    texts.append(TextToLabel(row, trial.nct_id, text, from_trial=True))
                    continue
                reason = "no_text_for_this_task"
        except StudyError as error:
            reason = error.reason
        left_out[reason] = left_out.get(reason, 0) + 1
    return texts


def read_texts(
    path: Path, model: Path, *, most: int = 5000, columns: AskedColumns = KNOWN_COLUMNS
) -> list[str]:
    """The first different texts that the classifier at `model` would read of a file or snapshot.

    Raises:
        RecordError: no such file, or one that cannot be understood as a whole.
        ArtifactError: no classifier at `model`.
    """
    from trialese.tasks.scorer import model_folder, read_description

    how = read_description(model_folder(model)).preprocessing
    found: dict[str, None] = {}
    for record in read_records(path, columns):
        found.update(dict.fromkeys(each.text for each in texts_of([record], 1, how, {})))
        if len(found) == most:
            break
    return list(found)


def text_of_trial(trial: Trial, how: Preprocessing) -> str:
    """What a task with this preprocessing reads of a trial, as in training."""
    from trialese.corpus.clean import clean_text
    from trialese.corpus.render import render_document
    from trialese.settings import RenderSettings
    from trialese.tasks.sex import cut_sex_words

    if not how.fields:
        return clean_text(trial.why_stopped)
    text = render_document(trial, RenderSettings(fields=how.fields, withhold=how.withhold)).text
    return cut_sex_words(text) if how.without_sex_words else text


Format = Literal["table", "csv", "tsv", "jsonl", "parquet", "xlsx"]
FORMATS: tuple[Format, ...] = ("table", "csv", "tsv", "jsonl", "parquet", "xlsx")
_BY_SUFFIX: dict[str, Format] = {
    ".txt": "table", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".xlsx": "xlsx",
}  # fmt: skip
_SHEET_ROWS, _CELL_CHARACTERS = 1_048_576, 32_767  # what a sheet and a cell of Excel hold
_FORMULA = tuple("=+-@\t\r＝＋－＠")
"""What makes a spreadsheet compute a cell (OWASP, CSV injection), full-width forms included."""


def format_of(path: Path, asked: str | None) -> Format:
    """The format asked for, or the one that the extension says.

    Raises:
        RecipeError: neither is known.
    """
    known = asked if asked is not None else _BY_SUFFIX.get(path.suffix.lower())
    for each in FORMATS:
        if known == each:
            if each == "xlsx":
                import xlsxwriter  # noqa: F401 - a missing extra is told before the work
            return each
    what = f"format {asked!r}" if asked is not None else f"{path}: extension {path.suffix!r}"
    raise RecipeError(f"{what} is unknown; use --format with one of {', '.join(FORMATS)}")


def safe_cell(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula: then an apostrophe leads it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def person_line(
    name: str,
    labels: Sequence[str],
    scores: dict[str, float],
    text: str,
    *,
    needs_person: bool = False,
) -> str:
    """A line for people: what names it, labels with probabilities, the likeliest first, whether
    somebody should look at it, the beginning of the text."""
    likeliest = sorted(labels, key=scores.__getitem__, reverse=True)
    given = ", ".join(f"{label} {scores[label]:.3f}" for label in likeliest)
    if not given:
        label = max(scores, key=scores.__getitem__)
        given = f"no label (nearest: {label} {scores[label]:.3f})"
    elif needs_person:
        given += " (needs a person)"
    return "\t".join(filter(None, (name, given, beginning(text, 80))))


def beginning(text: str, most: int) -> str:
    """The text on one line, or its beginning: at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one classifier look in one format."""

    format: Format
    labels: tuple[str, ...]
    kind: Literal["multilabel", "multiclass"]
    cuts: tuple[float, ...]
    chosen_on: str
    """The split that the cut-offs were chosen on, or "0.5"; and the promise that they keep."""
    model: str
    """Digest of the model, its first twelve digits."""
    thresholds: Thresholds | None = None
    """Where `cuts` are from."""
    below: float = 0.0
    """A text whose surest label has a lower chance needs a person."""

    def header(self) -> bytes:
        """What stands before the first part."""
        if self.format not in ("csv", "tsv"):
            return b""
        return self._table([[safe_cell(name) for name in self._names()]])

    def _names(self) -> list[str]:
        names = ["row", "id", "labels", *map(_column, self.labels)]
        return [*names, "needs_person", "thresholds", "model", "text"]

    def part(self, texts: Sequence[TextToLabel], scores: NDArray[np.float64]) -> bytes:
        """The rows of some texts with their probabilities (texts, labels)."""
        given = decide(scores, self.kind, np.array(self.cuts))
        unsure = needs_person(scores, given, self.kind, self.thresholds, below=self.below).tolist()
        chances = np.round(scores, 6).tolist()
        labels = [[self.labels[column] for column in np.flatnonzero(row)] for row in given]
        if self.format == "parquet":
            return self._parquet(texts, labels, chances, unsure)
        rows = zip(texts, labels, chances, unsure, strict=True)
        if self.format == "table":
            lines = [
                person_line(
                    each.name,
                    names,
                    dict(zip(self.labels, row, strict=True)),
                    each.text,
                    needs_person=asks,
                )
                for each, names, row, asks in rows
            ]
            return "".join(f"{line}\n" for line in lines).encode()
        if self.format in ("jsonl", "xlsx"):  # a workbook is written when its parts are joined
            return msgspec.json.Encoder().encode_lines(
                [self._object(each, names, row, asks) for each, names, row, asks in rows]
            )
        return self._table(
            [
                each.row,
                safe_cell(each.name),
                safe_cell("|".join(names)),
                *row,
                int(asks),
                self.chosen_on,
                self.model,
                "" if each.from_trial else safe_cell(each.text),
            ]
            for each, names, row, asks in rows
        )

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Write header and parts, in their order, to one file at `path`."""
        if self.format == "parquet":
            self._join_parquet(parts, path)
            return
        if self.format == "xlsx":
            self._join_workbook(parts, path)
            return
        with path.open("wb") as out:
            out.write(self.header())
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, out)

    def _object(
        self, each: TextToLabel, names: list[str], row: list[float], asks: bool
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"row": each.row, "id": each.name, "labels": names}
        found["scores"] = dict(zip(self.labels, row, strict=True))
        found |= {"needs_person": asks, "thresholds": self.chosen_on, "model": self.model}
        return found if each.from_trial else {**found, "text": each.text}

    def _table(self, rows: Iterable[Sequence[Any]]) -> bytes:
        out = io.StringIO(newline="")
        delimiter = "," if self.format == "csv" else "\t"
        plain = csv.writer(out, delimiter=delimiter, lineterminator="\n")
        quoted = csv.writer(
            out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )
        for row in rows:  # left to itself, the writer leaves a bare carriage return unquoted
            broken = any(isinstance(cell, str) and "\r" in cell for cell in row)
            (quoted if broken else plain).writerow(row)
        return out.getvalue().encode()

    def _parquet(
        self,
        texts: Sequence[TextToLabel],
        labels: list[list[str]],
        chances: list[list[float]],
        unsure: list[bool],
    ) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "row": [each.row for each in texts],
            "id": [each.name for each in texts],
            "labels": labels,
            "needs_person": unsure,
            "thresholds": [self.chosen_on] * len(texts),
            "model": [self.model] * len(texts),
            "text": [None if each.from_trial else each.text for each in texts],
        }
        for column, label in enumerate(self.labels):
            columns[_column(label)] = [row[column] for row in chances]
        buffer = io.BytesIO()
        table = pa.table({name: columns[name] for name in self._schema().names}, self._schema())
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    def _join_parquet(self, parts: Iterable[Path], path: Path) -> None:
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, self._schema(), compression="zstd") as writer:
            for part in parts:
                writer.write_table(pq.read_table(io.BytesIO(part.read_bytes())))

    def _join_workbook(self, parts: Iterable[Path], path: Path) -> None:
        import xlsxwriter

        # One row at a time, text as text (no formulas, no links), and no time of making in it.
        how = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        with xlsxwriter.Workbook(str(path), how) as book:
            book.set_properties({"created": datetime(2000, 1, 1, tzinfo=UTC)})
            sheet = book.add_worksheet("labels")
            sheet.write_row(0, 0, self._names())
            lines = (line for part in parts for line in part.read_bytes().splitlines())
            for number, line in enumerate(lines, start=1):
                if number >= _SHEET_ROWS:
                    raise RecipeError(
                        f"{path}: more rows than a sheet of Excel holds ({_SHEET_ROWS:,}); "
                        "write .csv or .parquet"
                    )
                row = msgspec.json.decode(line)
                cells = [row["row"], row["id"], "|".join(row["labels"]), *row["scores"].values()]
                cells += [row["needs_person"], row["thresholds"], row["model"], row.get("text", "")]
                for column, cell in enumerate(cells):
                    if isinstance(cell, str):
                        fits = len(cell) <= _CELL_CHARACTERS
                        shown = cell if fits else cell[: _CELL_CHARACTERS - 1] + "…"
                        sheet.write_string(number, column, shown)
                    else:
                        sheet.write(number, column, cell)

    def _schema(self) -> Any:
        import pyarrow as pa

        about = {"labels": self.labels, "cuts": self.cuts, "chosen_on": self.chosen_on}
        fields = [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("labels", pa.list_(pa.string())),
            *((_column(label), pa.float64()) for label in self.labels),
            ("needs_person", pa.bool_()),
            ("thresholds", pa.string()),
            ("model", pa.string()),
            ("text", pa.string()),
        ]
        return pa.schema(fields, metadata={"trialese.predict": msgspec.json.encode(about)})


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a file of labels is: stands beside it as `OUT.about.json`."""

    key: str
    """sha256 of all that decides the contents; equal keys need not be made again."""
    source: str
    task: str
    kind: Literal["multilabel", "multiclass"]
    thresholds: dict[str, float]
    chosen_on: str
    """The split that thresholds were chosen on, or "0.5"."""
    model: str
    """sha256 that names the model's files."""
    engine: str
    code_version: str
    records: int
    texts: int
    left_out: dict[str, int]
    """Records that hold no text for the task, by reason."""
    sha256: str
    """Of the file of labels."""
    agreement: Agreement | None = None
    """With fp32, where another precision was asked for."""


def about_file(out: Path) -> Path:
    """Where the description of the labels at `out` stands."""
    return out.with_name(f"{out.name}.about.json")


def read_finished(out: Path, key: str) -> About | None:
    """What stands at `out`, if it is whole and was made from `key`."""
    try:
        about = msgspec.json.decode(about_file(out).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError):
        return None
    whole = about.key == key and out.is_file() and digest_of_file(out) == about.sha256
    return about if whole else None


def layout_of(scorer: Scorer, format_: Format) -> Layout:
    """The layout of this classifier's rows."""
    cuts, labels = scorer.thresholds, scorer.task.labels
    return Layout(
        format=format_,
        labels=labels,
        kind=scorer.task.kind,
        cuts=(0.5,) * len(labels) if cuts is None else cuts.values,
        chosen_on=describe_cuts(cuts),
        model=scorer.digest[:12],
        thresholds=cuts,
        below=PERSON_BELOW if scorer.calibration is not None else 0.0,
    )


def describe_cuts(cuts: Thresholds | None) -> str:
    """The split that cut-offs were chosen on, with the promise that they keep; None: "0.5"."""
    if cuts is None:
        return "0.5"
    return cuts.chosen_on if cuts.prefer == "f1" else f"{cuts.chosen_on}, {cuts.prefer}"


def _column(label: str) -> str:
    return f"score_{label}"
