"""Tables of every kind, as files from the field have them: nothing is lost without being told."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import random
import struct
import subprocess
import sys
import zipfile
from io import BufferedReader, BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.collect import delimited, guarded
from trialese.collect.collection import collect_snapshot
from trialese.collect.delimited import BadRow, TableRow, find_column, plain_name, read_delimited
from trialese.collect.files import read_raw
from trialese.collect.guarded import read_guarded
from trialese.collect.parse import parse_trial
from trialese.collect.snapshot import read_trials
from trialese.collect.source import RawStudy, Reject
from trialese.collect.tables import read_csv, read_json_rows, read_table, text_cells
from trialese.errors import RecordError
from trialese.settings import CollectSettings

CASES = Path(__file__).parents[2].parent / "shared" / "cases"


def stream(data):
    return BufferedReader(BytesIO(data))


def read(data):
    return list(read_csv(stream(data), "f"))


def rows(data, **how):
    return list(read_delimited(stream(data), "f", **how))


def texts(data, **how):
    return [row.cells["text"] for row in rows(data, **how)]


def test_the_websites_download():
    data = 'NCT Number,Study Title,Brief Summary\nNCT00000045,Hats,"one,\ntwo ""three"""\n'
    (raw,) = read(b"\xef\xbb\xbf" + data.encode())
    assert raw == RawStudy(
        "f:2",
        "csv",
        {"NCT Number": "NCT00000045", "Study Title": "Hats", "Brief Summary": 'one,\ntwo "three"'},
    )


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_a_table_of_texts_with_any_delimiter(delimiter):
    data = f"{delimiter}text\n0{delimiter}Hats.\n"
    assert [raw.data for raw in read(data.encode())] == [{"": "0", "text": "Hats."}]


def test_a_long_cell_is_read_whole():
    data = "nct_id,text\nNCT00000045," + "x" * 1_000_000
    assert len(read(data.encode())[0].data["text"]) == 1_000_000


def test_bad_rows_are_rejected_and_the_rest_is_read():
    items = read(b"nct_id,text\nonly one\n\nNCT00000045,Hats\n")
    assert isinstance(items[0], Reject)
    assert (items[0].origin, items[0].reason) == ("f:2", "bad_row")
    assert isinstance(items[1], RawStudy)


@pytest.mark.parametrize("data", [b"a,b\n1,2\n", b"NCT Number,Sex\nNCT00000045,ALL\n", b"hello"])
def test_a_table_without_the_needed_column_is_refused(data):
    with pytest.raises(RecordError, match="f: a table needs a column 'text', or 'NCT Number'"):
        read(data)


@given(st.binary(max_size=200))
def test_any_bytes_after_the_header_give_rows_or_rejects(data):
    for item in read(b"nct_id,text\n" + data):
        assert isinstance(item, (RawStudy, Reject))


TABLE = pa.table({"id": ["NCT00000045", None], "text": ["Hats.", "Scarves."], "n": [1, None]})


def trials(path):
    return [parse_trial(raw) for raw in read_raw(path)]


def test_parquet_with_a_text_column(tmp_path):
    pq.write_table(TABLE, tmp_path / "texts")
    first, second = trials(tmp_path / "texts")
    assert (first.nct_id, first.detailed_description) == ("NCT00000045", "Hats.")
    assert second.nct_id.startswith("TEXT-")


def test_a_folder_saved_by_datasets(tmp_path):
    # What `datasets.Dataset.save_to_disk` leaves: a stream of batches and two JSON files.
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert [trial.detailed_description for trial in trials(tmp_path / "saved")] == [
        "Hats.",
        "Scarves.",
    ]


def test_an_arrow_file(tmp_path):
    with pa.ipc.new_file(tmp_path / "texts", TABLE.schema) as writer:
        writer.write_table(TABLE)
    assert len(trials(tmp_path / "texts")) == 2


def test_damage_and_missing_columns_are_refused(tmp_path):
    pq.write_table(TABLE, tmp_path / "texts")
    whole = (tmp_path / "texts").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="truncated or damaged"):
        trials(tmp_path / "cut")
    pq.write_table(TABLE.drop_columns(["text"]), tmp_path / "other")
    with pytest.raises(RecordError, match="a table needs a column 'text'"):
        trials(tmp_path / "other")


REASONS = [f"Slow accrual at site {n}" for n in range(1, 201)]


