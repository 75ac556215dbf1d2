"""The log of annotators' answers in one SQLite file, and the labelled table made of it.

Events are only ever added. Each answer is a transaction of its own, on disk before it is
acknowledged (write-ahead log, synchronous FULL). An undo is an event too: nothing is ever changed
or deleted, and triggers refuse it to everybody else.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from trialese.corpus.dedup import normalise
from trialese.errors import ArtifactError

__all__ = ["AnswerLog", "Event", "Member", "as_tsv", "key_of"]


_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    task TEXT NOT NULL,
    annotator TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('answer', 'skip', 'undo')),
    key TEXT NOT NULL,
    labels TEXT NOT NULL,
    members TEXT NOT NULL,
    undoes INTEGER UNIQUE REFERENCES events (id),
    CHECK ((kind = 'undo') = (undoes IS NOT NULL))
) STRICT;
CREATE INDEX IF NOT EXISTS by_annotator ON events (task, annotator, id);
CREATE TRIGGER IF NOT EXISTS never_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE (ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS never_deleted BEFORE DELETE ON events
BEGIN SELECT RAISE (ABORT, 'events are never deleted'); END;
"""
_STANDING = """
SELECT * FROM events AS e WHERE task = ? AND kind <> 'undo'
AND NOT EXISTS (SELECT 1 FROM events WHERE undoes = e.id) ORDER BY id
"""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One of the duplicates that an answer serves."""

    id: str
    text: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, a skip, or the undoing of one."""

    id: int
    at: str
    task: str
    annotator: str
    kind: Literal["answer", "skip", "undo"]
    key: str
    """Names the cluster of duplicates: `key_of` the text that was shown."""
    labels: tuple[str, ...]
    members: tuple[Member, ...]
    """Every text that the answer serves, the one shown first."""
    undoes: int | None = None


def key_of(text: str) -> str:
    """32 hexadecimal digits that texts of equal words share, whatever snapshot they stand in."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:32]


class AnswerLog:
    """The log in one file; made when it is not there. May be used from several threads."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError when the file cannot be written or is something else."""
        self.path = path
        self._lock = threading.Lock()
        try:
            if not path.parent.exists():
                path.parent.mkdir(0o700, parents=True)
            if not path.exists():
                path.touch(0o600)
            self._base = sqlite3.connect(
                path, timeout=10, isolation_level=None, check_same_thread=False
            )
            self._base.row_factory = sqlite3.Row
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            tables = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version not in (0, _VERSION) or (version == 0 and tables):
                raise ArtifactError(f"{path}: not a file of answers; choose another with --labels")
            path.chmod(0o600)  # its journals get the same
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(_SCHEMA)
            self._base.execute(f"PRAGMA user_version = {_VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise ArtifactError(
                f"{path}: cannot keep answers there ({error}); choose another file with --labels"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def record(
        self,
        task: str,
        annotator: str,
        members: Sequence[Member],
        labels: Sequence[str] | None,
        *,
        key: str = "",
    ) -> Event:
        """The event of an answer; `labels` None: skipped. On disk when this returns.

        `key` is that under which the cluster has been answered before, if another text of it was
        shown then.
        """
        row = {
            "task": task,
            "annotator": annotator,
            "kind": "skip" if labels is None else "answer",
            "key": key or key_of(members[0].text),
            "labels": _encode(labels or ()),
            "members": _encode(members),
            "undoes": None,
        }
        with self._written() as base:
            return _insert(base, row)

    def undo(self, task: str, annotator: str) -> Event | None:
        """The annotator's latest answer or skip, which no longer stands; None if none is left."""
        with self._written() as base:
            own = _STANDING.replace("ORDER BY id", "AND annotator = ? ORDER BY id DESC LIMIT 1")
            found = base.execute(own, (task, annotator)).fetchone()
            if found is None:
                return None
            undone = _event(found)
            _insert(base, dict(found) | {"kind": "undo", "members": "[]", "undoes": undone.id})
            return undone

    def standing(self, task: str) -> dict[str, dict[str, Event]]:
        """Annotator -> key -> the answer or skip that holds: the latest that was not undone."""
        held: dict[str, dict[str, Event]] = {}
        with self._lock, closing(self._base.execute(_STANDING, (task,))) as rows:
            for row in rows:
                event = _event(row)
                held.setdefault(event.annotator, {})[event.key] = event
        return held

    def events(self) -> list[Event]:
        """Everything that ever happened, in order."""
        with self._lock:
            return [_event(row) for row in self._base.execute("SELECT * FROM events ORDER BY id")]

    @contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._base.execute("BEGIN IMMEDIATE")
                yield self._base
                self._base.execute("COMMIT")
            except BaseException as error:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise ArtifactError(
                        f"{self.path}: the answer was not kept ({error}); free the disk or close "
                        "the other program, then answer again"
                    ) from error
                raise


def as_tsv(
    standing: dict[str, dict[str, Event]], annotator: str | None = None
) -> tuple[str, int, int]:
    """(labelled TSV for `trialese finetune`, its rows, clusters left out for disagreement).

    One row a text: every duplicate of an answered text has its labels. Of one annotator all
    answers; else those that nobody contradicts.
    """
    chosen: dict[str, Event] = {}
    disputed: set[str] = set()
    for name, answers in sorted(standing.items()):
        if annotator is not None and name != annotator:
            continue
        for key, event in answers.items():
            if event.kind == "answer":
                first = chosen.setdefault(key, event)
                if set(first.labels) != set(event.labels):
                    disputed.add(key)
    rows = {
        member.id: (member.text, event.labels)
        for key, event in sorted(chosen.items(), key=lambda item: item[1].id)
        if key not in disputed
        for member in event.members
    }
    out = io.StringIO(newline="")
    table = csv.writer(out, delimiter="\t", lineterminator="\n")
    table.writerow(["id", "text", "labels"])
    for name in sorted(rows):
        text, labels = rows[name]
        table.writerow([name, text, "|".join(labels) or "none"])  # a blank would be unlabelled
    return out.getvalue(), len(rows), len(disputed)


def _insert(base: sqlite3.Connection, row: dict[str, Any]) -> Event:
    row = row | {"at": datetime.now(UTC).isoformat(timespec="milliseconds")}
    row.pop("id", None)
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    done = base.execute(f"INSERT INTO events ({names}) VALUES ({marks})", row)
    return _event({"id": done.lastrowid, **row})


def _event(row: Any) -> Event:
    fields = {name: row[name] for name in Event.__struct_fields__}
    fields["labels"] = msgspec.json.decode(row["labels"])
    fields["members"] = msgspec.json.decode(row["members"])
    return msgspec.convert(fields, Event)


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
