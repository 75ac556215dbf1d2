"""The whole registry as one zip, downloaded once, continued if it breaks off, and checked.

The address is undocumented (the website's "download all" uses it), so whoever asks for the whole
registry gets it year by year and page by page where the zip cannot be had.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trialese.artifacts import write_bytes
from trialese.collect.archives import FilesSource
from trialese.collect.crawl import RegistrySource
from trialese.collect.registry import RefusedError, RegistryClient, Version
from trialese.collect.source import RawStudy, Reject, Source, SourceFacts
from trialese.collect.zipped import Chunk, safe_entries
from trialese.errors import RecipeError, RecordError, RegistryError
from trialese.progress import Progress, silent
from trialese.settings import CollectSettings

__all__ = ["WholeRegistrySource"]

MAX_STARTS = 3
_ARCHIVE = "registry.zip"
_VERSION = "version.json"

log = logging.getLogger(__name__)


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
        shutil.rmtree(self._work, ignore_errors=True)

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
        for _ in range(MAX_STARTS):
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
            f"the registry's archive was not whole in {MAX_STARTS} downloads (last: {complaint}); "
            "try again later, or collect without `whole`"
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
