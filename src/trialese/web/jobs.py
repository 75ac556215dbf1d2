"""`/v1/jobs`: files to be labelled, larger than a request may be."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import StringConstraints

from trialese.settings import ServeSettings
from trialese.web.failures import Refusal
from trialese.web.jobrunner import JobRunner
from trialese.web.jobstore import Job, JobStore
from trialese.web.schemas import JobCard, JobFormat, Jobs, failures
from trialese.web.served import Served

__all__ = ["job_routes"]

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

    def found(job_id: str) -> Job:
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
    ) -> JobCard:
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
        return _card(job)

    @routes.get("")
    async def jobs() -> Jobs:
        """All jobs, the newest first."""
        return Jobs(jobs=[_card(job) for job in store.jobs()])

    @routes.get("/{job_id}")
    async def job(job_id: JobId) -> JobCard:
        """How far a job is."""
        return _card(found(job_id))

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
        job = found(job_id)
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
        runner.remove(found(job_id).id)

    return routes


def _card(job: Job) -> JobCard:
    return JobCard.model_validate(job, from_attributes=True)


def _keep(file: UploadFile, path: Path) -> None:
    """Put the upload, which came to disk in pieces, where its job looks for it."""
    with path.open("wb") as out:
        shutil.copyfileobj(file.file, out, 2**20)
        out.flush()
        os.fsync(out.fileno())
