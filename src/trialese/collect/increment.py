"""The next snapshot from the last one and what changed since, equal to one collected afresh.

Of the registry only studies updated since are asked for, from some days before the last data on,
since updates appear late. What no date tells (studies that vanished, came back, or were updated
with an old date) shows in numbers: a small collection is listed whole, of a large one the studies
of each year of first posting are counted, and years that differ are listed; now and then all of it
is. Files and the sample are read again as a whole.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialese.artifacts import is_complete, write_artifact, write_bytes
from trialese.collect.api import FIRST_YEAR, RegistryClient, query_of
from trialese.collect.collection import collect_snapshot, describe_settings, snapshot_inputs
from trialese.collect.crawl import IDS_A_QUERY, RegistrySource
from trialese.collect.merge import ROW_COLUMNS, write_rows
from trialese.collect.parse import parse_trial
from trialese.collect.snapshot import (
    GONE_NAME,
    OVERLAY_NAME,
    REJECTS_NAME,
    TRIALS_NAME,
    Identity,
    interleave,
    open_snapshot,
    read_gone,
    read_identities,
    read_lists,
    read_rejects,
    read_rows,
)
from trialese.collect.source import RawStudy, Reject, StudyError
from trialese.errors import ArtifactError, RecipeError, RegistryError
from trialese.generations import link_file
from trialese.progress import Progress, silent
from trialese.records import Manifest, Snapshot, Trial
from trialese.settings import CollectSettings

__all__ = [
    "LISTED_PAGES",
    "OVERLAY_SHARE",
    "WHOLE_TRIALS",
    "Increment",
    "collect_increment",
    "merge_increment",
]

WHOLE_TRIALS = 5_000
"""Of fewer trials the next snapshot is written whole: it costs megabytes at most."""
LISTED_PAGES = 20
"""A collection of at most so many pages is listed whole: no more work than counting its years."""
OVERLAY_SHARE = 0.05
"""An overlay of more than this share of the trials is written into the whole."""


@dataclass(slots=True)
class Increment:
    """What a source holds that differs, or may differ, from the snapshot before."""

    collected: tuple[Snapshot, ...]
    """Later ones win. Without any the source holds what it held."""
    whole: bool
    """The last one is all that there is: what it lacks is gone."""
    gone: frozenset[str] = frozenset()
    listed: bool = False
    """All numbers were listed, with the dates of their last updates."""
    data_timestamp: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    """Requests, counts and what they told."""


def collect_increment(
    settings: CollectSettings,
    older: Snapshot,
    work: Path,
    *,
    overlap_days: int,
    list_from: str | None = None,
    progress: Progress = silent,
) -> Increment:
    """What changed at the source since `older` was collected; files in `work` are gone on with.

    `overlap_days` are those before the date of the older data from which updates are asked for
    again. With data of the day `list_from` (ISO 8601) or later every number is listed, whatever the
    counts say.

    Raises:
        RecipeError: there is nothing to collect from.
        RegistryError: no answer, or the registry was refreshed meanwhile.
        RecordError: a file cannot be read.
    """
    if settings.source == "none":
        raise RecipeError("collect.source: none, so there are no trials to keep up with")
    if settings.source == "registry":
        return _from_registry(settings, older, work, overlap_days, list_from, progress)
    if settings.source == "sample":
        sample = msgspec.structs.replace(settings.sample, months=_months_of(older) + 1)
        settings = msgspec.structs.replace(settings, sample=sample)
    elif snapshot_inputs(settings) == older.manifest.inputs:
        return Increment((), whole=True, data_timestamp=older.manifest.notes.get("data_timestamp"))
    made = _collect(settings, work / "collected", None, progress)
    timestamp = made.manifest.notes.get("data_timestamp")
    return Increment((made,), whole=True, listed=True, data_timestamp=timestamp)


def _collect(
    settings: CollectSettings,
    path: Path,
    timestamp: str | None,
    progress: Progress,
    *,
    partial: bool = False,
) -> Snapshot:
    """The snapshot at `path`, which an interrupted refresh may have left whole.

    `timestamp` is that of the registry's data now; None: it is the files that tell.
    """
    if is_complete(path, verify=True):
        made = open_snapshot(path)
        manifest = made.manifest
        same = manifest.settings == describe_settings(settings)
        if timestamp is not None:
            same = same and manifest.notes.get("data_timestamp") == timestamp
        if same and manifest.inputs == snapshot_inputs(settings):
            return made
    return collect_snapshot(settings, path, partial=partial, progress=progress)


def _months_of(older: Snapshot) -> int:
    sample = older.manifest.settings.get("sample", {})
    return int(sample.get("months", 0))


_LISTED_FIELDS = "NCTId|LastUpdatePostDate|StudyFirstPostDate"
_OPEN_START, _OPEN_END = "0000", "9999"


def _from_registry(
    settings: CollectSettings,
    older: Snapshot,
    work: Path,
    overlap_days: int,
    list_from: str | None,
    progress: Progress,
) -> Increment:
    client = RegistryClient(settings)
    version = client.version()
    last = str(older.manifest.notes.get("data_timestamp") or "")
    if version.data_timestamp < last:  # a copy that lags behind would undo what is known
        raise RegistryError(
            f"{settings.url}: answers with data of {version.data_timestamp}, older than those held "
            f"({last}); run the same command when it has caught up"
        )
    if settings.ids is not None:  # a watch-list: two hundred a request
        made = _collect(settings, work / "collected", version.data_timestamp, progress)
        return Increment(
            (made,), whole=True, listed=True, data_timestamp=made.manifest.notes["data_timestamp"]
        )
    list_all = list_from is not None and version.data_timestamp >= list_from
    if version.data_timestamp == last:
        return Increment((), whole=False, data_timestamp=last)
    since = _day_before(last, overlap_days)
    window = msgspec.structs.replace(
        settings, whole=False, updated_since=max(since, settings.updated_since or since)
    )
    updated = _collect(window, work / "updated", version.data_timestamp, progress, partial=True)
    asked = _Asked(settings, client, work, progress)
    ours = _Ours(older, updated)
    last_year = int(version.data_timestamp[:4])
    gone, fetch, listed = asked.differing(ours, list_all=list_all, last_year=last_year)
    found = [updated]
    if fetch:
        write_bytes(work / "fetch.txt", "".join(f"{name}\n" for name in sorted(fetch)).encode())
        by_number = msgspec.structs.replace(
            settings, whole=False, since=None, updated_since=None, query=None,
            ids=str(work / "fetch.txt"),
        )  # fmt: skip
        found.append(
            _collect(by_number, work / "fetched", version.data_timestamp, progress, partial=True)
        )
    stamps = {made.manifest.notes["data_timestamp"] for made in found}
    if stamps != {version.data_timestamp} or client.version() != version:
        raise RegistryError(
            f"{settings.url}: the registry was refreshed meanwhile; the same command begins anew"
        )
    return Increment(
        tuple(found),
        whole=False,
        gone=frozenset(gone),
        listed=listed,
        data_timestamp=version.data_timestamp,
        notes={"updated_since": since, "fetched_by_number": len(fetch), "listed": listed},
    )


def _day_before(timestamp: str, days: int) -> str:
    """The day so many days before the timestamp; the registry's first where there is none."""
    try:
        day = datetime.date.fromisoformat(timestamp[:10])
    except ValueError:
        return f"{FIRST_YEAR}-01-01"
    return (day - datetime.timedelta(days=days)).isoformat()


