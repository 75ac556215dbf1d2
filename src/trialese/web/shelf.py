"""A snapshot to look things up in: search, filters, counts for charts, and what models read."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialese.records import Snapshot
from trialese.web.searching import Query, all_of, conditions_of, match_of
from trialese.web.shelving import WORD_COLUMNS, make_shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Counts", "Found", "Reading", "Shelf"]

MOST_SKIPPED = 10_000
_CACHED_COUNTS = 256
_HAS_WORDS = "trials.place IN (SELECT rowid FROM words WHERE words MATCH :match)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One line of a result."""

    nct_id: str
    title: str
    conditions: str
    sponsor: str
    reason: str
    year: int | None
    phases: tuple[str, ...]
    sex: str
    status: str
    labels: tuple[str, ...] | None
    """Predicted by the query's model; None where it has read nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many trials match; beside each kind of filter, what other choices of it would give."""

    total: int
    years: dict[str, int]
    phases: dict[str, int]
    sexes: dict[str, int]
    statuses: dict[str, int]
    labels: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a model read of one trial, and the probability that it gave to each label."""

    nct_id: str
    text: str
    scores: tuple[float, ...]


class Shelf:
    """The index of one snapshot. Each thread has a connection of its own."""

    def __init__(self, snapshot: Snapshot, path: Path | None = None) -> None:
        """Raises ArtifactError when the index is not there and cannot be made."""
        self.snapshot = snapshot
        self._path = path or make_shelf(snapshot)
        self._held = threading.local()
        self._opened: list[sqlite3.Connection] = []
        with self._written() as base:
            base.execute("PRAGMA journal_mode = WAL")  # readers go on while readings are added
        self.trials: int = self._base().execute("SELECT count(*) FROM trials").fetchone()[0]
        self._counts = lru_cache(_CACHED_COUNTS)(self._count)

    def close(self) -> None:
        """Close every thread's connection."""
        for base in self._opened:
            base.close()

    def nct_id(self, name: str) -> str | None:
        """The NCT id of a trial by that or by an obsolete alias; None if it is not here."""
        found = (
            self._base()
            .execute(
                "SELECT nct_id FROM trials WHERE nct_id = :name "
                "UNION ALL SELECT nct_id FROM aliases WHERE alias = :name",
                {"name": name},
            )
            .fetchone()
        )
        return str(found[0]) if found else None

    def search(self, query: Query, *, most: int = 20, skip: int = 0) -> list[Found]:
        """Trials that match: best first if there are words, else those posted last."""
        match = match_of(query.words)
        where, values = conditions_of(query)
        order = "trials.posted DESC, trials.nct_id DESC"
        table = "trials"
        if match:
            weights = ", ".join(map(str, WORD_COLUMNS.values()))
            table = "words JOIN trials ON trials.place = words.rowid"
            where = ["words MATCH :match", *where]
            order = f"bm25 (words, {weights}), trials.place"
        rows = self._base().execute(
            f"SELECT trials.* FROM {table} WHERE {all_of(where)} ORDER BY {order} "
            "LIMIT :most OFFSET :skip",
            {**values, "match": match, "most": most, "skip": min(skip, MOST_SKIPPED)},
        )
        return [self._found(row, query.model) for row in rows.fetchall()]

    def counts(self, query: Query) -> Counts:
        """Counts for the query; see `Counts`. Remembered until a model has read more."""
        return self._counts(query, self.read(query.model)) if query.model else self._counts(query)

    def add_readings(
        self,
        model: str,
        readings: Sequence[tuple[str, str, NDArray[np.float64], Sequence[str]]],
        *,
        until: int,
    ) -> None:
        """Keep (nct_id, text, scores, predicted labels); `until` trials are done with then."""
        with self._written() as base:
            for nct_id, text, scores, labels in readings:
                (place,) = base.execute(
                    "SELECT place FROM trials WHERE nct_id = ?", (nct_id,)
                ).fetchone()
                base.execute(
                    "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?)",
                    (model, place, text, scores.astype("<f4").tobytes()),
                )
                base.executemany(
                    "INSERT OR REPLACE INTO predicted VALUES (?, ?, ?)",
                    [(model, label, place) for label in labels or ("",)],
                )
            base.execute("INSERT OR REPLACE INTO read_until VALUES (?, ?)", (model, until))

    def read_until(self, model: str) -> int:
        """So many trials, in the snapshot's order, the model is done with."""
        found = self._base().execute("SELECT place FROM read_until WHERE model = ?", (model,))
        row = found.fetchone()
        return int(row[0]) if row else 0

    def readings(self, model: str, *, most: int) -> Iterator[Reading]:
        """What the model has read, in the snapshot's order; of more than `most`, evenly spread."""
        held = self.read(model)
        step = max(1, -(-held // most))
        rows = self._base().execute(
            "SELECT nct_id, text, scores FROM readings JOIN trials USING (place) WHERE model = ?",
            (model,),
        )
        for number, (nct_id, text, scores) in enumerate(rows):
            if number % step == 0:
                yield Reading(
                    nct_id=nct_id, text=text, scores=tuple(np.frombuffer(scores, "<f4").tolist())
                )

    def read(self, model: str) -> int:
        """How many texts the model has read."""
        found = self._base().execute("SELECT count(*) FROM readings WHERE model = ?", (model,))
        return int(found.fetchone()[0])

    def _count(self, query: Query, _: int = 0) -> Counts:
        """Grouped once by all that can be chosen, then summed with one filter lifted at a time."""
        bare = replace(query, phase=None, sex=None, status=None, year_from=None, year_to=None)
        where, values = conditions_of(bare)
        match = match_of(query.words)
        if match:
            where.append(_HAS_WORDS)
        values = {**values, "match": match}
        years: Counter[str] = Counter()
        phases: Counter[str] = Counter()
        sexes: Counter[str] = Counter()
        statuses: Counter[str] = Counter()
        total = 0
        for year, joined, sex, status, number in self._base().execute(
            "SELECT year, phases, sex, status, count(*) FROM trials "
            f"WHERE {all_of(where)} GROUP BY 1, 2, 3, 4",
            values,
        ):
            parts = joined.split("|")
            failed = {
                "year": not _within(year, query),
                "phase": query.phase is not None and query.phase not in parts,
                "sex": query.sex not in (None, sex),
                "status": query.status not in (None, status),
            }
            lifted = [name for name, fails in failed.items() if fails]
            if not lifted:
                total += number
            if lifted in ([], ["year"]):
                years["" if year is None else str(year)] += number
            if lifted in ([], ["phase"]):
                phases.update(dict.fromkeys(parts, number))
            if lifted in ([], ["sex"]):
                sexes[sex] += number
            if lifted in ([], ["status"]):
                statuses[status] += number
        return Counts(
            total=total,
            years=dict(sorted(years.items())),
            phases=dict(sorted(phases.items())),
            sexes=dict(sexes.most_common()),
            statuses=dict(statuses.most_common()),
            labels=self._label_counts(query, match) if query.model else {},
        )

    def _label_counts(self, query: Query, match: str) -> dict[str, int]:
        where, values = conditions_of(replace(query, label=None))
        if match:
            where.append(_HAS_WORDS)
        rows = self._base().execute(
            "SELECT predicted.label, count(*) FROM predicted JOIN trials USING (place) "
            f"WHERE predicted.model = :model AND {all_of(where)} GROUP BY 1 ORDER BY 2 DESC, 1",
            {**values, "model": query.model, "match": match},
        )
        return dict(rows.fetchall())

    def _found(self, row: sqlite3.Row, model: str) -> Found:
        labels = None
        if model:
            told = self._base().execute(
                "SELECT label FROM predicted WHERE model = ? AND place = ?", (model, row["place"])
            )
            names = [name for (name,) in told]
            labels = tuple(name for name in names if name) if names else None
        return Found(
            **{
                name: row[name]
                for name in ("nct_id", "title", "conditions", "sponsor", "reason", "year", "sex",
                             "status")
            },
            phases=tuple(filter(None, row["phases"].split("|"))),
            labels=labels,
        )  # fmt: skip

    def _base(self) -> sqlite3.Connection:
        base: sqlite3.Connection | None = getattr(self._held, "base", None)
        if base is None:
            base = sqlite3.connect(
                self._path, timeout=10, isolation_level=None, check_same_thread=False
            )
            base.row_factory = sqlite3.Row
            self._held.base = base
            self._opened.append(base)
        return base

    @contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=10)) as base, base:
            yield base


def _within(year: int | None, query: Query) -> bool:
    if query.year_from is None and query.year_to is None:
        return True
    return year is not None and (query.year_from or 0) <= year <= (query.year_to or 9999)
