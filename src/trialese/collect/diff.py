"""Comparison of collections: what is new, changed or gone, and what somebody already has.

Studies are matched by NCT number with aliases. What somebody has is an earlier snapshot, or NCT
numbers in a file of any kind.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from trialese.artifacts import MANIFEST_NAME
from trialese.collect.files import read_raw
from trialese.collect.merge import TRIAL_COLUMNS
from trialese.collect.parse import FIELDS_OF_FORMAT, INEXACT_FIELDS, parse_study
from trialese.collect.snapshot import (
    TRIALS_NAME,
    Identity,
    find_trials,
    lying_over,
    open_snapshot,
    read_identities,
    read_trials,
)
from trialese.collect.source import Reject, StudyError, StudyFormat
from trialese.errors import RecordError
from trialese.records import Snapshot, Trial

__all__ = [
    "Changes",
    "changed_fields",
    "compare_snapshots",
    "differ",
    "read_earlier",
    "read_ids",
    "unchanged_since",
]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """NCT ids by what became of them, each sorted; ids are those of the newer snapshot."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    """In both, with some field different that both can hold."""
    vanished: tuple[str, ...]
    """In the older snapshot only (ids of the older)."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Older id and newer id of a study that is in both under another number."""
    unchanged: int = 0
    not_compared: dict[str, int] = {}
    """Field -> studies in both of which it was not compared: one side is of a kind of file that
    cannot hold it, or holds it in other words."""


class _Pair(NamedTuple):
    """A study in two snapshots whose contents are not the same byte for byte."""

    older: str
    exactly: bool
    """Both are of the same kinds of file, so texts are compared sign by sign."""
    skipped: frozenset[str]
    unsure: tuple[bool, bool]
    """Of the newer and the older: it may be a row of the website's CSV."""


def compare_snapshots(newer: Snapshot, older: Snapshot) -> Changes:
    """What is new, changed or gone in `newer`, seen from `older`.

    A study is the same if its NCT number, or an alias that either snapshot lists for it, is. Only
    fields are compared that the kinds of file on both sides can hold; between kinds, texts are
    compared without blanks, bullets and escapes, which are the kind's and not the study's.

    Raises:
        ArtifactError: a snapshot is damaged.
    """
    looked_at = _not_shared(newer, older)
    now_rows = list(read_identities(newer, looked_at))
    named = None
    if looked_at is not None:
        named = {*looked_at, *(alias for row in now_rows for alias in row.aliases)}
    known: dict[str, str] = {}  # any id of an older study -> its NCT id
    then: dict[str, Identity] = {}
    for identity in read_identities(older, named, and_aliased=True):
        then[identity.nct_id] = identity
        for alias in identity.aliases:
            known.setdefault(alias, identity.nct_id)
    known.update((nct_id, nct_id) for nct_id in then)
    new, changed, renamed = [], [], []
    seen: set[str] = set() if looked_at is None else then.keys() - looked_at
    matched = 0
    if looked_at is not None:
        matched = int(older.manifest.counts["trials"]) - len(then.keys() & looked_at)
    doubtful: dict[str, _Pair] = {}
    not_compared: Counter[str] = Counter()
    for now in now_rows:
        match = next((known[name] for name in (now.nct_id, *now.aliases) if name in known), None)
        if match is None:
            new.append(now.nct_id)
            continue
        matched += 1
        seen.add(match)
        if match != now.nct_id:
            renamed.append((match, now.nct_id))
        if then[match].content_digest == now.content_digest:
            continue
        pair = _pair(now, then[match])
        if pair.exactly and not pair.skipped:
            changed.append(now.nct_id)
        else:
            doubtful[now.nct_id] = pair
            not_compared.update(pair.skipped)
    differing = _differing_fields(newer, older, doubtful)
    changed = sorted([*changed, *(nct_id for nct_id, names in differing.items() if names)])
    return Changes(
        new=tuple(new),
        changed=tuple(changed),
        vanished=tuple(nct_id for nct_id in then if nct_id not in seen),
        renamed=tuple(renamed),
        unchanged=matched - len(changed),
        not_compared=dict(not_compared.most_common()),
    )


def differ(newer: Snapshot, older: Snapshot) -> bool:
    """Whether the rows on disk differ in anything, be it no field that is compared.

    Raises:
        ArtifactError: a snapshot is damaged.
    """
    if newer.manifest.digest == older.manifest.digest:
        return False
    return list(read_identities(newer)) != list(read_identities(older))


def _not_shared(newer: Snapshot, older: Snapshot) -> frozenset[str] | None:
    """The only numbers that can differ where both lie over one file of trials; None: any can."""
    files = [each.manifest.files.get(TRIALS_NAME) for each in (newer, older)]
    if files[0] is None or files[0] != files[1]:
        return None
    return lying_over(newer) | lying_over(older)


