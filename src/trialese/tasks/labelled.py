"""Labelled files in, Examples out: any table that `trialese.collect.tables` reads, or a folder.

A column of texts, and the labels beside them as `trialese.tasks.label_tools` understands them. A
row without a label is left out and counted; `none` says that no label fits. A column `nct_id`,
`id` or the like names the rows; otherwise the row number does. All bad rows are told at once.

Silver texts are those with labels that are no truth, but a model's or some rule's: something to
learn from. A language model is fitted on them before the labelled ones, a baseline on both.
However good, they are never scored against; and since whoever gave them may have seen the labels
of the test texts, a system that learnt from them says so wherever it is judged. A silver text that
is near any labelled one, of whatever fold, is left out, so that none stands near a test text.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trialese.artifacts import digest_of
from trialese.collect.delimited import (
    ID_COLUMNS,
    LABEL_COLUMNS,
    NAMING_COLUMNS,
    TEXT_COLUMNS,
    BadRow,
    TableRow,
    column_named,
    find_column,
    is_unicode,
    known_columns,
)
from trialese.collect.tables import column_of_ids, column_of_texts, read_table, unnested
from trialese.corpus.clean import clean_text
from trialese.errors import RecordError
from trialese.hub import locate_labelled
from trialese.records import Example, Task
from trialese.settings import DedupSettings, SilverSettings
from trialese.tasks.label_tools import (
    BadLabelError,
    LabelNames,
    Unlabelled,
    columns_of_labels,
    is_binary_answer,
    label_columns,
    labels_in,
    labels_of_columns,
    labels_of_tool,
)
from trialese.tasks.task import check_example

__all__ = [
    "NAME_TEXTS",
    "Silver",
    "id_of",
    "only_labels",
    "read_labelled",
    "read_rows",
    "read_silver",
    "silver_examples",
    "tell_columns",
    "text_of",
]

logger = logging.getLogger(__name__)

_SUFFIXES = (
    ".tsv", ".csv", ".tab", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".xlsx",
    ".xls", ".ods", ".gz", ".zst",
)  # fmt: skip
_PARTS = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
"""What of a folder, which may hold a card and pictures as well, is a table."""
NAME_TEXTS = "name the column with --text-column NAME (text_column in a recipe)"
_SHOWN_ROWS, _SHOWN_KINDS = 10, 6
_NCT_ID = re.compile(r"NCT[0-9]{8}", re.IGNORECASE)


def read_labelled(
    path: str | Path,
    task: Task,
    *,
    missing_label: str | None = None,
    dropped: dict[str, int] | None = None,
    leave_out_others: bool = False,
    text_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
) -> list[Example]:
    """The examples in a labelled file, in its order; texts are cleaned as the model reads them.

    A row without a label is left out, counted in `dropped` by reason and told; it gets
    `missing_label`, if one is given. With `leave_out_others` rows with other labels than the task's
    are left out and counted too. The columns are those that have known names, unless they are
    named here.

    Raises:
        RecordError: no such file, an unknown kind of file, a missing column, not one row with a
            label, or bad rows: malformed, an empty text, a repeated id, a label that the task does
            not know; names all of them.
    """
    path = Path(path)
    names = LabelNames(task.labels)
    wanted = [name for name in (text_column, label_column, id_column) if name]
    rows = _one_row_a_text(list(read_rows(path, wanted=wanted)))
    if not rows:
        raise RecordError(f"{path}: no labelled row; give a file with a header and rows")
    source = _Source.of(rows, names, str(path), text_column, label_column, id_column)
    examples: list[Example] = []
    left_out: Counter[str] = Counter()
    bad = _BadRows(str(path), len(rows))
    seen: Counter[str] = Counter()
    for row in rows:
        try:
            found = source.example(row, task, missing_label, leave_out_others=leave_out_others)
            if isinstance(found, Unlabelled):
                left_out[found.reason] += 1
                continue
            seen[found.example_id] += 1
            if seen[found.example_id] > 1:
                found = _named_again(found, row.number)
        except RecordError as error:
            bad.add(_where(row), str(error))
        else:
            examples.append(found)
    bad.refuse()
    if not examples:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise RecordError(
            f"{path}: not one of {len(rows):,} rows has a label ({why}); a blank is not labelled: "
            "write labels, and none where no label fits"
        )
    for reason, count in sorted(left_out.items()):
        logger.warning("%s: %d of %d rows left out: %s", path, count, len(rows), reason)
        if dropped is not None:
            dropped[reason] = dropped.get(reason, 0) + count
    return examples


def _where(row: TableRow | BadRow) -> str:
    """What names a row in a message: its number, or its line where a quote is astray."""
    astray = isinstance(row, TableRow) and row.repaired
    return f"line {row.line}" if astray else f"row {row.number}"


def _named_again(example: Example, number: int) -> Example:
    """The example under a name of its own: of one trial there may be several texts.

    Raises:
        RecordError: the name is no NCT number.
    """
    if not _NCT_ID.fullmatch(example.example_id.strip()):
        raise RecordError(
            f"row {number}: id {example.example_id!r} stands twice; keep one row an id"
        )
    return replace(example, example_id=f"{example.example_id} row {number}")


class _BadRows:
    """What is wrong with which rows, told all at once."""

    def __init__(self, path: str, rows: int) -> None:
        self._path, self._rows = path, rows
        self._kinds: dict[str, list[str]] = {}

    def add(self, where: str, message: str) -> None:
        """Note a fault; the message begins with `where`."""
        self._kinds.setdefault(message.removeprefix(where), []).append(where)

    def refuse(self) -> None:
        """Do nothing if there is none.

        Raises:
            RecordError: lists them, those with the same fault together.
        """
        if not self._kinds:
            return
        told = [
            f"{_listed(places)}{detail}"
            for detail, places in list(self._kinds.items())[:_SHOWN_KINDS]
        ]
        if len(self._kinds) > _SHOWN_KINDS:
            told.append(f"and {len(self._kinds) - _SHOWN_KINDS:,} faults of other kinds")
        bad = sum(map(len, self._kinds.values()))
        count = f" ({bad:,} of {self._rows:,} rows are bad)" if bad > 1 else ""
        raise RecordError(f"{self._path}: {'; '.join(told)}{count}")


def _listed(places: Sequence[str]) -> str:
    """`row 1`, or `rows 1, 2, 3 and 4 more`."""
    if len(places) == 1:
        return places[0]
    word = places[0].partition(" ")[0]
    numbers = [place.partition(" ")[2] for place in places[:_SHOWN_ROWS]]
    more = len(places) - len(numbers)
    return f"{word}s {', '.join(numbers)}{f' and {more:,} more' if more else ''}"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where in the rows of a table text, labels and name stand; None: where each row has them."""

    task: LabelNames
    text_column: str | None
    label_column: str | None
    id_column: str | None

    @classmethod
    def of(
        cls,
        rows: Sequence[TableRow | BadRow],
        names: LabelNames,
        path: str,
        text_column: str | None,
        label_column: str | None,
        id_column: str | None,
    ) -> _Source:
        cells = [row.cells for row in rows if isinstance(row, TableRow)]
        wanted = (text_column, label_column, id_column)
        columns = list(dict.fromkeys(name for row in cells for name in unnested(row, wanted)))
        asked = [None if name is None else column_named(columns, name, path) for name in wanted]
        tell_columns(cells, path, text_column, id_column)
        found = cls(names, *asked)
        return found if asked[1] else replace(found, label_column=found._inferred(cells, path))

    def _inferred(self, rows: Sequence[Mapping[str, Any]], path: str) -> str | None:
        """The column of labels where that is no matter of its name alone, which is told."""
        of_a_tool = any(labels_of_tool(row, self.task) is not None for row in rows[:100])
        rows = [unnested(row, [self.text_column]) for row in rows]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        known = known_columns(columns, LABEL_COLUMNS)
        if len(known) == 1 or of_a_tool:
            return None
        if known:
            candidates = label_columns(columns, rows)
            if len(candidates) > 1:
                candidates = self._holding_labels(candidates, rows) or candidates
        elif len(columns_of_labels(columns, self.task)) == len(self.task.labels):
            return None
        else:
            skipped = (find_column(columns, each) for each in (TEXT_COLUMNS, ID_COLUMNS))
            others = set(columns).difference(skipped, (self.text_column, self.id_column))
            candidates = self._holding_labels([c for c in columns if c in others], rows)
        column = only_labels(candidates, path)
        if column is not None:
            logger.warning("%s: labels are read from the column %r", path, column)
        return column

    def _holding_labels(
        self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        return [name for name in columns if self._holds_labels([row.get(name) for row in rows])]

    def _holds_labels(self, values: Sequence[Any]) -> bool:
        given = False
        for value in values:
            try:
                labels = labels_in(value, self.task)
            except BadLabelError:
                return False
            if isinstance(labels, Unlabelled):
                continue
            if not all(label in self.task.labels for label in labels):
                return False
            given = given or bool(labels)
        return given

    def example(
        self,
        row: TableRow | BadRow,
        task: Task,
        missing_label: str | None,
        *,
        leave_out_others: bool,
    ) -> Example | Unlabelled:
        """The row as an example.

        Raises:
            RecordError: a bad row; the message begins with `_where(row)`.
        """
        where = _where(row)
        if isinstance(row, BadRow):
            raise RecordError(f"{where} {row.detail}")
        if row.repaired:
            raise RecordError(
                f"{where} is malformed ({row.repaired}); double the quotes in a quoted cell"
            )
        text = text_of(row.cells, where, self.text_column)
        if not is_unicode(text):
            raise RecordError(f"{where} holds bytes that are no text in UTF-8; correct the row")
        labels = self.labels(row.cells, where)
        if isinstance(labels, Unlabelled):
            if missing_label is None:
                return labels
            labels = (missing_label,)
        if leave_out_others and not set(labels) <= set(task.labels):
            return Unlabelled("other_label")
        check_example(task, labels, where)
        if not (text := clean_text(text)):
            raise RecordError(f"{where}: the text is empty; fill it in or delete the row")
        return Example(id_of(row.cells, row.number, self.id_column), text, labels)

    def labels(self, row: Mapping[str, Any], where: str) -> tuple[str, ...] | Unlabelled:
        """The row's labels, by the task's names where it has them.

        Raises:
            RecordError: no column of labels, or labels that cannot be understood.
        """
        try:
            told = None if self.label_column else labels_of_tool(row, self.task)
            if told is not None:
                return told
            row = unnested(row, [self.label_column])
            if self.label_column is not None:
                return labels_in(row.get(self.label_column), self.task)
            column = find_column(list(row), LABEL_COLUMNS)
            if column is not None:
                return labels_in(row[column], self.task)
            columns = columns_of_labels(list(row), self.task)
            absent = [label for label in self.task.labels if label not in columns]
            if absent:
                raise BadLabelError(
                    f"no column `labels`, and of one 0/1 column a label {absent[0]} is missing; "
                    "add the one or the others"
                )
            return labels_of_columns(row, columns)
        except BadLabelError as error:
            raise RecordError(f"{where}: {error}") from error


def _one_row_a_text(rows: list[TableRow | BadRow]) -> list[TableRow | BadRow]:
    """Prodigy's questions "is it this label?", one row a label, as one row a text."""
    asked: dict[str, list[TableRow]] = {}
    others: list[TableRow | BadRow] = []
    for row in rows:
        if isinstance(row, TableRow) and is_binary_answer(row.cells):
            asked.setdefault(str(row.cells.get("text")), []).append(row)
        else:
            others.append(row)
    joined = []
    for same in asked.values():
        accepted = [row.cells["label"] for row in same if row.cells["answer"] == "accept"]
        if len(same) > 1 and accepted:
            cells = {**same[0].cells, "answer": "accept", "accept": accepted}
            joined.append(replace(same[0], cells=cells))
        else:
            joined.append(same[0])
    return sorted([*others, *joined], key=lambda row: row.number)


def only_labels(candidates: Sequence[str], where: str) -> str | None:
    """The one column that may hold the labels; None without one; RecordError if several may."""
    if len(candidates) > 1:
        raise RecordError(
            f"{where}: labels stand in {' and in '.join(candidates)}; name the right column with "
            "--label-column NAME (label_column in a recipe)"
        )
    return candidates[0] if candidates else None


def tell_columns(
    rows: Sequence[Mapping[str, Any]],
    where: str,
    text_column: str | None,
    id_column: str | None,
    *,
    name_texts: str = NAME_TEXTS,
) -> None:
    """Log which columns hold texts and names, of those that nobody named.

    Raises:
        RecordError: a row has several columns that may hold its text; ends with `name_texts`.
    """
    if text_column is None:
        headers = dict.fromkeys(tuple(unnested(row)) for row in rows)
        known = (tuple(known_columns(header, TEXT_COLUMNS)) for header in headers)
        for columns in dict.fromkeys(known):
            column_of_texts(columns, where, name_texts)
    if id_column is None:
        column_of_ids(list(dict.fromkeys(name for row in rows for name in row)), where)


def id_of(row: Mapping[str, Any], number: int, column: str | None = None) -> str:
    """The row's own name, or one made of its number; a mere index is no name."""
    column = column or find_column(list(row), NAMING_COLUMNS)
    value = None if column is None else row.get(column)
    return f"row-{number:06d}" if value in (None, "") else str(value)


def text_of(row: Mapping[str, Any], where: str, column: str | None = None) -> str:
    """What stands in the row's text column; RecordError, beginning with `where`, if none does."""
    row = unnested(row, [column])
    column = column or find_column(list(row), TEXT_COLUMNS)
    if column is None or column not in row:
        named = ", ".join(filter(None, map(str, row)))
        raise RecordError(
            f"{where}: no text column; {NAME_TEXTS}, or call it {TEXT_COLUMNS[0]}; the table has "
            f"{named}"
        )
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RecordError(f"{where}: column {column} holds {value!r}, no text; correct the row")
    return value


def read_rows(path: Path, *, wanted: Sequence[str] = ()) -> Iterator[TableRow | BadRow]:
    """The rows of a table, or of all tables in a folder by file name: a data set in parts.

    Raises:
        RecordError: no such file, an unknown kind of file, or one that cannot be read as a whole.
    """
    if path.is_dir():
        yield from _folder_rows(path, wanted)
        return
    if not path.is_file():
        raise RecordError(f"{path}: no such labelled file; check the path ({path.absolute()})")
    if path.suffix.lower() not in _SUFFIXES:
        raise RecordError(
            f"{path}: unknown kind of file; give .tsv, .csv, .json, .jsonl, .parquet or .xlsx"
        )
    yield from read_table(path, wanted=wanted)


def _folder_rows(folder: Path, wanted: Sequence[str]) -> Iterator[TableRow | BadRow]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PARTS)
    if not files:
        raise RecordError(f"{folder}: no table in this folder; give a {', '.join(_PARTS)} file")
    number = 0
    for file in files:
        for row in read_table(file, wanted=wanted):
            number += 1
            yield replace(row, number=number)


