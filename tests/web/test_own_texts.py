"""Texts of the user's own for the labelling queue, whatever kind of file they stand in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from trialese.errors import RecordError
from trialese.settings import ServeSettings
from trialese.tasks.formats import AskedColumns
from trialese.tasks.scorer import Preprocessing
from trialese.web.app import create_app
from trialese.web.models import open_served
from trialese.web.own_texts import read_own_texts

HOW = Preprocessing(max_tokens=32)
ROWS = [("a", "Slow accrual"), ("b", "Lack of funding"), ("c", "")]


def write(path: Path) -> Path:
    """The rows as a file of the kind that its extension says."""
    if path.suffix == ".txt":
        path.write_text("\n".join(text for _, text in ROWS) + "\n", encoding="utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(row) for row in [("id", "text"), *ROWS]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.txt"])
def test_texts_of_any_table_are_read_and_the_rest_counted(tmp_path: Path, name: str) -> None:
    own = read_own_texts(write(tmp_path / name), HOW, most=100)
    names = ("row 1", "row 2") if name.endswith(".txt") else ("a", "b")
    texts = tuple(text for _, text in ROWS[:2])
    assert own.texts == tuple(zip(names, texts, strict=True))
    assert sum(own.left_out.values()) == 1


def test_names_that_stand_twice_are_told_apart_and_a_large_file_is_thinned(tmp_path: Path) -> None:
    path = tmp_path / "passages.csv"
    rows = [f"NCT00000001,passage {n}" for n in range(10)]
    path.write_text("\n".join(["nct_id,text", *rows]), encoding="utf-8")
    own = read_own_texts(path, HOW, most=100)
    assert [name for name, _ in own.texts[:2]] == ["NCT00000001 row 1", "NCT00000001 row 2"]
    assert len({name for name, _ in own.texts}) == 10
    few = read_own_texts(path, HOW, most=4)
    assert [text for _, text in few.texts] == ["passage 0", "passage 3", "passage 6", "passage 9"]
    assert few.left_out == {"beyond_the_most_queued": 6}


def test_the_column_of_texts_to_label_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("key,text,why_stopped\nk1,a long summary,slow\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"'text' or 'why_stopped'; name the column \(--column"):
        read_own_texts(path, HOW, most=100)
    own = read_own_texts(path, HOW, most=100, columns=AskedColumns("why_stopped", "key"))
    assert own.texts == (("k1", "slow"),)


def test_scores_are_those_of_the_texts_in_their_order(tmp_path: Path) -> None:
    own = read_own_texts(write(tmp_path / "mine.csv"), HOW, most=100)
    own.add_scores("m", np.array([[0.1, 0.2]]))
    own.add_scores("m", np.array([[0.3, 0.4]]))
    assert [(s.nct_id, s.scores) for s in own.scored_texts("m", most=9)] == [
        ("a", (0.1, 0.2)), ("b", (0.3, 0.4))
    ]  # fmt: skip
    assert (own.count_scored("m"), own.count_scored("other")) == (2, 0)


@pytest.mark.parametrize(("name", "content"), [("no.csv", None), ("empty.csv", "id,text\n")])
def test_a_file_without_texts_is_named_before_anything_is_served(
    classifier: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RecordError, match=name):
        open_served([classifier], queue=tmp_path / name)


@pytest.fixture
def client(classifier: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A client of a server whose model has read the user's texts."""
    served = open_served(
        [classifier], queue=write(tmp_path / "mine.csv"), labels=tmp_path / "answers.sqlite"
    )
    served.load()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        while client.get("/v1/queue?annotator=ann").json()["reading"]:
            time.sleep(0.05)
        yield client


def test_disagreements_and_decisions_over_http(client: TestClient) -> None:
    facts = client.get("/v1/page").json()
    assert facts["queue"]["name"] == "mine.csv" and facts["queue"]["texts"] == 2
    told = client.get("/v1/queue", params={"annotator": "ann", "most": 5}).json()
    key = told["items"][0]["key"]
    for name, labels in (("ann", ["Money"]), ("bob", ["Enrollment"])):
        answer = {"annotator": name, "key": key, "labels": labels}
        assert client.post("/v1/queue/answers", json=answer).status_code == 200
    assert client.get("/v1/queue?annotator=ann").json()["disputed"] == 1
    (text,) = client.get("/v1/queue/disagreements").json()["texts"]
    assert (text["answers"], text["decision"]) == ({"ann": ["Money"], "bob": ["Enrollment"]}, None)
    decision = {"annotator": "eve", "key": key, "labels": ["Money", "Enrollment"]}
    made = client.post("/v1/queue/decisions", json=decision).json()
    assert (made["decided_by"], made["labels"]) == ("eve", ["Enrollment", "Money"])
    table = client.get("/v1/queue/labelled.tsv")
    assert table.headers["X-Disputed"] == "0" and "Enrollment|Money\teve" in table.text
    assert "\tEnrollment|Money\teve\t" in client.get("/v1/queue/disagreements.tsv").text
    near = client.post("/v1/nearest", json={"text": text["text"]}).json()["neighbours"]
    assert [each["example"]["source"] for each in near] == ["decided here by eve"]
    for change, status in (({"labels": ["Unheard"]}, 422), ({"key": "0" * 32}, 404)):
        assert client.post("/v1/queue/decisions", json=decision | change).status_code == status
    assert client.get("/v1/queue/curve").json()["state"] == "too_few"
