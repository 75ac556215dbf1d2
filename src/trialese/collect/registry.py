"""ClinicalTrials.gov API v2 over HTTP: one polite request at a time, retried until it is whole.

Facts from the registry's OpenAPI description (clinicaltrials.gov/data-api/api): errors 400 and
404 are text/plain; no rate limit is published, so one request a second is kept to.
"""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec
import requests

from trialese.errors import RegistryError
from trialese.settings import CollectSettings

__all__ = ["Page", "RefusedError", "RegistryClient", "Session", "Version"]

MAX_WAIT_SECONDS = 3600.0
LONGEST_BACKOFF_SECONDS = 60.0
TRANSIENT = frozenset({403, 408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
"""403 is what the edge answers while it holds a client for a robot."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class Page(msgspec.Struct, rename="camel"):
    """One answer of /studies; the studies are left undecoded."""

    studies: list[msgspec.Raw]
    next_page_token: str | None = None
    total_count: int | None = None


class Version(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of /version."""

    data_timestamp: str
    api_version: str = ""


class RefusedError(RegistryError):
    """The registry says that the request itself is wrong (400, 404): no use in repeating it."""


class Session(Protocol):
    """What is needed of `requests.Session`, so that another transport can be put in."""

    def get(self, url: str, **keywords: Any) -> Any:
        """The response to GET `url`."""
        ...


class _TransientError(Exception):
    """An answer that may be better next time; `wait_seconds` if the server said when."""

    def __init__(self, what: str, wait_seconds: float | None = None) -> None:
        super().__init__(what)
        self.wait_seconds = wait_seconds


class RegistryClient:
    """Asks the registry, no faster than `settings.pause_seconds` between starts of requests."""

    def __init__(
        self,
        settings: CollectSettings,
        *,
        session: Session | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._session: Any = requests.Session() if session is None else session
        self._sleep = sleep
        self._clock = clock
        self._not_before: float | None = None

    def version(self) -> Version:
        """The version of the API, and when its data were last refreshed."""
        return self.get("/version", {}, Version)[1]

    def page(self, query: Mapping[str, str]) -> tuple[bytes, Page]:
        """One page of /studies: its bytes, and what paging needs of it."""
        return self.get("/studies", query, Page)

    def get(self, path: str, query: Mapping[str, str], kind: type[T]) -> tuple[bytes, T]:
        """The bytes of a JSON answer and the same decoded as `kind`.

        Connection errors, 429, 5xx, cut-off bodies and HTML with status 200 are tried again up
        to `retries` times, after what Retry-After asks for, else after twice as long each time.

        Raises:
            RefusedError: 400 or 404, with what the registry says about it.
            RegistryError: still no answer after the retries; names the last failure.
        """
        url = self._settings.url.rstrip("/") + path
        backoff = max(self._settings.pause_seconds, 0.0)
        for attempt in range(self._settings.retries + 1):
            self._keep_pace()
            try:
                body = self._body(url, query)
                return body, msgspec.json.decode(body, type=kind)
            except _TransientError as failure:
                what, wait = str(failure), failure.wait_seconds
            except (requests.ConnectionError, requests.Timeout, requests.HTTPError) as error:
                what, wait = f"connection failed ({type(error).__name__})", None
            except requests.RequestException as error:  # a body that breaks off, and the like
                what, wait = f"answer broke off ({type(error).__name__})", None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                what, wait = f"answer is not the JSON expected ({error})", None
            if attempt < self._settings.retries:
                seconds = wait if wait is not None else backoff
                log.warning("%s: %s; again in %.1f s", url, what, seconds)
                self._sleep(seconds)
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
        raise RegistryError(
            f"{url}: {what}, {self._settings.retries + 1} times; try again later (what has been "
            "collected is kept), or check `collect.url` and the network"
        )

    def _body(self, url: str, query: Mapping[str, str]) -> bytes:
        response = self._session.get(
            url,
            params=dict(query),
            headers={"User-Agent": _user_agent(), "Accept": "application/json"},
            timeout=self._settings.timeout_seconds,
            allow_redirects=False,  # a redirect drops the query string
        )
        body: bytes = response.content
        status = int(response.status_code)
        if status in (400, 404):
            said = body[:200].decode("utf-8", "replace").strip().replace("\n", " ")
            raise RefusedError(f"{url}: the registry refuses the request ({status}: {said})")
        if status in TRANSIENT:
            wait = _retry_after(response.headers.get("Retry-After"))
            if wait is not None and wait > MAX_WAIT_SECONDS:
                raise RegistryError(
                    f"{url}: the registry asks to wait {wait:,.0f} s; come back then"
                )
            raise _TransientError(f"status {status}", wait)
        if status != 200:
            raise RegistryError(f"{url}: unexpected status {status}; check `collect.url`")
        if body.lstrip()[:1] == b"<":
            raise _TransientError("HTML instead of JSON")
        return body

    def _keep_pace(self) -> None:
        now = self._clock()
        if self._not_before is not None and now < self._not_before:
            self._sleep(self._not_before - now)
            now = self._clock()
        self._not_before = now + self._settings.pause_seconds


def _user_agent() -> str:
    from trialese import __version__

    return f"trialese/{__version__} (clinical-trial corpus builder)"


def _retry_after(text: str | None) -> float | None:
    """Seconds that the header asks to wait: a number, or a date (RFC 9110, 10.2.3)."""
    if not text:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None
    return max(until - time.time(), 0.0)
