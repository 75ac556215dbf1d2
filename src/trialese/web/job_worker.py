"""A process of its own for each job: it reads the uploaded file, the server scores its texts.

A file that somebody sent may crash a parser, exhaust memory or never end; here that ends the
worker and no one else, and the worker holds no memory of other people's files. Both sides write
messages of msgpack, each after its length, to the worker's standard input and output. Limits of
memory, processor time and open files are those of `resource`, which Windows lacks.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from trialese.errors import RecordError, TrialeseError
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.tasks.formats import AskedColumns
from trialese.tasks.predict import Share, predict_file
from trialese.tasks.scorer import Preprocessing
from trialese.temperature import Calibration

__all__ = ["Done", "JobOrder", "JobWorker", "WorkerDiedError", "main"]

_MESSAGE_BYTES = 256_000_000
_CHUNK_TEXTS, _CHUNK_CHARACTERS = 256, 4_000_000
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The first message to a worker: what to read, for which model, and its limits."""

    source: str
    out: str
    format: str
    columns: tuple[str | None, str | None]
    """Those of texts and of names of a table; None: by their names."""
    window_records: int
    task: Task
    preprocessing: Preprocessing
    thresholds: Thresholds | None
    calibration: Calibration | None
    digest: str
    engine: str
    memory_bytes: int
    cpu_seconds: int
    open_files: int
    file_bytes: int
    """Of the largest file that the worker writes."""


class _Texts(msgspec.Struct, frozen=True, tag=True):
    texts: list[str]


class _Progress(msgspec.Struct, frozen=True, tag=True):
    records: int


class _Failed(msgspec.Struct, frozen=True, tag=True):
    message: str
    traceback: str = ""
    """Of a bug; "" for a fault of the file."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The last message of a worker: the labels are on disk."""

    records: int
    texts: int
    left_out: dict[str, int]


class WorkerDiedError(Exception):
    """The worker ended, or was ended, without an answer."""


class JobWorker:
    """A worker process, from the server's side; enter it (`with`) so that it surely ends."""

    command = (sys.executable, "-P", "-m", "trialese.web.job_worker")

    def __init__(self, order: JobOrder, *, silent_seconds: float) -> None:
        """Start the process. It is killed when no message comes for `silent_seconds`."""
        self._silent_seconds = silent_seconds
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(_THREADS, "1")},
            start_new_session=True,  # Ctrl-C is for the server, which ends its worker itself
        )
        self._order = order
        self._why = ""

    def __enter__(self) -> JobWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not sent to a dead worker
                pipe.close()  # type: ignore[union-attr]

    def kill(self, why: str = "") -> None:
        """End it now; from any thread. `why` becomes the reason that `run` gives."""
        self._why = self._why or why
        self._process.kill()

    def run(
        self, score: Callable[[list[str]], NDArray[np.float64]], note: Callable[[int], None]
    ) -> Done:
        """Score the texts that it sends until it is done; `note(records)` tells progress.

        Raises:
            RecordError: the file's fault, in one line.
            RuntimeError: a bug; its text is the worker's traceback.
            WorkerDiedError: no answer came; its text says why.
        """
        assert self._process.stdin and self._process.stdout
        try:
            _write(self._process.stdin, self._order)
            while True:
                message = self._next(self._process.stdout)
                if isinstance(message, _Texts):
                    scores = np.ascontiguousarray(score(message.texts), np.float64)
                    _write(self._process.stdin, scores.tobytes())
                elif isinstance(message, _Progress):
                    note(message.records)
                elif isinstance(message, Done):
                    return message
                elif message.traceback:
                    raise RuntimeError(message.traceback)
                else:
                    raise RecordError(message.message)
        except (EOFError, OSError, msgspec.DecodeError) as error:
            self._process.kill()
            raise WorkerDiedError(self._reason()) from error

    def _next(self, pipe: IO[bytes]) -> _Texts | _Progress | Done | _Failed:
        why = f"nothing came of it for {self._silent_seconds:g} s"
        timer = threading.Timer(self._silent_seconds, self.kill, [why])
        timer.start()
        try:
            return msgspec.msgpack.decode(_read(pipe), type=_Texts | _Progress | Done | _Failed)
        finally:
            timer.cancel()

    def _reason(self) -> str:
        code = self._process.wait()
        if self._why:
            return self._why
        if code == -getattr(signal, "SIGXCPU", 0):
            return f"more than {self._order.cpu_seconds:,} s of processor time"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _write(pipe: IO[bytes], message: object) -> None:
    body = msgspec.msgpack.encode(message)
    pipe.write(len(body).to_bytes(8, "big") + body)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """The next message; EOFError at the end, OSError for one that nobody may send."""
    size = int.from_bytes(_exactly(pipe, 8), "big")
    if size > _MESSAGE_BYTES:
        raise OSError(f"a message of {size:,} bytes")
    return _exactly(pipe, size)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    body = pipe.read(size)
    if len(body) < size:
        raise EOFError
    return body


