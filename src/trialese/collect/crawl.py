"""All pages of a query, exactly once: kept on disk, resumed, checked, started over if moved.

A crawl downloads to the end before anything is parsed. Every page is on disk before the next is
asked for, so a crawl that is interrupted anywhere goes on where it was and ends in the same
pages. It counts as whole only if the data's timestamp is the same before and after, no page
token came twice, and the distinct studies are as many as the registry said.
"""

from __future__ import annotations

import gzip
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trialese.artifacts import digest_of, write_bytes
from trialese.collect.documents import split_page
from trialese.collect.registry import Page, RefusedError, RegistryClient, Version
from trialese.collect.source import RawStudy, Reject, SourceFacts
from trialese.errors import RegistryError
from trialese.progress import Progress, silent
from trialese.settings import CollectSettings

__all__ = ["FIELDS", "RegistrySource", "query_of"]

MAX_STARTS = 5
_STATE = "state.json"
FIELDS = (
    "IdentificationModule", "StatusModule", "SponsorCollaboratorsModule", "DescriptionModule",
    "ConditionsModule", "DesignModule", "ArmsInterventionsModule", "OutcomesModule",
    "EligibilityModule", "MiscInfoModule",
)  # fmt: skip
"""The modules that a `Trial` is parsed from; locations and results would treble the bytes."""

log = logging.getLogger(__name__)


class _State(msgspec.Struct, kw_only=True):
    """How far a crawl has come."""

    query: str
    """Digest of the query: a crawl for something else is never gone on with."""
    version: Version
    pages: int = 0
    studies: int = 0
    total: int | None = None
    token: str | None = None
    """Of the next page; None before the first and after the last."""
    ended: bool = False
    starts: int = 1


class _MovedError(Exception):
    """The registry changed under the crawl, or answered in a way that only that explains."""


class _StudyId(msgspec.Struct, frozen=True):
    nctId: str = ""  # noqa: N815 - the registry's name


class _Identified(msgspec.Struct, frozen=True):
    identificationModule: _StudyId = _StudyId()  # noqa: N815


class _Bare(msgspec.Struct, frozen=True):
    protocolSection: _Identified = _Identified()  # noqa: N815


_BARE = msgspec.json.Decoder(_Bare)


def query_of(settings: CollectSettings) -> dict[str, str]:
    """The parameters of /studies, paging apart, that the settings ask for.

    Sorted by date because the registry's default order is unstable, and only dates and numbers
    can be sorted by.
    """
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


class RegistrySource:
    """Studies from the live registry; `work` keeps the pages until the snapshot is written."""

    def __init__(
        self,
        settings: CollectSettings,
        *,
        work: Path | None = None,
        client: RegistryClient | None = None,
        progress: Progress = silent,
    ) -> None:
        self._query = query_of(settings)
        self._client = client or RegistryClient(settings)
        self._temporary = tempfile.TemporaryDirectory() if work is None else None
        self._work = Path(self._temporary.name) if self._temporary else work or Path()
        self._progress = progress
        self._version: Version | None = None
        self.total: int | None = None

    def studies(self) -> Iterator[RawStudy | Reject]:
        """Every study of the query once, in the registry's order.

        Raises:
            RegistryError: the registry could not be read to the end, or would not stand still.
        """
        try:
            state = self._crawl()
        except BaseException:
            if self._temporary:
                self.close()
            raise
        self.total = state.studies
        self._version = state.version
        seen: set[str] = set()
        for number in range(state.pages):
            data = gzip.decompress(_page_file(self._work, number).read_bytes())
            for item in split_page(data, f"page-{number + 1}"):
                nct_id = _id_of(item.data) if isinstance(item, RawStudy) else ""
                if nct_id and nct_id in seen:
                    continue  # shown twice by two pages; _check has made sure that none is missing
                seen.add(nct_id)
                origin = nct_id or item.origin
                yield (RawStudy(origin, "v2", item.data) if isinstance(item, RawStudy) else item)

    def facts(self) -> SourceFacts:
        version = self._version
        return SourceFacts(
            name="registry",
            data_timestamp=version.data_timestamp if version else None,
            notes={
                "api_version": version.api_version if version else "",
                "query": self._query,
            },
        )

    def close(self) -> None:
        """Remove the pages."""
        if self._temporary:
            self._temporary.cleanup()
        else:
            shutil.rmtree(self._work, ignore_errors=True)

    def _crawl(self) -> _State:
        state = self._resumed()
        while True:
            try:
                self._fetch_rest(state)
                self._check(state)
                return state
            except _MovedError as reason:
                log.warning("%s; starting over", reason)
                if state.starts >= MAX_STARTS:
                    raise RegistryError(
                        f"the registry did not stand still in {MAX_STARTS} attempts "
                        f"(last: {reason}); try again later, or ask for a narrower window"
                    ) from reason
                state = self._fresh(starts=state.starts + 1)

    def _resumed(self) -> _State:
        """Where an earlier crawl of this query got to, if the data are still the same."""
        try:
            state = msgspec.json.decode((self._work / _STATE).read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError):
            return self._fresh()
        if state.query != digest_of(self._query):
            return self._fresh()
        if self._client.version() != state.version:
            log.warning("the registry was refreshed since; starting over")
            return self._fresh()
        return state

    def _fresh(self, *, starts: int = 1) -> _State:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True, exist_ok=True)
        state = _State(query=digest_of(self._query), version=self._client.version(), starts=starts)
        self._save(state)
        return state

    def _fetch_rest(self, state: _State) -> None:
        while not state.ended:
            query = dict(self._query)
            if state.token is None:
                query["countTotal"] = "true"
            else:
                query["pageToken"] = state.token
            try:
                body, page = self._client.page(query)
            except RefusedError as refusal:
                if state.token is None:
                    raise
                raise _MovedError(f"page token refused ({refusal})") from refusal
            if page.next_page_token is not None and page.next_page_token == state.token:
                raise _MovedError("the registry gave the same page token twice")
            self._keep(state, body, page)
            self._progress("studies", state.studies, state.total)

    def _keep(self, state: _State, body: bytes, page: Page) -> None:
        """The page first, then the state that counts it: a crash in between repeats the page."""
        file = _page_file(self._work, state.pages)
        write_bytes(file, gzip.compress(body, compresslevel=1, mtime=0))
        if state.token is None:
            state.total = page.total_count
        state.pages += 1
        state.studies += len(page.studies)
        state.token = page.next_page_token
        state.ended = page.next_page_token is None
        self._save(state)

    def _check(self, state: _State) -> None:
        distinct: set[str] = set()
        for number in range(state.pages):
            body = gzip.decompress(_page_file(self._work, number).read_bytes())
            studies = msgspec.json.decode(body, type=Page).studies
            distinct.update(
                _id_of(bytes(study)) or f"{number}/{i}" for i, study in enumerate(studies)
            )
        if state.total is not None and len(distinct) != state.total:
            raise _MovedError(
                f"{len(distinct):,} distinct studies where {state.total:,} were announced"
            )
        if self._client.version() != state.version:
            raise _MovedError("the registry was refreshed meanwhile")

    def _save(self, state: _State) -> None:
        write_bytes(self._work / _STATE, msgspec.json.encode(state))


def _page_file(work: Path, number: int) -> Path:
    return work / f"page-{number + 1:06d}.json.gz"


def _id_of(data: object) -> str:
    """The NCT number of a study, "" where it has none."""
    if not isinstance(data, bytes):
        return ""
    try:
        return _BARE.decode(data).protocolSection.identificationModule.nctId
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
