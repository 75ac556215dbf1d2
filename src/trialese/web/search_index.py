"""The search index of a snapshot: an SQLite file with words, filters, counts and model scores.

Words of all texts stand in a full-text index (FTS5, without the texts themselves: those are
read from the snapshot when a trial is opened); filters and counts use columns. Built once and
kept beside the snapshot.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialese.artifacts import MANIFEST_NAME, locked, work_folder
from trialese.collect.snapshot import read_trials
from trialese.errors import ArtifactError
from trialese.progress import Progress, silent
from trialese.records import Snapshot, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "WORD_COLUMNS",
    "Counts",
    "Query",
    "ScoredText",
    "SearchHit",
    "SearchIndex",
    "all_of",
    "build_index",
    "conditions_of",
    "match_of",
    "open_ready",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search; every filter that is given must hold."""

    words: str = ""
    phase: str | None = None
    """One of the phases of a trial, such as PHASE2; "" for none."""
    sex: str | None = None
    status: str | None = None
    year_from: int | None = None
    year_to: int | None = None
    """Years of first posting."""
    model: str = ""
    """Digest of the model that `label` is predicted by."""
    label: str | None = None
    """A predicted label; "" for texts that were read and got none."""


def match_of(words: str) -> str:
    """The words as an FTS5 query: all must stand there, "quoted" ones next to one another.

    A last word that is still being typed matches longer ones; -word must not stand there. NCT
    numbers are no words; see `conditions_of`.
    """
    words = _NUMBER.sub(" ", words)
    wanted: list[tuple[str, bool]] = []
    unwanted: list[str] = []
    for minus, phrase, word in re.findall(r'(-?)(?:"([^"]*)"?|([^\s"]+))', words):
        text = (phrase or word).replace('"', " ").replace("\0", " ").strip()
        if not re.search(r"\w", text):
            continue
        if minus:
            unwanted.append(f'"{text}"')
        else:
            wanted.append((f'"{text}"', bool(word)))
    if not wanted:
        return ""
    terms = [term for term, _ in wanted]
    if wanted[-1][1] and not unwanted and re.search(r"\w$", words):
        terms[-1] += "*"
    return " AND ".join(terms) + "".join(f" NOT {term}" for term in unwanted)


_NUMBER = re.compile(r"\bNCT\d{2,8}\b", re.IGNORECASE)


def _numbers_of(words: str) -> list[str]:
    """NCT numbers, or beginnings of them, among the words."""
    return [number.upper() for number in _NUMBER.findall(words)]


def conditions_of(query: Query) -> tuple[list[str], dict[str, object]]:
    """Conditions of SQL for the filters, and their values."""
    where, values = [], dict[str, object]()
    numbers = _numbers_of(query.words)
    if numbers:
        where.append(_HAS_NUMBER)
        values["numbers"] = json.dumps(numbers)
    if query.phase is not None:
        where.append("'|' || trials.phases || '|' LIKE '%|' || :phase || '|%'")
        values["phase"] = query.phase
    for name in ("sex", "status"):
        if getattr(query, name) is not None:
            where.append(f"trials.{name} = :{name}")
            values[name] = getattr(query, name)
    for name, sign in (("year_from", ">="), ("year_to", "<=")):
        if getattr(query, name) is not None:
            where.append(f"trials.year {sign} :{name}")
            values[name] = getattr(query, name)
    if query.label is not None:
        where.append(
            "trials.place IN (SELECT place FROM predicted WHERE model = :by AND label = :label)"
        )
        values |= {"by": query.model, "label": query.label}
    return where, values


def all_of(conditions: Iterable[str]) -> str:
    """SQL that holds where every one of them does."""
    return " AND ".join(conditions) or "1"


logger = logging.getLogger(__name__)

_VERSION = 1
_BATCH = 2_000
_TEMPORARY = "trialese-index-"
_Rows = list[tuple[object, ...]]

