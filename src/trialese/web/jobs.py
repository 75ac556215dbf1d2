"""Jobs: files to be labelled, their states in one folder, the thread that works on them, routes.

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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Form, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, StringConstraints

from trialese.artifacts import locked
from trialese.errors import ArtifactError, TrialeseError
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.settings import ServeSettings
from trialese.tasks.predict import Share, predict_file
from trialese.tasks.scorer import Preprocessing
from trialese.web.engine import Engine
from trialese.web.models import Served, ServedModel
from trialese.web.schemas import Refusal, failures

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


class FileJob(BaseModel):
    """One uploaded file and the state of its labels."""

    id: str
    name: str = Field(description="Of the uploaded file, made harmless.")
    bytes: int
    model: str
    digest: str = Field(description="Of the model when the file came.")
    format: JobFormat
    state: JobState
    records: int = Field(default=0, description="Done so far.")
    texts: int = Field(default=0, description="That got labels; known when done.")
    left_out: dict[str, int] = Field(
        default={}, description="Records without a text for the task, by reason."
    )
    message: str = Field(default="", description="Why it failed.")
    created: str = Field(description="ISO 8601, UTC.")
    finished: str | None = None


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

    def add(
        self, job_id: str, *, upload: Path, model: str, digest: str, format_: JobFormat
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
            state="waiting",
        )
        row = job.model_dump() | {"left_out": "{}"}
        marks = ", ".join(f":{name}" for name in row)
        with self._lock:
            self._base.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", row)
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
        """The job is no more; its files go with `delete_files`, at the latest at the next start."""
        with self._lock:
            self._base.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def delete_files(self, job_id: str) -> None:
        """Delete what was sent and what came of it."""
        shutil.rmtree(self.folder / job_id, ignore_errors=True)

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


WINDOW_RECORDS = 256
"""So much work at most is done again after a crash."""
_SECONDS_BETWEEN_NOTES = 0.5


class _StopError(Exception):
    """The server is going, or the job is: whatever was done stays on disk."""


class JobRunner:
    """Works on the jobs of a store while it is entered (`async with`)."""

    def __init__(self, store: JobStore, served: Served, engine: Engine) -> None:
        self._store, self._served, self._engine = store, served, engine
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._removed: set[str] = set()
        self._current: str | None = None

    async def __aenter__(self) -> JobRunner:
        self._work = asyncio.create_task(asyncio.to_thread(self._run))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        self._engine.drop_patient_work()
        self._wake.set()
        await self._work

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def remove(self, job_id: str) -> None:
        """Stop working on the job and delete it."""
        self._removed.add(job_id)
        self._store.forget(job_id)
        if self._current != job_id:
            self._store.delete_files(job_id)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            job = self._store.next_job() if self._served.ready else None
            if job is None:
                self._wake.wait()
                continue
            self._current = job.id
            try:
                self._do(job)
            except _StopError:
                pass
            except TrialeseError as error:
                # the server's own paths are nobody's business
                message = str(error).replace(f"{self._store.upload_of(job).parent}/", "")
                self._fail(job, message.replace(f"{self._store.folder}/", ""))
            except Exception:
                logger.exception("job %s", job.id)
                self._fail(job, "this is a bug of the server; its log has the details")
            self._current = None
            if job.id in self._removed:
                self._store.delete_files(job.id)

    def _do(self, job: FileJob) -> None:
        model = self._served.models.get(job.model)
        if model is None or model.scorer.digest != job.digest:
            self._fail(job, f"the model {job.model!r} is no longer served; send the file again")
            return
        self._store.change(job.id, state="running")
        about = predict_file(
            _Patient(model, self._engine, lambda: self._stop_if_asked(job)),
            self._store.upload_of(job),
            self._store.labels_of(job),
            format_name=job.format,
            share=Share(),
            window_records=WINDOW_RECORDS,
            progress=self._noting(job),
        )
        assert about is not None
        self._store.change(
            job.id,
            state="done",
            records=about.records,
            texts=about.texts,
            left_out=about.left_out,
        )

    def _noting(self, job: FileJob) -> Progress:
        noted = 0.0

        def note(_: str, done: int, total: int | None, /) -> None:
            nonlocal noted
            self._stop_if_asked(job)
            if time.monotonic() - noted >= _SECONDS_BETWEEN_NOTES:
                noted = time.monotonic()
                self._store.change(job.id, records=done)

        return note

    def _stop_if_asked(self, job: FileJob) -> None:
        if self._stopping.is_set() or job.id in self._removed:
            raise _StopError

    def _fail(self, job: FileJob, message: str) -> None:
        self._store.change(job.id, state="failed", message=" ".join(message.split()))


class _Patient:
    """A served model as a scorer whose texts wait behind those of requests."""

    def __init__(self, model: ServedModel, engine: Engine, check: Callable[[], None]) -> None:
        self._model, self._engine, self._check = model, engine, check

    @property
    def task(self) -> Task:
        return self._model.scorer.task

    @property
    def preprocessing(self) -> Preprocessing:
        return self._model.scorer.preprocessing

    @property
    def thresholds(self) -> Thresholds | None:
        return self._model.scorer.thresholds

    @property
    def digest(self) -> str:
        return self._model.scorer.digest

    @property
    def engine(self) -> str:
        return self._model.scorer.engine

    def predict(self, texts: Sequence[str], *, progress: Progress = silent) -> NDArray[np.float64]:
        self._check()
        try:
            return self._engine.score_patiently(self._model, texts)
        except Refusal as error:
            raise _StopError from error


JobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
_MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}


def job_routes(
    served: Served, store: JobStore, runner: JobRunner, settings: ServeSettings
) -> APIRouter:
    """Routes over the jobs of `store`, which `runner` works on."""
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=failures(401, 404, 422))

    def existing(job_id: str) -> FileJob:
        job = store.job(job_id)
        if job is None:
            raise Refusal(404, f"no job {job_id} here", code="unknown_job")
        return job

    @routes.post("", status_code=202, responses=failures(400, 413, 429, 503))
    async def send(
        file: Annotated[UploadFile, "Texts or trials."],
        response: Response,
        model: Annotated[str, Form(description="Without it, the first.")] = "",
        format: Annotated[JobFormat, Form(description="Of the result.")] = "csv",  # noqa: A002
    ) -> FileJob:
        """A file of any kind that `trialese predict` knows: text lines, tables with a text column,
        JSON lines, Parquet, registry records; bare, gzip, zstd or zip. Its labels are computed
        after everything else, and can be had once the state is `done`.
        """
        chosen = served.model_named(model)
        if store.counts().get("waiting", 0) >= settings.waiting_jobs:
            raise Refusal(
                429, f"{settings.waiting_jobs:,} jobs are waiting already", retry_seconds=60
            )
        job_id, upload = store.place(file.filename or "")
        try:
            await asyncio.to_thread(_keep, file, upload)
        except BaseException:
            store.delete_files(job_id)
            raise
        job = await asyncio.to_thread(
            store.add,
            job_id,
            upload=upload,
            model=chosen.name,
            digest=chosen.scorer.digest,
            format_=format,
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
        runner.remove(existing(job_id).id)

    return routes


def _keep(file: UploadFile, path: Path) -> None:
    """Put the upload, which came to disk in pieces, where its job looks for it."""
    with path.open("wb") as out:
        shutil.copyfileobj(file.file, out, 2**20)
        out.flush()
        os.fsync(out.fileno())