def test_a_stray_quote_swallows_no_row(caplog):
    lines = [f"{n}\t{text}" for n, text in enumerate(REASONS)]
    lines[2] = '2\t"Slow accrual at site 3'
    lines[90] = '90\tthe "wrong" drug'
    lines[150] = '150\t"Slow" accrual'
    found = rows(("id\ttext\n" + "\n".join(lines)).encode())
    assert [row.cells["id"] for row in found] == [str(n) for n in range(200)]
    assert [row.line for row in found if row.repaired] == [4, 152]
    assert found[2].cells["text"] == '"Slow accrual at site 3'
    assert found[90].cells["text"] == 'the "wrong" drug'
    assert found[150].cells["text"] == '"Slow" accrual'
    assert "f: 2 lines, the first line 4: a stray quote, read as text" in caplog.text


def test_quotes_with_backslashes_are_read_as_meant(caplog):
    data = b'id,text\n1,"said \\"no\\", and left"\n2,plain\n3,"b, c"\n'
    found = rows(data)
    assert [row.cells["text"] for row in found] == ['said "no", and left', "plain", "b, c"]
    assert not any(row.repaired for row in found)


def test_two_stray_quotes_do_not_swallow_what_is_between_them():
    lines = [f"{n}\t{text}" for n, text in enumerate(REASONS)]
    lines[3] = '3\t"Slow accrual'
    lines[70] = '70\tno funds"'
    found = rows(("id\ttext\n" + "\n".join(lines)).encode())
    assert [row.cells["id"] for row in found] == [str(n) for n in range(200)]


def test_a_quote_that_is_never_closed_holds_no_more_than_some_lines(monkeypatch):
    monkeypatch.setattr(delimited, "MAX_CELL_LINES", 50)
    lines = [f"{n}\tslow" for n in range(300)]
    lines[9] = '9\t"slow'
    found = rows(("id\ttext\n" + "\n".join(lines)).encode())
    assert [row.cells["id"] for row in found] == [str(n) for n in range(300)]
    assert [row.number for row in found if row.repaired] == [10]


def test_a_quote_closed_too_early_in_a_csv_costs_its_row_at_most():
    data = b'id,text\n1,"a "quoted", word"\n2,"b, ""c"""\n3,d\n'
    one, two, three = rows(data)
    assert (type(one), one.line) == (BadRow, 2) or one.repaired
    assert (two.cells["text"], three.cells["text"]) == ('b, "c"', "d")


def test_a_genuine_cell_over_lines_stays_whole_and_a_very_long_one_is_told(caplog):
    criteria = "Inclusion:\n" + "\n".join(f"- at least {n}, or so" for n in range(80))
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["id", "text"], ["1", "one,\ntwo"], ["2", criteria], ["3", "x"]])
    assert texts(out.getvalue().encode()) == ["one,\ntwo", criteria, "x"]
    assert "line 4: a cell over 81 lines; is a quote astray?" in caplog.text


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_encodings_and_line_ends(encoding, ending, caplog):
    lines = ["id\ttext", "1\tcafé – naïve", "2\tplain"]
    found = rows((ending.join(lines) + ending).encode(encoding))
    assert [row.cells for row in found] == [
        {"id": "1", "text": "café – naïve"},
        {"id": "2", "text": "plain"},
    ]
    told = "f: line 2: not UTF-8, read as Windows-1252; check its accents" in caplog.text
    assert told == (encoding == "cp1252")


def test_a_damaged_utf8_line_is_not_taken_for_windows():
    items = read("id,text\n1,café \n2,good\n".encode().replace(b"\xa9 ", b"\xa9 \xc3"))
    with pytest.raises(RecordError, match="no UTF-8"):
        parse_trial(items[0])
    assert parse_trial(items[1]).detailed_description == "good"
    with pytest.raises(RecordError, match="not UTF-8, and not the UTF-16 that it begins as"):
        rows("id,text\n1,x\n".encode("utf-16")[:-1])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_what_excel_says_the_separator_is(separator):
    assert texts(f"sep={separator}\r\nid{separator}text\r\n1{separator}a\r\n".encode()) == ["a"]


def test_a_separator_is_chosen_by_the_names_it_gives():
    assert texts(b"text;label, or labels, or none;id\nx, y;z;1\n") == ["x, y"]


