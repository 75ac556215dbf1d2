"""Batches labelled anywhere, joined to the bytes that one machine writes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Task
from trialese.tasks.batches import LabelParts, join_parts
from trialese.tasks.linear import fit_linear
from trialese.tasks.predict import load_scorer, predict_file

TEXTS = [
    f"slow accrual, {n} of {n * 7 % 13}" if n % 3 else f'no "money", {n}' for n in range(1, 60)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = Task("toy", ("Enrollment", "Money"), "multilabel")
    rows = [Example("1", "slow accrual", ("Enrollment",)), Example("2", "no money", ("Money",))] * 9
    fitted: Any = fit_linear(task, rows, rows)
    path = tmp_path_factory.mktemp("linear") / "model"
    fitted.save_pretrained(path)
    return path


def batches(size: int) -> list[dict[str, Any]]:
    """As an engine hands them over: columns of arrays."""
    rows = [(n, f"id{n}", text) for n, text in enumerate(TEXTS, start=1)]
    found = []
    for start in range(0, len(rows), size):
        row, name, text = zip(*rows[start : start + size], strict=True)
        found.append({"row": np.array(row), "id": np.array(name), "text": np.array(text, object)})
    return found


@pytest.mark.parametrize("format_name", ["csv", "tsv", "jsonl"])
def test_parts_in_any_order_are_the_bytes_of_one_machine(
    format_name: str, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "texts.csv"
    quoted = [f'id{n},"{text.replace(chr(34), chr(34) * 2)}"' for n, text in enumerate(TEXTS, 1)]
    table.write_text("id,text\n" + "\n".join(quoted) + "\n", encoding="utf-8")
    alone = tmp_path / f"alone.{format_name}"
    predict_file(load_scorer(model), table, alone, window_records=8)
    parts = [LabelParts(str(model), format_name=format_name)(batch) for batch in batches(8)]
    random.Random(7).shuffle(parts)
    out = tmp_path / f"out.{format_name}"
    assert join_parts(parts, str(model), out, format_name=format_name) == len(TEXTS)
    assert out.read_bytes() == alone.read_bytes()


def test_a_part_that_is_missing_or_came_twice_is_told(model: Path, tmp_path: Path) -> None:
    label = LabelParts(str(model))
    parts = [label(batch) for batch in batches(20)]
    for wrong in (parts[1:], [*parts, parts[0]]):
        with pytest.raises(RecordError, match="each part once"):
            join_parts(wrong, str(model), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    assert not list(tmp_path.glob(".*"))


def test_wrong_batches_and_formats(model: Path) -> None:
    with pytest.raises(RecordError, match="no column id"):
        LabelParts(str(model))({"row": np.array([1]), "text": np.array(["a"])})
    with pytest.raises(RecipeError, match="parquet"):
        LabelParts(str(model), format_name="parquet")
    blank = {"row": np.array([1]), "id": np.array(["a"]), "text": np.array([" "])}
    assert LabelParts(str(model))(blank)["part"][0] == b""