def changed_fields(
    newer: Snapshot, older: Snapshot, changes: Changes
) -> dict[str, tuple[str, ...]]:
    """NCT id of each changed trial -> names of the fields that differ.

    Raises:
        ArtifactError: a snapshot is damaged.
    """
    former = {new: old for old, new in changes.renamed}
    wanted = {former.get(nct_id, nct_id): nct_id for nct_id in changes.changed}
    if not wanted:
        return {}
    then = {row.nct_id: row for row in read_identities(older, wanted)}
    pairs = {
        now.nct_id: _pair(now, then[former.get(now.nct_id, now.nct_id)])
        for now in read_identities(newer, wanted.values())
    }
    return _differing_fields(newer, older, pairs)


def unchanged_since(older: Snapshot) -> Callable[[pa.Table], frozenset[str]]:
    """A function that tells which of some rows are in `older` as they are.

    It takes rows as a snapshot holds them and gives the NCT ids of those in which no field differs
    that the kinds of file on both sides can hold. Rows of the same whole kinds that differ byte for
    byte are not looked at.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    then: dict[str, Identity] = {}
    for identity in read_identities(older):
        for name in identity.aliases:
            then.setdefault(name, identity)
        then[identity.nct_id] = identity

    def unchanged(rows: pa.Table) -> frozenset[str]:
        columns = (rows[name].to_pylist() for name in _IDENTITY)
        pairs: dict[str, _Pair] = {}
        for nct_id, aliases, digest, formats, not_held in zip(*columns, strict=True):
            match = next((then[name] for name in (nct_id, *aliases) if name in then), None)
            if match is not None:
                now = Identity(nct_id, tuple(aliases), digest, tuple(formats), frozenset(not_held))
                pair = _pair(now, match)
                if pair.skipped or not pair.exactly:
                    pairs[nct_id] = pair
        before = find_trials(older, {pair.older for pair in pairs.values()})
        doubtful = rows.filter(pc.is_in(rows["nct_id"], pa.array(list(pairs), pa.string())))
        trials = msgspec.convert(doubtful.select(TRIAL_COLUMNS.names).to_pylist(), list[Trial])
        return frozenset(
            trial.nct_id
            for trial in trials
            if not _differing(
                trial,
                _hashes(before[pairs[trial.nct_id].older], exactly=pairs[trial.nct_id].exactly),
                pairs[trial.nct_id],
            )
        )

    return unchanged


_IDENTITY = ("nct_id", "nct_id_aliases", "content_digest", "formats", "not_held")


def _pair(now: Identity, then: Identity) -> _Pair:
    skipped = now.not_held | then.not_held
    if now.formats != then.formats:
        for name in {*(now.formats or ()), *(then.formats or ())}:
            skipped |= INEXACT_FIELDS.get(cast(StudyFormat, name), frozenset())
    unsure = (now.formats is None, then.formats is None)
    return _Pair(then.nct_id, now.formats == then.formats, skipped, unsure)


def _differing_fields(
    newer: Snapshot, older: Snapshot, pairs: Mapping[str, _Pair]
) -> dict[str, tuple[str, ...]]:
    """NCT id of each pair -> the fields that differ; memory holds a hash a field, no texts."""
    if not pairs:
        return {}
    exactly = {pair.older: pair.exactly for pair in pairs.values()}
    few = len(pairs) <= _HELD_TRIALS
    then = {
        trial.nct_id: _hashes(trial, exactly=exactly[trial.nct_id])
        for trial in (find_trials(older, exactly).values() if few else read_trials(older))
        if trial.nct_id in exactly
    }
    found = {}
    for trial in find_trials(newer, pairs).values() if few else read_trials(newer):
        pair = pairs.get(trial.nct_id)
        if pair is not None:
            found[trial.nct_id] = _differing(trial, then[pair.older], pair)
    return found


def _differing(trial: Trial, before: array[int], pair: _Pair) -> tuple[str, ...]:
    """The fields that differ from what they were, by their hashes."""
    both = zip(_hashes(trial, exactly=pair.exactly), before, strict=True)
    return tuple(
        name
        for name, values in zip(trial.__struct_fields__, both, strict=True)
        if values[0] != values[1]
        and name not in pair.skipped
        and not _may_not_be_held(name, values, pair.unsure)
    )


def _may_not_be_held(name: str, values: tuple[int, int], unsure: tuple[bool, bool]) -> bool:
    """Whether the field is empty on a side that may be a CSV row, which cannot hold it."""
    return name not in FIELDS_OF_FORMAT["csv"] and any(
        doubt and value in _EMPTY for doubt, value in zip(unsure, values, strict=True)
    )


def _hashes(trial: Trial, *, exactly: bool) -> array[int]:
    values = msgspec.structs.astuple(trial)
    return array("q", (hash(value if exactly else _bare(value)) for value in values))


def _bare(value: Any) -> Any:
    """A text without what a kind of file adds: wrapped lines, indents, bullets, escapes."""
    if isinstance(value, tuple):
        return tuple(map(_bare, value))
    return _ADDED.sub("", value) if isinstance(value, str) else value


_HELD_TRIALS = 2_000
"""So many trials may be held in memory, rather than read everything to find them."""
_EMPTY = frozenset(map(hash, (None, "", ())))
_ADDED = re.compile(r"[\s\\*~\-]+")
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
        for row in read_identities(open_snapshot(path)):
            known.update(dict.fromkeys((row.nct_id, *row.aliases), row.content_digest))
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