class _Ours:
    """What will be held once the updated studies are in: numbers with dates, by year."""

    def __init__(self, older: Snapshot, updated: Snapshot) -> None:
        self.dates: dict[str, str] = {}
        """As `_dates` tells them: a study may move to another day without an update's date."""
        self.years: Counter[str] = Counter()
        year_of: dict[str, str] = {}
        self.aliases_of: dict[str, tuple[str, ...]] = {}
        for snapshot in (older, updated):
            columns = ("last_update_posted", "first_posted", "nct_id_aliases")
            for table in read_rows(snapshot, columns):
                ids = table["nct_id"].to_pylist()
                updated, posted = (table[name].fill_null("") for name in columns[:2])
                days = pc.binary_join_element_wise(updated, posted, " ").to_pylist()
                self.dates.update(zip(ids, days, strict=True))
                first_four = pc.utf8_slice_codeunits(posted, 0, 4).to_pylist()
                year_of.update(zip(ids, first_four, strict=True))
                self.aliases_of.update(zip(ids, read_lists(table[columns[2]]), strict=True))
        self.years.update(year_of.values())
        self._of_year: dict[str, set[str]] = {year: set() for year in self.years}
        for name, year in year_of.items():
            self._of_year[year].add(name)

    def obsolete(self, touched: Collection[str]) -> set[str]:
        """Numbers that a row lists as former ones of its own, but for rows that are `touched`."""
        lists = (each for name, each in self.aliases_of.items() if each and name not in touched)
        return set(chain.from_iterable(lists))

    def of_window(self, first: str, last: str) -> set[str]:
        """Numbers of the studies first posted in these years."""
        inside = (names for year, names in self._of_year.items() if year and first <= year <= last)
        return set().union(*inside)


