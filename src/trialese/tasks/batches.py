"""Prediction on an engine that has its own machines: batches of rows in, parts of a file out.

`LabelParts` is what Ray Data's `map_groups` takes, and fits anything else that maps a function over
batches of columns. The parts, joined in the order of their rows, are the bytes that `predict_file`
writes on one machine for the same windows: engines cut batches where their own blocks end, so group
the rows by window (docs/refresh.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.tasks.formats import TextToLabel, format_of, layout_of
from trialese.tasks.predict import load_scorer

if TYPE_CHECKING:
    from trialese.settings import Precision

__all__ = ["LabelParts", "join_parts"]


class LabelParts:
    """Labels batches of texts; one is made on each worker, and loads the classifier once."""

    def __init__(
        self, model: str, *, format_name: str = "csv", precision: Precision = "fp32"
    ) -> None:
        """`model` is a classifier's folder, there on every worker; see `predict_file` for the rest.

        Raises:
            ArtifactError: no classifier there.
            RecipeError: an unknown format, or Parquet, whose parts cannot be joined as bytes.
        """
        if format_name == "parquet":
            raise RecipeError("parquet: its parts are no bytes of one file; use csv, tsv or jsonl")
        self._scorer = load_scorer(Path(model), precision=precision)
        self._layout = layout_of(self._scorer, format_of(Path(), format_name))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The part of one batch: columns "row" (its first), "rows", and "part" (bytes), each (1,).

        The batch has columns "row" (from 1), "id" and "text", each (rows,), in any order. Its rows
        should be a window of `predict.WINDOW_RECORDS` rows: scores depend, in their last digit, on
        what is scored together.

        Raises:
            RecordError: a column is missing, or a row between its first and last.
        """
        missing = [name for name in ("row", "id", "text") if name not in batch]
        if missing:
            raise RecordError(f"a batch has no column {missing[0]}; give row, id and text")
        columns = (np.asarray(batch[name]).tolist() for name in ("row", "id", "text"))
        rows = sorted(zip(*columns, strict=True), key=lambda row: int(row[0]))
        first = int(rows[0][0])
        if [int(row) for row, _, _ in rows] != list(range(first, first + len(rows))):
            raise RecordError(
                f"a batch that begins with row {first:,} leaves rows out or has one twice; number "
                "the rows from 1 and group them by (row - 1) // 4096"
            )
        texts = [
            TextToLabel(int(row), str(name), str(text))
            for row, name, text in rows
            if str(text).strip()
        ]
        scores = self._scorer.predict_proba([each.text for each in texts])
        part = np.empty(1, object)
        part[0] = self._layout.part(texts, scores) if texts else b""
        return {"row": np.array([first]), "rows": np.array([len(rows)]), "part": part}


def join_parts(
    parts: Iterable[Mapping[str, Any]], model: str, out: Path, *, format_name: str = "csv"
) -> int:
    """How many rows stand behind the file at `out`, written from parts that came in any order.

    Raises:
        RecordError: a part is missing or came twice.
        ArtifactError: the disk refused.
    """
    layout = layout_of(load_scorer(Path(model)), format_of(out, format_name))
    found = sorted(
        ((int(p["row"][0]), int(p["rows"][0]), bytes(p["part"][0])) for p in parts),
        key=lambda part: part[0],
    )
    aside = out.with_name(f".{out.name}.partial")
    expected = 1
    try:
        with aside.open("wb") as file:
            file.write(layout.header())
            for first, rows, part in found:
                if first != expected:
                    raise RecordError(
                        f"{out}: a part begins with row {first:,} where {expected:,} was next; "
                        "hand over each part once"
                    )
                expected += rows
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(out)
    except OSError as error:
        raise ArtifactError(f"{out}: cannot write ({error.strerror}); free some space") from error
    finally:
        aside.unlink(missing_ok=True)
    return expected - 1
