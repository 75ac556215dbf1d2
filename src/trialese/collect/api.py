"""The client of ClinicalTrials.gov API v2: queries, polite requests, retries and downloads.

Facts from the registry's OpenAPI description (clinicaltrials.gov/data-api/api): errors 400 and
404 are text/plain; no rate limit is published, so one request a second is kept to.
"""

from __future__ import annotations

import datetime
import email.utils
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import requests

from trialese.collect.parse import parse_trial
from trialese.collect.source import RawStudy, decode_nearly
from trialese.errors import RecipeError, RegistryError
from trialese.records import Trial
from trialese.settings import CollectSettings

__all__ = [
    "FIELDS",
    "Page",
    "RefusedError",
    "RegistryClient",
    "Session",
    "Size",
    "Version",
    "fetch_trial",
    "query_of",
    "year_windows",
]


FIELDS = (
    "IdentificationModule", "StatusModule", "SponsorCollaboratorsModule", "DescriptionModule",
    "ConditionsModule", "DesignModule", "ArmsInterventionsModule", "OutcomesModule",
    "EligibilityModule", "MiscInfoModule",
)  # fmt: skip
"""The modules that a `Trial` is parsed from; locations and results would treble the bytes."""
FIRST_YEAR = 1999
"""Of first posting: the registry opened in February 2000 with studies dated a little earlier."""


def query_of(settings: CollectSettings) -> dict[str, str]:
    """The parameters of /studies, paging apart, that the settings ask for.

    Sorted by date because the registry's default order is unstable, and only dates and numbers
    can be sorted by.

    Raises:
        RecipeError: a date that no calendar has.
    """
    for name, date in (("since", settings.since), ("updated_since", settings.updated_since)):
        try:
            datetime.date.fromisoformat(date or "2000-01-01")
        except ValueError as error:
            raise RecipeError(f"collect.{name}: no such day as {date}; write YYYY-MM-DD") from error
    query = {
        "format": "json",
        "sort": "StudyFirstPostDate:asc",
        "fields": "|".join(FIELDS),
        "pageSize": str(settings.page_size),
    }
    windows = [
        f"AREA[{area}]RANGE[{date},MAX]"
        for area, date in (
            ("StudyFirstPostDate", settings.since),
            ("LastUpdatePostDate", settings.updated_since),
        )
        if date
    ]
    if windows:
        query["filter.advanced"] = " AND ".join(windows)
    if settings.query:
        query["query.term"] = settings.query
    return query


def year_windows(query: dict[str, str], *, last_year: int) -> list[dict[str, str]]:
    """The query once for each year of first posting; the first and last windows are open."""
    starts = ["MIN", *(f"{year}-01-01" for year in range(FIRST_YEAR + 1, last_year + 1))]
    ends = [*(f"{year}-12-31" for year in range(FIRST_YEAR, last_year)), "MAX"]
    return [
        {**query, "filter.advanced": f"AREA[StudyFirstPostDate]RANGE[{start},{end}]"}
        for start, end in zip(starts, ends, strict=True)
    ]


MAX_WAIT_SECONDS = 3600.0
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 307, 308})
DOWNLOAD_BYTES = 2**16
"""An attempt at a download that brings less does not count as progress."""
PIECE_BYTES = 2**14
"""At most so much is lost when a download breaks off; unpacked, at most 1,032 times as much."""
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