class _Asked:
    """Counts and listings of what the recipe's query finds at the registry."""

    def __init__(
        self, settings: CollectSettings, client: RegistryClient, work: Path, progress: Progress
    ) -> None:
        self._settings, self._client, self._work = settings, client, work
        self._progress = progress
        plain = msgspec.structs.replace(settings, whole=False, ids=None)
        self._query = {**query_of(plain), "fields": _LISTED_FIELDS}

    def differing(
        self, ours: _Ours, *, list_all: bool, last_year: int
    ) -> tuple[set[str], set[str], bool]:
        """Numbers that are gone, numbers to be fetched, and whether all were listed.

        `last_year` is that of the registry's data. An obsolete number of a study that is held is
        not fetched; nor is it gone, where the registry lists both.
        """
        gone, fetch, listed = self._all_differing(ours, list_all=list_all, last_year=last_year)
        return gone, fetch - (ours.obsolete({*gone, *fetch}) - ours.dates.keys()), listed

    def _all_differing(
        self, ours: _Ours, *, list_all: bool, last_year: int
    ) -> tuple[set[str], set[str], bool]:
        total = self._count(self._query)
        if list_all or total <= LISTED_PAGES * self._settings.page_size:
            return *self._differences(self._listing(self._query, "all"), ours, None), True
        gone: set[str] = set()
        fetch: set[str] = set()
        dated = 0
        for first, last in _windows(last_year):
            query = self._within(first, last)
            count = self._count(query)
            dated += count
            own = ours.of_window(first, last)
            if count != len(own):
                listing = self._listing(query, f"{first}-{last}")
                lost, found = self._differences(listing, ours, own)
                gone |= lost
                fetch |= found
        if total - dated != ours.years[""]:  # only a listing of all shows those without a date
            return *self._differences(self._listing(self._query, "all"), ours, None), True
        there = self._still_there(sorted(gone))
        return gone - there, fetch | there, False

    def _still_there(self, names: Sequence[str]) -> set[str]:
        """Which of the numbers the query finds all the same: in a year that was not listed."""
        found: set[str] = set()
        for start in range(0, len(names), IDS_A_QUERY):
            some = "|".join(names[start : start + IDS_A_QUERY])
            query = {**self._query, "fields": "NCTId", "filter.ids": some}
            found.update(self._listing(query, f"gone-{start}"))
        return found.intersection(names)

    def _differences(
        self, listing: Mapping[str, str], ours: _Ours, own: Collection[str] | None
    ) -> tuple[set[str], set[str]]:
        held = ours.dates
        gone = {name for name in (held if own is None else own) if name not in listing}
        fetch = {name for name, day in listing.items() if day != held.get(name)}
        return gone, fetch

    def _count(self, query: Mapping[str, str]) -> int:
        asked = {**query, "pageSize": "1", "countTotal": "true", "fields": "NCTId"}
        return self._client.page(asked)[1].total_count or 0

    def _within(self, first: str, last: str) -> dict[str, str]:
        start = "MIN" if first == _OPEN_START else f"{first}-01-01"
        end = "MAX" if last == _OPEN_END else f"{last}-12-31"
        window = f"AREA[StudyFirstPostDate]RANGE[{start},{end}]"
        also = self._query.get("filter.advanced")
        return {**self._query, "filter.advanced": f"{also} AND {window}" if also else window}

    def _listing(self, query: Mapping[str, str], name: str) -> dict[str, str]:
        """NCT id -> its dates as a snapshot holds them, of every study that the query finds."""
        source = RegistrySource(
            self._settings,
            work=self._work / f"listing-{name}",
            client=self._client,
            query=query,
            progress=self._progress,
        )
        found: dict[str, str] = {}
        for item in source.studies():
            try:
                if isinstance(item, RawStudy):
                    trial = parse_trial(item)
                    found[trial.nct_id] = _dates(trial)
            except StudyError as error:
                if error.nct_id:  # what has none cannot be asked for
                    found[error.nct_id] = ""
        source.close()
        return found