def test_titles_above_the_header_are_told(caplog):
    data = b"Export of 2024,,\n\nmade by hand,,\nid,text,label\n1,a,b\n"
    (row,) = rows(data)
    assert (row.cells, row.line, row.number) == ({"id": "1", "text": "a", "label": "b"}, 5, 1)
    assert "f: line 1: left out: a title above the header" in caplog.text


def test_a_table_of_one_column_has_no_separator():
    assert texts(b'text\nslow, and no funds\n\nplain\n"quoted, too"\n') == [
        "slow, and no funds",
        "plain",
        "quoted, too",
    ]


def test_what_spreadsheets_leave_behind_the_last_column_is_no_bad_row():
    assert texts(b"id,text\n1,a,,\n2,b\n") == ["a", "b"]
    assert texts(b"id,text,,\n1,a,,\n2,b\n") == ["a", "b"]


@pytest.mark.parametrize("name", ["NCT_ID", "nctId", "Nct-Id", " nct id ", "_id", "NCT Number"])
def test_names_are_compared_without_case_and_signs(name):
    (raw,) = read(f"{name},Why Stopped\nNCT00000045,No funds\n".encode())
    trial = parse_trial(raw)
    assert (trial.nct_id, trial.why_stopped) == ("NCT00000045", "No funds")


def test_columns_by_name():
    assert plain_name("_NCT-Id ") == "nctid"
    assert find_column(["x", "Document", "TEXT"], delimited.TEXT_COLUMNS) == "TEXT"
    assert find_column(["", "x"], delimited.ID_COLUMNS) == ""
    assert find_column(["x", ""], delimited.ID_COLUMNS) is None
    with pytest.raises(RecordError, match=r"a column name twice \('text'\)"):
        rows(b"text,text\na,b\n")
    (row,) = rows(b"text,note,note\na,b,c\n")
    assert row.cells == {"text": "a", "note": "b", "note.1": "c"}


def test_a_reason_and_another_text_of_a_row_are_both_kept(tmp_path):
    (raw,) = read(b"nct_id,why_stopped,text\nNCT00000045,No funds,All about hats\n")
    trial = parse_trial(raw)
    assert (trial.why_stopped, trial.detailed_description) == ("No funds", "All about hats")
    (raw,) = read(b"nct_id,why_stopped,text\nNCT00000045,,All about hats\n")
    trial = parse_trial(raw)
    assert (trial.why_stopped, trial.detailed_description) == ("", "All about hats")
    with pytest.raises(RecordError, match="the row has no text"):
        parse_trial(read(b"nct_id,why_stopped,text\nNCT00000045,, \n")[0])


@pytest.mark.parametrize("names", ["text,Sentence", "why_stopped,Stop Reason"])
def test_two_texts_of_one_kind_are_rejected_with_the_cure(tmp_path, names):
    (raw,) = read(f"nct_id,{names}\nNCT00000045,one,two\n".encode())
    one, two = names.split(",")
    with pytest.raises(RecordError, match=f"may be that of '{one}' or '{two}'; leave one out"):
        parse_trial(raw)


def test_the_error_lists_what_would_have_been_taken():
    with pytest.raises(RecordError, match=r"'reason, n'; texts are also taken from document, inp"):
        rows(b"reason,n\na,1\n")
    (row,) = rows(b"reason,n\na,1\n", wanted=["Reason"])
    assert row.cells["reason"] == "a"
    with pytest.raises(RecordError, match="f: no column 'cause'; the table has reason, n"):
        rows(b"reason,n\na,1\n", wanted=["cause"])


def test_the_websites_columns_by_any_spelling():
    (raw,) = read(b"nct_number;study_title;brief_summary\nNCT00000045;Hats;Do they help?\n")
    trial = parse_trial(raw)
    assert (trial.brief_title, trial.brief_summary) == ("Hats", "Do they help?")


@pytest.mark.parametrize("layout", ["beir", "trialgpt"])
def test_rows_of_json_keep_id_and_title(layout, tmp_path):
    row = {"_id": "NCT00000045", "title": "Hats", "text": "Do hats help?", "metadata": {"x": "1"}}
    if layout == "beir":
        row = {"NCTId": "NCT00000045", "Title": "Hats", "Text": "Do hats help?"}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    for trial in trials(tmp_path / "corpus.jsonl"):
        assert (trial.nct_id, trial.brief_title) == ("NCT00000045", "Hats")
        assert trial.detailed_description == "Do hats help?"


