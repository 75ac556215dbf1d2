"""All that can be done to one trial without knowing the others, in this process or in several.

Workers are started as `python -m trialese.corpus.prepare` and spoken to through pipes, in
MessagePack. Unlike `multiprocessing`, that asks nothing of the script that calls us (no
`if __name__ == "__main__"`), and passes no pickles. Results come back in the order of the trials,
so the number of workers leaves no trace in what is written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from typing import IO, TYPE_CHECKING

import msgspec
import numpy as np

from trialese.corpus.filters import keep_document
from trialese.corpus.fingerprint import (
    Fingerprint,
    Fingerprinter,
    normalise,
    paragraph_hash,
    paragraph_keys,
)
from trialese.corpus.render import render_document
from trialese.errors import ArtifactError
from trialese.records import Drop, Trial
from trialese.settings import CorpusSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Prepared", "Preparer", "prepare_trials"]

_CHUNK_TRIALS = 256


class Prepared(msgspec.Struct, frozen=True, array_like=True):
    """One trial as a document with its fingerprint, or the reason why it is none."""

    nct_id: str
    first_posted: str | None
    reason: str = ""
    text: str = ""
    exact: bytes = b""
    shingles: bytes = b""
    bands: bytes = b""
    paragraphs: bytes = b""

    def fingerprint(self) -> Fingerprint:
        """What clustering compares."""
        return Fingerprint(
            self.exact,
            np.frombuffer(self.shingles, np.uint32),
            np.frombuffer(self.bands, np.uint64),
        )

    def paragraph_hashes(self) -> NDArray[np.uint64]:
        """Of each paragraph long enough to count as boilerplate, its hash, in order."""
        return np.frombuffer(self.paragraphs, np.uint64)


class Preparer:
    """Renders, filters and fingerprints trials; remembers words only, which makes it faster."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._settings = settings
        self._fingerprint = Fingerprinter(settings.dedup)

    def __call__(self, trial: Trial) -> Prepared:
        """The trial, prepared."""
        document = render_document(trial, self._settings.render)
        outcome = keep_document(document, self._settings.filters)
        if isinstance(outcome, Drop):
            return Prepared(trial.nct_id, trial.first_posted, outcome.reason)
        keys = paragraph_keys(document.text)
        least = self._settings.boilerplate.min_words
        long = [paragraph_hash(key) for key in keys if key.count(" ") + 1 >= least]
        found = self._fingerprint.of_key(" ".join(filter(None, keys)) or normalise(document.text))
        return Prepared(
            trial.nct_id,
            trial.first_posted,
            text=document.text,
            exact=found.exact,
            shingles=found.shingles.tobytes(),
            bands=found.bands.tobytes(),
            paragraphs=np.array(long, np.uint64).tobytes(),
        )


def prepare_trials(
    trials: Iterable[Trial], settings: CorpusSettings, *, workers: int = 1
) -> Iterator[Prepared]:
    """The trials prepared, in order, by so many processes (1: by this one).

    Raises:
        ArtifactError: a worker died.
    """
    if workers <= 1:
        yield from map(Preparer(settings), trials)
        return
    rest = iter(trials)
    with ExitStack() as stack:
        team = [stack.enter_context(_Worker(settings)) for _ in range(workers)]
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        waiting: deque[tuple[_Worker, Future[list[Prepared]]]] = deque()

        def give(worker: _Worker) -> None:
            if chunk := list(islice(rest, _CHUNK_TRIALS)):
                waiting.append((worker, pool.submit(worker.prepare, chunk)))

        # One chunk a worker at a time: memory stays bounded, and no pipe can fill both ways.
        for worker in team:
            give(worker)
        while waiting:
            worker, future = waiting.popleft()
            result = future.result()
            give(worker)  # it works on while we yield
            yield from result


class _Worker:
    """A child process that prepares chunks of trials; it ends when its input does."""

    def __init__(self, settings: CorpusSettings) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trialese.corpus.prepare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        with suppress(BrokenPipeError):  # a worker dead so soon is told by `prepare`
            _send(self._input, msgspec.msgpack.encode(settings))

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._input.close()
        self._output.close()
        self._process.wait()

    def prepare(self, trials: list[Trial]) -> list[Prepared]:
        try:
            _send(self._input, msgspec.msgpack.encode(trials))
            answer = _receive(self._output)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise ArtifactError(
                f"corpus: a worker process ended early (exit {self._process.wait()}); "
                "free some memory, or use one worker"
            )
        return msgspec.msgpack.decode(answer, type=list[Prepared])


def _send(file: IO[bytes], data: bytes) -> None:
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
    """Answer chunks of trials until the input ends."""
    first = _receive(source)
    if first is None:
        return
    prepare = Preparer(msgspec.msgpack.decode(first, type=CorpusSettings))
    while (data := _receive(source)) is not None:
        trials = msgspec.msgpack.decode(data, type=list[Trial])
        _send(sink, msgspec.msgpack.encode([prepare(trial) for trial in trials]))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; we end with our input
    _serve(sys.stdin.buffer, sys.stdout.buffer)
