"""The live registry as a source: the pages of a query, or the whole registry as one zip.

A crawl downloads to the end before anything is parsed. Every page is on disk before the next is
asked for, so a crawl that is interrupted anywhere goes on where it was and ends in the same
pages. It counts as whole only if the data's timestamp is the same before and after, no page
token came twice, and the distinct studies are as many as the registry said. If fewer came (the
order among studies of one day may change from page to page), what came stays and the registry is
read once more; if the data moved, all begins anew.

The whole registry comes as one zip, continued if it breaks off, and checked. Its address is
undocumented (the website's "download all" uses it): where it cannot be had, the registry is read
year by year and page by page.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from trialese.artifacts import digest_of, remove_at_once, write_bytes
from trialese.collect.api import Page, RefusedError, RegistryClient, Version, query_of, year_windows
from trialese.collect.diff import read_ids
from trialese.collect.files import FilesSource
from trialese.collect.json_files import split_page
from trialese.collect.source import (
    Chunk,
    RawStudy,
    Reject,
    Source,
    SourceFacts,
    decode_nearly,
)
from trialese.collect.zip_files import safe_entries
from trialese.errors import RecipeError, RecordError, RegistryError
from trialese.progress import Progress, silent
from trialese.settings import CollectSettings

__all__ = ["RegistrySource", "WholeRegistrySource"]


MAX_STARTS = 5
MAX_EMPTY_PAGES = 10
MAX_SURPLUS = 2
SURPLUS_STUDIES = 10_000
MAX_STUDIES = 5_000_000
"""Where the registry does not announce how many there are; it has some 600,000."""
IDS_A_QUERY = 200
"""12 characters each: well within the length that servers take for a URL."""
_STATE = "state.json"
log = logging.getLogger(__name__)


class _State(msgspec.Struct, kw_only=True):
    """How far a crawl has come."""

    query: str
    """Digest of what is asked for: a crawl for something else is never gone on with."""
    version: Version
    pages: int = 0
    studies: int = 0
    total: int | None = None
    """As announced in this pass."""
    token: str | None = None
    """Of the next page; None before the first page of a part."""
    part: int = 0
    """Which of the queries is being read; their number once all are."""
    starts: int = 1
    passes: int = 1
    empty: int = 0
    """Pages without a study that named a next page."""
    """Since the last start from nothing."""


class _MovedError(Exception):
    """The registry changed under the crawl, or answered in a way that only that explains."""


class _StudyId(msgspec.Struct, frozen=True):
    nctId: str = ""  # noqa: N815 - the registry's name


class _Identified(msgspec.Struct, frozen=True):
    identificationModule: _StudyId = _StudyId()  # noqa: N815


class _Bare(msgspec.Struct, frozen=True):
    protocolSection: _Identified = _Identified()  # noqa: N815


class RegistrySource:
    """Studies from the live registry; `work` keeps the pages until the snapshot is written."""

    def __init__(
        self,
        settings: CollectSettings,
        *,
        work: Path | None = None,
        client: RegistryClient | None = None,
        query: Mapping[str, str] | None = None,
        progress: Progress = silent,
    ) -> None:
        """`query` stands for what the settings would ask of /studies, paging apart."""
        self._query = dict(query or query_of(settings))
        self._ids = read_ids(Path(settings.ids)) if settings.ids else None
        self._whole = settings.whole
        self._client = client or RegistryClient(settings)
        self._temporary = tempfile.TemporaryDirectory() if work is None else None
        self._work = Path(self._temporary.name) if self._temporary else work or Path()
        self._progress = progress
        self._version: Version | None = None
        self.total: int | None = None

    def studies(self) -> Iterator[RawStudy | Reject]:
        """Every study of the query once, in the registry's order.

        With a list of numbers, those that the search did not find are asked for one by one: they
        may be obsolete aliases. What is not there at all is a reject.

        Raises:
            RegistryError: the registry could not be read to the end, or would not stand still.
        """
        try:
            state = self._crawl()
            self.total = state.studies
            self._version = state.version
            found: set[str] = set()
            yield from self._stored(state, found)
            yield from self._one_by_one(found)
        except BaseException:
            if self._temporary:
                self.close()
            raise

    def parts(self) -> Iterator[Iterator[RawStudy | Reject]]:
        yield self.studies()

    def facts(self) -> SourceFacts:
        version = self._version
        return SourceFacts(
            name="registry",
            data_timestamp=version.data_timestamp if version else None,
            notes={
                "api_version": version.api_version if version else "",
                "query": self._query,
                **({"ids": len(self._ids)} if self._ids is not None else {}),
            },
        )

    def close(self) -> None:
        """Remove the pages."""
        if self._temporary:
            self._temporary.cleanup()
        else:
            remove_at_once(self._work)

    def _stored(self, state: _State, found: set[str]) -> Iterator[RawStudy | Reject]:
        """The studies of the stored pages; what two pages show is given once."""
        for number in range(state.pages):
            data = gzip.decompress(_page_file(self._work, number).read_bytes())
            for item in split_page(data, f"page-{number + 1}"):
                nct_id = _id_of(item.data) if isinstance(item, RawStudy) else ""
                if nct_id and nct_id in found:
                    continue
                found.add(nct_id)
                yield (
                    RawStudy(nct_id or item.origin, "v2", item.data)
                    if isinstance(item, RawStudy)
                    else item
                )

    def _one_by_one(self, found: set[str]) -> Iterator[RawStudy | Reject]:
        query = {name: self._query[name] for name in ("format", "fields")}
        for nct_id in self._ids or ():
            if nct_id in found:
                continue
            data = self._client.study(nct_id, query)
            if data is None:
                detail = "the registry has no study of this number"
                yield Reject(origin=nct_id, reason="not_in_registry", detail=detail, nct_id=nct_id)
            elif _id_of(data) not in found:
                found.add(_id_of(data))
                yield RawStudy(nct_id, "v2", data)

    def _queries(self, state: _State) -> list[dict[str, str]]:
        """One query, one for each so many of the numbers asked for, or for each year of the whole.

        A second pass over the whole asks without windows, which would miss undated studies.
        """
        if self._ids is not None:
            return [
                {**self._query, "filter.ids": "|".join(self._ids[start : start + IDS_A_QUERY])}
                for start in range(0, len(self._ids), IDS_A_QUERY)
            ]
        if self._whole and state.passes == 1:
            return year_windows(self._query, last_year=int(state.version.data_timestamp[:4]))
        return [self._query]

    def _crawl(self) -> _State:
        state = self._resumed()
        while True:
            try:
                self._fetch_rest(state)
                reason = self._what_lacks(state)
                if reason is None:
                    return state
                moved = False
            except _MovedError as error:
                reason, moved = str(error), True
            if state.starts >= MAX_STARTS:
                self.close()  # the next crawl begins anew
                raise RegistryError(
                    f"the registry did not stand still in {MAX_STARTS} attempts "
                    f"(last: {reason}); try again later, or ask for a narrower window"
                )
            if moved:
                log.warning("%s; starting over", reason)
                state = self._fresh(starts=state.starts + 1)
            else:
                log.warning("%s; reading once more", reason)
                state = msgspec.structs.replace(
                    state, part=0, total=None, starts=state.starts + 1, passes=state.passes + 1
                )
                self._save(state)

    def _resumed(self) -> _State:
        """Where an earlier crawl of this query got to, if the data are still the same."""
        try:
            state = msgspec.json.decode((self._work / _STATE).read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError):
            return self._fresh()
        if state.query != self._wanted():
            return self._fresh()
        if not all(_page_file(self._work, number).is_file() for number in range(state.pages)):
            return self._fresh()  # somebody removed one
        if self._client.version() != state.version:
            log.warning("the registry was refreshed since; starting over")
            return self._fresh()
        return state

    def _fresh(self, *, starts: int = 1) -> _State:
        remove_at_once(self._work)
        self._work.mkdir(parents=True, exist_ok=True)
        state = _State(query=self._wanted(), version=self._client.version(), starts=starts)
        self._save(state)
        return state

    def _wanted(self) -> str:
        return digest_of([self._query, self._ids, self._whole])

    def _fetch_rest(self, state: _State) -> None:
        queries = self._queries(state)
        while state.part < len(queries):
            query = dict(queries[state.part])
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
            if not page.studies and page.next_page_token is not None:
                state.empty += 1
            self._check_end(state, page)
            self._keep(state, body, page)
            self._progress("studies", state.studies, state.total)

    def _check_end(self, state: _State, page: Page) -> None:
        """Do nothing while the pages may still come to an end.

        Raises:
            _MovedError: more empty pages, or more studies, than can be explained.
        """
        if state.empty > MAX_EMPTY_PAGES:
            raise _MovedError(f"over {MAX_EMPTY_PAGES} empty pages, and more announced")
        # A second pass reads them all once more, and an order that changes shows some twice.
        most = state.passes * (MAX_SURPLUS * (state.total or MAX_STUDIES) + SURPLUS_STUDIES)
        if state.studies + len(page.studies) > most:
            raise _MovedError(f"over {most:,} studies, and no end of pages")

    def _keep(self, state: _State, body: bytes, page: Page) -> None:
        """The page first, then the state that counts it: a crash in between repeats the page."""
        file = _page_file(self._work, state.pages)
        write_bytes(file, gzip.compress(body, compresslevel=1, mtime=0))
        if state.token is None and page.total_count is not None:
            state.total = (state.total or 0) + page.total_count
        state.pages += 1
        state.studies += len(page.studies)
        state.token = page.next_page_token
        state.part += page.next_page_token is None
        self._save(state)

    def _what_lacks(self, state: _State) -> str | None:
        """What one more pass may bring, or None if every study announced has come."""
        distinct: set[str] = set()
        for number in range(state.pages):
            body = gzip.decompress(_page_file(self._work, number).read_bytes())
            for place, study in enumerate(decode_nearly(body, Page).studies):
                distinct.add(_id_of(bytes(study)) or f"{number}/{place}")
        total = self._client.size().total_studies if self._whole else state.total
        if self._client.version() != state.version:
            raise _MovedError("the registry was refreshed meanwhile")
        if total is None or len(distinct) == total:
            return None
        what = f"{len(distinct):,} distinct studies where {total:,} were announced"
        if len(distinct) > total:
            raise _MovedError(what)
        return what

    def _save(self, state: _State) -> None:
        write_bytes(self._work / _STATE, msgspec.json.encode(state))


def _page_file(work: Path, number: int) -> Path:
    return work / f"page-{number + 1:06d}.json.gz"


def _id_of(data: object) -> str:
    """The NCT number of a study, "" where it has none."""
    if not isinstance(data, bytes):
        return ""
    try:
        return decode_nearly(data, _Bare).protocolSection.identificationModule.nctId
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


MAX_DOWNLOAD_STARTS = 3
_ARCHIVE = "registry.zip"
_VERSION = "version.json"


class WholeRegistrySource:
    """Every study of the registry; `work` keeps the download until the snapshot is written."""

    def __init__(
        self,
        settings: CollectSettings,
        *,
        work: Path,
        client: RegistryClient | None = None,
        progress: Progress = silent,
    ) -> None:
        if settings.since or settings.updated_since or settings.query or settings.ids:
            raise RecipeError(
                "collect.whole: takes every study; leave out since, updated_since, query and ids"
            )
        self._settings = settings
        self._client = client or RegistryClient(settings)
        self._work = work
        self._progress = progress
        self._version: Version | None = None
        self._pages: RegistrySource | None = None
        self.total: int | None = None

    def studies(self) -> Iterator[RawStudy | Reject]:
        yield from self._source().studies()

    def parts(self) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
        yield from self._source().parts()

    def facts(self) -> SourceFacts:
        if self._pages is not None:
            return self._pages.facts()
        version = self._version
        return SourceFacts(
            name="registry",
            data_timestamp=version.data_timestamp if version else None,
            notes={
                "api_version": version.api_version if version else "",
                "query": {"format": "json.zip"},
            },
        )

    def close(self) -> None:
        """Remove the download."""
        if self._pages is not None:
            self._pages.close()
        remove_at_once(self._work)

    def _source(self) -> Source:
        """Where the studies are: the archive once it is whole, or else the pages."""
        try:
            archive = self._whole_archive()
        except RefusedError as refusal:
            log.warning("%s; going year by year", refusal)
            self._pages = RegistrySource(
                self._settings,
                work=self._work / "pages",
                client=self._client,
                progress=self._progress,
            )
            return self._pages
        return FilesSource((str(archive),), progress=self._progress)

    def _whole_archive(self) -> Path:
        self._work.mkdir(parents=True, exist_ok=True)
        archive = self._work / _ARCHIVE
        for _ in range(MAX_DOWNLOAD_STARTS):
            version = self._client.version()
            if version != self._noted_version():
                for left in self._work.glob(f"{_ARCHIVE}*"):
                    left.unlink()
                write_bytes(self._work / _VERSION, msgspec.json.encode(version))
            partial = archive.with_name(f"{_ARCHIVE}.partial")
            if not archive.is_file():
                self._client.download(
                    "/studies/download",
                    {"format": "json.zip"},
                    partial,
                    told=lambda done, total: self._progress("bytes", done, total),
                )
                partial.rename(archive)
            complaint = self._complaint(archive, version)
            if complaint is None:
                self._version = version
                return archive
            log.warning("%s; downloading again", complaint)
            archive.unlink()
        raise RegistryError(
            f"the registry's archive was not whole in {MAX_DOWNLOAD_STARTS} downloads "
            f"(last: {complaint}); try again later, or collect without `whole`"
        )

    def _complaint(self, archive: Path, version: Version) -> str | None:
        try:
            entries = safe_entries(archive)
        except RecordError as error:
            return str(error)
        announced = self._client.size().total_studies
        studies = sum(entry.name.endswith(".json") for entry in entries)
        if self._client.version() != version:
            return "the registry was refreshed meanwhile"
        if studies != announced:
            return f"{studies:,} studies where {announced:,} were announced"
        return None

    def _noted_version(self) -> Version | None:
        try:
            return msgspec.json.decode((self._work / _VERSION).read_bytes(), type=Version)
        except (OSError, msgspec.DecodeError):
            return None
