from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from trialese.errors import RecordError
from trialese.tasks.labelled import read_labelled
from trialese.tasks.sex import SEX
from trialese.tasks.stop_reasons import STOP_REASONS

GOLD = Path(__file__).parents[2].parent / "shared" / "data" / "stop_reasons" / "gold.tsv"


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_joined_labels_from_tsv(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.tsv", 'text\tlabels\n"said ""no"""\tNegative|Regulatory\nslow\tNo_Context\n'
    )
    first, second = read_labelled(path, STOP_REASONS)
    assert (first.text, first.labels) == ('said "no"', ("Negative", "Regulatory"))
    assert (second.example_id, second.labels) == ("row-000002", ("No_Context",))


def test_all_kinds_of_file_agree(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [("low accrual", ["Insufficient_Enrollment"]), ("covid, funding", ["Covid19"])]
    wide = [
        {"text": text, **{label: int(label in labels) for label in STOP_REASONS.labels}}
        for text, labels in rows
    ]
    pq.write_table(pa.Table.from_pylist(wide), tmp_path / "wide.parquet")
    header = ",".join(wide[0])
    lines = [",".join(f'"{value}"' for value in row.values()) for row in wide]
    found = [
        read_labelled(path, STOP_REASONS)
        for path in (
            tmp_path / "wide.parquet",
            write(tmp_path, "wide.csv", "\n".join([header, *lines]) + "\n"),
            write(tmp_path, "wide.jsonl", "\n".join(map(json.dumps, wide)) + "\n"),
            write(tmp_path, "l.tsv", "text\tlabels\n" + "".join(f"{t}\t{v[0]}\n" for t, v in rows)),
        )
    ]
    assert found[0] == found[1] == found[2] == found[3]
    assert [e.labels for e in found[0]] == [("Insufficient_Enrollment",), ("Covid19",)]


def test_reads_id_input_label_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "s.csv", "id,input,label\nNCT1,Men with gout,Male\n")
    (example,) = read_labelled(path, SEX)
    assert (example.example_id, example.text, example.labels) == (
        "NCT1",
        "Men with gout",
        ("Male",),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "text\tlabels\nx\tBoredom\n", r"row 1: unknown label 'Boredom'"),
        ("a.tsv", "text\tlabels\nx\tSuccess\n  \tSuccess\n", r"row 2: the text is empty"),
        ("a.tsv", "texts\tlabels\nx\tSuccess\n", r"row 1: no text column"),
        ("a.tsv", "text\tSuccess\nx\t1\n", r"row 1: no column `labels`.*Another_Study is missing"),
        ("a.tsv", "text\tlabels\nx\tSuccess\ty\n", r"row 1 has 3 cells where the header has 2"),
        ("a.tsv", 'text\tlabels\n"x\tSuccess\n', r"malformed.*quote"),
        ("a.csv", "", r"no header"),
        ("a.csv", "text,labels\n", r"no labelled row"),
        ("a.jsonl", '{"text": "x"\n', r"row 1 is no JSON"),
        ("a.jsonl", "[1]\n", r"row 1 is no JSON object"),
        ("a.jsonl", '{"text": 3, "labels": ""}\n', r"column text holds 3, no text"),
        ("a.xlsx", "x", r"unknown kind of file; give .tsv"),
        ("a.parquet", "x", r"no readable Parquet"),
        ("a.csv", "id,text,labels\n1,a,Success\n1,b,Success\n", r"row 2: id '1' stands twice"),
    ],
)
def test_bad_input_names_the_row_and_the_cure(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(RecordError, match=message) as caught:
        read_labelled(path, STOP_REASONS)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_cell_that_is_neither_0_nor_1_is_refused(tmp_path: Path) -> None:
    row = dict.fromkeys(STOP_REASONS.labels, 0) | {"text": "x", "Success": 0.3}
    path = write(tmp_path, "a.jsonl", json.dumps(row) + "\n")
    with pytest.raises(RecordError, match=r"row 1: Success is 0.3; write 0 or 1"):
        read_labelled(path, STOP_REASONS)


def test_missing_file_and_wrong_encoding(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such labelled file"):
        read_labelled(tmp_path / "none.tsv", STOP_REASONS)
    (tmp_path / "latin.tsv").write_bytes("text\tlabels\ncafé\tSuccess\n".encode("latin-1"))
    with pytest.raises(RecordError, match="not UTF-8"):
        read_labelled(tmp_path / "latin.tsv", STOP_REASONS)


@pytest.mark.skipif(not GOLD.is_file(), reason="../shared/data is not here")
def test_gold_labels_are_read_whole() -> None:
    examples = read_labelled(GOLD, STOP_REASONS)
    counts = Counter(label for example in examples for label in example.labels)
    assert len(examples) == 3372
    assert (counts["Insufficient_Enrollment"], counts["Success"]) == (972, 19)
    assert set(counts) == set(STOP_REASONS.labels)
