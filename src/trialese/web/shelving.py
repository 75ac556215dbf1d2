"""A snapshot as an SQLite file that can be searched: built once, kept beside the snapshot.

Words of all texts stand in a full-text index (FTS5, without the texts themselves: those are
read from the snapshot when a trial is opened); what is filtered and counted by, in columns.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from trialese.artifacts import work_folder
from trialese.collect import read_trials
from trialese.errors import ArtifactError
from trialese.progress import Progress, silent
from trialese.records import Snapshot, Trial

__all__ = ["WORD_COLUMNS", "make_shelf"]

logger = logging.getLogger(__name__)

_VERSION = 1
_BATCH = 2_000
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


def make_shelf(snapshot: Snapshot, *, progress: Progress = silent) -> Path:
    """The index file of the snapshot: the one already beside it, or a new one.

    Where nothing can be written beside the snapshot, it goes to the system's temporary folder.

    Raises:
        ArtifactError: the snapshot is damaged, or there is no room for the index.
    """
    beside = work_folder(snapshot.path).with_suffix(".shelf")
    for path in (beside, Path(tempfile.gettempdir()) / f"trialese-{snapshot.manifest.digest[:16]}"):
        if _fits(path, snapshot):
            return path
        aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            _fill(aside, snapshot, progress)
            aside.replace(path)
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: the index cannot stand there (%s)", path, error)
            aside.unlink(missing_ok=True)
            continue
        for journal in ("-wal", "-shm"):  # of a former index of this name
            path.with_name(path.name + journal).unlink(missing_ok=True)
        return path
    raise ArtifactError(
        f"{snapshot.path}: no room for its search index, neither beside it nor in "
        f"{tempfile.gettempdir()}; free some space or set TMPDIR"
    )


def _fits(path: Path, snapshot: Snapshot) -> bool:
    """Whether a whole index of this very snapshot stands at `path`."""
    if not path.is_file() or not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
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
