from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from trialese.collect.sample import sample_study
from trialese.collect.snapshot import read_trials
from trialese.records import Snapshot
from trialese.settings import SampleSettings
from trialese.tasks.classifier import Classifier
from trialese.tasks.predict import predict_inputs

HARD = (
    "<script>alert(1)</script>",
    "\u202eright to left\u202c and \u200b zero width",
    "stopped \U0001f9ec \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "NUL \x00 and \u2028 line separator",
)


def test_texts_get_what_the_command_line_gives(client: TestClient, classifier: Path) -> None:
    texts = ["slow accrual", "funding", "a much longer text about low recruitment", "slow accrual"]
    answer = client.post("/v1/predict", json={"texts": texts}).raise_for_status().json()
    expected = list(predict_inputs(classifier, texts))
    for told, row in zip(answer["predictions"], expected, strict=True):
        assert (told["text"], tuple(told["labels"])) == (row.text, row.labels)
        assert told["scores"] == pytest.approx(row.scores, abs=1e-5)
    assert answer["model"] == answer["task"] == "reasons"
    assert answer["thresholds"] == {"Enrollment": 0.25, "Money": 0.5}
    assert (answer["chosen_on"], answer["kind"]) == ("tune", "multilabel")
    assert client.get("/v1/models").json() == {
        "models": [
            {key: value for key, value in answer.items() if key != "predictions"}
            | {"definitions": {}}
        ]
    }


def test_trials_are_read_as_in_training(client: TestClient, snapshot: Snapshot) -> None:
    stopped = next(trial for trial in read_trials(snapshot) if trial.why_stopped)
    running = next(trial for trial in read_trials(snapshot) if not trial.why_stopped)
    settings = SampleSettings(studies=60)
    studies = [sample_study(settings, int(t.nct_id[3:]) - 90_000_000) for t in (stopped, running)]
    by_study = client.post("/v1/predict", json={"trials": studies}).raise_for_status().json()
    ids = [stopped.nct_id, running.nct_id, "NCT00000001"]
    by_id = client.post("/v1/predict", json={"nct_ids": ids}).raise_for_status().json()
    first, second = by_study["predictions"]
    assert first["nct_id"] == stopped.nct_id
    assert first["text"] == stopped.why_stopped
    assert (second["missing"], second["labels"], second["scores"]) == ("no_text", [], {})
    assert by_id["predictions"][:2] == by_study["predictions"]
    assert by_id["predictions"][2]["missing"] == "not_in_snapshot"


@pytest.mark.parametrize("text", HARD)
def test_text_comes_back_as_it_was(client: TestClient, text: str) -> None:
    answer = client.post("/v1/predict", json={"texts": [text]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["predictions"][0]["text"] == text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid"),
        ({"texts": []}, 422, "invalid"),
        ({"texts": [" "]}, 422, "invalid"),
        ({"texts": ["\ud800"]}, 422, "invalid"),
        ({"texts": "slow accrual"}, 422, "invalid"),
        ({"texts": ["x"], "trials": [{}]}, 422, "invalid"),
        ({"texts": ["x"], "surprise": 1}, 422, "invalid"),
        ({"trials": [3]}, 422, "invalid"),
        ({"nct_ids": ["NCT1"]}, 422, "invalid"),
        ({"texts": ["x"] * 257}, 413, "too_many"),
        ({"texts": ["x"], "model": "nobody"}, 404, "unknown_model"),
    ],
)
def test_bad_requests_are_told_why(
    client: TestClient, body: object, status: int, code: str
) -> None:
    import json

    answer = client.post(
        "/v1/predict", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert "\n" not in answer.json()["message"]


def test_the_classifier_is_the_one_in_the_folder(client: TestClient, classifier: Path) -> None:
    alone = Classifier.from_pretrained(classifier).predict_proba(["slow accrual"])[0]
    told = client.post("/v1/predict", json={"texts": ["slow accrual"]}).json()
    assert list(told["predictions"][0]["scores"].values()) == pytest.approx(alone, abs=1e-5)


def test_an_explanation_counts_in_the_text_it_gives(client: TestClient) -> None:
    text = "slow\u00a0accrual <b>&amp;</b> \U0001f9ec funding"
    told = client.post("/v1/explain", json={"text": text}).raise_for_status().json()
    words = [told["text"][span["start"] : span["end"]] for span in told["spans"]]
    assert " ".join(words) == " ".join(told["text"].split())
    scores = client.post("/v1/predict", json={"texts": [text]}).json()["predictions"][0]["scores"]
    assert told["label"] == max(scores, key=scores.__getitem__)
    assert told["probability"] == pytest.approx(scores[told["label"]], abs=1e-5)
    other = client.post("/v1/explain", json={"text": text, "label": "Money"}).json()
    assert other["label"] == "Money"
    unknown = client.post("/v1/explain", json={"text": text, "label": "Nobody"})
    assert (unknown.status_code, unknown.json()["error"]) == (404, "unknown_label")
    nothing = client.post("/v1/explain", json={"text": "\x00"}).json()
    assert (nothing["text"], nothing["spans"]) == ("", [])


def test_one_bad_study_does_not_spoil_the_others(client: TestClient) -> None:
    good = sample_study(SampleSettings(studies=60), 3)
    bad: list[dict[str, object]] = [
        {},
        {"protocolSection": 3},
        {"protocolSection": {"identificationModule": {"nctId": 5}}},
    ]
    told = client.post("/v1/predict", json={"trials": [*bad, good]}).json()["predictions"]
    assert [each["missing"] for each in told[:3]] == ["unreadable"] * 3
    assert all(each["message"].startswith(f"trials[{n}]: ") for n, each in enumerate(told[:3]))
    assert told[3]["nct_id"] == "NCT90000003"


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("POST", "/v1/predict", b'{"texts": [" "]}', "body.texts.0: a text of blanks"),
        ("POST", "/v1/predict", b'{"texts": ["x", "NCT90000001"]}', "body.texts.1: the number of"),
        ("POST", "/v1/explain", b'{"text": "nct90000001"}', "body.text: the number of a trial"),
        ("POST", "/v1/predict", b'{"nct_ids": ["NCT9"]}', "body.nct_ids.0: no NCT number"),
        ("POST", "/v1/predict", b"slow", "body: no JSON at character 0"),
        ("POST", "/v1/predict", b"{}", "body: give exactly one of texts, trials and nct_ids"),
        ("GET", "/v1/predict", b"", "/v1/predict: GET is not taken here; use POST"),
        ("GET", "/v1/predcit", b"", "/v1/predcit: there is no such route; /docs lists them"),
    ],
)
def test_an_error_names_field_and_cure(
    client: TestClient, method: str, path: str, body: bytes, told: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = client.request(method, path, content=body, headers=headers)
    assert answer.status_code in (404, 405, 422)
    assert answer.json()["message"].startswith(told)
