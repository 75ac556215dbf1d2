"""A pool of worker processes, and the number of processor cores.

A worker is `python -P -m trialese.parallel`, spoken to through its standard input and output, and
it ends when its input does: a parent that is killed leaves none behind. It never imports the
caller's script again, so that a script needs no `if __name__ == "__main__"`, and never looks for
modules in the working directory.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from trialese import errors
from trialese.errors import ArtifactError, TrialeseError

__all__ = ["count_cores", "count_threads", "map_in_processes", "worker_environment"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_cores() -> int:
    """Return how many processor cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):  # Linux; a container or `taskset` may allow fewer
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_threads() -> int:
    """Return in how many threads numbers are added up here.

    The last bits of a sum depend on how many threads share it, so equal bytes are promised for
    equal counts; artifacts record theirs.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else count_cores()


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], *, processes: int
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in the order of the items.

    `function`, items and results are pickled; `function` is sent once to each process. A process
    has one item at a time, so at most `processes` results are held.

    Raises:
        TrialeseError: as `function` raised it.
        ArtifactError: a process died.
    """
    rest = iter(items)
    with ExitStack() as stack:
        waiting: deque[tuple[_Worker, Future[Any]]] = deque()
        pool = stack.enter_context(ThreadPoolExecutor(max(processes, 1)))
        for item in rest:
            worker = stack.enter_context(_Worker(function))
            waiting.append((worker, pool.submit(worker.ask, item)))
            if len(waiting) >= processes:
                break
        while waiting:
            worker, future = waiting.popleft()
            result = future.result()
            for item in rest:  # it works on while we yield
                waiting.append((worker, pool.submit(worker.ask, item)))
                break
            yield result


class _Worker:
    """A process that applies one function to one item after the other."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._process = _start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        with suppress(BrokenPipeError):  # a worker that died so soon is reported by `ask`
            _send(self._input, function)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        with suppress(OSError):
            self._input.close()
        self._process.wait()
        self._output.close()

    def ask(self, item: Any) -> Any:
        try:
            _send(self._input, item)
            answer = _receive(self._output)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise ArtifactError(
                f"a worker process ended early (exit {self._process.wait()}); "
                "free some memory, or use one process"
            )
        result, name, message = pickle.loads(answer)
        if not name:
            return result
        kind = getattr(errors, name, None)
        if kind is not None:
            raise kind(message)
        raise RuntimeError(f"in a worker process:\n{message}")


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "trialese.parallel"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=worker_environment(),
    )


def worker_environment() -> dict[str, str]:
    """Return the environment in which `python -P` looks for modules where this process does, the
    working directory apart."""
    home = str(Path(__file__).resolve().parents[1])
    here = str(Path.cwd())
    found = [path for path in sys.path if path and (path != here or path == home)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*found, home])}


def _send(file: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    file.write(len(data).to_bytes(8, "little"))
    file.write(data)
    file.flush()


def _receive(file: IO[bytes]) -> bytes | None:
    """The next message, or None at the end."""
    head = file.read(8)
    size = int.from_bytes(head, "little")
    data = file.read(size) if len(head) == 8 else b""
    return data if len(head) == 8 and len(data) == size else None


def _serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer items with (result, name of an error, its message) until the input ends."""
    first = _receive(source)
    if first is None:
        return
    function = pickle.loads(first)
    while (data := _receive(source)) is not None:
        try:
            answer = (function(pickle.loads(data)), "", "")
        except TrialeseError as error:
            # By its class in `errors`: what a subclass elsewhere takes to be made is its own.
            kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
            answer = (None, kind.__name__, str(error))
        except Exception:
            answer = (None, "Exception", traceback.format_exc())
        _send(sink, answer)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; we end with our input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    with suppress(BrokenPipeError):  # the parent is gone
        _serve(sys.stdin.buffer, answers)
