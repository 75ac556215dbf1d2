"""What somebody already has: an earlier snapshot, or NCT numbers in a file of any kind."""

from __future__ import annotations

import re
from pathlib import Path

from trialese.artifacts import MANIFEST_NAME
from trialese.collect.archives import read_raw
from trialese.collect.changes import identities_of
from trialese.collect.parse import parse_study
from trialese.collect.snapshot import open_snapshot
from trialese.collect.source import Reject, StudyError
from trialese.errors import RecordError

__all__ = ["read_earlier", "read_ids"]

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
