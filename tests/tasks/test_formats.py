""""""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.artifacts import write_artifact
from trialese.collect.tables import begins_as_a_file
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.records import Trial
from trialese.tasks.formats import (
    AskedColumns,
    Layout,
    TextToLabel,
    format_of,
    person_line,
    read_records,
    read_texts,
    safe_cell,
    texts_of,
)
from trialese.tasks.scorer import Preprocessing

DATA = Path(__file__).parents[1] / "data"
REASONS = Preprocessing(max_tokens=8)
TITLES = Preprocessing(max_tokens=8, fields=("brief_title", "sex"), withhold=("sex",))


def read(path: Path, how: Preprocessing = REASONS) -> tuple[list[TextToLabel], dict[str, int]]:
    left_out: dict[str, int] = {}
    return texts_of(list(read_records(path)), 1, how, left_out), left_out


ROWS = [("7", "Slow accrual"), ("8", ""), ("", "No funds, none")]
EXPECTED = [TextToLabel(1, "7", "Slow accrual"), TextToLabel(3, "", "No funds, none")]


@pytest.mark.parametrize("column", ["text", "stop_reason", "why_stopped", "input"])
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_tables_of_texts(tmp_path: Path, kind: str, column: str) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"id": a, column: b}) + "\n" for a, b in ROWS))
    elif kind == "parquet":
        pq.write_table(pa.table({"id": [a for a, _ in ROWS], column: [b for _, b in ROWS]}), path)
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [f"id{mark}{column}", *(f'{a}{mark}"{b}"' for a, b in ROWS)]
        path.write_text("\n".join(lines) + "\n")
    assert read(path) == (EXPECTED, {"no_text": 1})


def test_a_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("\ufeffslow accrual \n\n  no funds\n", encoding="utf-8")
    assert [each.text for each in read(path)[0]] == ["slow accrual", "no funds"]
    path.write_bytes("no funds\n\nslow".encode("utf-16"))
    assert [(each.row, each.text) for each in read(path)[0]] == [(1, "no funds"), (3, "slow")]
    assert read(path)[1] == {"blank_line": 1}
    path.write_bytes(b"\xff\xfex")
    with pytest.raises(RecordError, match="not UTF-8"):
        read(path)


def test_a_line_that_is_no_text_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("café closed\n".encode() + b"caf\xc3\xa9 \xc3 closed\nslow\n")
    assert [(each.row, each.text) for each in read(path)[0]] == [(1, "café closed"), (3, "slow")]
    assert read(path)[1] == {"not_utf8": 1}


def test_a_txt_that_names_columns_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "excel.txt"
    path.write_bytes("id\tStop reason\r\n7\tslow, and no funds\r\n".encode("utf-16"))
    assert read(path)[0] == [TextToLabel(1, "7", "slow, and no funds")]
    path.rename(path.with_suffix(".stdin"))  # but not where the lines came by a pipe
    assert [each.row for each in read(path.with_suffix(".stdin"))[0]] == [1, 2]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_may_be_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "csv":
        path.write_text("Key;Our Reason;text\n7;slow;x\n8;;y\n9;a;b;c\n")
    elif kind == "jsonl":
        path.write_text(
            '{"Key": 7, "Our Reason": "slow", "text": "x"}\n{"Key": 8, "Our Reason": null}\n'
        )
    else:
        pq.write_table(pa.table({"Key": [7, 8], "Our Reason": ["slow", None]}), path)
    left_out: dict[str, int] = {}
    records = list(read_records(path, AskedColumns("our_reason", "key")))
    assert texts_of(records, 1, REASONS, left_out) == [TextToLabel(1, "7", "slow")]
    assert left_out == {"no_text": 1} | ({"bad_row": 1} if kind == "csv" else {})
    with pytest.raises(RecordError, match="no column 'why'; the table has Key, Our Reason"):
        list(read_records(path, AskedColumns("why")))
    with pytest.raises(RecordError, match="columns can be named of a table alone"):
        list(read_records(tmp_path, AskedColumns("why")))


def test_trials_give_the_fields_of_the_task_and_no_withheld_one() -> None:
    (found,), left_out = read(DATA / "study_v2.json", TITLES)
    assert found.from_trial and found.name.startswith("NCT") and not left_out
    trial = Trial(nct_id="NCT00000001", brief_title="Aspirin", sex="Male", why_stopped="No funds")
    assert texts_of([trial], 5, TITLES, {}) == [
        TextToLabel(5, "NCT00000001", "Title: Aspirin", True)
    ]
    assert texts_of([trial], 5, REASONS, {}) == [TextToLabel(5, "NCT00000001", "No funds", True)]