WORD_COLUMNS = {
    "title": 10.0, "conditions": 6.0, "interventions": 6.0, "reason": 4.0, "sponsor": 2.0,
    "summary": 2.0, "criteria": 1.0,
}  # fmt: skip
"""Columns of the full-text index, and what a hit in each weighs (BM25)."""

_SCHEMA = f"""
CREATE TABLE made (version INTEGER, digest TEXT) STRICT;
CREATE TABLE trials (
    place INTEGER PRIMARY KEY, nct_id TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
    conditions TEXT NOT NULL, sponsor TEXT NOT NULL, reason TEXT NOT NULL,
    year INTEGER, phases TEXT NOT NULL, sex TEXT NOT NULL, status TEXT NOT NULL,
    posted TEXT NOT NULL
) STRICT;
CREATE TABLE aliases (alias TEXT PRIMARY KEY, nct_id TEXT NOT NULL) STRICT;
CREATE VIRTUAL TABLE words USING fts5 (
    {", ".join(WORD_COLUMNS)}, content='', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE TABLE readings (
    model TEXT NOT NULL, place INTEGER NOT NULL, text TEXT NOT NULL, scores BLOB NOT NULL,
    PRIMARY KEY (model, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE predicted (
    model TEXT NOT NULL, label TEXT NOT NULL, place INTEGER NOT NULL,
    PRIMARY KEY (model, label, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE read_until (model TEXT PRIMARY KEY, place INTEGER NOT NULL) STRICT;
"""
_INDICES = """
CREATE INDEX facets ON trials (year, phases, sex, status);
CREATE INDEX newest ON trials (posted DESC, nct_id DESC);
"""


def build_index(snapshot: Snapshot, *, progress: Progress = silent) -> Path:
    """The index file of the snapshot: the one already there, or a new one.

    It stands beside the snapshot; where nothing can be written there, in the user's cache
    (XDG_CACHE_HOME or ~/.cache), else in a new temporary folder. An index that belongs neither to
    this user nor to the owner of the snapshot is not trusted.

    Raises:
        ArtifactError: the snapshot is damaged, or there is no room for the index.
    """
    for path in _places(snapshot):
        try:
            with _building(path):
                if _fits(path, snapshot):
                    return path
                aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
                _fill(aside, snapshot, progress)
                aside.replace(path)
                for journal in ("-wal", "-shm"):  # of a former index of this name
                    path.with_name(path.name + journal).unlink(missing_ok=True)
                return path
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: the index cannot stand there (%s)", path, error)
    raise ArtifactError(
        f"{snapshot.path}: no room for its search index, neither beside it nor in the cache nor in "
        f"{tempfile.gettempdir()}; free some space or set TMPDIR"
    )


def _places(snapshot: Snapshot) -> Iterator[Path]:
    yield work_folder(snapshot.path).with_suffix(".shelf")
    name = f"{snapshot.manifest.digest[:16]}.shelf"
    with suppress(OSError, RuntimeError):  # no home, or none that can be written
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trialese"
        cache.mkdir(0o700, parents=True, exist_ok=True)
        yield cache / name
    with suppress(OSError):
        yield Path(tempfile.mkdtemp(prefix=_TEMPORARY)) / name


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """Alone at `path`, once another server has built its index, and without rests of killed ones.

    Raises:
        OSError: nothing can be written there.
    """
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(path))
                break
            except ArtifactError:
                time.sleep(1)
        for rest in path.parent.glob(f"{glob.escape(path.name)}.*.partial*"):
            rest.unlink()
        yield