class Size(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of /stats/size."""

    total_studies: int
    average_size_bytes: float = 0.0


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


class _RedirectError(RegistryError):
    """The answer lies elsewhere."""

    def __init__(self, url: str, target: str) -> None:
        super().__init__(f"{url}: unexpected redirect to {target[:100]}; check `collect.url`")
        self.target = target


class _Answer:
    """An answer that is read by a thread of its own, which is left behind if nothing comes.

    The time-out of a socket begins anew with every byte: a server that lets them drip, of a
    header too, would hold a reader for ever.
    """

    def __init__(self, ask: Callable[[], Any], *, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._come: queue.Queue[Any] = queue.Queue(8)
        self._left = threading.Event()
        threading.Thread(target=self._read, args=(ask,), daemon=True).start()
        self._response = self._next(self._until)
        self.status = int(self._response.status_code)
        self.headers: Mapping[str, str] = self._response.headers

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def pieces(self) -> Iterator[bytes]:
        """The parts of the body, each of which must come within the seconds given."""
        while (piece := self._next(time.monotonic() + self._seconds)) is not None:
            yield piece

    def whole(self, most_bytes: int) -> bytes:
        """The body, all of which must come within the seconds given.

        Raises:
            _TransientError: it does not, or is larger.
        """
        body = bytearray()
        while (piece := self._next(self._until)) is not None:
            body += piece
            if len(body) > most_bytes:
                raise _TransientError(
                    f"answer of over {most_bytes:,} bytes (`collect.limits.answer_bytes`)"
                )
        return bytes(body)

    def _next(self, until: float) -> Any:
        try:
            come = self._come.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            self._left.set()
            raise _TransientError(
                f"no whole answer in {self._seconds:g} s (`collect.limits.answer_seconds`)"
            ) from None
        if isinstance(come, BaseException):
            raise come
        return come

    def _read(self, ask: Callable[[], Any]) -> None:
        try:
            response = ask()
        except BaseException as error:
            self._tell(error)
            return
        try:
            listened = self._tell(response)
            for piece in _pieces_of(response) if listened else ():
                if not self._tell(piece):
                    return
            self._tell(None)
        except BaseException as error:
            self._tell(error)
        finally:
            if hasattr(response, "close"):
                response.close()

    def _tell(self, come: Any) -> bool:
        """Whether anybody still listens."""
        while not self._left.is_set():
            try:
                self._come.put(come, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def _pieces_of(response: Any) -> Iterator[bytes]:
    if "," in (response.headers.get("Content-Encoding") or ""):  # a bomb
        raise _TransientError("an answer that is compressed several times")
    if hasattr(response, "iter_content"):
        yield from response.iter_content(PIECE_BYTES)
    else:
        yield response.content


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
        version = self.get("/version", {}, Version)[1]
        try:
            datetime.datetime.fromisoformat(version.data_timestamp)
        except ValueError as error:
            raise RegistryError(
                f"{self._settings.url}/version: {version.data_timestamp!r} is no time; "
                "check `collect.url`"
            ) from error
        return version

    def page(self, query: Mapping[str, str]) -> tuple[bytes, Page]:
        """One page of /studies: its bytes, and what paging needs of it."""
        return self.get("/studies", query, Page)

    def size(self) -> Size:
        """How many studies there are, and their mean size in bytes."""
        return self.get("/stats/size", {}, Size)[1]

    def study(self, nct_id: str, query: Mapping[str, str]) -> bytes | None:
        """The JSON of one study by its number or an obsolete alias of it; None if there is none.

        The registry answers an alias with a redirect that has lost the query string.
        """
        number = nct_id
        for _ in range(MAX_REDIRECTS):
            try:
                return self.get(f"/studies/{number}", query, msgspec.Raw)[0]
            except _RedirectError as redirect:
                number = redirect.target.partition("?")[0].rpartition("/")[2]
                if not number.isalnum():
                    break
            except RefusedError:
                return None
        raise RegistryError(f"{nct_id}: the registry redirects without end; leave this number out")

    def get(self, path: str, query: Mapping[str, str], kind: type[T]) -> tuple[bytes, T]:
        """The bytes of a JSON answer and the same decoded as `kind`.

        Connection errors, 429, 5xx, cut-off bodies and HTML with status 200 are tried again up
        to `retries` times, after what Retry-After asks for, else after twice as long each time.

        Raises:
            RefusedError: 400 or 404, with what the registry says about it.
            RegistryError: still no answer after the retries; names the last failure.
        """
        url = self._url(path)

        def ask() -> tuple[bytes, T]:
            answer = self._ask(url, query)
            with answer:
                self._checked(answer, url)
                body = answer.whole(self._settings.limits.answer_bytes)
            if body.lstrip()[:1] == b"<":
                raise _TransientError("HTML instead of JSON")
            try:
                return body, decode_nearly(body, kind)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise _TransientError(f"answer is not the JSON expected ({error})") from error

        return self._retrying(url, ask, lambda: 0)

    def download(
        self,
        path: str,
        query: Mapping[str, str],
        target: Path,
        *,
        told: Callable[[int, int | None], None] = lambda done, total: None,
    ) -> None:
        """Put a large answer into `target`, going on from what an earlier attempt left there.

        What is there is only continued if the registry still has the same file, by its ETag
        (RFC 9110, 13.1.5 and 14.2); `told` hears of bytes done and in all.

        Raises:
            RefusedError: the registry has no such file.
            RegistryError: no progress in `retries` attempts; what has come so far stays.
        """
        url = self._url(path)
        tag_file = target.with_name(f"{target.name}.etag")

        def ask() -> None:
            tag = tag_file.read_text("utf-8") if tag_file.is_file() else ""
            held = target.stat().st_size if tag and target.is_file() else 0
            headers = {"Accept-Encoding": "identity"}
            if held:
                headers |= {"Range": f"bytes={held}-", "If-Range": tag}
            with self._ask(url, query, headers) as answer:
                if answer.status == 416:
                    target.unlink()
                    raise _TransientError("the file is shorter than what was downloaded")
                self._checked(answer, url, also=206)
                if answer.status != 206:
                    held = 0
                    tag_file.write_text(answer.headers.get("ETag") or "", "utf-8")
                left = answer.headers.get("Content-Length") or ""
                total = held + int(left) if left.isascii() and left.isdigit() else None
                with target.open("r+b" if held else "wb") as file:
                    file.seek(held)
                    for piece in answer.pieces():
                        file.write(piece)
                        held += len(piece)
                        told(held, total)
                        if held > self._settings.limits.download_bytes:
                            raise RegistryError(
                                f"{url}: no end after {held:,} bytes "
                                "(`collect.limits.download_bytes`)"
                            )
                if total is not None and held != total:
                    raise _TransientError(f"broke off after {held:,} of {total:,} bytes")

        self._retrying(url, ask, lambda: target.stat().st_size if target.is_file() else 0)
        tag_file.unlink()

    def _url(self, path: str) -> str:
        return self._settings.url.rstrip("/") + path

    def _retrying(self, url: str, ask: Callable[[], T], mark: Callable[[], int]) -> T:
        """What `ask` gives in the end; while `mark` grows well, attempts count from the start."""
        attempt = 0
        best = mark()
        backoff = max(self._settings.pause_seconds, 0.0)
        while True:
            self._keep_pace()
            try:
                return ask()
            except _TransientError as failure:
                what, wait = str(failure), failure.wait_seconds
            except (requests.ConnectionError, requests.Timeout) as error:
                what, wait = f"connection failed ({type(error).__name__})", None
            except requests.RequestException as error:  # a body that breaks off, and the like
                what, wait = f"answer broke off ({type(error).__name__})", None
            if mark() >= best + DOWNLOAD_BYTES:  # less could go on for ever
                attempt, best, backoff = 0, mark(), max(self._settings.pause_seconds, 0.0)
            if attempt >= self._settings.retries:
                raise RegistryError(
                    f"{url}: {what}, {attempt + 1} times; try again later (what has been "
                    "collected is kept), or check `collect.url` and the network"
                )
            attempt += 1
            seconds = wait if wait is not None else backoff
            log.warning("%s: %s; again in %.1f s", url, what, seconds)
            self._sleep(seconds)
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _ask(
        self,
        url: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        plain = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        return _Answer(
            lambda: self._session.get(
                url,
                params=dict(query),
                headers={"User-Agent": _user_agent(), **(headers or plain)},
                timeout=self._settings.timeout_seconds,
                allow_redirects=False,  # a redirect drops the query string
                stream=True,
            ),
            seconds=self._settings.limits.answer_seconds,
        )

    @staticmethod
    def _checked(response: _Answer, url: str, *, also: int = 200) -> None:
        """Do nothing if the status is 200 or `also`.

        Raises:
            RegistryError: another, which asking again does not change.
            _TransientError: another, which may be better next time.
        """
        status = response.status
        if status in (200, also):
            return
        if status in (400, 404):
            said = next(response.pieces(), b"")[:200].decode("utf-8", "replace").strip()
            said = "".join(letter if letter.isprintable() else " " for letter in said)
            raise RefusedError(f"{url}: the registry refuses the request ({status}: {said})")
        if status in TRANSIENT:
            wait = _retry_after(response.headers.get("Retry-After"))
            if wait is not None and wait > MAX_WAIT_SECONDS:
                raise RegistryError(
                    f"{url}: the registry asks to wait {wait:,.0f} s; come back then"
                )
            raise _TransientError(f"status {status}", wait)
        if status in REDIRECTS and response.headers.get("Location"):
            raise _RedirectError(url, response.headers["Location"])
        raise RegistryError(f"{url}: unexpected status {status}; check `collect.url`")

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
        seconds = float(text)
        return None if math.isnan(seconds) else max(seconds, 0.0)
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return max(until - time.time(), 0.0)


def fetch_trial(nct_id: str, settings: CollectSettings) -> Trial | None:
    """The trial of that number, or of which it is an alias, as the registry has it now.

    None if the registry knows no such number.

    Raises:
        RegistryError: the registry cannot be reached.
        RecordError: it answers something that is no study.
    """
    whole = query_of(settings)
    query = {name: whole[name] for name in ("format", "fields")}
    data = RegistryClient(settings).study(nct_id, query)
    return None if data is None else parse_trial(RawStudy(nct_id, "v2", data))
