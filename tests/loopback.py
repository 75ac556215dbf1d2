"""A registry on loopback that behaves as ClinicalTrials.gov does, and misbehaves when told to."""

from __future__ import annotations

import copy
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

STUDY = json.loads((Path(__file__).parent / "data" / "study_v2.json").read_text("utf-8"))
FIRST_DAY = "2024-09-24T09:00:05"


def make_study(number: int, *, padding: int = 0) -> dict[str, Any]:
    """A study of its own number, title and posting date; `padding` bytes of it are ballast."""
    study = copy.deepcopy(STUDY)
    identity = study["protocolSection"]["identificationModule"]
    identity["nctId"] = f"NCT{number:08d}"
    identity["nctIdAliases"] = []
    identity["briefTitle"] = f"Study {number}"
    posted = f"20{number % 20 + 4:02d}-01-{number % 28 + 1:02d}"
    study["protocolSection"]["statusModule"]["studyFirstPostDateStruct"]["date"] = posted
    if padding:
        study["protocolSection"]["descriptionModule"]["detailedDescription"] = "word " * (
            padding // 5
        )
    return study


def posted_of(study: dict[str, Any]) -> str:
    return _date_of(study, "studyFirstPostDateStruct")


def updated_of(study: dict[str, Any]) -> str:
    return _date_of(study, "lastUpdatePostDateStruct")


def _date_of(study: dict[str, Any], name: str) -> str:
    """Empty where the record is not as it should be."""
    try:
        date = study["protocolSection"]["statusModule"][name]["date"]
    except (KeyError, TypeError):
        return ""
    return date if isinstance(date, str) else ""


_WINDOW = re.compile(r"AREA\[(\w+)\]RANGE\[([^,]*),([^\]]*)\]")


def id_of(study: dict[str, Any]) -> str:
    return study["protocolSection"]["identificationModule"]["nctId"]


class Registry(ThreadingHTTPServer):
    """`faults` maps the number of a request (from 0) to what goes wrong with it."""

    daemon_threads = True
    announced: int | None = None
    """What `totalCount` says instead of the truth."""

    def __init__(self, studies: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.studies = studies
        self.faults: dict[int, str] = {}
        self.asked: list[tuple[float, str, dict[str, str]]] = []
        self.user_agents: set[str] = set()
        self.on_request: Callable[[int], object] | None = None
        self.epoch = 0
        self.archive: bytes | None = None
        self.downloaded = 0
        self.aliases: dict[str, str] = {}
        self.shuffle = random.Random(7)
        self.unstable_ties = False

    day: str | None = None
    """Of the data, if the test sets the calendar."""
    silent = False
    """Answers nothing but 503."""
    busy_seconds = 0.0
    """Processor time that answering took."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api/v2"

    @property
    def timestamp(self) -> str:
        if self.day is not None:
            return f"{self.day}T09:00:05"
        return (datetime.fromisoformat(FIRST_DAY) + timedelta(days=self.epoch)).isoformat()

    @property
    def ids(self) -> set[str]:
        return {id_of(study) for study in self.studies}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet: two wait 40 ms for each other
    server: Registry

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        begun = time.thread_time()
        try:
            self._get()
        finally:
            self.server.busy_seconds += time.thread_time() - begun

    def _get(self) -> None:  # noqa: PLR0912 - so many ways to answer
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        number = len(self.server.asked)
        self.server.asked.append((time.monotonic(), parts.path, query))
        self.server.user_agents.add(self.headers["User-Agent"])
        if self.server.on_request:
            self.server.on_request(number)
        if self.server.silent:
            self._answer(503, b"down for maintenance", "text/plain")
            return
        fault = self.server.faults.pop(number, None)
        if fault == "refresh":
            self.server.epoch += 1
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
            return
        if fault == "429":
            self._answer(429, b"slow down", "text/plain", {"Retry-After": "0.3"})
            return
        if fault == "500":
            self._answer(500, b"oops", "text/plain")
            return
        if fault == "html":
            self._answer(200, b"<!doctype html><p>Please wait", "text/html")
            return
        path = parts.path.removeprefix("/api/v2")
        if path == "/version":
            body = {"apiVersion": "2.0.3", "dataTimestamp": self.server.timestamp}
            self._answer(200, json.dumps(body).encode())
        elif path == "/stats/size":
            body = {"totalStudies": len(self.server.studies), "averageSizeBytes": 17_000}
            self._answer(200, json.dumps(body).encode())
        elif path == "/studies":
            self._studies(query, fault)
        elif path == "/studies/download":
            self._download(fault)
        elif path.startswith("/studies/"):
            self._study(path.rpartition("/")[2])
        else:
            self._answer(404, b"no such page", "text/plain")

    def _download(self, fault: str | None) -> None:
        if self.server.archive is None:
            self._answer(404, b"no such page", "text/plain")
            return
        body, status = self.server.archive, 200
        headers = {"ETag": f'"{self.server.epoch}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == headers["ETag"]:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        self.server.downloaded += len(body)
        self._answer(status, body, "application/zip", headers, truncate=fault == "truncate")

    def _study(self, nct_id: str) -> None:
        if nct_id in self.server.aliases:
            target = f"/api/v2/studies/{self.server.aliases[nct_id]}"
            self._answer(301, b"", "text/plain", {"Location": target})
            return
        found = [study for study in self.server.studies if id_of(study) == nct_id]
        if found:
            self._answer(200, json.dumps(found[0]).encode())
        else:
            self._answer(404, f"NCT number {nct_id} not found".encode(), "text/plain")

    def _studies(self, query: dict[str, str], fault: str | None) -> None:
        studies = list(self.server.studies)
        if "filter.ids" in query:
            wanted = set(query["filter.ids"].replace(",", "|").split("|"))
            studies = [study for study in studies if id_of(study) in wanted]
        for area, first, last in _WINDOW.findall(query.get("filter.advanced", "")):
            date_of = {"StudyFirstPostDate": posted_of, "LastUpdatePostDate": updated_of}[area]
            start, end = first.replace("MIN", "0"), last.replace("MAX", "9")
            studies = [s for s in studies if start <= (date_of(s) or "-") <= end]
        if "sort" not in query or self.server.unstable_ties:
            self.server.shuffle.shuffle(studies)
        if "sort" in query:
            by_number = not self.server.unstable_ties
            studies.sort(key=lambda study: (posted_of(study), by_number * id_of(study)))
        size = min(int(query.get("pageSize") or 10), 1000)
        offset = 0
        if "pageToken" in query:
            epoch, _, place = query["pageToken"].partition("-")
            if fault == "expire" or int(epoch) != self.server.epoch:
                self._answer(400, b"Page token is expired or invalid", "text/plain")
                return
            offset = int(place)
        part = studies[offset : offset + size]
        body: dict[str, Any] = {"studies": part}
        if len(part) == size:  # a full last page still has a token, and then an empty page
            body["nextPageToken"] = f"{self.server.epoch}-{offset + size}"
        if fault == "repeat" and "pageToken" in query:
            body["nextPageToken"] = query["pageToken"]
        if query.get("countTotal") == "true" and offset == 0:
            body["totalCount"] = self.server.announced or len(studies)
        data = json.dumps(body).encode()
        self._answer(200, data, truncate=fault == "truncate")

    def _answer(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
        *,
        truncate: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if truncate else body)
        if truncate:
            self.close_connection = True


@contextmanager
def serving(server: Registry) -> Iterator[Registry]:
    """The server, answering until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
