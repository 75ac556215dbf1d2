"""Middleware that every request passes (access, limits, headers of answers), and the metrics.

Plain ASGI, because it must see bodies as they arrive and answers as they leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from dataclasses import dataclass
from ipaddress import ip_address

import h11
import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from trialese.settings import ServeSettings
from trialese.web.schemas import Refusal, as_response

__all__ = [
    "LOOPBACK",
    "METRICS_TYPE",
    "OPEN_PATHS",
    "UPLOAD_PATH",
    "LimitedConnection",
    "LogRate",
    "SecurityMiddleware",
    "ServerMetrics",
    "limited_connections",
]


METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """Counters of one application; no two share any."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ("method", "route", "status")
        self._requests = Counter(
            "trialese_requests", "Answered requests.", labels, registry=registry
        )
        self._seconds = Histogram(
            "trialese_request_seconds", "From the head of a request to the end of its answer.",
            ("route",), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._texts = Histogram(
            "trialese_batch_texts", "Texts in a batch.", buckets=_TEXTS, registry=registry
        )
        self._batch_seconds = Histogram(
            "trialese_batch_seconds", "Computing a batch.", buckets=_SECONDS, registry=registry
        )
        self.waiting = Gauge(
            "trialese_waiting_texts", "Texts that no batch has taken.", registry=registry
        )
        self.under_way = Gauge(
            "trialese_requests_under_way", "Requests not yet answered.", registry=registry
        )
        self.jobs = Gauge("trialese_jobs", "Jobs by state.", ("state",), registry=registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer; `route` is the pattern, never the path, so that series stay few."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_batch(self, texts: int, seconds: float) -> None:
        """Count one batch."""
        self._texts.observe(texts)
        self._batch_seconds.observe(seconds)

    def as_text(self) -> bytes:
        """Everything so far."""
        return generate_latest(self._registry)


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
OPEN_PATHS = HEALTH_PATHS | {"/", "/docs"}
"""Need no token: whether the server lives, and the page, which holds no data and asks for it."""
OPEN_FOLDER = "/static/"
UPLOAD_PATH = "/v1/jobs"
_HEARD_OUT_BYTES = 64_000_000
_MOST_BACKLOG = 1024
_OTHER_FILES = 128
"""Open files that are no connections: databases of each thread, models, uploads."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Set unless a route sets its own."""


class SecurityMiddleware:
    """Wraps an application; refuses before it is reached, counts after it has answered."""

    def __init__(
        self, app: ASGIApp, *, settings: ServeSettings, token: str | None, metrics: ServerMetrics
    ) -> None:
        self.app = app
        self._settings = settings
        self._token = None if token is None else f"Bearer {token}".encode()
        self._metrics = metrics
        self._under_way = 0
        self._arriving = _Arriving()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self._under_way += 1
        self._metrics.under_way.set(self._under_way)
        body = _Body(scope, receive, self._settings, self._arriving)
        try:
            self._check(scope)
            await self.app(scope, body.receive, answer)
        except Refusal as refusal:
            await as_response(refusal)(scope, receive, answer)
        finally:
            body.forget()
            self._under_way -= 1
            self._metrics.under_way.set(self._under_way)
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - started
            self._metrics.count_request(scope["method"], route, status or 500, seconds)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        computing = self._under_way - self._arriving.bodies
        if computing > self._settings.requests and scope["path"] not in HEALTH_PATHS:
            raise Refusal(429, "too many requests under way; ask again", retry_seconds=1)
        self._check_host(headers.get("host", ""))
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise Refusal(403, "this request comes from a page of another site")
        if self._token is not None and not _is_open(scope["path"]):
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._token):
                raise Refusal(
                    401,
                    "this server wants its token: Authorization: Bearer ...",
                    headers={"WWW-Authenticate": "Bearer"},
                )

    def _check_host(self, host: str) -> None:
        """Refuse a page elsewhere whose name was made to point here (DNS rebinding)."""
        settings, name = self._settings, _name_of(host)
        if name in settings.hosts or _is_loopback(name):
            return
        if settings.host in LOOPBACK:
            raise Refusal(403, "this server answers to 127.0.0.1 and localhost only")
        known = name == settings.host or _is_address(name)  # nobody can make an address point here
        if not known and (self._token is None or settings.hosts):
            raise Refusal(
                403,
                "this server does not answer to that name; add it to serve.hosts or use a token",
            )


@dataclass(slots=True)
class _Arriving:
    """Bodies that are not yet whole, and the bytes that are held of all bodies."""

    bodies: int = 0
    bytes: int = 0


class _Body:
    """The body of one request, which may be too large or come to no end."""

    def __init__(
        self, scope: Scope, receive: Receive, settings: ServeSettings, arriving: _Arriving
    ) -> None:
        headers = Headers(scope=scope)
        self._receive, self._settings, self._all = receive, settings, arriving
        self._spooled = scope["path"] == UPLOAD_PATH
        self._limit = settings.upload_bytes if self._spooled else settings.body_bytes
        length = headers.get("content-length", "")
        self._too_long = length.isdigit() and int(length) > self._limit
        self._expects = "expect" in headers
        self._got, self._held, self._whole = 0, 0, False
        self._arrives = "transfer-encoding" in headers or length not in ("", "0")
        self._all.bodies += self._arrives

    def forget(self) -> None:
        """The request has been answered: hold nothing of it any more."""
        self._arrived()
        self._all.bytes -= self._held
        self._held = 0

    async def receive(self) -> Message:
        """The next part.

        Raises:
            Refusal: 413, too large; 408, it does not come to an end; 429, others send too much.
        """
        if self._whole:
            return await self._receive()
        if not self._too_long:
            message = await self._next_part()
            if self._got <= self._limit:
                self._hold(len(message.get("body", b"")))
                return message
        # who is still sending would not read the answer: listen on for a while
        while not self._whole and not self._expects and self._got < self._limit + _HEARD_OUT_BYTES:
            await self._next_part()
        raise Refusal(413, f"larger than the {self._limit:,} bytes that are taken here")

    async def _next_part(self) -> Message:
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                message = await self._receive()
        except TimeoutError as error:
            raise Refusal(408, "the rest of the request did not come") from error
        self._got += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._whole:
            self._arrived()
        return message

    def _hold(self, size: int) -> None:
        if self._spooled:
            return
        if self._all.bytes + size > self._settings.arriving_bytes:
            raise Refusal(429, "too much is being sent at once; ask again", retry_seconds=1)
        self._all.bytes += size
        self._held += size

    def _arrived(self) -> None:
        self._all.bodies -= self._arrives
        self._arrives = False


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _name_of(host: str) -> str:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name.strip("[]").lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ip_address(name).is_loopback)


