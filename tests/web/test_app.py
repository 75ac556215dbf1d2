"""The real thing: a process of its own on loopback.

The OpenAPI document tells the truth: requests made up from it are answered as it says."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import uvicorn
from starlette.testclient import TestClient

from trialese.records import Snapshot
from trialese.settings import ServeSettings
from trialese.web.app import create_app
from trialese.web.models import open_served

pytestmark = pytest.mark.timeout(900)  # each server loads torch, on a machine that may be busy
Started = Callable[..., "Server"]


class Server:
    """`trialese serve` on a free port."""

    def __init__(self, *arguments: object, cwd: Path) -> None:
        command = [sys.executable, "-m", "trialese", "serve", *map(str, arguments)]
        self.log = cwd / f"log-{time.monotonic_ns()}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, "--port", "0"], cwd=cwd, stderr=log)
        self.url = ""

    def ready(self) -> Server:
        until = time.monotonic() + 200
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(r"http://\S+", self.log.read_text())
            self.url = found[0] if found else ""
            try:
                self.ask("/readyz")
                return self
            except (URLError, ValueError):  # not yet listening, not yet loaded
                time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def ask(self, path: str, body: Any = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        with urlopen(Request(self.url + path, data, headers), timeout=60) as answer:
            return json.load(answer)

    def metrics(self) -> str:
        with urlopen(self.url + "/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    def send(self, name: str, content: bytes) -> str:
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        body = b"--X\r\n%s\r\n\r\n%s\r\n--X--\r\n" % (head.encode(), content)
        request = Request(self.url + "/v1/jobs", body)
        request.add_header("Content-Type", "multipart/form-data; boundary=X")
        with urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["id"])

    def connect(self) -> socket.socket:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=60)


@pytest.fixture
def start(classifier: Path, tmp_path: Path) -> Iterator[Started]:
    servers: list[Server] = []

    def run(*arguments: object) -> Server:
        servers.append(Server(classifier, *arguments, cwd=tmp_path))
        return servers[-1]

    yield run
    for server in servers:
        server.process.kill()
        server.process.wait()


def request_bytes(texts: list[str]) -> bytes:
    body = json.dumps({"texts": texts}).encode()
    return (
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(2**16):
        parts.append(part)
    return b"".join(parts)


def test_sigterm_finishes_what_is_under_way_and_takes_nothing_new(start: Started) -> None:
    server = start().ready()
    with server.connect() as connection:
        connection.sendall(request_bytes(["a study of the drug in patients " * 200] * 256))
        for _ in range(1000):
            if "trialese_waiting_texts 0.0" not in server.metrics():
                break
        server.process.send_signal(signal.SIGTERM)
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(json.loads(body)["predictions"]) == 256
    assert server.process.wait(30) == -signal.SIGTERM
    with pytest.raises(URLError):
        server.ask("/healthz")


def test_clients_that_go_harm_nobody(start: Started) -> None:
    server = start().ready()
    for cut in (1, 60, 200, None):
        for _ in range(5):
            with server.connect() as connection:
                connection.sendall(request_bytes(["slow accrual " * 30] * 200)[:cut])
    assert server.ask("/v1/predict", {"texts": ["slow accrual"]})["predictions"]
    until = time.monotonic() + 20
    while time.monotonic() < until:
        told = server.metrics()
        if "trialese_requests_under_way 1.0" in told and "trialese_waiting_texts 0.0" in told:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(told)


@pytest.mark.parametrize("size", [3_000_000, 40_000_000])
def test_who_sends_too_much_is_told_so(start: Started, size: int) -> None:
    server = start().ready()
    with pytest.raises(HTTPError) as refused:
        server.ask("/v1/predict", {"texts": ["x" * size]})
    assert refused.value.code == 413
    assert json.load(refused.value)["error"] == "too_large"
    refused.value.close()


def test_a_killed_job_goes_on(start: Started, classifier: Path, tmp_path: Path) -> None:
    texts = [f"patients {n} of the trial: slow accrual and lack of funding" for n in range(4000)]
    first = start().ready()
    job = first.send("many.txt", "\n".join(texts).encode())
    work = tmp_path / "runs" / "serve" / job / ".labels.csv.work"
    while len(list(work.glob("*.json"))) < 4:
        time.sleep(0.01)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    parts = {part.name: part.stat().st_mtime_ns for part in work.glob("*.part")}
    assert 3 <= len(parts) < 16

    second = start().ready()
    kept = {part.name: part.stat().st_mtime_ns for part in work.glob("*.part")}
    assert not kept or kept.items() >= dict(sorted(parts.items())[:-1]).items()
    until = time.monotonic() + 120
    while (told := second.ask(f"/v1/jobs/{job}"))["state"] != "done":
        assert told["state"] in ("running", "waiting")
        assert time.monotonic() < until
        time.sleep(0.05)
    assert told["texts"] == len(texts)
    with urlopen(f"{second.url}/v1/jobs/{job}/result") as answer:
        result = answer.read()
    whole = tmp_path / "whole.csv"
    (tmp_path / "many.txt").write_text("\n".join(texts))
    from trialese.tasks.predict import load_scorer, predict_file

    predict_file(load_scorer(classifier), tmp_path / "many.txt", whole)
    ours = [line.split(b",")[:3] for line in result.splitlines()]
    assert ours == [line.split(b",")[:3] for line in whole.read_bytes().splitlines()]


def test_mistakes_are_one_line(start: Started, classifier: Path, tmp_path: Path) -> None:
    taken = start().ready()
    port = taken.url.rpartition(":")[2]
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "preprocessing.json").write_bytes((classifier / "preprocessing.json").read_bytes())
    for arguments, words in (
        ([classifier, "--jobs", "a", "--port", port], "choose another with --host or --port"),
        ([classifier, "--port", "0"], "another trialese"),
        ([tmp_path / "empty"], "no classifier here"),
        ([broken, "--jobs", "b", "--port", "0"], "config.json cannot be read"),
        ([classifier, "--token-file", tmp_path / "nothing"], "cannot be read"),
        ([classifier, "--token", "\u00e9"], "printable ASCII"),
        ([classifier, "--snapshot", tmp_path / "empty"], "manifest.json"),
        ([classifier, classifier, "--jobs", "c", "--port", "0"], "served already"),
    ):
        command = [sys.executable, "-m", "trialese", "serve", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 1, done.stderr
        assert words in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr


def test_elsewhere_without_a_token_is_warned_of(start: Started) -> None:
    open_one = start("--host", "127.0.0.2").ready()
    assert "without a token" in open_one.log.read_text()
    closed = start("--host", "127.0.0.2", "--token", "secret", "--jobs", "x").ready()
    assert "without" not in closed.log.read_text()
    with pytest.raises(HTTPError) as refused:
        closed.ask("/v1/models")
    assert refused.value.code == 401
    refused.value.close()
    assert closed.ask("/v1/models", Authorization="Bearer secret")["models"]


def closed_after(connection: socket.socket) -> float:
    """Seconds until the server has closed the connection; what it sends is not looked at."""
    started = time.monotonic()
    connection.settimeout(30)
    try:
        while connection.recv(2**16):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - started


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def test_connections_on_which_nothing_happens_are_closed(start: Started) -> None:
    limits = ("header_seconds=0.5", "idle_seconds=1", "body_seconds=1.0", "peer_connections=20")
    server = start(*(word for limit in limits for word in ("--set", f"serve.{limit}"))).ready()
    for sent in (b"", HEALTH[:30], HEAD[:-4], HEAD, HEAD + b"x" * 50, HEALTH, HEALTH + HEALTH[:9]):
        with server.connect() as connection:
            connection.sendall(sent)
            assert closed_after(connection) < 10, sent
    with server.connect() as connection:  # a byte now and then keeps nothing open
        connection.sendall(HEAD)
        for _ in range(60):
            try:
                connection.sendall(b"x")
            except OSError:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("still open after 6 s")
    with server.connect() as connection:  # an answer that is worth waiting for
        connection.sendall(request_bytes(["a study of the drug in patients " * 200] * 200))
        assert connection.recv(12) == b"HTTP/1.1 200"
    quiet = [server.connect() for _ in range(60)]  # more than one address may have
    assert server.ask("/healthz") == {"status": "ok"}
    for connection in quiet:
        connection.close()


def test_a_connection_that_is_kept_answers_at_once(start: Started) -> None:
    server = start().ready()
    seconds = []
    with server.connect() as connection:
        for _ in range(40):
            started = time.perf_counter()
            connection.sendall(HEALTH)
            answer = b""
            while b'{"status":"ok"}' not in answer:
                answer += connection.recv(2**16)
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[20] < 0.03  # 0.044 where an acknowledgement is waited for


def test_few_open_files_are_enough_and_nonsense_fills_no_disk(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    whole = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen",
        lambda *args, **how: whole(
            *args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)), **how
        ),
    )  # fmt: skip
    server = Server(classifier, cwd=tmp_path)
    monkeypatch.undo()
    try:
        server.ready()
        crowd = []
        for _ in range(400):
            try:
                crowd.append(server.connect())
                crowd[-1].sendall(b"nonsense\r\n\r\n")
            except OSError:  # closed already, to make room
                pass
        for _ in range(20):
            assert server.ask("/healthz") == {"status": "ok"}
        assert server.log.stat().st_size < 20_000
        for connection in crowd:
            connection.close()
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.slow
def test_a_thousand_idle_and_hundreds_of_slow_clients_slow_nobody_down(start: Started) -> None:
    server = start().ready()
    with ExitStack() as opened:
        idle, slow = (
            [opened.enter_context(server.connect()) for _ in range(many)] for many in (1000, 600)
        )
        seconds = []
        until = time.monotonic() + 10
        while time.monotonic() < until:
            for connection in slow:
                with suppress(OSError):  # it has made room
                    connection.sendall(b"x" if seconds else HEAD)
            for path, body in (("/healthz", None), ("/v1/predict", {"texts": ["slow accrual"]})):
                started = time.perf_counter()
                server.ask(path, body)
                seconds.append(time.perf_counter() - started)
        assert sorted(seconds)[int(len(seconds) * 0.99)] < 1, (len(seconds), max(seconds))
        assert all(closed_after(connection) < 60 for connection in (*idle, *slow))


@pytest.mark.slow
def test_ten_thousand_requests_leave_nothing_in_memory(start: Started) -> None:
    server = start().ready()
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    client = HTTPConnection(host, int(port), timeout=60)
    headers = {"Content-Type": "application/json"}

    def ask(number: int) -> None:
        body = json.dumps({"texts": [f"slow accrual in patients {number}" * (1 + number % 40)]})
        for method, path, sent in (
            ("POST", "/v1/predict", body), ("GET", f"/nothing/{number}", None),
            ("POST", "/v1/predict", '{"texts": 3}'), (f"M{number}", "/healthz", None),
        ):  # fmt: skip
            client.request(method, path, sent, headers)
            client.getresponse().read()

    def resident() -> int:
        found = re.search(r"^process_resident_memory_bytes (\S+)", server.metrics(), re.MULTILINE)
        assert found
        return int(float(found[1]))

    for number in range(500):
        ask(number)
    before = resident()
    for number in range(500, 3000):
        ask(number)
    after = resident()
    client.close()
    assert after < 1.05 * before, f"{before:,} -> {after:,} bytes"


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