def _dates(trial: Trial) -> str:
    return f"{trial.last_update_posted or ''} {trial.first_posted or ''}"


def _windows(last_year: int) -> Iterator[tuple[str, str]]:
    """First and last year of each window, of which the outer two are open."""
    for year in range(FIRST_YEAR, last_year + 1):
        first = _OPEN_START if year == FIRST_YEAR else str(year)
        yield first, _OPEN_END if year == last_year else str(year)


def merge_increment(
    settings: CollectSettings,
    older: Snapshot,
    increment: Increment,
    path: Path,
) -> Snapshot:
    """The snapshot at `path` of what there is now; rows that did not change are not written again.

    Its rows, in their order, and its rejects are those of a snapshot collected afresh.

    Raises:
        ArtifactError: a snapshot is damaged, or the disk refused.
    """
    plan = _Plan(older, increment)
    stated = describe_settings(settings)
    inputs = {"older": older.manifest.digest}
    inputs |= {f"collected:{n}": each.manifest.digest for n, each in enumerate(increment.collected)}
    whole = increment.collected[-1].manifest if increment.whole and increment.collected else None
    if whole is not None:  # told as one collected afresh tells it
        stated, inputs = dict(whole.settings), dict(whole.inputs)
    with write_artifact(path, kind="snapshot", settings=stated, inputs=inputs) as draft:
        _write_trials(draft.folder, older, increment, plan)
        rejects = plan.rejects()
        encoded = msgspec.json.Encoder().encode_lines(rejects)
        (draft.folder / REJECTS_NAME).write_bytes(encoded)
        if whole is not None:
            draft.counts.update(whole.counts)
            draft.notes.update(whole.notes)
        else:
            draft.counts.update(_counts(older.manifest, plan, rejects))
            draft.notes.update(older.manifest.notes)
            draft.notes["data_timestamp"] = increment.data_timestamp
    return open_snapshot(path)


class _Plan:
    """Which rows stand in the next snapshot: those of the older one, or of one collected since."""

    def __init__(self, older: Snapshot, increment: Increment) -> None:
        self._older, self._increment = older, increment
        then = {row.nct_id: row for row in read_identities(older)}
        now: dict[str, tuple[int, Identity]] = {}
        rejected: dict[str, int] = {}
        for number, collected in enumerate(increment.collected):
            for row in read_identities(collected):
                now[row.nct_id] = (number, row)
                rejected.pop(row.nct_id, None)
            for reject in read_rejects(collected):
                if reject.nct_id and reject.reason != "not_in_registry":
                    rejected[reject.nct_id] = number
                    now.pop(reject.nct_id, None)
        gone = {*increment.gone, *rejected} - now.keys()
        if increment.whole and increment.collected:
            gone |= then.keys() - now.keys()
        after = {name: row for name, row in then.items() if name not in gone and name not in now}
        after |= {name: row for name, (_, row) in now.items()}
        self.dropped = 0
        """Rows left out because their number is an obsolete one of another."""
        if not increment.whole:
            dropped = _aliased(after)
            gone |= dropped
            self.dropped = len(dropped)
            after = {name: row for name, row in after.items() if name not in dropped}
        self.after = after
        self.rejected = rejected
        self.taken: dict[str, int] = {
            name: number
            for name, (number, row) in now.items()
            if name in after and then.get(name) != row
        }
        """Row that is new or differs -> which of the collected snapshots holds it."""
        self.gone = then.keys() & gone
        """Rows of the older snapshot that are no more."""

    def rejects(self) -> list[Reject]:
        """Those of the latest reading of each record, sorted."""
        made = self._increment.collected
        if self._increment.whole and made:
            return read_rejects(made[-1])
        renewed = {*self.after, *self.rejected, *self._increment.gone}
        kept = [each for each in read_rejects(self._older) if each.nct_id not in renewed]
        for number, collected in enumerate(made):
            kept += [
                each
                for each in read_rejects(collected)
                if each.reason != "not_in_registry"
                and self.rejected.get(each.nct_id, number) == number
            ]
        return sorted(kept)


