from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.errors import RecipeError
from trialese.tasks.formats import Layout, TextToLabel, format_of, person_line, safe_cell

LABELS = ("A", "B")


@given(st.text())
def test_no_cell_begins_a_formula_and_none_loses_a_character(text: str) -> None:
    cell = safe_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell in (text, "'" + text)


@given(st.lists(st.tuples(st.text(), st.floats(0, 1), st.floats(0, 1)), max_size=5))
def test_a_spreadsheet_reads_back_what_was_written(rows: list[tuple[str, float, float]]) -> None:
    layout = Layout("csv", LABELS, "multilabel", (0.5, 0.25), "tune", "abc")
    texts = [TextToLabel(row, "", text) for row, (text, _, _) in enumerate(rows)]
    scores = np.array([row[1:] for row in rows]).reshape(-1, 2)
    table = (layout.header() + layout.part(texts, scores)).decode("utf-8", "surrogatepass")
    found = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [row["text"] for row in found] == [safe_cell(text) for text, _, _ in rows]
    for row, (_, a, b) in zip(found, rows, strict=True):
        assert float(row["score_A"]) == pytest.approx(a, abs=5e-7)
        expected = [name for name, yes in (("A", a >= 0.5), ("B", b >= 0.25)) if yes]
        assert [name for name in row["labels"].split("|") if name] == expected


def test_one_label_of_a_multiclass_task() -> None:
    layout = Layout("jsonl", LABELS, "multiclass", (0.0, 0.0), "tune", "abc")
    (line,) = layout.part([TextToLabel(1, "x", "t")], np.array([[0.4, 0.6]])).splitlines()
    assert b'"labels":["B"]' in line


def test_formats() -> None:
    assert format_of(Path("a.CSV"), None) == "csv"
    assert format_of(Path("a.txt"), None) == "table"
    assert format_of(Path("a.csv"), "jsonl") == "jsonl"
    with pytest.raises(RecipeError, match="extension '' is unknown"):
        format_of(Path("a"), None)


def test_a_line_for_people_names_the_nearest_label() -> None:
    assert person_line("", (), {"A": 0.1, "B": 0.2}, "t") == "no label (nearest: B 0.200)\tt"
    assert person_line("N", ("A",), {"A": 0.9}, "a\n b") == "N\tA 0.900\ta b"
