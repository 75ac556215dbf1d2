"""Chunks of archives -> sorted runs, in processes of our own.

A worker is `python -m trialese.collect.workers`: it reads jobs as JSON lines and answers each
with one. Unlike the processes of `multiprocessing`, it never imports the caller's script again,
so collecting works the same from a script, a notebook or the command line.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from trialese.collect.files import read_stream
from trialese.collect.merge import RunWriter, Tally, take_in
from trialese.collect.zip_files import Chunk, read_chunk
from trialese.errors import ArtifactError, RecordError

__all__ = ["Done", "Job", "run_jobs", "serve", "work_off"]


class Job(msgspec.Struct, frozen=True):
    """One chunk, the folder for its runs, and the prefix of their names."""

    chunk: Chunk
    folder: str
    prefix: str


class Done(msgspec.Struct, frozen=True):
    """What became of a job; `error` is a `RecordError`'s line, "" if all went well."""

    tally: Tally
    runs: list[str] = []
    renamed: dict[str, str] = {}
    error: str = ""


def work_off(job: Job) -> Done:
    """The job done in this process."""
    runs = RunWriter(Path(job.folder), job.prefix)
    try:
        tally = take_in(read_chunk(job.chunk, read_stream), runs)
        runs.flush()
    except RecordError as error:
        return Done(Tally(), error=str(error))
    return Done(tally, runs.runs, runs.renamed)


def run_jobs(jobs: Sequence[Job], *, processes: int) -> Iterator[Done]:
    """What became of each job, in the order in which they end.

    Raises:
        RecordError: an archive cannot be read.
        ArtifactError: a worker died.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    ended: queue.SimpleQueue[Done | Exception] = queue.SimpleQueue()
    workers = [_start() for _ in range(min(processes, len(jobs)))]
    threads = [
        threading.Thread(target=_feed, args=(worker, waiting, ended), daemon=True)
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            done = ended.get()
            if isinstance(done, Exception):
                raise done
            if done.error:
                raise RecordError(done.error)
            yield done
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        for thread in threads:
            thread.join()
        for worker in workers:
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what a dead worker did not take
                        pipe.close()


def _start() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-m", "trialese.collect.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )


def _feed(
    worker: subprocess.Popen[bytes],
    waiting: queue.SimpleQueue[Job],
    ended: queue.SimpleQueue[Done | Exception],
) -> None:
    """Hand the worker one job after the other until none is left."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            worker.stdin.write(msgspec.json.encode(job) + b"\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
            if not answer:
                raise BrokenPipeError
            ended.put(msgspec.json.decode(answer, type=Done))
    except (OSError, ValueError):
        ended.put(
            ArtifactError(
                f"{job.chunk.path}: a worker process died while reading it (out of memory?); "
                "free some memory and collect again"
            )
        )


def serve(jobs: IO[bytes], answers: IO[bytes]) -> None:
    """Work off jobs, one JSON line each, until there are no more."""
    for line in jobs:
        done = work_off(msgspec.json.decode(line, type=Job))
        answers.write(msgspec.json.encode(done) + b"\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends its workers
    serve(sys.stdin.buffer, sys.stdout.buffer)
