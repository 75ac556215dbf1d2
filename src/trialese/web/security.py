"""Middleware that every request passes (access, limits, headers of answers), and the metrics.

Plain ASGI, because it must see bodies as they arrive and answers as they leave.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from ipaddress import ip_address

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trialese.settings import ServeSettings
from trialese.web.schemas import Refusal, as_response

__all__ = [
    "LOOPBACK",
    "METRICS_TYPE",
    "OPEN_PATHS",
    "UPLOAD_PATH",
    "SecurityMiddleware",
    "ServerMetrics",
]


METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """Counters of one application; no two share any."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "trialese_requests",
            "Answered requests.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "trialese_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._texts = Histogram(
            "trialese_batch_texts",
            "Texts in a batch.",
            buckets=_TEXTS,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "trialese_batch_seconds",
            "Computing a batch.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.waiting = Gauge(
            "trialese_waiting_texts", "Texts that no batch has taken.", registry=self._registry
        )
        self.under_way = Gauge(
            "trialese_requests_under_way", "Requests not yet answered.", registry=self._registry
        )
        self.jobs = Gauge("trialese_jobs", "Jobs by state.", ("state",), registry=self._registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer; `route` is the pattern, never the path, so that series stay few."""
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
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""Need no token: whether the server lives, and the page, which holds no data and asks for it."""
OPEN_FOLDER = "/static/"
UPLOAD_PATH = "/v1/jobs"
_HEARD_OUT_BYTES = 64_000_000
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
        try:
            self._check(scope)
            await self.app(scope, self._limited(scope, receive), answer)
        except Refusal as refusal:
            await as_response(refusal)(scope, receive, answer)
        finally:
            self._under_way -= 1
            self._metrics.under_way.set(self._under_way)
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - started
            self._metrics.count_request(scope["method"], route, status or 500, seconds)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._under_way > self._settings.requests:
            raise Refusal(429, "too many requests under way; ask again", retry_seconds=1)
        if self._settings.host in LOOPBACK and not _is_loopback(headers.get("host", "")):
            # a page elsewhere whose name was made to point here (DNS rebinding)
            raise Refusal(403, "this server answers to 127.0.0.1 and localhost only")
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

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, which refuses bodies that are too large or do not come to an end."""
        limit = self._settings.body_bytes
        if scope["path"] == UPLOAD_PATH:
            limit = self._settings.upload_bytes
        headers = Headers(scope=scope)
        told = headers.get("content-length", "")
        refusal = Refusal(413, f"larger than the {limit:,} bytes that are taken here")
        got, whole = 0, False

        async def next_part() -> Message:
            nonlocal got, whole
            try:
                async with asyncio.timeout(self._settings.request_seconds):
                    message = await receive()
            except TimeoutError as error:
                raise Refusal(408, "the rest of the request did not come") from error
            got += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            return message

        async def limited() -> Message:
            if whole:
                return await receive()
            if not (told.isdigit() and int(told) > limit):
                message = await next_part()
                if got <= limit:
                    return message
            # who is still sending would not read the answer: listen on for a while
            while not whole and "expect" not in headers and got < limit + _HEARD_OUT_BYTES:
                await next_part()
            raise refusal

        return limited


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]")
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
