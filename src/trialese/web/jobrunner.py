"""The one thread that works on jobs, one after the other, behind every request that waits."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trialese.errors import TrialeseError
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.tasks import predict_file
from trialese.tasks.bulk import Share
from trialese.tasks.description import Preprocessing
from trialese.web.engine import Engine
from trialese.web.failures import Refusal
from trialese.web.jobstore import Job, JobStore
from trialese.web.served import Served, ServedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["JobRunner"]

logger = logging.getLogger(__name__)

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

    def _do(self, job: Job) -> None:
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

    def _noting(self, job: Job) -> Progress:
        noted = 0.0

        def note(_: str, done: int, total: int | None, /) -> None:
            nonlocal noted
            self._stop_if_asked(job)
            if time.monotonic() - noted >= _SECONDS_BETWEEN_NOTES:
                noted = time.monotonic()
                self._store.change(job.id, records=done)

        return note

    def _stop_if_asked(self, job: Job) -> None:
        if self._stopping.is_set() or job.id in self._removed:
            raise _StopError

    def _fail(self, job: Job, message: str) -> None:
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
