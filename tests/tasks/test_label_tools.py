"""Labels as people, spreadsheets and annotation tools write them; every input made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.errors import RecordError
from trialese.records import Task
from trialese.tasks.label_tools import (
    BLANK,
    BadLabelError,
    LabelNames,
    Unlabelled,
    columns_of_labels,
    labels_in,
    labels_of_columns,
    labels_of_tool,
    split_labels,
)
from trialese.tasks.labelled import read_labelled
from trialese.tasks.stop_reasons import STOP_REASONS

NAMES = LabelNames(STOP_REASONS.labels)
SLOW, MONEY = "Insufficient_Enrollment", "Business_Administrative"
CASES = Path(__file__).parents[2].parent / "shared" / "cases"


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("Insufficient enrollment", SLOW),
        ("insufficient-enrollment", SLOW),
        ("InsufficientEnrollment", SLOW),
        ("Business or administrative", MONEY),
        ("Safety or side effects", "Safety_Sideeffects"),
        ("Logistics or resources", "Logistics_Resources"),
        ("COVID-19", "Covid19"),
        ("Met endpoint", "Endpoint_Met"),
        ("Study staff moved", "Study_Staff_Moved"),
    ],
)
def test_display_names(written: str, label: str) -> None:
    assert NAMES.known(written) == label
    assert labels_in(written, NAMES) == (label,)


def test_a_name_that_two_labels_could_mean_must_be_written_in_full() -> None:
    names = LabelNames(("Phase_1", "phase-1", "Other"))
    assert names.known("Phase_1") == "Phase_1"
    assert names.known("Phase 1") is None
    assert LabelNames(("+", "-")).known("-") == "-"


@pytest.mark.parametrize(
    "cell",
    [
        f"{SLOW}|{MONEY}",
        f"{SLOW}; {MONEY}",
        "Insufficient enrollment, Business or administrative",
        f"{SLOW}#{MONEY}",
        f"['{SLOW}', '{MONEY}']",
        f'["{SLOW}", "{MONEY}"]',
        f"['{SLOW}' '{MONEY}']",
        f"('{SLOW}', '{MONEY}')",
        [SLOW, MONEY],
        {"choices": [SLOW, MONEY]},
        json.dumps({"choices": [SLOW, MONEY]}),
    ],
)
def test_several_labels_in_a_cell(cell: Any) -> None:
    assert labels_in(cell, NAMES) == (SLOW, MONEY)


def test_a_label_that_holds_a_separator_is_one_label() -> None:
    names = LabelNames(("Yes, surely", "Yes", "No|never"))
    assert labels_in("Yes, surely", names) == ("Yes, surely",)
    assert labels_in("No|never", names) == ("No|never",)
    assert labels_in("Yes; No|never", names) == ("Yes", "No|never")


@pytest.mark.parametrize("cell", ["", "  ", None, float("nan"), "nan", "NaN", "null", "<NA>"])
def test_a_blank_is_not_labelled(cell: Any) -> None:
    assert labels_in(cell, NAMES) == BLANK


@pytest.mark.parametrize("cell", ["none", "None of these", "NONE OF THE ABOVE", "[]", []])
def test_none_of_these_has_words_of_its_own(cell: Any) -> None:
    assert labels_in(cell, NAMES) == ()
    assert labels_in("None", LabelNames(("All", "None"))) == ("None",)


def test_what_is_no_label_stays_as_it_was_written() -> None:
    assert labels_in("Boredom, mostly", NAMES) == ("Boredom, mostly",)
    assert labels_in(3, NAMES) == ("3",)
    with pytest.raises(BadLabelError, match="is no label"):
        labels_in({"x": 1}, NAMES)


@given(st.lists(st.sampled_from(STOP_REASONS.labels), min_size=1, unique=True), st.data())
def test_every_way_of_writing_several_labels_is_read_back(labels: list[str], data: Any) -> None:
    separator = data.draw(st.sampled_from(["|", "; ", ", ", "#", "\n"]))
    shown = [label.replace("_", data.draw(st.sampled_from(["_", " ", "-"]))) for label in labels]
    assert labels_in(separator.join(shown), NAMES) == tuple(labels)
    assert labels_in(str(shown), NAMES) == labels_in(json.dumps(shown), NAMES) == tuple(labels)
    assert split_labels("|".join(labels)) == tuple(labels)


def test_a_column_a_label() -> None:
    columns = columns_of_labels(["text", "label_A b", "C"], LabelNames(("A_B", "C")))
    assert columns == {"A_B": "label_A b", "C": "C"}
    assert labels_of_columns({"label_A b": "1.0", "C": 0}, columns) == ("A_B",)
    assert labels_of_columns({"label_A b": 0, "C": False}, columns) == ()
    assert labels_of_columns({"label_A b": "", "C": None}, columns) == BLANK
    with pytest.raises(BadLabelError, match=r"C is 0.3; write 0 or 1"):
        labels_of_columns({"label_A b": 0, "C": 0.3}, columns)


def studio(*choices: list[str], cancelled: bool = False, **more: Any) -> dict[str, Any]:
    result = [{"type": "choices", "from_name": "r", "value": {"choices": each}} for each in choices]
    return {"id": 5, "was_cancelled": cancelled, "result": result, **more}


def task_of_studio(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 1, "data": {"text": "Slow accrual"}, "annotations": list(annotations)}


DISAGREE, REJECTED = Unlabelled("annotators_disagree"), Unlabelled("rejected")


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        (task_of_studio(studio([SLOW, MONEY])), (SLOW, MONEY)),
        (task_of_studio(studio([SLOW], cancelled=True)), Unlabelled("skipped")),
        (task_of_studio(), BLANK),
        (task_of_studio(studio()), BLANK),
        (task_of_studio(studio([SLOW]), studio([MONEY])), DISAGREE),
        (task_of_studio(studio([SLOW]), studio([MONEY], ground_truth=True)), (MONEY,)),
        ({"text": "x", "options": [], "accept": [SLOW], "answer": "accept"}, (SLOW,)),
        ({"text": "x", "accept": [], "answer": "accept"}, ()),
        ({"text": "x", "accept": [], "answer": "ignore"}, Unlabelled("ignored")),
        ({"text": "x", "accept": [SLOW], "answer": "reject"}, REJECTED),
        (
            {"accept": [1], "answer": "accept", "options": [{"id": 1, "text": "Covid 19"}]},
            ("Covid19",),
        ),
        ({"text": "x", "label": SLOW, "answer": "accept"}, (SLOW,)),
        ({"text": "x", "label": SLOW, "answer": "reject"}, REJECTED),
        ({"fields": {"text": "x"}, "responses": {"q": [{"value": [SLOW]}]}}, (SLOW,)),
        ({"fields": {"text": "x"}, "responses": {}}, BLANK),
        (
            {"responses": {"q": [{"value": SLOW, "status": "draft"}]}, "fields": {"text": "x"}},
            BLANK,
        ),
        ({"text": "x", "q.responses": [[SLOW], [MONEY]]}, DISAGREE),
        ({"text": "x", "q.responses": [SLOW], "q.responses.status": ["submitted"]}, (SLOW,)),
        ({"text": "x", "q.responses": None, "q.responses.status": None}, BLANK),
        ({"text": "x", "annotation": SLOW, "status": "Validated"}, (SLOW,)),
        ({"text": "x", "annotation": SLOW, "status": "Discarded"}, Unlabelled("discarded")),
        ({"text": "x", "annotation": None, "status": "Default"}, BLANK),
        ({"id": 1, "text": "x", "label": [], "Comments": []}, BLANK),
        ({"text": "x", "cats": {SLOW: 1.0, MONEY: 0.0}}, (SLOW,)),
        ({"text": "x", "labels": SLOW}, None),
    ],
)
def test_rows_of_label_tools(row: dict[str, Any], labels: Any) -> None:
    assert labels_of_tool(row, NAMES) == labels


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_files_of_label_tools_are_read_whole(tmp_path: Path) -> None:
    def read(name: str, content: Any) -> list[tuple[str, tuple[str, ...]]]:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return [(each.text, each.labels) for each in read_labelled(path, STOP_REASONS)]

    full = [task_of_studio(studio([SLOW])), {**task_of_studio(studio([MONEY])), "id": 2}]
    assert read("full.json", full) == [("Slow accrual", (SLOW,)), ("Slow accrual", (MONEY,))]
    short = [
        {"id": 1, "text": "a b", "why": {"choices": [SLOW, MONEY]}, "annotator": 1},
        {"id": 2, "text": "c", "why": "Covid19", "annotator": 1, "lead_time": 3.2},
        {"id": 3, "text": "d", "annotator": 1},
    ]
    assert read("min.json", short) == [("a b", (SLOW, MONEY)), ("c", ("Covid19",))]
    table = (
        "annotation_id,annotator,created_at,id,lead_time,why,text\n"
        f'1,1,2024-01-01,1,3.5,"{{""choices"":[""{SLOW}"",""{MONEY}""]}}",a b\n'
        f"2,1,2024-01-01,2,1.5,{SLOW},c\n"
    )
    assert read("studio.csv", table) == [("a b", (SLOW, MONEY)), ("c", (SLOW,))]
    binary = "\n".join(
        json.dumps({"text": text, "label": label, "answer": answer})
        for text, label, answer in [
            ("a", SLOW, "accept"),
            ("a", "Covid19", "reject"),
            ("a", MONEY, "accept"),
            ("b", SLOW, "reject"),
            ("c", "Covid19", "accept"),
        ]
    )
    assert read("binary.jsonl", binary) == [("a", (SLOW, MONEY)), ("c", ("Covid19",))]
    doccano = f"id,text,label\n1,a,{SLOW}#{MONEY}\n2,b,\n"
    assert read("doccano.csv", doccano) == [("a", (SLOW, MONEY))]


def test_columns_that_could_both_hold_the_labels_are_told(tmp_path: Path) -> None:
    rows = [{"text": "a", "ann": SLOW, "bob": SLOW}, {"text": "b", "ann": MONEY, "bob": SLOW}]
    path = written(tmp_path / "two.jsonl", rows)
    with pytest.raises(RecordError, match="labels stand in ann and in bob"):
        read_labelled(path, STOP_REASONS)
    found = read_labelled(path, STOP_REASONS, label_column="ANN")
    assert [each.labels for each in found] == [(SLOW,), (MONEY,)]


def test_unfinished_annotation_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "half.csv"
    path.write_text(f"text,labels\na,\nb,{SLOW}\nc,none\nd,nan\n,\n")
    dropped: dict[str, int] = {"before": 1}
    found = read_labelled(path, STOP_REASONS, dropped=dropped)
    assert [(each.example_id, each.text, each.labels) for each in found] == [
        ("row-000002", "b", (SLOW,)),
        ("row-000003", "c", ()),
    ]
    assert dropped == {"before": 1, "not_labelled": 3}
    assert "half.csv: 3 of 5 rows left out: not_labelled" in caplog.text
    path.write_text("text,labels\na,\nb,\n")
    with pytest.raises(RecordError, match=r"not one of 2 rows has a label.*none where no label"):
        read_labelled(path, STOP_REASONS)


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    lines = ["text,labels", *(["a,Boredom"] * 14), ",Success", "b,Success,x", "c,Success"]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError) as caught:
        read_labelled(path, STOP_REASONS)
    said = str(caught.value)
    assert "rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4 more: unknown label 'Boredom'" in said
    assert "row 15: the text is empty" in said
    assert "row 16 has 3 cells where the header has 2" in said
    assert said.endswith("(16 of 17 rows are bad)")


def test_bytes_that_are_no_text_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(
        f"text,labels\ncafé \udcc3,{SLOW}\nb,{SLOW}\n".encode(errors="surrogateescape")
    )
    with pytest.raises(RecordError, match="row 1 holds bytes that are no text in UTF-8"):
        read_labelled(path, STOP_REASONS)
    lone = written(tmp_path / "lone.jsonl", [{"text": "\ud800", "labels": SLOW}])
    with pytest.raises(RecordError, match="row 1 holds bytes that are no text in UTF-8"):
        read_labelled(lone, STOP_REASONS)


def test_names_of_labels_come_before_their_numbers(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 6, "label_text": "Insufficient enrollment"}]
    (found,) = read_labelled(written(tmp_path / "hub.jsonl", rows), STOP_REASONS)
    assert found.labels == (SLOW,)


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"Key,Our Reason,Verdict\nx7,slow,{SLOW}\n")
    (found,) = read_labelled(
        path, STOP_REASONS, text_column="our_reason", label_column="verdict", id_column="key"
    )
    assert (found.example_id, found.text, found.labels) == ("x7", "slow", (SLOW,))
    with pytest.raises(RecordError, match="no column 'why'; the table has Key, Our Reason, Verd"):
        read_labelled(path, STOP_REASONS, text_column="why")


def test_texts_of_one_trial_all_stay(tmp_path: Path) -> None:
    path = tmp_path / "chunks.csv"
    path.write_text(f"nct_id,text,labels\nNCT00000001,a,{SLOW}\nNCT00000001,b,{SLOW}\n")
    found = read_labelled(path, STOP_REASONS)
    assert [each.example_id for each in found] == ["NCT00000001", "NCT00000001 row 2"]


def test_labels_of_no_class_may_be_left_out(tmp_path: Path) -> None:
    task = Task("ends", ("COMPLETED", "TERMINATED"), "multiclass")
    path = tmp_path / "status.csv"
    path.write_text("text,label\na,Completed\nb,WITHDRAWN\nc,TERMINATED\n")
    with pytest.raises(RecordError, match="row 2: unknown label 'WITHDRAWN'"):
        read_labelled(path, task)
    dropped: dict[str, int] = {}
    found = read_labelled(path, task, leave_out_others=True, dropped=dropped)
    assert [each.labels for each in found] == [("COMPLETED",), ("TERMINATED",)]
    assert dropped == {"other_label": 1}


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
@pytest.mark.parametrize(
    ("name", "rows", "labels"),
    [
        ("labels_semicolon.csv", 1, (SLOW,)),
        ("labels_display_names.csv", 2, (SLOW,)),
        ("labelstudio_json_min.json", 2, (SLOW, MONEY)),
        ("prodigy_choice.jsonl", 1, (SLOW,)),
    ],
)
def test_cases_from_the_field(name: str, rows: int, labels: tuple[str, ...]) -> None:
    found = read_labelled(CASES / name, STOP_REASONS)
    assert (len(found), found[0].labels) == (rows, labels)
