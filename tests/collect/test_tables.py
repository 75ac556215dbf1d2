from io import BufferedReader, BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
