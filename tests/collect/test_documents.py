import json
from io import BufferedReader, BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.collect import files as documents
from trialese.collect.files import read_json, read_xml, split_page
from trialese.collect.source import RawStudy, Reject
from trialese.errors import RecordError

STUDY = json.loads((Path(__file__).parents[1] / "data" / "study_v2.json").read_text("utf-8"))


def read(data):
    return list(read_json(BufferedReader(BytesIO(data)), "f"))


def studies(data):
    items = read(data)
    assert all(isinstance(item, RawStudy) for item in items), items
    return [json.loads(item.data) for item in items]


def test_one_study_pretty_or_plain():
    assert studies(json.dumps(STUDY).encode()) == [STUDY]
    assert studies(json.dumps(STUDY, indent=2).encode()) == [STUDY]
    assert studies(b"\xef\xbb\xbf\n" + json.dumps(STUDY).encode() + b"\n\n") == [STUDY]


def test_arrays_and_pages():
    assert studies(json.dumps([STUDY, STUDY]).encode()) == [STUDY, STUDY]
    page = {"totalCount": 2, "studies": [STUDY, STUDY], "nextPageToken": "x"}
    assert studies(json.dumps(page, indent=1).encode()) == [STUDY, STUDY]
    assert read(b'{"studies": []}') == []


def test_json_lines_with_a_bad_line():
    line = json.dumps(STUDY).encode()
    items = read(b"\n".join([line, b"", b'{"oops', line]) + b"\n")
    assert [getattr(item, "reason", "study") for item in items] == ["study", "bad_json", "study"]
    assert items[2].origin == "f:4"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1}', "no_study"),
        (b'{"studies": 3}', "no_study"),
        (b'{"studies": [', "bad_json"),
        (b"[1", "bad_json"),
        (b'"\xff"', "no_study"),
    ],
)
def test_what_is_no_study_is_one_reject(data, reason):
    (reject,) = read(data)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.origin) == (reason, "f")


def test_an_xml_without_a_study_is_a_reject():
    (reject,) = read_xml(BufferedReader(BytesIO(b"<html/>")), "f")
    assert reject.reason == "no_study"


def test_a_document_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 2000)
    with pytest.raises(RecordError, match="save it as JSON lines"):
        read(json.dumps([STUDY] * 9, indent=1).encode())


@given(st.binary(max_size=300))
def test_any_bytes_give_studies_or_rejects(data):
    for item in split_page(data, "f"):
        assert isinstance(item, (RawStudy, Reject))
