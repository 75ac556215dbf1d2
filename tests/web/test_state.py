"""Trials, neighbours and the queue over HTTP, as programs see them."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from trialese.collect.api import fetch_trial
from trialese.collect.snapshot import read_trials
from trialese.errors import RegistryError
from trialese.records import Snapshot
from trialese.settings import CollectSettings, ServeSettings
from trialese.web.app import create_app
from trialese.web.models import open_served


@pytest.fixture
def state(classifier: Path, snapshot: Snapshot, tmp_path: Path) -> Iterator[TestClient]:
    """A client of a server whose model has read the whole snapshot."""
    served = open_served(
        [classifier], snapshot=snapshot.path, labels=tmp_path / "answers.sqlite"
    )  # fmt: skip
    served.load()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        while client.get("/v1/page").json()["snapshot"]["read"].get("reasons", 0) < 1:
            time.sleep(0.05)
        yield client


def test_what_the_model_read_can_be_searched(state: TestClient, snapshot: Snapshot) -> None:
    reasons = [trial for trial in read_trials(snapshot) if trial.why_stopped]
    told = state.get("/v1/trials", params={"most": 100}).json()
    assert told["counts"]["total"] == 60
    labelled = [trial for trial in told["trials"] if trial["labels"] is not None]
    assert {trial["nct_id"] for trial in labelled} == {trial.nct_id for trial in reasons}
    assert sum(told["counts"]["labels"].values()) >= len(reasons)
    one = state.get(f"/v1/trials/{reasons[0].nct_id}").json()
    assert (one["found_in"], one["trial"]["why_stopped"]) == ("snapshot", reasons[0].why_stopped)


def test_hits_come_as_a_table(
    state: TestClient, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = state.get("/v1/trials", params={"sex": "Female", "most": 100}).json()
    table = state.get("/v1/trials.csv", params={"sex": "Female"})
    assert table.headers["Content-Disposition"] == 'attachment; filename="trials.csv"'
    rows = list(csv.DictReader(io.StringIO(table.content.decode("utf-8-sig"))))
    assert [row["nct_id"] for row in rows] == [trial["nct_id"] for trial in told["trials"]]
    assert int(table.headers["X-Rows"]) == told["counts"]["total"] == len(rows)
    assert [row["labels"] for row in rows] == ["|".join(t["labels"] or ()) for t in told["trials"]]
    monkeypatch.setattr("trialese.web.page._MOST_ROWS", 5)
    assert state.get("/v1/trials.csv").headers["X-Left-Out"] == "55"


def test_unknown_trials_say_how_to_ask_the_registry(state: TestClient) -> None:
    answer = state.get("/v1/trials/NCT99999999")
    assert answer.status_code == 404 and "--live" in answer.json()["message"]
    assert state.get("/v1/trials/NCT12").status_code == 422


def test_answers_undo_and_the_table(state: TestClient) -> None:
    told = state.get("/v1/queue", params={"annotator": "ann", "most": 2}).json()
    key = told["items"][0]["key"]
    answer = {"annotator": "ann", "key": key, "labels": ["Money"]}
    assert state.post("/v1/queue/answers", json=answer).json()["key"] == key
    table = state.get("/v1/queue/labelled.tsv")
    assert int(table.headers["X-Rows"]) == told["items"][0]["texts"]
    assert table.text.splitlines()[1].endswith("\tMoney")
    near = state.post("/v1/nearest", json={"text": told["items"][0]["text"]}).json()
    assert near["neighbours"][0]["example"]["source"] == "labelled here by ann"
    undone = state.post("/v1/queue/undo", json={"annotator": "ann"}).json()
    assert (undone["item"]["key"], undone["labels"]) == (key, ["Money"])
    assert not state.post("/v1/queue/undo", json={"annotator": "ann"}).json()["undone"]
    assert state.get("/v1/queue/labelled.tsv").headers["X-Rows"] == "0"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"labels": ["Unheard"]}, 422),
        ({"key": "0" * 32}, 404),
        ({"key": "?"}, 422),
        ({"annotator": " "}, 422),
        ({"annotator": "a\tb"}, 422),
        ({"more": 1}, 422),
    ],
)
def test_answers_that_cannot_be_kept(
    state: TestClient, change: dict[str, object], status: int
) -> None:
    key = state.get("/v1/queue", params={"annotator": "ann"}).json()["items"][0]["key"]
    answer = {"annotator": "ann", "key": key, "labels": []} | change
    assert state.post("/v1/queue/answers", json=answer).status_code == status
    assert state.get("/v1/queue", params={"annotator": "ann"}).json()["answered"] == {}


def test_without_snapshot_or_file_of_answers_it_is_said_what_to_give(classifier: Path) -> None:
    served = open_served([classifier])
    served.load()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        facts = client.get("/v1/page").json()
        assert (facts["snapshot"], facts["verdict"], facts["labelling"]) == (None, None, False)
        assert "--snapshot" in client.get("/v1/trials").json()["message"]
        assert "--labels" in client.get("/v1/queue?annotator=ann").json()["message"]
        assert client.post("/v1/nearest", json={"text": "slow"}).json()["neighbours"] == []


def test_the_page_and_its_files_may_be_kept_but_are_asked_about(state: TestClient) -> None:
    first = state.get("/")
    assert "script-src 'self'" in first.headers["Content-Security-Policy"]
    assert "<script>" not in first.text and "style=" not in first.text
    again = state.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert state.get("/static/palette.css").text.startswith(":root")
    assert state.get("/static/nothing.js").status_code == 404


def test_a_trial_is_fetched_from_the_registry() -> None:
    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.startswith("/studies/NCT90000001?format=json&fields=")
            self.send_response(200 if known else 404)
            self.end_headers()
            if known:
                self.wfile.write(
                    b'{"protocolSection": {"identificationModule": {"nctId": "NCT90000001"},'
                    b' "statusModule": {"whyStopped": "Slow accrual"}}}'
                )

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings = CollectSettings(
        url=f"http://127.0.0.1:{server.server_port}", retries=0, pause_seconds=0
    )
    found = fetch_trial("NCT90000001", settings)
    assert found is not None and found.why_stopped == "Slow accrual"
    assert fetch_trial("NCT90000002", settings) is None
    server.shutdown()
    thread.join()
    server.server_close()
    with pytest.raises(RegistryError):
        fetch_trial("NCT90000001", settings)