def _fits(path: Path, snapshot: Snapshot) -> bool:
    """Whether a whole index of this very snapshot stands at `path`, made by whom we trust."""
    if not path.is_file() or not os.access(path, os.W_OK):
        return False
    own = getattr(os, "getuid", lambda: 0)()  # Windows gives all files the owner 0
    if path.lstat().st_uid not in (own, (snapshot.path / MANIFEST_NAME).stat().st_uid):
        logger.warning("%s: belongs to another user; made anew", path)
        return False
    try:
        with closing(sqlite3.connect(path)) as base:
            made = base.execute("SELECT version, digest FROM made").fetchone()
    except sqlite3.Error:
        return False
    return bool(made == (_VERSION, snapshot.manifest.digest))


def _fill(path: Path, snapshot: Snapshot, progress: Progress) -> None:
    path.unlink(missing_ok=True)
    total = snapshot.manifest.counts.get("trials")
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("PRAGMA journal_mode = OFF")  # a broken build is thrown away
        base.execute("PRAGMA synchronous = OFF")
        base.executescript(_SCHEMA)
        base.execute("BEGIN")
        done = 0
        for rows, words, aliases in _batches(snapshot):
            base.executemany("INSERT OR IGNORE INTO aliases VALUES (?, ?)", aliases)
            base.executemany(f"INSERT INTO trials VALUES ({_marks(rows[0])})", rows)
            base.executemany(
                f"INSERT INTO words (rowid, {', '.join(WORD_COLUMNS)}) VALUES ({_marks(words[0])})",
                words,
            )
            done += len(rows)
            progress("search index: trials", done, total)
        base.execute("INSERT INTO words (words) VALUES ('optimize')")
        base.execute("COMMIT")
        base.executescript(_INDICES)
        base.execute("INSERT INTO made VALUES (?, ?)", (_VERSION, snapshot.manifest.digest))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _batches(snapshot: Snapshot) -> Iterator[tuple[_Rows, _Rows, _Rows]]:
    """(rows of trials, rows of words, rows of aliases), a few thousand trials at a time."""
    numbered = enumerate(read_trials(snapshot), start=1)
    while batch := list(islice(numbered, _BATCH)):
        yield (
            [_row(place, trial) for place, trial in batch],
            [_words(place, trial) for place, trial in batch],
            [(alias, trial.nct_id) for _, trial in batch for alias in trial.nct_id_aliases],
        )


def _row(place: int, trial: Trial) -> tuple[object, ...]:
    posted = trial.first_posted or ""
    return (
        place,
        trial.nct_id,
        trial.brief_title or trial.official_title,
        "; ".join(trial.conditions),
        trial.lead_sponsor,
        trial.why_stopped,
        int(posted[:4]) if posted[:4].isdigit() else None,
        "|".join(trial.phases),
        trial.sex or "",
        trial.overall_status or "",
        posted,
    )


def _words(place: int, trial: Trial) -> tuple[object, ...]:
    return (
        place,
        f"{trial.brief_title}\n{trial.official_title}\n{trial.acronym}\n{trial.org_study_id}",
        "\n".join((*trial.conditions, *trial.keywords)),
        "\n".join(trial.interventions),
        trial.why_stopped,
        trial.lead_sponsor,
        f"{trial.brief_summary}\n{trial.detailed_description}",
        trial.eligibility_criteria,
    )


def _marks(row: tuple[object, ...]) -> str:
    return ", ".join("?" * len(row))


MOST_SKIPPED = 10_000
_CACHED_COUNTS = 256
_HAS_NUMBER = """trials.place IN (
    SELECT named.place FROM json_each(:numbers) JOIN trials AS named
    ON named.nct_id >= value AND named.nct_id < value || ':'
    UNION SELECT named.place FROM json_each(:numbers) JOIN aliases
    ON alias >= value AND alias < value || ':' JOIN trials AS named USING (nct_id))"""
