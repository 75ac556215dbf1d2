"""How much a collection would be, before it is begun."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trialese.collect.archives import FilesSource, is_zip
from trialese.collect.earlier import read_ids
from trialese.collect.query import query_of
from trialese.collect.zipped import safe_entries
from trialese.settings import CollectSettings

__all__ = ["Estimate", "estimate_collection"]

SAMPLE_BYTES = 3_500
KEPT_SHARE = 0.4
"""Of a study's bytes, about what the modules asked for make up (measured on 635 records)."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection would read."""

    studies: int | None
    """None where only reading would tell."""
    json_bytes: int
    """About so many bytes of records (for files: on disk as they are)."""
    requests: int = 0
    seconds: float = 0.0
    """At least so long, for the pauses between requests."""


def estimate_collection(settings: CollectSettings) -> Estimate:
    """What collecting with these settings would read; asks the registry two small questions.

    Raises:
        RecordError: a file cannot be read.
        RegistryError: the registry does not answer.
    """
    if settings.source == "sample":
        studies = settings.sample.studies
        return Estimate(studies=studies, json_bytes=studies * SAMPLE_BYTES)
    if settings.source == "files":
        return _of_files(FilesSource(settings.paths).paths)
    from trialese.collect.registry import RegistryClient

    client = RegistryClient(settings)
    size = client.size()
    if settings.whole:
        found, share = size.total_studies, 1.0
    elif settings.ids:
        found, share = len(read_ids(Path(settings.ids))), KEPT_SHARE
    else:
        query = {**query_of(settings), "pageSize": "1", "countTotal": "true", "fields": "NCTId"}
        found, share = client.page(query)[1].total_count or 0, KEPT_SHARE
    pages = 1 if settings.whole else found // max(settings.page_size, 1) + 1
    return Estimate(
        studies=found,
        json_bytes=int(found * size.average_size_bytes * share),
        requests=pages + 2,
        seconds=(pages + 1) * settings.pause_seconds,
    )


def _of_files(paths: tuple[Path, ...]) -> Estimate:
    files = [
        file
        for path in paths
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        if file.is_file()
    ]
    studies: int | None = 0
    json_bytes = 0
    for file in files:
        if is_zip(file):
            entries = safe_entries(file)
            json_bytes += sum(entry.plain_bytes for entry in entries)
            if len(entries) > 1 and studies is not None:
                studies += len(entries)
                continue
        else:
            json_bytes += file.stat().st_size
        studies = None
    return Estimate(studies=studies, json_bytes=json_bytes)