def _aliased(rows: Mapping[str, Identity]) -> set[str]:
    """Numbers that another row lists as an obsolete one of its own, as `TrialMerger` drops them."""
    owner: dict[str, str] = {}
    for name, row in rows.items():
        for alias in row.aliases:
            owner[alias] = min(name, owner.get(alias, name))
    return {
        alias
        for alias, name in owner.items()
        if alias in rows and name != alias and owner.get(name) != alias
    }


def _write_trials(folder: Path, older: Snapshot, increment: Increment, plan: _Plan) -> None:
    """Trials whole, or those of before with an overlay."""
    before = int(older.manifest.counts["trials"])
    over = {*_overlay_of(older)["nct_id"].to_pylist(), *plan.taken} - plan.gone
    gone = {*read_gone(older), *plan.gone} - plan.taken.keys()
    small = len(over) + len(gone) <= OVERLAY_SHARE * before
    _refuse_old_columns(older)
    if before >= WHOLE_TRIALS and small:
        link_file(older.path / TRIALS_NAME, folder / TRIALS_NAME)
        if over or gone:
            write_rows(folder / OVERLAY_NAME, _rows_of(older, increment, plan, over=True))
            write_bytes(folder / GONE_NAME, msgspec.json.encode(sorted(gone)))
    elif increment.whole and increment.collected:
        link_file(increment.collected[-1].path / TRIALS_NAME, folder / TRIALS_NAME)
    else:
        write_rows(folder / TRIALS_NAME, _rows_of(older, increment, plan))


def _overlay_of(snapshot: Snapshot) -> pa.Table:
    """The rows that lie over the snapshot's `trials.parquet`."""
    if not (snapshot.path / OVERLAY_NAME).is_file():
        return ROW_COLUMNS.empty_table()
    return pq.read_table(snapshot.path / OVERLAY_NAME)


def _refuse_old_columns(snapshot: Snapshot) -> None:
    names = pq.read_schema(snapshot.path / TRIALS_NAME).names
    if not set(ROW_COLUMNS.names) <= set(names):
        raise ArtifactError(
            f"{snapshot.path}: collected by an earlier trialese, which kept less; "
            "`trialese run` makes it anew"
        )


def _rows_of(
    older: Snapshot, increment: Increment, plan: _Plan, *, over: bool = False
) -> Iterator[pa.Table]:
    """Rows of the next snapshot by NCT id; `over`: those that do not stand in `trials.parquet`."""
    renewed: list[pa.Table] = []
    for number, collected in enumerate(increment.collected):
        wanted = [name for name, place in plan.taken.items() if place == number]
        for table in read_rows(collected, ROW_COLUMNS.names) if wanted else ():
            chosen = table.filter(pc.is_in(table["nct_id"], pa.array(wanted, pa.string())))
            if chosen.num_rows:
                renewed.append(chosen.select(ROW_COLUMNS.names).cast(ROW_COLUMNS))
    new = pa.concat_tables(renewed).sort_by("nct_id") if renewed else ROW_COLUMNS.empty_table()
    left_out = pa.array(sorted({*new["nct_id"].to_pylist(), *plan.gone}), pa.string())

    def keep(table: pa.Table) -> pa.Table:
        kept = table.filter(pc.invert(pc.is_in(table["nct_id"], left_out)))
        return kept.select(ROW_COLUMNS.names).cast(ROW_COLUMNS)

    before: Iterable[pa.Table] = read_rows(older, ROW_COLUMNS.names)
    if over:
        before = [each for each in (_overlay_of(older),) if each.num_rows]
    yield from interleave(before, new, keep)


def _counts(before: Manifest, plan: _Plan, rejects: Iterable[Reject]) -> dict[str, Any]:
    reasons = Counter(each.reason for each in rejects)
    formats = Counter(name for row in plan.after.values() for name in row.formats or ())
    trials = len(plan.after)
    return {
        **before.counts,
        "trials": trials,
        "records": trials + sum(reasons.values()),
        "formats": dict(sorted(formats.items())),
        "aliases": before.counts.get("aliases", 0) + plan.dropped,
        "rejects": dict(sorted(reasons.items())),
    }
