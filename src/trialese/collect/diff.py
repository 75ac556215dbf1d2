"""Comparison of collections: what is new, changed or gone, and what somebody already has.

Studies are matched by NCT number with aliases. What somebody has is an earlier snapshot, or NCT
numbers in a file of any kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from trialese.artifacts import MANIFEST_NAME
from trialese.collect.files import read_raw
from trialese.collect.parse import parse_study
from trialese.collect.snapshot import TRIALS_NAME, open_snapshot
from trialese.collect.source import Reject, StudyError
from trialese.errors import ArtifactError, RecordError
from trialese.records import Snapshot

__all__ = ["Changes", "compare_snapshots", "identities_of", "read_earlier", "read_ids"]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """NCT ids by what became of them, each sorted; ids are those of the newer snapshot."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    """In both, with some field different."""
    vanished: tuple[str, ...]
    """In the older snapshot only (ids of the older)."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Older id and newer id of a study that is in both under another number."""
    unchanged: int = 0


def compare_snapshots(newer: Snapshot, older: Snapshot) -> Changes:
    """What is new, changed or gone in `newer`, seen from `older`.

    A study is the same if its NCT number, or an alias that either snapshot lists for it, is.

    Raises:
        ArtifactError: a snapshot is damaged.
    """
    known: dict[str, str] = {}  # any id of an older study -> its NCT id
    digests: dict[str, str] = {}
    for nct_id, aliases, digest in identities_of(older):
        digests[nct_id] = digest
        for alias in aliases:
            known.setdefault(alias, nct_id)
    known.update((nct_id, nct_id) for nct_id in digests)
    new, changed, renamed, seen = [], [], [], set()
    unchanged = 0
    for nct_id, aliases, digest in identities_of(newer):
        match = next((known[name] for name in (nct_id, *aliases) if name in known), None)
        if match is None:
            new.append(nct_id)
            continue
        seen.add(match)
        if match != nct_id:
            renamed.append((match, nct_id))
        if digests[match] != digest:
            changed.append(nct_id)
        else:
            unchanged += 1
    return Changes(
        new=tuple(new),
        changed=tuple(changed),
        vanished=tuple(nct_id for nct_id in digests if nct_id not in seen),
        renamed=tuple(renamed),
        unchanged=unchanged,
    )


def identities_of(snapshot: Snapshot) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """NCT id, aliases and content digest of each study, by NCT id.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    file = snapshot.path / TRIALS_NAME
    names = ["nct_id", "nct_id_aliases", "content_digest"]
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(10_000, columns=names):
                ids, aliases, digests = (batch[name].to_pylist() for name in names)
                for nct_id, others, digest in zip(ids, aliases, digests, strict=True):
                    yield nct_id, tuple(others or ()), digest
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error


_NCT_ID = re.compile(rb"(?<![0-9A-Za-z])NCT[0-9]{8}(?![0-9])")


def read_ids(path: Path) -> tuple[str, ...]:
    """The NCT numbers in the file, sorted, each once.

    Of registry records and tables it is the numbers of the studies; of anything else, every
    number that stands in the text.

    Raises:
        RecordError: no such file, or no number in it.
    """
    ids = {name for name in read_earlier(path) if name.startswith("NCT")}
    if not ids:
        raise RecordError(f"{path}: no NCT number stands in it; give one a line")
    return tuple(sorted(ids))


def read_earlier(path: Path) -> dict[str, str | None]:
    """Every id and alias that an earlier collection holds, with the digest of its content.

    The digest is that of a snapshot's row. It is None where only ids are known: then a study
    counts as held whatever it says.

    Raises:
        RecordError: no such file.
        ArtifactError: a snapshot that is damaged.
    """
    known: dict[str, str | None] = {}
    if (path / MANIFEST_NAME).is_file():
        for nct_id, aliases, digest in identities_of(open_snapshot(path)):
            known.update(dict.fromkeys((nct_id, *aliases), digest))
        return known
    try:
        for item in read_raw(path):
            if isinstance(item, Reject):
                continue
            try:
                trial = parse_study(item).trial
            except StudyError:
                continue
            known.update(dict.fromkeys((trial.nct_id, *trial.nct_id_aliases)))
    except RecordError:
        if not path.is_file():
            raise
    if not known and path.is_dir():
        raise RecordError(f"{path}: no study in this folder; check `collect.new_since`")
    if not known:
        with path.open("rb") as file:
            for line in file:
                known.update(dict.fromkeys(found.decode() for found in _NCT_ID.findall(line)))
    return known
