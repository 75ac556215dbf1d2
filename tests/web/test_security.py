from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from trialese.settings import ServeSettings
from trialese.web.app import create_app
from trialese.web.models import open_served
from trialese.web.security import LogRate

Opened = Callable[..., TestClient]
TEXTS = {"texts": ["slow accrual"]}


@contextmanager
def opened(classifier: Path, *, token: str | None = None, **settings: Any) -> Iterator[TestClient]:
    served = open_served([classifier])
    served.load()
    app = create_app(served, ServeSettings(**settings), token=token)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def open_client(classifier: Path) -> Iterator[Opened]:
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(opened(classifier, **how))


def test_the_token_opens_everything_but_health(open_client: Opened) -> None:
    client = open_client(token="open sesame")
    for header in (None, "open sesame", "Bearer open", "bearer open sesame", "Bearer \xe9"):
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        answer = client.post("/v1/predict", json=TEXTS, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/metrics", headers=headers).status_code == 401
        assert client.get("/openapi.json", headers=headers).status_code == 401
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    right = {"Authorization": "Bearer open sesame"}
    assert client.post("/v1/predict", json=TEXTS, headers=right).status_code == 200


def test_bodies_are_bounded_whatever_they_claim(open_client: Opened) -> None:
    client = open_client(body_bytes=1000)

    def body(size: int) -> Iterator[bytes]:
        yield b'{"texts": ["'
        yield b"x" * size
        yield b'"]}'

    large = client.post("/v1/predict", json={"texts": ["x" * 2000]})
    chunked = client.post(
        "/v1/predict", content=body(2000), headers={"Content-Type": "application/json"}
    )
    for answer in (large, chunked):
        assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    small = client.post(
        "/v1/predict", content=body(900), headers={"Content-Type": "application/json"}
    )
    assert small.status_code == 200


def test_a_megabyte_of_emoji_comes_back_as_it_was(open_client: Opened) -> None:
    text = "\U0001f469\u200d\U0001f52c" * 90_000  # 11 bytes each in UTF-8
    answer = open_client().post(
        "/v1/predict",
        content='{"texts": ["' + text + '"]}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.json()["predictions"][0]["text"] == text
    assert open_client().post("/v1/predict", json={"texts": [text * 3]}).status_code == 413


def test_answers_forbid_browsers_everything_from_elsewhere(open_client: Opened) -> None:
    client = open_client()
    for answer in (
        client.get("/healthz"),
        client.get("/nothing-here"),
        client.post("/v1/predict", json={"texts": []}),
    ):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/redoc").status_code == 404
    documentation = client.get("/docs")  # of our own: FastAPI's would load scripts from elsewhere
    assert documentation.status_code == 200
    assert set(re.findall(r'(?:src|href)="(/[a-z]*)', documentation.text)) <= {
        "/static",
        "/",
        "/openapi",
    }
    assert "//" not in documentation.text.replace("<!doctype html>", "")
    assert client.get("/nothing-here").json()["error"] == "not_found"
    wrong = client.put("/healthz")
    assert (wrong.json()["error"], wrong.headers["Allow"]) == ("method_not_allowed", "GET")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}, 200),
        ({"Host": "rebound.example:8000"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "https://evil.example"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "null"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:9999"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_ask(
    open_client: Opened, headers: dict[str, str], status: int
) -> None:
    assert open_client().get("/v1/models", headers=headers).status_code == status


def test_a_named_server_answers_to_any_name(open_client: Opened) -> None:
    client = open_client(host="0.0.0.0", token="x")
    assert client.get("/healthz", headers={"Host": "trials.example"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("trials.example.evil.example", 403),
        ("", 403),
        ("trials.example", 200),
        ("trials.example:8000", 200),
        ("192.0.2.7:8000", 200),
        ("[2001:db8::7]:8000", 200),
        ("localhost", 200),
    ],
)
def test_without_a_token_only_known_names_are_answered_to(
    open_client: Opened, host: str, status: int
) -> None:
    client = open_client(host="0.0.0.0", hosts=("trials.example",))
    answer = client.get("/v1/models", headers={"Host": host})
    assert answer.status_code == status
    assert status == 200 or "serve.hosts" in answer.json()["message"]


def test_not_ready_is_told_apart_from_dead(classifier: Path, monkeypatch: Any) -> None:
    from trialese.web.models import Served

    monkeypatch.setattr(Served, "load", lambda self: None)
    app = create_app(open_served([classifier]), ServeSettings())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/healthz").status_code == 200
        for answer in (
            client.get("/readyz"),
            client.get("/v1/models"),
            client.post("/v1/predict", json=TEXTS),
        ):
            assert (answer.status_code, answer.json()["error"]) == (503, "not_ready")
            assert int(answer.headers["Retry-After"]) > 0


def test_a_request_that_takes_too_long_is_given_up(open_client: Opened, monkeypatch: Any) -> None:
    from trialese.web.engine import Engine

    async def never(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(Engine, "score", never)
    answer = open_client(request_seconds=0.05).post("/v1/predict", json=TEXTS)
    assert (answer.status_code, answer.json()["error"]) == (504, "timeout")


def test_a_bug_tells_the_client_nothing(open_client: Opened, monkeypatch: Any) -> None:
    from trialese.web.engine import Engine

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret path")

    monkeypatch.setattr(Engine, "score", broken)
    answer = open_client().post("/v1/predict", json=TEXTS)
    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    assert "secret" not in answer.text


def test_metrics_count_routes_not_paths(open_client: Opened) -> None:
    from prometheus_client.parser import text_string_to_metric_families as parse

    client = open_client()
    client.post("/v1/predict", json=TEXTS)
    client.post("/v1/predict", json={})
    for path in ("/a", "/b", "/c"):
        client.get(path)
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }

    def requests(method: str, route: str, status: str) -> float:
        labels = (("method", method), ("route", route), ("status", status))
        return samples["trialese_requests_total", *labels]

    assert requests("POST", "/v1/predict", "200") == 1
    assert requests("POST", "/v1/predict", "422") == 1
    assert requests("GET", "unknown", "404") == 3
    assert samples["trialese_batch_texts_sum",] == 1


def test_invented_methods_are_one_label(open_client: Opened) -> None:
    client = open_client()
    for number in range(300):
        client.request(f"INVENTED{number}", f"/{number}")
    told = client.get("/metrics").text
    assert "INVENTED" not in told
    assert 'trialese_requests_total{method="other",route="unknown",status="404"} 300.0' in told


def test_bodies_under_way_are_bounded_together(open_client: Opened) -> None:
    client = open_client(arriving_bytes=1000)
    large = client.post("/v1/predict", json={"texts": ["x" * 1200]})
    assert (large.status_code, large.json()["error"]) == (429, "queue_full")
    assert client.post("/v1/predict", json=TEXTS).status_code == 200  # nothing is held any more


def test_lines_of_the_log_are_bounded(monkeypatch: Any) -> None:
    rate = LogRate(lines=3)
    now = 100.0
    monkeypatch.setattr("trialese.web.security.time.monotonic", lambda: now)

    def line() -> str | None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, "line %d", (7,), None)
        return record.getMessage() if rate.filter(record) else None

    assert [line() for _ in range(5)] == ["line 7"] * 3 + [None, None]
    now += 11
    assert line() == "line 7 (2 lines before it left out)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": "slow accrual"}, "body.text: there is no such field; did you mean 'texts'?"),
        ({"nct_id": ["NCT00000001"]}, "did you mean 'nct_ids'?"),
        (
            {"texts": ["a"], "modle": "x"},
            "body.modle: there is no such field; did you mean 'model'",
        ),
        ({"texts": ["a"], "zzz": 1}, "body.zzz: there is no such field"),
        ({"texts": ["a", " "]}, "body.texts.1: "),
    ],
)
def test_errors_name_the_field(open_client: Opened, body: Any, message: str) -> None:
    answer = open_client().post("/v1/predict", json=body)
    assert answer.status_code == 422 and message in answer.json()["message"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_json_without_its_content_type_is_told_so(open_client: Opened, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    content = b'{"texts": ["slow accrual"]}'
    answer = open_client().post("/v1/predict", content=content, headers=headers)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["message"]
