"""Files to be labelled, and how far each is, in one folder: SQLite for the state, a folder a job.

`FOLDER/ID/upload/NAME` is what was sent, `FOLDER/ID/labels.FORMAT` what came of it. A job exists
once its row is committed, which is after its upload is whole on disk; whatever has no row is the
rest of an interrupted upload and goes when the folder is opened again.
"""

from __future__ import annotations

import re
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from trialese.artifacts import locked
from trialese.errors import ArtifactError

__all__ = ["Job", "JobState", "JobStore", "file_name"]

JobState = Literal["waiting", "running", "done", "failed"]
_DATABASE = "jobs.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    created TEXT NOT NULL,
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    model TEXT NOT NULL,
    digest TEXT NOT NULL,
    format TEXT NOT NULL,
    state TEXT NOT NULL,
    records INTEGER NOT NULL DEFAULT 0,
    texts INTEGER NOT NULL DEFAULT 0,
    left_out TEXT NOT NULL DEFAULT '{}',
    message TEXT NOT NULL DEFAULT '',
    finished TEXT
) STRICT
"""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One uploaded file and the state of its labels."""

    id: str
    created: str
    """ISO 8601, UTC."""
    name: str
    """Of the uploaded file, made harmless."""
    bytes: int
    model: str
    digest: str
    """Of the model when the file came."""
    format: str
    state: JobState
    records: int = 0
    """Done so far."""
    texts: int = 0
    left_out: dict[str, int] = {}
    """Records that hold no text for the task, by reason."""
    message: str = ""
    """Why it failed."""
    finished: str | None = None


class JobStore:
    """The jobs in one folder, which one process at a time may hold; safe to use from threads."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, made when it is not there.

        Raises:
            ArtifactError: it cannot be written, or another server holds it.
        """
        self.folder = folder
        self._lock = threading.Lock()
        with ExitStack() as opened:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                opened.enter_context(locked(folder))
                self._base = sqlite3.connect(
                    folder / _DATABASE, isolation_level=None, check_same_thread=False
                )
                opened.callback(self._base.close)
                self._base.row_factory = sqlite3.Row
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.execute("PRAGMA synchronous = FULL")
                self._base.execute(_SCHEMA)
                self._sweep()
            except (sqlite3.Error, OSError) as error:
                raise ArtifactError(
                    f"{folder}: cannot keep jobs there ({error}); choose another with --jobs"
                ) from error
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the folder."""
        self._opened.close()

    def place(self, name: str) -> tuple[str, Path]:
        """A new job's id, and where its upload goes; the job exists once `add` is called."""
        job_id = secrets.token_hex(8)
        upload = self.folder / job_id / "upload" / file_name(name)
        upload.parent.mkdir(parents=True)
        return job_id, upload

    def add(self, job_id: str, *, upload: Path, model: str, digest: str, format_: str) -> Job:
        """The job, committed: it survives whatever comes now."""
        job = Job(
            id=job_id,
            created=_now(),
            name=upload.name,
            bytes=upload.stat().st_size,
            model=model,
            digest=digest,
            format=format_,
            state="waiting",
        )
        row = msgspec.structs.asdict(job) | {"left_out": "{}"}
        marks = ", ".join(f":{name}" for name in row)
        with self._lock:
            self._base.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", row)
        return job

    def jobs(self) -> list[Job]:
        """All jobs, the newest first."""
        return self._select("ORDER BY created DESC, id")

    def job(self, job_id: str) -> Job | None:
        """One of them."""
        return next(iter(self._select("WHERE id = ?", job_id)), None)

    def next_job(self) -> Job | None:
        """The job to work on: one that was interrupted, else the oldest that waits."""
        where = "WHERE state IN ('running', 'waiting') ORDER BY state, created, rowid LIMIT 1"
        return next(iter(self._select(where)), None)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._lock:
            return dict(self._base.execute("SELECT state, count(*) FROM jobs GROUP BY state"))

    def change(self, job_id: str, **values: Any) -> None:
        """Set columns of a job; one that is gone stays gone."""
        if values.get("state") in ("done", "failed"):
            values["finished"] = _now()
        if "left_out" in values:
            values["left_out"] = msgspec.json.encode(values["left_out"]).decode()
        columns = ", ".join(f"{name} = :{name}" for name in values)
        with self._lock:
            self._base.execute(
                f"UPDATE jobs SET {columns} WHERE id = :job_id", {**values, "job_id": job_id}
            )

    def forget(self, job_id: str) -> None:
        """The job is no more; its files go with `delete_files`, at the latest at the next start."""
        with self._lock:
            self._base.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def delete_files(self, job_id: str) -> None:
        """Delete what was sent and what came of it."""
        shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def upload_of(self, job: Job) -> Path:
        """What was sent."""
        return self.folder / job.id / "upload" / job.name

    def labels_of(self, job: Job) -> Path:
        """Where its labels go."""
        return self.folder / job.id / f"labels.{job.format}"

    def _select(self, rest: str, *values: Any) -> list[Job]:
        with self._lock:
            rows = self._base.execute(f"SELECT * FROM jobs {rest}", values).fetchall()
        return [
            msgspec.convert(dict(row) | {"left_out": msgspec.json.decode(row["left_out"])}, Job)
            for row in rows
        ]

    def _sweep(self) -> None:
        known: Sequence[str] = [job.id for job in self._select("")]
        for child in self.folder.iterdir():
            if re.fullmatch(r"[0-9a-f]{16}", child.name) and child.name not in known:
                shutil.rmtree(child, ignore_errors=True)


def file_name(name: str) -> str:
    """The name without folders and without anything but letters, digits, `-`, `_` and `.`."""
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w.-]+", "_", last, flags=re.ASCII).lstrip(".")[-80:] or "upload"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
