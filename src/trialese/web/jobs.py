"""Jobs: files to be labelled, their states in one folder, the thread that runs them, routes.

SQLite holds the states, and each job has a folder: `FOLDER/ID/upload/NAME` is the uploaded file,
`FOLDER/ID/labels.FORMAT` its labels. A job exists once its row is committed, which is after its
upload is whole on disk; folders without a row are rests of interrupted uploads and go when the
folder is opened again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, StringConstraints

from trialese.artifacts import locked
from trialese.errors import ArtifactError, TrialeseError
from trialese.settings import ServeSettings
from trialese.tasks.formats import KNOWN_COLUMNS, AskedColumns
from trialese.web.engine import Engine
from trialese.web.job_worker import JobOrder, JobWorker, WorkerDiedError
from trialese.web.models import Served, ServedModel
from trialese.web.schemas import PREFERENCE, Refusal, failures, refuse_unknown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "FileJob",
    "FileJobs",
    "JobFormat",
    "JobRunner",
    "JobState",
    "JobStore",
    "file_name",
    "job_routes",
]


logger = logging.getLogger(__name__)

JobFormat = Literal["csv", "tsv", "jsonl", "parquet"]
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
_ADDED = {
    "crashes": "INTEGER NOT NULL DEFAULT 0",
    "prefer": "TEXT NOT NULL DEFAULT ''",
    "column": "TEXT NOT NULL DEFAULT ''",
    "id_column": "TEXT NOT NULL DEFAULT ''",
}
"""Columns that folders of jobs of earlier versions lack."""
MOST_CRASHES = 2
"""A job that has ended its worker so often has failed."""


class FileJob(BaseModel):
    """One uploaded file and the state of its labels."""

    id: str
    name: str = Field(description="Of the uploaded file, made harmless.")
    bytes: int
    model: str
    digest: str = Field(description="Of the model when the file came.")
    format: JobFormat
    column: str = Field(default="", description="Of texts; empty: by its name.")
    id_column: str = Field(default="", description="That names the rows; empty: by its name.")
    state: JobState
    records: int = Field(default=0, description="Done so far.")
    texts: int = Field(default=0, description="That got labels; known when done.")
    left_out: dict[str, int] = Field(
        default={}, description="Records without a text for the task, by reason."
    )
    message: str = Field(default="", description="Why it failed.")
    created: str = Field(description="ISO 8601, UTC.")
    finished: str | None = None
    crashes: int = Field(default=0, exclude=True)
    prefer: str = Field(default="", description="Cut-offs for a use; empty: the model's own.")


class FileJobs(BaseModel):
    """All jobs, the newest first."""

    jobs: list[FileJob]


class JobStore:
    """The jobs in one folder, which one process at a time may hold; safe to use from threads."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, made when it is not there.

        Raises:
            ArtifactError: it cannot be written, or another server holds it.
        """
        self.folder = folder
        self._lock = threading.Lock()
        self._forgotten: set[str] = set()
        with ExitStack() as opened:
            try:
                ours = not folder.exists() or (folder / _DATABASE).is_file()
                folder.mkdir(parents=True, exist_ok=True)
                opened.enter_context(locked(folder))
                if ours:
                    folder.chmod(0o700)
                (folder / _DATABASE).touch(0o600)
                (folder / _DATABASE).chmod(0o600)
                self._base = sqlite3.connect(
                    folder / _DATABASE, isolation_level=None, check_same_thread=False
                )
                opened.callback(self._base.close)
                self._base.row_factory = sqlite3.Row
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.execute("PRAGMA synchronous = FULL")
                self._base.execute(_SCHEMA)
                columns = self._base.execute("SELECT name FROM pragma_table_info('jobs')")
                for name in _ADDED.keys() - {name for (name,) in columns}:
                    self._base.execute(f'ALTER TABLE jobs ADD COLUMN "{name}" {_ADDED[name]}')
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
        upload.parent.parent.mkdir(0o700)
        upload.parent.mkdir(0o700)
        return job_id, upload

    def add(
        self,
        job_id: str,
        *,
        upload: Path,
        model: str,
        digest: str,
        format_: JobFormat,
        prefer: str = "",
        columns: AskedColumns = KNOWN_COLUMNS,
    ) -> FileJob:
        """The job, committed: it survives whatever comes now."""
        job = FileJob(
            id=job_id,
            created=_now(),
            name=upload.name,
            bytes=upload.stat().st_size,
            model=model,
            digest=digest,
            format=format_,
            column=columns.text or "",
            id_column=columns.id or "",
            state="waiting",
            prefer=prefer,
        )
        row = {**dict(job), "left_out": "{}"}
        marks = ", ".join(f":{name}" for name in row)
        with self._lock:
            names = ", ".join(f'"{name}"' for name in row)
            self._base.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", row)
        return job

    def jobs(self) -> list[FileJob]:
        """All jobs, the newest first."""
        return self._select("ORDER BY created DESC, id")

    def job(self, job_id: str) -> FileJob | None:
        """One of them."""
        return next(iter(self._select("WHERE id = ?", job_id)), None)

    def next_job(self) -> FileJob | None:
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
        """The job is no more, for every client."""
        self._forgotten.add(job_id)

    def delete(self, job_id: str) -> None:
        """Delete upload, labels and row, in this order: a full disk takes no new row.

        A row that cannot be deleted even then goes at the next start, since its folder is gone.
        """
        self._forgotten.add(job_id)
        shutil.rmtree(self.folder / job_id, ignore_errors=True)
        with self._lock, suppress(sqlite3.Error):
            self._base.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def used_bytes(self) -> int:
        """The size of all uploads and labels."""
        total = 0
        for parent, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):  # a part that was just joined
                    total += Path(parent, name).stat().st_size
        return total

    def upload_of(self, job: FileJob) -> Path:
        """What was sent."""
        return self.folder / job.id / "upload" / job.name

    def labels_of(self, job: FileJob) -> Path:
        """Where its labels go."""
        return self.folder / job.id / f"labels.{job.format}"

    def _select(self, rest: str, *values: Any) -> list[FileJob]:
        with self._lock:
            rows = self._base.execute(f"SELECT * FROM jobs {rest}", values).fetchall()
        return [
            FileJob.model_validate(dict(row) | {"left_out": msgspec.json.decode(row["left_out"])})
            for row in rows
            if row["id"] not in self._forgotten
        ]

    def _sweep(self) -> None:
        """Delete rows without a folder, folders without a row, and rests of killed workers."""
        jobs = {job.id: job for job in self._select("")}
        for job_id in jobs:
            if not (self.folder / job_id).is_dir():
                self._base.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        for child in self.folder.iterdir():
            if not re.fullmatch(r"[0-9a-f]{16}", child.name):
                continue
            if child.name not in jobs:
                shutil.rmtree(child, ignore_errors=True)
                continue
            child.chmod(0o700)
            for rest in (*child.glob(".*.gone"), *child.glob("**/.*.partial")):
                if rest.is_dir():
                    shutil.rmtree(rest, ignore_errors=True)
                else:
                    rest.unlink(missing_ok=True)


def file_name(name: str) -> str:
    """The name without folders and without anything but letters, digits, `-`, `_` and `.`."""
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w.-]+", "_", last, flags=re.ASCII).lstrip(".")[-80:] or "upload"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


WINDOW_RECORDS = 256
"""So much work at most is done again after a crash."""
_SECONDS_BETWEEN_NOTES = 0.5
_SECONDS_AFTER_FAILURE = 1.0


class _StopError(Exception):
    """The server is going, or the job is: whatever was done stays on disk."""


class JobRunner:
    """Works on the jobs of a store while it is entered (`async with`)."""

    def __init__(
        self, store: JobStore, served: Served, engine: Engine, settings: ServeSettings
    ) -> None:
        self.store = store
        self._served, self._engine, self._settings = served, engine, settings
        self._failure = ""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._removed: set[str] = set()
        self._current: str | None = None
        self._worker: JobWorker | None = None

    async def __aenter__(self) -> JobRunner:
        self._work = asyncio.create_task(asyncio.to_thread(self._run))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        self._engine.drop_patient_work()
        self._interrupt()
        self._wake.set()
        await self._work

    @property
    def failure(self) -> str:
        """Why no job can be worked on; "" while all is well."""
        return "the thread of jobs has ended; start again" if self._work.done() else self._failure

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def remove(self, job_id: str) -> None:
        """Stop working on the job and delete it."""
        self._removed.add(job_id)
        self.store.forget(job_id)
        if self._current == job_id:
            self._interrupt()  # the thread deletes it, once nobody writes there any more
        else:
            self.store.delete(job_id)

    def _interrupt(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _run(self) -> None:
        """Work until the server stops, whatever happens: a full disk may be freed again."""
        while not self._stopping.is_set():
            try:
                self._work_once()
                self._failure = ""
            except BaseException as error:
                if not self._failure:
                    logger.exception("jobs wait until this is mended")
                self._failure = f"jobs wait: {' '.join(str(error).split()) or type(error).__name__}"
                self._stopping.wait(_SECONDS_AFTER_FAILURE)

    def _work_once(self) -> None:
        self._wake.clear()
        job = self.store.next_job() if self._served.ready else None
        if job is None:
            self._wake.wait()
            return
        self._current = job.id
        try:
            self._do(job)
        except _StopError:
            pass
        except TrialeseError as error:
            # the server's own paths are nobody's business
            message, folder = str(error), self.store.folder
            for place in (self.store.upload_of(job).parent, folder):
                message = message.replace(f"{place.absolute()}/", "").replace(f"{place}/", "")
            self._fail(job, message)
        except (sqlite3.Error, OSError):
            raise  # not of this job
        except Exception:
            logger.exception("job %s", job.id)
            self._fail(job, "this is a bug of the server; its log has the details")
        finally:
            self._current = self._worker = None
            if job.id in self._removed:
                self.store.delete(job.id)

    def _do(self, job: FileJob) -> None:
        model = self._served.models.get(job.model)
        if model is None or model.scorer.digest != job.digest:
            self._fail(job, f"the model {job.model!r} is no longer served; send the file again")
            return
        self.store.change(job.id, state="running")
        limits, scorer = self._settings, model.preferring(job.prefer).scorer
        order = JobOrder(
            source=str(self.store.upload_of(job).absolute()),
            out=str(self.store.labels_of(job).absolute()),
            format=job.format,
            columns=(job.column or None, job.id_column or None),
            window_records=WINDOW_RECORDS,
            task=scorer.task,
            preprocessing=scorer.preprocessing,
            thresholds=scorer.thresholds and replace(scorer.thresholds, chosen_from=frozenset()),
            calibration=scorer.calibration,
            digest=scorer.digest,
            engine=scorer.engine,
            memory_bytes=limits.job_memory_bytes,
            cpu_seconds=limits.job_cpu_seconds,
            open_files=limits.job_open_files,
            file_bytes=limits.jobs_bytes,
        )
        with JobWorker(order, silent_seconds=limits.job_silent_seconds) as self._worker:
            self._stop_if_asked(job)
            try:
                done = self._worker.run(partial(self._score, job, model), self._note(job))
            except WorkerDiedError as error:
                self._stop_if_asked(job)
                self._count_crash(job, str(error))
                return
        self.store.change(
            job.id, state="done", records=done.records, texts=done.texts, left_out=done.left_out
        )

    def _score(self, job: FileJob, model: ServedModel, texts: list[str]) -> NDArray[np.float64]:
        self._stop_if_asked(job)
        try:
            return self._engine.score_patiently(model, texts)
        except Refusal as error:
            raise _StopError from error

    def _count_crash(self, job: FileJob, reason: str) -> None:
        crashes = job.crashes + 1
        logger.warning("job %s ended its worker (%s), time %d", job.id, reason, crashes)
        self.store.change(job.id, crashes=crashes)
        if crashes >= MOST_CRASHES:
            self._fail(
                job,
                f"reading the file ended its worker {crashes} times ({reason}); "
                "the file is damaged or too large: repair or divide it",
            )

    def _note(self, job: FileJob) -> Callable[[int], None]:
        noted = 0.0

        def note(records: int) -> None:
            nonlocal noted
            self._stop_if_asked(job)
            if time.monotonic() - noted >= _SECONDS_BETWEEN_NOTES:
                noted = time.monotonic()
                self.store.change(job.id, records=records)

        return note

    def _stop_if_asked(self, job: FileJob) -> None:
        if self._stopping.is_set() or job.id in self._removed:
            raise _StopError

    def _fail(self, job: FileJob, message: str) -> None:
        self.store.change(job.id, state="failed", message=" ".join(message.split()))


JobId = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{16}$"), Field(examples=["0123456789abcdef"])
]
_MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}


_FIELDS = ("file", "model", "format", "prefer", "column", "id_column")


def job_routes(served: Served, runner: JobRunner, settings: ServeSettings) -> APIRouter:
    """Routes over the jobs that `runner` works on."""
    store = runner.store
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=failures(401, 404, 422))

    def existing(job_id: str) -> FileJob:
        job = store.job(job_id)
        if job is None:
            raise Refusal(404, f"no job {job_id} here", code="unknown_job")
        return job

    @routes.post("", status_code=202, responses=failures(400, 409, 413, 429, 503, 507))
    async def send(
        file: Annotated[UploadFile, "Texts or trials."],
        request: Request,
        response: Response,
        model: Annotated[str, Form(description="Without it, the first.")] = "",
        format: Annotated[JobFormat, Form(description="Of the result.")] = "csv",  # noqa: A002
        prefer: Annotated[
            str,
            Form(max_length=40, description="Cut-offs for what.", json_schema_extra=PREFERENCE),
        ] = "",
        column: Annotated[str, Form(description="Of texts; without it, by its name.")] = "",
        id_column: Annotated[str, Form(description="That names rows; else by its name.")] = "",
    ) -> FileJob:
        """A file of any kind that `trialese predict` knows: text lines, tables with a text column,
        JSON lines, Parquet, registry records; bare, gzip, zstd or zip. Its labels are computed
        after everything else, and can be had once the state is `done`.
        """
        refuse_unknown(await request.form(), _FIELDS)
        chosen = served.model_named(model)
        chosen.preferring(prefer)
        if store.counts().get("waiting", 0) >= settings.waiting_jobs:
            raise Refusal(
                429, f"{settings.waiting_jobs:,} jobs are waiting already", retry_seconds=60
            )
        used = await asyncio.to_thread(store.used_bytes)
        if used + (file.size or 0) > settings.jobs_bytes:
            raise Refusal(
                507,
                f"the jobs here take {used:,} of {settings.jobs_bytes:,} bytes; delete some, "
                "or send a smaller file",
                code="quota",
            )
        job_id, upload = store.place(file.filename or "")
        try:
            await asyncio.to_thread(_keep, file, upload)
        except BaseException:
            shutil.rmtree(store.folder / job_id, ignore_errors=True)
            raise
        job = await asyncio.to_thread(
            store.add,
            job_id,
            upload=upload,
            model=chosen.name,
            digest=chosen.scorer.digest,
            format_=format,
            prefer=prefer,
            columns=AskedColumns(column or None, id_column or None),
        )
        runner.wake()
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job

    @routes.get("")
    async def jobs() -> FileJobs:
        """All jobs, the newest first."""
        return FileJobs(jobs=store.jobs())

    @routes.get("/{job_id}")
    async def job(job_id: JobId) -> FileJob:
        """How far a job is."""
        return existing(job_id)

    @routes.get(
        "/{job_id}/result",
        response_class=FileResponse,
        responses={
            200: {"content": {type_.partition(";")[0]: {} for type_ in _MEDIA_TYPES.values()}},
            **failures(409),
        },
    )
    async def result(job_id: JobId) -> FileResponse:
        """The labels, once the job is done."""
        job = existing(job_id)
        if job.state != "done":
            reason = f": {job.message}" if job.message else ""
            raise Refusal(409, f"the job is {job.state}{reason}", code="not_done")
        stem = job.name.partition(".")[0] or "upload"
        return FileResponse(
            store.labels_of(job),
            media_type=_MEDIA_TYPES[job.format],
            filename=f"{stem}-labels.{job.format}",
        )

    @routes.delete("/{job_id}", status_code=204)
    async def delete(job_id: JobId) -> None:
        """Stop the job if it runs, and delete its files."""
        await asyncio.to_thread(runner.remove, existing(job_id).id)

    return routes


def _keep(file: UploadFile, path: Path) -> None:
    """Put the upload, which came to disk in pieces, where its job looks for it."""
    with path.open("xb") as out:
        path.chmod(0o600)
        shutil.copyfileobj(file.file, out, 2**20)
        out.flush()
        os.fsync(out.fileno())
