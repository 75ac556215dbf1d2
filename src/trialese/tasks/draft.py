"""The draft of a recipe from a labelled table: its labels, their kind, its columns, and folds."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from trialese.collect.delimited import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    TableRow,
    column_named,
    find_column,
    known_columns,
)
from trialese.collect.tables import unnested
from trialese.errors import RecordError
from trialese.recipe import schema_file
from trialese.tasks.label_tools import LabelNames, Unlabelled, label_columns, labels_in
from trialese.tasks.labelled import only_labels, read_rows, tell_columns

__all__ = ["DRAFT_BEGINS", "draft_recipe"]

DRAFT_BEGINS = b"# A recipe that `trialese init` drafted"
_MOST_DRAFTED = 200
_MANY_ROWS = 3000

_DRAFT = """\
{begins} from {path}.
#:schema {schema}
# `trialese run {name}.toml` fits and judges what it says; `--dry-run` tells beforehand how long.

name = "{name}"  # results go to runs/{name}

[collect]
# No trials are collected: the language model is fitted as it is. To adapt it to trials first, say
# source = "files" and paths = [...], or source = "registry"; see docs/collect.md.
source = "none"

[tasks]
names = ["{name}"]

[[tasks.declared]]
name = "{name}"
labelled = {table}  # {rows:,} rows with labels, {blank:,} without
{columns}{kind}
folds = 5
{run_folds}
labels = [
{labels}
]
"""


def draft_recipe(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
) -> str:
    """A commented recipe (TOML) for the labelled table: its labels, their kind, and folds.

    The columns are those that have known names, unless they are named here.

    Raises:
        RecordError: no such table, no column of texts or labels in it, several that may be it, or
            labels that look like free text.
    """
    path = Path(path)
    where = str(path)
    wanted = (text_column, label_column, id_column)
    cells = [row.cells for row in read_rows(path) if isinstance(row, TableRow)]
    rows = [unnested(each, wanted) for each in cells]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    tell_columns(rows, where, text_column, id_column)
    asked = {"text_column": text_column, "label_column": label_column, "id_column": id_column}
    named = {key: column_named(columns, name, where) for key, name in asked.items() if name}
    column = named.get("label_column") or only_labels(label_columns(columns, rows), where)
    if column is None or not ("text_column" in named or known_columns(columns, TEXT_COLUMNS)):
        kind, name, option = ("texts", TEXT_COLUMNS[0], "--text-column")
        if column is None:
            kind, name, option = ("labels", ", ".join(LABEL_COLUMNS), "--label-column")
        raise RecordError(
            f"{path}: no column of {kind} ({name}); it has {', '.join(columns)}; name it with "
            f"{option} NAME"
        )
    if column != find_column(columns, LABEL_COLUMNS):
        named["label_column"] = column
    answers = [labels_in(row.get(column), LabelNames(())) for row in rows]
    given = [answer for answer in answers if not isinstance(answer, Unlabelled)]
    seen = Counter(label for labels in given for label in labels)
    if not seen or len(seen) > _MOST_DRAFTED:
        raise RecordError(
            f"{path}: the column {column!r} holds {len(seen):,} different labels; name another "
            "with --label-column"
        )
    several = any(len(labels) != 1 for labels in given)
    kind = "multilabel" if several else "multiclass"
    said = "a text may have several labels, or none" if several else "a text has exactly one label"
    run = "# run_folds = 1  # judge on one fold only, five times as fast"
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.casefold()).strip("-") or "mine"
    return _DRAFT.format(
        begins=DRAFT_BEGINS.decode(),
        schema=schema_file().as_uri(),
        path=path.name,
        name=name,
        table=json.dumps(str(path)),
        rows=len(given),
        blank=len(answers) - len(given),
        columns="".join(f"{key} = {json.dumps(name)}\n" for key, name in named.items()),
        kind=f'kind = "{kind}"  # {said}',
        run_folds=run.removeprefix("# ") if len(given) > _MANY_ROWS else run,
        labels="\n".join(
            f"  {json.dumps(label, ensure_ascii=False)},  # {count:,} rows"
            + (": too few to be judged" if count < 10 else "")
            for label, count in seen.most_common()
        ),
    )
