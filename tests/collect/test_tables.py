""""""

from __future__ import annotations

from io import BufferedReader, BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.collect.files import read_raw
from trialese.collect.parse import parse_trial
from trialese.collect.source import RawStudy, Reject
from trialese.collect.tables import read_csv
from trialese.errors import RecordError


def read(data):
    return list(read_csv(BufferedReader(BytesIO(data)), "f"))


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