@dataclass(frozen=True, slots=True)
class Silver:
    """The texts that can be used, each once, and the counts of those left out, by reason."""

    task: Task
    examples: tuple[Example, ...]
    settings: SilverSettings
    left_out: dict[str, int]

    @property
    def digest(self) -> str:
        """sha256 of every text and its labels."""
        return digest_of([[example.text, example.labels] for example in self.examples])


def read_silver(
    table: Path,
    column: str,
    task: Task,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    name_texts: str = NAME_TEXTS,
    name_labels: str = "--label-column NAME",
) -> tuple[list[Example], Counter[str]]:
    """The rows with a text and labels that the task knows, texts as they stand; the others counted.

    `name_texts` and `name_labels` are what to do, in messages, about columns that are not found.

    Raises:
        RecordError: no such file or column, several columns that may hold the texts, or no row that
            can be used.
    """
    names, where = LabelNames(task.labels), str(table)
    left_out: Counter[str] = Counter()
    examples: list[Example] = []
    rows = list(read_rows(table, wanted=[name for name in (text_column, id_column) if name]))
    asked = (column, text_column, id_column)
    cells = [unnested(row.cells, asked) for row in rows if isinstance(row, TableRow)]
    if cells:
        columns = list(dict.fromkeys(name for row in cells for name in row))
        column = column_named(columns, column, where, f"name that of the labels with {name_labels}")
        text_column = text_column and column_named(columns, text_column, where)
        id_column = id_column and column_named(columns, id_column, where)
        tell_columns(cells, where, text_column, id_column, name_texts=name_texts)
    for row in rows:
        if isinstance(row, BadRow):
            left_out[row.reason.replace("_", " ")] += 1
            continue
        text = text_of(row.cells, f"{where}: row {row.number}", text_column).strip()
        if not is_unicode(text):
            left_out["not utf8"] += 1
            continue
        value = unnested(row.cells, [column]).get(column)
        try:
            labels = labels_in(value, names)
        except BadLabelError:
            labels = (str(value)[:40],)
        if isinstance(labels, Unlabelled):
            left_out["no text" if not text else "no label"] += 1
            continue
        unknown = [label for label in labels if label not in task.labels]
        if not text or not labels:
            left_out["no text" if not text else "none of these"] += 1
        elif unknown:
            left_out[f"unknown label {unknown[0]!r}"] += 1
        else:
            examples.append(Example(id_of(row.cells, row.number, id_column), text, labels))
    if not examples:
        raise RecordError(f"{table}: no row has a text and a label of {task.name} in {column!r}")
    return examples, left_out