_HAS_WORDS = "trials.place IN (SELECT rowid FROM words WHERE words MATCH :match)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """One trial of a search result."""

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
class ScoredText:
    """The text of one trial that a model scored, and the probability of each label."""

    nct_id: str
    text: str
    scores: tuple[float, ...]


class SearchIndex:
    """The index of one snapshot. Each thread has a connection of its own."""

    def __init__(self, snapshot: Snapshot, path: Path | None = None) -> None:
        """Raises ArtifactError when the index is not there and cannot be made."""
        self.snapshot = snapshot
        self._path = path or build_index(snapshot)
        self._held = threading.local()
        self._opened: list[sqlite3.Connection] = []
        with self._written() as base:
            base.execute("PRAGMA journal_mode = WAL")  # readers go on while scores are added
        self.trials: int = self._base().execute("SELECT count(*) FROM trials").fetchone()[0]
        self._counts = lru_cache(_CACHED_COUNTS)(self._count)

    def close(self) -> None:
        """Close every thread's connection."""
        for base in self._opened:
            base.close()
        if self._path.parent.name.startswith(_TEMPORARY):
            shutil.rmtree(self._path.parent, ignore_errors=True)

    def nct_id(self, name: str) -> str | None:
        """The NCT id of a trial by that or by an obsolete alias; None if it is not here."""
        rows = self._base().execute(
            "SELECT nct_id FROM trials WHERE nct_id = :name "
            "UNION ALL SELECT nct_id FROM aliases WHERE alias = :name",
            {"name": name},
        )
        row = rows.fetchone()
        return str(row[0]) if row else None

    def search(self, query: Query, *, most: int = 20, skip: int = 0) -> list[SearchHit]:
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
        return [self._hit(row, query.model) for row in rows.fetchall()]

    def counts(self, query: Query) -> Counts:
        """Counts for the query; see `Counts`. Remembered until a model has read more."""
        return self._counts(query, self.count_scored(query.model) if query.model else 0)

    def add_scores(
        self,
        model: str,
        scored: Sequence[tuple[str, str, NDArray[np.float64], Sequence[str]]],
        *,
        until: int,
    ) -> None:
        """Keep (nct_id, text, scores, predicted labels); `until` trials are done with then."""
        with self._written() as base:
            for nct_id, text, scores, labels in scored:
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

    def scored_until(self, model: str) -> int:
        """So many trials, in the snapshot's order, the model is done with."""
        rows = self._base().execute("SELECT place FROM read_until WHERE model = ?", (model,))
        row = rows.fetchone()
        return int(row[0]) if row else 0

    def scored_texts(self, model: str, *, most: int) -> Iterator[ScoredText]:
        """The texts that the model has scored, in the snapshot's order.

        Of more than `most`, so many, evenly spread.
        """
        held = self.count_scored(model)
        step = max(1, -(-held // most))
        rows = self._base().execute(
            "SELECT nct_id, text, scores FROM readings JOIN trials USING (place) WHERE model = ?",
            (model,),
        )
        for number, (nct_id, text, scores) in enumerate(rows):
            if number % step == 0:
                yield ScoredText(
                    nct_id=nct_id, text=text, scores=tuple(np.frombuffer(scores, "<f4").tolist())
                )

    def count_scored(self, model: str) -> int:
        """How many texts the model has scored."""
        rows = self._base().execute("SELECT count(*) FROM readings WHERE model = ?", (model,))
        return int(rows.fetchone()[0])

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

    def _hit(self, row: sqlite3.Row, model: str) -> SearchHit:
        labels = None
        if model:
            predicted = self._base().execute(
                "SELECT label FROM predicted WHERE model = ? AND place = ?", (model, row["place"])
            )
            names = [name for (name,) in predicted]
            labels = tuple(name for name in names if name) if names else None
        return SearchHit(
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


def open_ready(snapshot: Snapshot) -> SearchIndex | None:
    """The index beside the snapshot, if a whole one of it stands there: no work."""
    path = next(_places(snapshot))
    try:
        return SearchIndex(snapshot, path) if _fits(path, snapshot) else None
    except (sqlite3.Error, OSError):
        return None  # the reason is told by whoever makes it