def test_different_texts_of_one_number_all_stay_and_equal_ones_are_one(tmp_path):
    pieces = ["One piece.", "Another piece.", "One piece.", "A third one which is longer."]
    lines = [f"NCT00000045,{piece}" for piece in pieces]
    found = []
    for turn, ordered in enumerate([lines, lines[::-1]]):
        path = tmp_path / f"{turn}.csv"
        path.write_text("\n".join(["nct_id,text", *ordered, "NCT00000046,Other"]) + "\n")
        settings = CollectSettings(source="files", paths=(str(path),))
        snapshot = collect_snapshot(settings, tmp_path / f"snapshot{turn}")
        counts = snapshot.manifest.counts
        assert (counts["trials"], counts["duplicates"], counts["texts_of_one_number"]) == (4, 1, 2)
        found.append([(t.nct_id, t.detailed_description) for t in read_trials(snapshot)])
    assert found[0] == found[1]
    assert sorted(text for _, text in found[0]) == sorted([*set(pieces), "Other"])
    assert found[0][0] == ("NCT00000045", "A third one which is longer.")
    assert all(name.startswith("NCT00000045") for name, _ in found[0][:3])
    # Somebody who has the number has all its pieces.
    (tmp_path / "held.txt").write_text("NCT00000045")
    new = CollectSettings(source="files", paths=(str(path),), new_since=str(tmp_path / "held.txt"))
    assert collect_snapshot(new, tmp_path / "new").manifest.counts["known"] == 3


def test_different_texts_beside_a_full_record_all_stay(tmp_path):
    (tmp_path / "texts.csv").write_text("nct_id,text\nNCT00000045,One.\nNCT00000045,Two.\n")
    (tmp_path / "site.csv").write_text("NCT Number,Study Title\nNCT00000045,Hats\n")
    paths = (str(tmp_path / "texts.csv"), str(tmp_path / "site.csv"))
    settings = CollectSettings(source="files", paths=paths)
    found = list(read_trials(collect_snapshot(settings, tmp_path / "snapshot")))
    assert [trial.brief_title for trial in found] == ["Hats", ""]
    assert {trial.detailed_description for trial in found} == {"One.", "Two."}


def test_limits_on_cells_and_lines_are_named(monkeypatch):
    monkeypatch.setattr(delimited, "MAX_CELL_CHARACTERS", 1000)
    monkeypatch.setattr(delimited, "MAX_ROW_CHARACTERS", 2000)
    data = b"id,text\n1,a\n2," + b"x" * 1500 + b"\n3," + b"y" * 9000 + b"\n4,d\n"
    one, two, three, four = rows(data)
    assert (one.cells["text"], four.cells["text"], four.line) == ("a", "d", 5)
    assert (two.reason, two.detail) == ("too_long", "over 1,000 characters (MAX_CELL_CHARACTERS)")
    assert (three.reason, three.detail) == (
        "too_long",
        "over 2,000 characters (MAX_ROW_CHARACTERS)",
    )
    with pytest.raises(RecordError, match=r"line 1 has over 2,000 characters .MAX_ROW_CHARACTERS"):
        rows(b"z" * 5000)


def test_many_quotes_that_are_never_closed_cost_no_more_than_a_few_looks(monkeypatch):
    monkeypatch.setattr(delimited, "MAX_RESCANNED_CHARACTERS", 5000)
    lines = [f'{n}\t"a""b' for n in range(3000)]
    found = rows(("id\ttext\n" + "\n".join(lines)).encode())
    assert [row.cells["id"] for row in found] == [str(n) for n in range(3000)]


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_goes_in_comes_out_or_is_counted(table, separator, quoting, encoding, ending):
    logging.disable(logging.WARNING)  # hypothesis shows each example's, thousands of them
    out = io.StringIO(newline="")
    how = {"delimiter": separator, "lineterminator": ending}
    csv.writer(out, quoting=csv.QUOTE_ALL, **how).writerow(["id", "text"])
    quoting = csv.QUOTE_ALL if any("\r" in cell for row in table for cell in row) else quoting
    csv.writer(out, quoting=quoting, **how).writerows(table)
    found = rows(out.getvalue().encode(encoding))
    logging.disable(logging.NOTSET)
    if all(isinstance(row, TableRow) and not row.repaired for row in found):
        assert [(row.cells["id"], row.cells["text"]) for row in found] == table
    else:  # a cell that looks like rows of its own: each line is a row or told
        assert len(found) >= len(table)
    assert [row.number for row in found] == list(range(1, len(found) + 1))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.booleans())