def silver_examples(
    task: Task, settings: SilverSettings, labelled: Sequence[Example], dedup: DedupSettings
) -> Silver:
    """The table's texts, clean, each once with the labels that most of its rows have.

    Those in one cluster with a text of `labelled` are left out.

    Raises:
        RecordError: see `read_silver`; or every text is near a labelled one.
    """
    from trialese.corpus.clean import clean_text
    from trialese.corpus.dedup import cluster_texts, normalise

    table = locate_labelled(settings.table)
    rows, left_out = read_silver(
        table,
        settings.column,
        task,
        text_column=settings.text_column,
        name_texts="name the column with silver.text_column",
        name_labels="silver.column",
    )
    same: dict[str, list[Example]] = {}
    for row in rows:
        if text := clean_text(row.text):
            same.setdefault(normalise(text), []).append(replace(row, text=text))
    cleaned = sum(map(len, same.values()))
    left_out["no text"] += len(rows) - cleaned
    left_out["the text of another row"] = cleaned - len(same)
    once = [
        replace(
            first,
            example_id=f"silver {number}",
            labels=Counter(row.labels for row in (first, *others)).most_common(1)[0][0],
        )
        for number, (first, *others) in enumerate(same.values())
    ]
    clusters = cluster_texts(((e.example_id, e.text) for e in (*labelled, *once)), dedup)
    near = {clusters[example.example_id] for example in labelled}
    kept = [
        replace(each, cluster=clusters[each.example_id])
        for each in once
        if clusters[each.example_id] not in near
    ]
    left_out["near a labelled text"] = len(once) - len(kept)
    if not kept:
        raise RecordError(f"{table}: every text is near a labelled one; give other texts")
    counts = {reason: count for reason, count in left_out.items() if count}
    return Silver(task, tuple(kept), settings, counts)
