"""The log of annotators' answers in one SQLite file, and the labelled table made of it.

Events are only ever added. Each answer is a transaction of its own, on disk before it is
acknowledged (write-ahead log, synchronous FULL). An undo is an event too: nothing is ever changed
or deleted, and triggers refuse it to everybody else. So it is with decisions: where annotators
disagree, somebody decides (adjudication), and may decide again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from trialese.corpus.dedup import normalise
from trialese.errors import ArtifactError

__all__ = [
    "AnswerLog",
    "Decision",
    "Disagreement",
    "Event",
    "Member",
    "Settled",
    "as_tsv",
    "disagreements",
    "disagreements_tsv",
    "key_of",
    "settle",
]


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
CREATE TABLE IF NOT EXISTS decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    task TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    key TEXT NOT NULL,
    labels TEXT
) STRICT;
CREATE TRIGGER IF NOT EXISTS decisions_never_changed BEFORE UPDATE ON decisions
BEGIN SELECT RAISE (ABORT, 'decisions are never changed'); END;
CREATE TRIGGER IF NOT EXISTS decisions_never_deleted BEFORE DELETE ON decisions
BEGIN SELECT RAISE (ABORT, 'decisions are never deleted'); END;
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What somebody decided on a text on which annotators disagree."""

    id: int
    at: str
    task: str
    decided_by: str
    key: str
    labels: tuple[str, ...] | None
    """None: an earlier decision is withdrawn."""


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

    def decide(
        self, task: str, decided_by: str, key: str, labels: Sequence[str] | None
    ) -> Decision:
        """Keep a decision on the cluster of that key, on disk when this returns.

        It takes the place of an earlier one; `labels` None withdraws that.
        """
        row = {
            "task": task,
            "decided_by": decided_by,
            "key": key,
            "labels": None if labels is None else _encode(labels),
        }
        with self._written() as base:
            return _decision(_insert_into(base, "decisions", row))

    def decisions(self, task: str) -> dict[str, Decision]:
        """Key -> the decision that holds: the latest, unless it was a withdrawal."""
        latest = {}
        with self._lock:
            rows = self._base.execute("SELECT * FROM decisions WHERE task = ? ORDER BY id", (task,))
            for row in rows:
                decision = _decision(row)
                latest[decision.key] = decision
        return {key: held for key, held in latest.items() if held.labels is not None}

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


Standing = Mapping[str, Mapping[str, Event]]
"""Annotator -> key -> what holds, as `AnswerLog.standing` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The labels of a cluster on which annotators agree, or on which somebody has decided."""

    key: str
    labels: tuple[str, ...]
    members: tuple[Member, ...]
    decided_by: str = ""
    """Who decided, where annotators disagreed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A text on which annotators disagree."""

    key: str
    members: tuple[Member, ...]
    """Every text of the cluster, the one shown first."""
    answers: dict[str, tuple[str, ...]]
    """Annotator -> labels."""
    decision: Decision | None


def settle(
    standing: Standing, decisions: Mapping[str, Decision], annotator: str | None = None
) -> tuple[list[Settled], int]:
    """(clusters with labels in the order of their first answers, clusters left out as disputed).

    Of one annotator all answers; else those that nobody contradicts, and those decided on.
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
    settled = []
    for key, event in sorted(chosen.items(), key=lambda item: item[1].id):
        decision = decisions.get(key) if key in disputed else None
        if key in disputed and decision is None:
            continue
        labels = event.labels if decision is None else decision.labels or ()
        decided_by = "" if decision is None else decision.decided_by
        settled.append(
            Settled(key=key, labels=labels, members=event.members, decided_by=decided_by)
        )
    return settled, sum(key not in decisions for key in disputed)


def disagreements(standing: Standing, decisions: Mapping[str, Decision]) -> list[Disagreement]:
    """Every text on which annotators disagree, those without a decision first."""
    answers: dict[str, dict[str, Event]] = {}
    for name, held in sorted(standing.items()):
        for key, event in held.items():
            if event.kind == "answer":
                answers.setdefault(key, {})[name] = event
    found = [
        Disagreement(
            key=key,
            members=next(iter(given.values())).members,
            answers={name: event.labels for name, event in given.items()},
            decision=decisions.get(key),
        )
        for key, given in answers.items()
        if len({frozenset(event.labels) for event in given.values()}) > 1
    ]
    return sorted(found, key=lambda each: (each.decision is not None, each.members[0].id))


def as_tsv(
    standing: Standing,
    annotator: str | None = None,
    decisions: Mapping[str, Decision] = MappingProxyType({}),
) -> tuple[str, int, int]:
    """(labelled TSV for `trialese finetune`, its rows, clusters left out for disagreement).

    One row a text: every duplicate of an answered text has its labels. Of one annotator all
    answers; else those that nobody contradicts, and those decided on: a column `decided_by` tells
    by whom.
    """
    settled, disputed = settle(standing, {} if annotator is not None else decisions, annotator)
    rows: dict[str, tuple[str, tuple[str, ...], str]] = {}
    for each in settled:
        for member in each.members:
            name = member.id
            if name in rows and rows[name][0] != member.text:  # of another file of texts
                name = f"{name} {key_of(member.text)[:8]}"
            rows[name] = (member.text, each.labels, each.decided_by)
    decided = any(name for _, _, name in rows.values())
    lines: list[Sequence[str]] = [("id", "text", "labels", *(["decided_by"] * decided))]
    for name, (text, labels, decided_by) in sorted(rows.items()):
        lines.append((name, text, _cell(labels), *([decided_by] * decided)))
    return _tsv(lines), len(rows), disputed


def disagreements_tsv(found: Sequence[Disagreement]) -> str:
    """A row a text on which annotators disagree: a column of each annotator, and the decision."""
    names = sorted({name for each in found for name in each.answers})
    lines: list[Sequence[str]] = [("id", "text", *names, "decision", "decided_by", "decided_at")]
    for each in found:
        given = [_cell(each.answers[name]) if name in each.answers else "" for name in names]
        decision = ("", "", "")
        if each.decision is not None:
            held = each.decision
            decision = (_cell(held.labels or ()), held.decided_by, held.at)
        lines.append((each.members[0].id, each.members[0].text, *given, *decision))
    return _tsv(lines)


def _cell(labels: Sequence[str]) -> str:
    return "|".join(labels) or "none"  # a blank would be unlabelled


def _tsv(lines: Iterable[Sequence[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows(lines)
    return out.getvalue()


def _insert(base: sqlite3.Connection, row: dict[str, Any]) -> Event:
    return _event(_insert_into(base, "events", row))


def _insert_into(base: sqlite3.Connection, table: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row as it stands now, with its time and number."""
    row = row | {"at": datetime.now(UTC).isoformat(timespec="milliseconds")}
    row.pop("id", None)
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    done = base.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row)
    return {"id": done.lastrowid, **row}


def _decision(row: Any) -> Decision:
    held = {each.name: row[each.name] for each in fields(Decision)}
    if held["labels"] is not None:
        held["labels"] = tuple(msgspec.json.decode(held["labels"]))
    return Decision(**held)


def _event(row: Any) -> Event:
    held = {name: row[name] for name in Event.__struct_fields__}
    held["labels"] = msgspec.json.decode(row["labels"])
    held["members"] = msgspec.json.decode(row["members"])
    return msgspec.convert(held, Event)


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