def test_json_rows_come_out_as_they_went_in(table, as_array):
    objects = [{"id": a, "text": b} for a, b in table]
    lines = "\n".join(map(json.dumps, objects))
    data = json.dumps(objects, indent=1) if as_array else lines
    assert [row.cells for row in read_json_rows(stream(data.encode()), "f")] == objects


def test_other_shapes_of_json():
    def cells(value):
        return [row.cells for row in read_json_rows(stream(json.dumps(value).encode()), "f")]

    expected = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    assert cells({"text": {"0": "a", "1": "b"}, "n": {"0": 1, "1": 2}}) == expected
    assert cells({"text": ["a", "b"], "n": [1, 2]}) == expected
    assert cells({"rows": expected}) == expected
    assert text_cells({"id": 1, "data": {"text": "a"}}) == {"id": "1", "text": "a"}


def workbook(path, rows, *, name="xl/worksheets/sheet1.xml"):
    """A workbook of one sheet, written by hand: strings inline, numbers as numbers."""

    def cell(value):
        if isinstance(value, int):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    sheet = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        '<sheet name="Labels" sheetId="1" r:id="r1"/></sheets></workbook>',
        name: f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return path


def test_an_excel_workbook(tmp_path):
    pytest.importorskip("python_calamine")
    table = [["Our labels", ""], ["id", "Text"], [7, "Slow accrual"], ["", ""], [8, "No funds"]]
    path = workbook(tmp_path / "labels.xlsx", table)
    assert [row.cells for row in read_table(path)] == [
        {"id": 7, "Text": "Slow accrual"},
        {"id": 8, "Text": "No funds"},
    ]
    assert [trial.detailed_description for trial in trials(path)] == ["Slow accrual", "No funds"]


def test_the_table_may_stand_on_another_sheet_than_the_first(tmp_path, caplog):
    pytest.importorskip("python_calamine")
    xlsxwriter = pytest.importorskip("xlsxwriter")
    path = tmp_path / "book.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        book.add_worksheet("Empty")
        book.add_worksheet("Readme").write_column(0, 0, ["Notes on the table", "by us"])
        sheet = book.add_worksheet("Data")
        sheet.write_row(0, 0, ["id", "Text", "cause"])
        sheet.write_row(1, 0, [7, "Slow accrual", "slow"])
    expected = [{"id": 7, "Text": "Slow accrual", "cause": "slow"}]
    assert [row.cells for row in read_table(path)] == expected
    assert [trial.detailed_description for trial in trials(path)] == ["Slow accrual"]
    assert "only the sheet 'Data' is read, not 'Empty', 'Readme'" in caplog.text
    assert "only the sheet 'Readme'" not in caplog.text
    assert [row.cells for row in read_table(path, wanted=["Cause"])] == expected
    with pytest.raises(RecordError, match="no column 'none'; the table has Notes on the table"):
        list(read_table(path, wanted=["none"]))


