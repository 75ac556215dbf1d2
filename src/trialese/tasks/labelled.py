"""Labelled files in, Examples out: TSV, CSV, JSON, JSONL or Parquet, UTF-8, or a folder of them.

One column `text` and either `labels` (or `label`), joined by `|`, or one 0/1 column a label as
in `opentargets/clinical_trial_reason_to_stop`; `Kira-Asimov/gender_clinical_trial` has `id`,
`input` and `label`. A column `id` or `nct_id`, where present, names the rows; otherwise the row
number does.


Texts with labels that are no truth, but a model's or some rule's: something to learn from.

A language model is fitted on them before the labelled ones, a baseline on both. However good, they
are never scored against; and since whoever gave them may have seen the labels of the test texts, a
system that learnt from them says so wherever it is judged. A silver text that is near any labelled
one, of whatever fold, is left out, so that none stands near a test text.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trialese.artifacts import digest_of
from trialese.errors import RecordError
from trialese.hub import locate_labelled
from trialese.records import Example, Task
from trialese.settings import DedupSettings, SilverSettings
from trialese.tasks.task import check_example

__all__ = [
    "Silver",
    "id_of",
    "read_labelled",
    "read_rows",
    "read_silver",
    "silver_examples",
    "split_labels",
    "text_of",
]


_TEXT_COLUMNS = ("text", "input", "why_stopped", "stop_reason")
_LABEL_COLUMNS = ("labels", "label")
_ID_COLUMNS = ("id", "example_id", "nct_id")
_SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
_BINARY = {
    "0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "": False,
}  # fmt: skip


def read_labelled(path: Path, task: Task, *, missing_label: str | None = None) -> list[Example]:
    """The examples in a labelled file, in its order; texts are cleaned as the model reads them.

    A row of a multiclass task without a label gets `missing_label`, if one is given.

    Raises:
        RecordError: no such file, an unknown kind of file, a missing column, a malformed row, an
            empty text, a repeated id, or a label that the task does not know; names the row.
    """
    from trialese.corpus.clean import clean_text

    examples: list[Example] = []
    seen: set[str] = set()
    for number, row in read_rows(path):
        where = f"{path}: row {number}"
        text = text_of(row, where)
        labels = _labels_of(row, task, where)
        if not labels and missing_label is not None:
            labels = (missing_label,)
        name = id_of(row, number)
        check_example(task, labels, where)
        if name in seen:
            raise RecordError(f"{where}: id {name!r} stands twice; keep one row an id")
        seen.add(name)
        cleaned = clean_text(text)
        if not cleaned:
            raise RecordError(f"{where}: the text is empty; fill it in or delete the row")
        examples.append(Example(name, cleaned, labels))
    if not examples:
        raise RecordError(f"{path}: no labelled row; give a file with a header and rows")
    return examples


def id_of(row: Mapping[str, Any], number: int) -> str:
    """The row's own name, or one made of its number."""
    return next((str(row[key]) for key in _ID_COLUMNS if row.get(key)), f"row-{number:06d}")


def text_of(row: Mapping[str, Any], where: str) -> str:
    """What stands in the row's text column; RecordError, beginning with `where`, if none does."""
    column = next((key for key in _TEXT_COLUMNS if key in row), None)
    if column is None:
        raise RecordError(f"{where}: no text column; name one {' or '.join(_TEXT_COLUMNS)}")
    value = row[column]
    if not isinstance(value, str):
        raise RecordError(f"{where}: column {column} holds {value!r}, no text; correct the row")
    return value


def split_labels(value: Any) -> tuple[str, ...]:
    """The labels in a cell: a list of them, or several joined by `|`; each once, in their order."""
    parts = value if isinstance(value, list) else str("" if value is None else value).split("|")
    return tuple(dict.fromkeys(part.strip() for part in map(str, parts) if part.strip()))


def _labels_of(row: Mapping[str, Any], task: Task, where: str) -> tuple[str, ...]:
    column = next((key for key in _LABEL_COLUMNS if key in row), None)
    if column is not None:
        return split_labels(row[column])
    absent = [label for label in task.labels if label not in row]
    if absent:
        raise RecordError(
            f"{where}: no column `labels`, and of one 0/1 column a label {absent[0]} is missing; "
            "add the one or the others"
        )
    labels = []
    for label in task.labels:
        value = _BINARY.get(str("" if row[label] is None else row[label]).strip().lower())
        if value is None:
            raise RecordError(f"{where}: {label} is {row[label]!r}; write 0 or 1")
        if value:
            labels.append(label)
    return tuple(labels)


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, row) for each row of a table; numbers count data rows from 1.

    Raises:
        RecordError: no such file, an unknown kind of file, or a malformed row.
    """
    if path.is_dir():
        return _folder_rows(path)
    if not path.is_file():
        raise RecordError(f"{path}: no such labelled file; check the path")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    if kind in (".tsv", ".csv"):
        return _table_rows(path, text, "\t" if kind == ".tsv" else ",")
    if kind in (".jsonl", ".ndjson") or (kind == ".json" and text.lstrip()[:1] != "["):
        return _json_rows(path, text)
    if kind == ".json":
        return _array_rows(path, text)
    raise RecordError(f"{path}: unknown kind of file; give .tsv, .csv, .json, .jsonl or .parquet")


def _folder_rows(folder: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of all tables in the folder, by file name: a data set in several parts."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise RecordError(f"{folder}: no table in this folder; give a {', '.join(_SUFFIXES)} file")
    rows = (row for file in files for _, row in read_rows(file))
    return enumerate(rows, start=1)


def _table_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        named = [name for name in header or () if name]  # unnamed columns are left unread
        if header is None or len(set(named)) != len(named):
            raise RecordError(f"{path}: no header, or a column name twice; name each column once")
        for number, cells in enumerate(reader, start=1):
            if not cells:
                continue
            if len(cells) != len(header):
                raise RecordError(
                    f"{path}: row {number} has {len(cells)} cells where the header has "
                    f"{len(header)}; quote cells that hold a separator"
                )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise RecordError(
            f"{path}: line {reader.line_num} is malformed ({error}); quote cells by doubling"
        ) from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecordError(
                f"{path}: row {number} is no JSON ({error.msg}); write one object a line"
            ) from error
        if not isinstance(row, dict):
            raise RecordError(f"{path}: row {number} is no JSON object; write one object a line")
        yield number, row


def _array_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}: no JSON ({error.msg}); write an array of objects") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RecordError(f"{path}: row {number} is no JSON object; write an array of objects")
        yield number, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RecordError(f"{path}: no readable Parquet file; make it again") from error
    yield from enumerate(table.to_pylist(), start=1)


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


def read_silver(table: Path, column: str, task: Task) -> tuple[list[Example], Counter[str]]:
    """The rows with a text and labels that the task knows, texts as they stand; the others counted.

    Raises:
        RecordError: no such file or column, a malformed row, or no row that can be used.
    """
    left_out: Counter[str] = Counter()
    examples: list[Example] = []
    for number, row in read_rows(table):
        where = f"{table}: row {number}"
        text = text_of(row, where).strip()
        if column not in row:
            named = ", ".join(filter(None, row))
            raise RecordError(f"{where}: no column {column!r}; the table has {named}")
        labels = split_labels(row[column])
        unknown = [label for label in labels if label not in task.labels]
        if not text or not labels:
            left_out["no text" if not text else "no label"] += 1
        elif unknown:
            left_out[f"unknown label {unknown[0]!r}"] += 1
        else:
            examples.append(Example(id_of(row, number), text, labels))
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
    rows, left_out = read_silver(table, settings.column, task)
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