_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class LimitedConnection(H11Protocol):
    """A connection that is closed when a request does not come, or not to an end.

    The clock runs while a head or a body is awaited. Where there are too many connections, the
    one that has been quiet for longest makes room: of the same peer, or of the peer with most.
    Requests that are being computed are never interrupted.
    """

    settings: ServeSettings
    backlog: int
    """Connections taken at once, before any is closed for being one too many."""
    peers: dict[str, dict[LimitedConnection, None]]
    """Of each address its connections, the quietest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, and begin to wait for a head."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._phase, self._deadline = "", 0.0
        self._peer = self.client[0] if self.client else ""
        own = self.peers.setdefault(self._peer, {})
        crowd = own if len(own) >= self.settings.peer_connections else None
        if crowd is None and sum(map(len, self.peers.values())) >= self.settings.connections:
            crowd = max(self.peers.values(), key=len)
        if crowd is not None and not _close_quietest(crowd):
            self.close()
            return
        self.peers.setdefault(self._peer, own)[self] = None  # it may have lost its last one
        self._follow(0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Take what came; it moves the end of a body's time."""
        super().data_received(data)
        if self._peer in self.peers and self in self.peers[self._peer]:
            own = self.peers[self._peer]
            own[self] = own.pop(self)
            self._follow(len(data))

    def on_response_complete(self) -> None:
        """Wait for the next head, as long as an idle connection may."""
        super().on_response_complete()
        self._follow(0)

    @property
    def computing(self) -> bool:
        """Whether a whole request waits for its answer."""
        return self._phase == "answer"

    def _follow(self, size: int) -> None:
        """Set the clock anew when another part of a request is awaited."""
        state, now = self.conn.their_state, self.loop.time()
        phase = {h11.IDLE: "head", h11.SEND_BODY: "body"}.get(state, "answer")
        if phase != self._phase:
            self._phase = phase
            seconds = (
                self.settings.body_seconds if phase == "body" else self.settings.header_seconds
            )
            self._deadline = now + seconds
        elif phase == "body":
            self._deadline += size / self.settings.body_bytes_per_second
        idle = phase == "head" and self.timeout_keep_alive_task is not None
        if phase == "answer" or idle:  # idle: the clock of the server itself runs
            self._phase = "idle" if idle else phase
            self._stop_clock()
        elif self._timer is None:
            self._timer = self.loop.call_at(self._deadline, self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._time_is_over)
        elif self._phase == "body" and self.conn.our_state is h11.SEND_RESPONSE:
            self.transport.write(_TIMED_OUT)
            self.transport.close()
        else:
            self.close()

    def close(self) -> None:
        """Close it now, whatever the other side has yet to send."""
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        self._stop_clock()
        own = self.peers.get(self._peer, {})
        own.pop(self, None)
        if not own:
            self.peers.pop(self._peer, None)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _close_quietest(connections: dict[LimitedConnection, None]) -> bool:
    """Whether there was one that may be closed."""
    for connection in connections:
        if not connection.computing:
            connection.close()
            return True
    return False


def limited_connections(settings: ServeSettings) -> type[LimitedConnection]:
    """The class of one server's connections, of which there are fewer than files may be open."""
    files = _open_files(settings.connections + _MOST_BACKLOG + _OTHER_FILES)
    backlog = min(_MOST_BACKLOG, max(16, (files - _OTHER_FILES) // 4))
    most = max(8, min(settings.connections, files - backlog - _OTHER_FILES))
    values = {
        "settings": msgspec.structs.replace(settings, connections=most),
        "peers": {},
        "backlog": backlog,
    }
    return type("Connection", (LimitedConnection,), values)


def _open_files(wanted: int) -> int:
    """How many files may be open, raised to what is wanted as far as the system allows."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows knows no such limit
        return wanted
    kind, unlimited = resource.RLIMIT_NOFILE, resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(kind)
    if soft != unlimited and soft < wanted:
        aim = wanted if hard == unlimited else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (aim, hard))
        soft = resource.getrlimit(kind)[0]
    return wanted if soft == unlimited else min(soft, wanted)


class LogRate(logging.Filter):
    """So many lines of a logger in ten seconds; the next line says how many were left out."""

    def __init__(self, lines: int = 20) -> None:
        super().__init__()
        self._lines = lines
        self._since, self._seen = 0.0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        now = time.monotonic()
        if now - self._since > 10:
            left_out = self._seen - self._lines
            self._since, self._seen = now, 0
            if left_out > 0:
                record.msg = f"{record.getMessage()} ({left_out:,} lines before it left out)"
                record.args = None
        self._seen += 1
        return self._seen <= self._lines