def test_what_is_no_record_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,good\n2,too,many\n3,fine\n")
    texts, left_out = read(path)
    assert [each.row for each in texts] == [1, 3]
    assert left_out == {"bad_row": 1}


def test_what_is_no_input_is_refused(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "corpus", kind="corpus"):
        pass
    with pytest.raises(ArtifactError, match="this is a corpus, but a snapshot is needed"):
        read(tmp_path / "corpus")
    with pytest.raises(RecordError, match="cannot be read"):
        read(tmp_path / "none.txt")
    with pytest.raises(RecordError, match="a table needs a column 'text'"):
        (tmp_path / "in.csv").write_text("a,b\n1,2\n")
        read(tmp_path / "in.csv")


def test_the_first_different_texts(toy_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a\nb\na\nc\n")
    assert read_texts(path, toy_folder, most=2) == ["a", "b"]
    path = path.with_suffix(".tsv")
    path.write_text("text\twhy_stopped\nlong\tslow\n")
    assert read_texts(path, toy_folder, columns=AskedColumns("why_stopped")) == ["slow"]


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


def test_the_column_of_texts_is_told_and_never_guessed_among_several(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trialese")
    path = tmp_path / "reasons.csv"
    path.write_text("NCT;Title;Why Study Stopped\nNCT00000001;A;slow\nNCT00000002;B;\n")
    assert read(path)[0] == [TextToLabel(1, "NCT00000001", "slow")]
    assert "reasons.csv: texts from the column 'Why Study Stopped'" in caplog.text
    path.write_text("text,why_stopped,n\na long summary,slow,1\n")
    with pytest.raises(RecordError, match=r"reasons.csv: .*'text' or 'why_stopped'.*--column"):
        read(path)
    texts = read_records(path, AskedColumns("why_stopped"))
    assert [each.text for each in texts_of(list(texts), 1, REASONS, {})] == ["slow"]


def test_a_column_that_a_label_tool_nests_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "studio.jsonl"
    path.write_text('{"id": 7, "data": {"title": "A trial", "reason": "slow"}}\n')
    texts = texts_of(list(read_records(path, AskedColumns("reason"))), 1, REASONS, {})
    assert [(each.name, each.text) for each in texts] == [("7", "slow")]


def test_an_nct_number_alone_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("NCT04012345\nslow, as in NCT04012345\n nct04012346\n")
    assert [each.row for each in read(path)[0]] == [2]
    assert read(path)[1] == {"only_an_nct_number": 2}
    path = tmp_path / "ids.csv"
    path.write_text("id,text\n1,NCT04012345\n2,slow\n")
    assert [each.row for each in read(path)[0]] == [2]


@pytest.mark.parametrize(
    ("begins", "table"),
    [
        (b"Slow accrual, and no funds\nid,text\n", False),
        (b"why_stopped\nslow\n", True),
        (b"\xef\xbb\xbfNCT Number;Title;Why Stopped\n", True),
        ("id\ttext\n7\tslow\n".encode("utf-16"), True),
        (b"sep=;\nid;text\n", True),
        (b'{"text": "slow"}\n', True),
        (b'[\n  {"text": "slow"}]', True),
        (b'["slow", "no funds"]', True),
        (b"<5 patients [sic] {were} enrolled\n", False),
        (b"[Terminated] slow\n", False),
        (b"PAR1", True),
        (b"PK\x03\x04", True),
        (b"", False),
    ],
)
def test_lines_of_text_are_told_from_a_file(begins: bytes, table: bool) -> None:
    stream = io.BufferedReader(io.BytesIO(begins))  # type: ignore[arg-type]
    assert begins_as_a_file(stream, "stdin") is table
    assert stream.read() == begins


def test_a_header_without_a_known_column_of_texts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text("nct,cause,title\nNCT00000001,slow,A\n")
    with pytest.raises(RecordError, match=r"this one has 'nct, cause, title'.*--column NAME"):
        read(path)


def test_a_reason_beside_the_website_s_columns_is_read(tmp_path: Path) -> None:
    path = tmp_path / "website.csv"
    path.write_text("NCT Number;Title;Why Stopped;Status\nNCT00000001;A;slow;TERMINATED\n")
    assert read(path)[0] == [TextToLabel(1, "NCT00000001", "slow", from_trial=True)]