class _RemoteScorer:
    """The served model, seen from the worker: texts go out, scores come back."""

    def __init__(self, order: JobOrder, send: Callable[[object], None], inbox: _Inbox) -> None:
        self.task, self.preprocessing = order.task, order.preprocessing
        self.thresholds, self.digest, self.engine = order.thresholds, order.digest, order.engine
        self.calibration = order.calibration
        self._send, self._inbox = send, inbox

    def predict_proba(
        self, texts: Sequence[str], *, progress: Progress = silent
    ) -> NDArray[np.float64]:
        scores = np.zeros((len(texts), len(self.task.labels)))
        for start, chunk in _chunks(texts):
            self._send(_Texts(chunk))
            answer = msgspec.msgpack.decode(self._inbox.get(), type=bytes)
            part = np.frombuffer(answer, np.float64).reshape(len(chunk), -1)
            scores[start : start + len(chunk)] = part
        return scores


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    chunk: list[str] = []
    characters = start = 0
    for place, text in enumerate(texts):
        if len(text) > _MESSAGE_BYTES // 8:
            raise RecordError(f"a text of {len(text):,} characters; divide it")
        if chunk and (len(chunk) == _CHUNK_TEXTS or characters + len(text) > _CHUNK_CHARACTERS):
            yield start, chunk
            chunk, characters, start = [], 0, place
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield start, chunk


class _Inbox(queue.Queue[bytes]):
    """Messages from the server. When there is no server any more, the process ends."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__()
        self._pipe = pipe
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        while True:
            try:
                self.put(_read(self._pipe))
            except (EOFError, OSError):
                os._exit(1)


def _limit(order: JobOrder) -> None:
    os.umask(0o077)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    for name, most in (
        ("RLIMIT_DATA", order.memory_bytes),
        ("RLIMIT_CPU", order.cpu_seconds),
        ("RLIMIT_NOFILE", order.open_files),
        ("RLIMIT_FSIZE", order.file_bytes),
        ("RLIMIT_CORE", 0),
    ):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(ValueError, OSError):  # a kernel that does not know this one
            resource.setrlimit(kind, (soft, hard))


def main() -> None:
    """Do the one job that comes on standard input."""
    outbox = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between messages
    inbox = _Inbox(sys.stdin.buffer)
    order = msgspec.msgpack.decode(inbox.get(), type=JobOrder)
    _limit(order)

    def send(message: object) -> None:
        _write(outbox, message)

    try:
        about = predict_file(
            _RemoteScorer(order, send, inbox),
            Path(order.source),
            Path(order.out),
            format_name=order.format,
            share=Share(),
            window_records=order.window_records,
            columns=AskedColumns(*order.columns),
            progress=lambda _, done, total: send(_Progress(done)),
        )
        assert about is not None
        send(Done(about.records, about.texts, about.left_out))
    except TrialeseError as error:
        send(_Failed(str(error)))
    except MemoryError:
        send(
            _Failed(
                f"reading it takes more than {order.memory_bytes:,} bytes of memory; send it in "
                "parts (or raise serve.job_memory_bytes)"
            )
        )
    except Exception as error:
        send(_Failed(str(error), traceback.format_exc()[-8000:]))


if __name__ == "__main__":
    main()
