"""Load on a real server over loopback: 64 clients at once, bounded in time and in requests.

Each client sends one to four stop reasons at a time over a connection of its own, again and again,
and counts what comes back. After the first thousand requests and at the end the server's resident
memory is read from its own `/metrics`. Prints one JSON line; exits 1 on any answer but 200 and 429,
or if memory grew by more than a tenth.

    python benchmarks/serve_load.py CLASSIFIER --texts gold.tsv
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from trialese.tasks.formats import read_texts


class Load:
    """What all clients together have asked and been answered."""

    def __init__(self, port: int, texts: list[str], *, requests: int, seconds: float) -> None:
        self.port, self.texts = port, texts
        self.left, self.until = requests, time.monotonic() + seconds
        self.lock = threading.Lock()
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.labelled = 0
        self.memory: dict[int, float] = {}

    def client(self, seed: int) -> None:
        rng = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while self._may_ask():
            body = json.dumps({"texts": rng.choices(self.texts, k=rng.randint(1, 4))})
            started = time.perf_counter()
            try:
                connection.request(
                    "POST", "/v1/predict", body, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                told: Any = json.loads(answer.read())
                status = str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                told, status = {}, type(error).__name__
                connection.close()
            self._count(status, time.perf_counter() - started, len(told.get("predictions", ())))
            if status == "429":
                time.sleep(float(answer.headers["Retry-After"]))

    def _may_ask(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0 and time.monotonic() < self.until

    def _count(self, status: str, seconds: float, labelled: int) -> None:
        with self.lock:
            self.statuses[status] += 1
            self.labelled += labelled
            if status == "200":
                self.seconds.append(seconds)
            answered = self.statuses.total()
        if answered in (1_000, 5_000):
            self.memory[answered] = resident_megabytes(self.port)


def resident_megabytes(port: int) -> float:
    """Of the server, as it tells itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
    assert found
    return float(found[1]) / 1e6


def start(classifier: Path, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """The server's process and port, once it is ready."""
    command = [sys.executable, "-m", "trialese", "serve", str(classifier), "--port", "0"]
    command += ["--jobs", str(folder / "jobs")]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr
    port = int(server.stderr.readline().rpartition(":")[2])
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/readyz")
        if connection.getresponse().status == 200:
            return server, port
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--texts", type=Path, required=True, help="File of texts to ask about.")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=20_000, help="Stop after so many.")
    asked = parser.parse_args()
    texts = read_texts(asked.texts, asked.classifier)
    with tempfile.TemporaryDirectory() as folder:
        server, port = start(asked.classifier, Path(folder))
        try:
            load = Load(port, texts, requests=asked.requests, seconds=asked.seconds)
            clients = [
                threading.Thread(target=load.client, args=(seed,)) for seed in range(asked.clients)
            ]
            started = time.monotonic()
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            took = time.monotonic() - started
            load.memory[load.statuses.total()] = resident_megabytes(port)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    p50, p99 = np.percentile(load.seconds, [50, 99])
    print(
        json.dumps(
            {
                "clients": asked.clients,
                "seconds": round(took, 1),
                "answers": dict(load.statuses),
                "requests_per_second": round(load.statuses.total() / took, 1),
                "texts_per_second": round(load.labelled / took, 1),
                "p50_ms": round(1000 * p50, 1),
                "p99_ms": round(1000 * p99, 1),
                "slowest_ms": round(1000 * max(load.seconds), 1),
                "resident_mb": {count: round(mb, 1) for count, mb in load.memory.items()},
            }
        )
    )
    first, *_, last = load.memory.values()
    if set(load.statuses) - {"200", "429"} or last > 1.1 * first:
        sys.exit(1)


if __name__ == "__main__":
    main()
