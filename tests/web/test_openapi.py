"""The OpenAPI document tells the truth: requests made up from it are answered as it says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from trialese.records import Snapshot
from trialese.settings import ServeSettings
from trialese.web.app import create_app
from trialese.web.models import open_served

PATHS = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/version",
    "/v1/models",
    "/v1/predict",
    "/v1/explain",
    "/v1/jobs",
    "/v1/jobs/{job_id}",
    "/v1/jobs/{job_id}/result",
)


@pytest.fixture
def app(classifier: Path, snapshot: Snapshot, tmp_path: Path) -> Any:
    served = open_served([classifier], snapshot=snapshot.path, jobs=tmp_path / "jobs")
    served.load()
    return create_app(served, ServeSettings(waiting_jobs=1000))


@pytest.fixture
def url(app: Any) -> Iterator[str]:
    """Of a real server in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_every_route_is_described_with_examples_and_failures(app: Any) -> None:
    document = app.openapi()
    assert set(PATHS) <= set(document["paths"])
    for path in PATHS:
        for operation in document["paths"][path].values():
            assert operation["summary"]
            for status, answer in operation["responses"].items():
                assert answer["description"], (path, status)
                if status >= "400":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Failure"}, (path, status)
    schemas = document["components"]["schemas"]
    assert schemas["PredictRequest"]["examples"]
    assert schemas["ExplainRequest"]["examples"]
    assert "HTTPValidationError" not in schemas


def test_the_examples_work(app: Any) -> None:
    schemas = app.openapi()["components"]["schemas"]
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for example in schemas["PredictRequest"]["examples"]:
            example.pop("model", None)
            answer = client.post("/v1/predict", json=example).raise_for_status().json()
            assert answer["predictions"], json.dumps(example)
        for example in schemas["ExplainRequest"]["examples"]:
            assert client.post("/v1/explain", json=example).raise_for_status().json()["spans"]


@pytest.mark.timeout(700)
def test_requests_made_up_from_the_document_are_answered_as_it_says(
    url: str, tmp_path: Path
) -> None:
    pytest.importorskip("schemathesis")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--max-examples", "10", "--seed", "7", "--no-color", "--include-path-regex"]
    command += ["^/(v1|healthz|readyz|metrics|version)"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