def test_a_workbook_without_its_reader_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "python_calamine.py").write_text("raise ModuleNotFoundError('no calamine')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = workbook(tmp_path / "labels.xlsx", [["text"], ["a"]])
    message = r"save it as CSV, or pip install 'trialese\[xlsx\]'"
    for read_it in (read_raw, read_table):
        with pytest.raises(RecordError, match=message):
            list(read_it(path))


def test_without_pyarrow_a_workbook_is_read_and_parquet_says_what_to_do(tmp_path, monkeypatch):
    """As in the base install, which predicts."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "texts.parquet")
    book = workbook(tmp_path / "labels.xlsx", [["text"], ["a"]])
    home = tmp_path / "base"
    (home / "pyarrow").mkdir(parents=True)
    (home / "pyarrow" / "__init__.py").write_text("raise ModuleNotFoundError('no pyarrow')")
    monkeypatch.syspath_prepend(str(home))
    with pytest.raises(RecordError, match=r"texts.parquet: .*pip install 'trialese\[data\]'"):
        list(read_table(tmp_path / "texts.parquet"))
    pytest.importorskip("python_calamine")
    assert [row.cells for row in read_table(book)] == [{"text": "a"}]


def test_a_damaged_workbook_and_an_old_one_are_one_line(tmp_path):
    pytest.importorskip("python_calamine")
    path = workbook(tmp_path / "labels.xlsx", [["text"], ["a"]], name="xl/other.xml")
    for data in (path.read_bytes(), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)):
        path.write_bytes(data)
        with pytest.raises(RecordError, match=r"labels.xlsx: no readable workbook.*save it as CSV"):
            list(read_raw(path))


def test_tables_in_gzip_and_what_is_no_table(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id,text\n1,a\n"))
    assert [row.cells["text"] for row in read_table(tmp_path / "t.csv.gz")] == ["a"]
    (tmp_path / "t.csv").write_bytes(b"%PDF-1.7")
    with pytest.raises(RecordError, match="unknown kind of file"):
        list(read_table(tmp_path / "t.csv"))


def hostile_arrow(path, offset):
    """An Arrow file whose second offset of `text` is `offset`, beyond its data."""
    table = pa.table({"id": ["1", "2"], "text": ["aa", "bb"]})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    data = path.read_bytes()
    offsets = struct.pack("<3i", 0, 2, 4)
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, struct.pack("<3i", 0, offset, offset)))
    return path


@pytest.mark.parametrize("offset", [1000, 2**27, 2**31 - 1, -5])
def test_offsets_beyond_the_data_return_no_memory_and_end_no_process(tmp_path, offset):
    path = hostile_arrow(tmp_path / "texts.arrow", offset)
    for read_it in (read_raw, read_table):
        with pytest.raises(
            RecordError, match=r"texts.arrow: no readable Parquet or Arrow.*truncated or dam"
        ):
            list(read_it(path))


READING = """
import resource, sys
from pathlib import Path
from trialese.collect.guarded import read_guarded
from trialese.errors import RecordError
try:
    for _ in read_guarded(Path(sys.argv[1])):
        pass
except RecordError as error:
    sys.stderr.write(str(error))
status = Path("/proc/self/status").read_text()
own = int(status.partition("VmHWM:")[2].split()[0])
sys.stdout.write(str(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)))
"""


@pytest.mark.parametrize(
    ("characters", "count", "message"),
    [
        (20 * 2**20, 2000, "MAX_WORKER_BYTES"),
        (2**18, 2000, "unpacks to over 1,000 times its size (MAX_INFLATION)"),
    ],
)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, characters, count, message):
    path = tmp_path / "bomb.parquet"
    words = pa.DictionaryArray.from_arrays(pa.array([0] * count), ["x" * characters])
    pq.write_table(pa.table({"text": words}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    program = [sys.executable, "-c", READING, str(path)]  # so that its memory alone is measured
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert f"{path}: " in done.stderr
    assert message in done.stderr
    assert int(done.stdout) < 600 * 1024


def test_a_reader_that_dies_or_hangs_is_one_line(tmp_path, monkeypatch):
    pq.write_table(TABLE, tmp_path / "texts.parquet")
    monkeypatch.setattr(guarded, "MAX_SILENT_SECONDS", 0.01)
    with pytest.raises(RecordError, match="no row of it was read within 0 seconds"):
        list(read_guarded(tmp_path / "texts.parquet"))
    monkeypatch.undo()
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    (tmp_path / "pyarrow.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecordError, match=r"texts.parquet: the process that read it.*signal 11"):
        list(read_guarded(tmp_path / "texts.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_damaged_columnar_files_give_rows_or_one_line(tmp_path, kind):
    path, chance = tmp_path / "texts", random.Random(kind)
    if kind == "parquet":
        pq.write_table(TABLE, path)
    else:
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(path, TABLE.schema) as writer:
            writer.write_table(TABLE)
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            for _ in read_table(path):
                pass
        except RecordError as error:
            assert str(path) in str(error)


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
def test_cases_from_the_field():
    assert len(list(read_raw(CASES / "stray_quote.tsv"))) == 40
    (text,) = read_raw(CASES / "utf16_excel_text.txt")
    assert parse_trial(text).why_stopped == "Slow accrual"
    found = trials(CASES / "trialgpt_corpus.jsonl")
    assert [trial.nct_id for trial in found] == ["NCT00995306", "NCT00995307"]
    assert found[1].brief_title == "Second"
    for path in [*CASES.glob("hostile/*arrow*"), *CASES.glob("hostile/*.parquet")]:
        with pytest.raises(RecordError):
            list(read_raw(path))
