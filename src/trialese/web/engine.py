"""The engine: one thread that computes, and a queue of texts in which many requests share a batch.

While one batch is computed the next one gathers, so nothing ever waits for a batch to fill. A
request too large for one batch goes on after those that came meanwhile, so that a short one never
waits for the whole of a long one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import Request

from trialese.settings import ServeSettings
from trialese.web.schemas import Refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.web.models import ServedModel

__all__ = ["Engine", "answer_in_time"]


T = TypeVar("T")
_OnBatch = Callable[[int, float], None]


@dataclass(slots=True, eq=False)
class _Asked:
    """The texts of one request, and where their scores go."""

    model: ServedModel
    texts: Sequence[str]
    answer: asyncio.Future[NDArray[np.float64]]
    left: deque[int] = field(init=False)
    """Rows that no batch has taken, longest text first."""
    scores: NDArray[np.float64] = field(init=False)  # (texts, labels)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = deque(sorted(range(len(self.texts)), key=lambda row: -len(self.texts[row])))
        self.scores = np.zeros((len(self.texts), len(self.model.scorer.task.labels)))
        self.missing = len(self.texts)

    def take(self, rows: Sequence[int], scores: NDArray[np.float64]) -> None:
        self.scores[rows] = scores
        self.missing -= len(rows)
        if not self.missing and not self.answer.done():
            self.answer.set_result(self.scores)

    def fail(self, error: Exception) -> None:
        self.left.clear()
        if not self.answer.done():
            self.answer.set_exception(error)


class Engine:
    """The only way to a model: tokenizers and processor cores take one caller at a time.

    Enter it (`async with`) before use. `on_batch(texts, seconds)` is called after each batch.
    """

    def __init__(
        self, settings: ServeSettings, *, on_batch: _OnBatch = lambda texts, seconds: None
    ) -> None:
        self._settings = settings
        self._on_batch = on_batch
        self._urgent: deque[_Asked] = deque()
        self._patient: deque[_Asked] = deque()
        self._side_jobs = 0
        self._began: float | None = None
        self._seconds_per_text = 0.01
        self.waiting = 0
        """Texts of requests that no batch has taken."""

    async def __aenter__(self) -> Engine:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "trialese-engine")
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        for asked in (*self._urgent, *self._patient):
            asked.fail(_closing())
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def score(self, model: ServedModel, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities (texts, labels). Cancelled, what no batch has taken is dropped.

        Raises:
            Refusal: 429, too many texts wait already.
        """
        if self.waiting + len(texts) > self._settings.queue_texts:
            seconds = math.ceil(self.waiting * self._seconds_per_text)
            raise Refusal(
                429,
                f"{self.waiting:,} texts are waiting already; ask again in a moment",
                retry_seconds=min(max(seconds, 1), 60),
            )
        return await self._put(model, texts, self._urgent)

    def score_patiently(self, model: ServedModel, texts: Sequence[str]) -> NDArray[np.float64]:
        """The same for long work in a thread of its own: computed while no request waits."""
        put = self._put(model, texts, self._patient)
        return asyncio.run_coroutine_threadsafe(put, self._loop).result()

    def drop_patient_work(self) -> None:
        """Raise `Refusal` in every `score_patiently` that waits, but for the batch under way."""
        for asked in self._patient:
            asked.fail(_closing())

    async def run(self, work: Callable[[], T]) -> T:
        """What `work`, which uses a model in some other way, returns.

        Raises:
            Refusal: 429, too much of that waits already.
        """
        if self._side_jobs >= self._settings.queue_explanations:
            raise Refusal(
                429, f"{self._side_jobs} explanations are waiting already", retry_seconds=2
            )
        self._side_jobs += 1
        try:
            return await self._loop.run_in_executor(self._thread, _contained, work)
        finally:
            self._side_jobs -= 1

    @property
    def failure(self) -> str:
        """Why nothing is computed; "" while all is well."""
        if self._running.done():
            return "the engine has ended; start again"
        seconds = time.monotonic() - self._began if self._began is not None else 0.0
        if seconds > self._settings.stuck_seconds:
            return f"one batch has been computed for {seconds:.0f} s; start again"
        return ""

    async def _put(
        self, model: ServedModel, texts: Sequence[str], queue: deque[_Asked]
    ) -> NDArray[np.float64]:
        asked = _Asked(model, texts, self._loop.create_future())
        if not texts:
            return asked.scores
        queue.append(asked)
        urgent = queue is self._urgent
        self.waiting += len(texts) * urgent
        self._wake.set()
        try:
            return await asked.answer
        finally:
            self.waiting -= len(asked.left) * urgent
            asked.left.clear()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._next_batch(self._urgent, urgent=True)
            batch = batch or self._next_batch(self._patient, urgent=False)
            if not batch:
                self._wake.clear()
                continue
            started = time.perf_counter()
            try:
                await self._compute(batch)
            except Exception as error:
                await self._compute_one_by_one(batch, error)
            texts = sum(len(rows) for _, rows in batch)
            seconds = time.perf_counter() - started
            self._seconds_per_text += 0.1 * (seconds / texts - self._seconds_per_text)
            self._on_batch(texts, seconds)

    async def _compute_one_by_one(
        self, batch: Sequence[tuple[_Asked, Sequence[int]]], error: Exception
    ) -> None:
        """After the whole batch ended in `error`: one bad text harms only its own request."""
        if len(batch) == 1:
            batch[0][0].fail(error)
            return
        for each in batch:
            try:
                await self._compute([each])
            except Exception as own:
                each[0].fail(own)

    def _next_batch(self, queue: deque[_Asked], *, urgent: bool) -> list[tuple[_Asked, list[int]]]:
        """Rows of the first request's model; a request that is not exhausted goes to the end."""
        batch: list[tuple[_Asked, list[int]]] = []
        room = self._settings.batch_texts
        others: list[_Asked] = []
        unfinished: list[_Asked] = []
        while queue and room:
            asked = queue.popleft()
            if batch and asked.model is not batch[0][0].model:
                others.append(asked)
                continue
            rows = [asked.left.popleft() for _ in range(min(room, len(asked.left)))]
            if rows:
                batch.append((asked, rows))
                room -= len(rows)
                self.waiting -= len(rows) * urgent
            if asked.left:
                unfinished.append(asked)
        queue.extendleft(reversed(others))
        queue.extend(unfinished)
        return batch

    async def _compute(self, batch: Sequence[tuple[_Asked, Sequence[int]]]) -> None:
        texts = [asked.texts[row] for asked, rows in batch for row in rows]
        predict = batch[0][0].model.scorer.predict_proba
        self._began = time.monotonic()
        try:
            scores = await self._loop.run_in_executor(
                self._thread, _contained, lambda: predict(texts)
            )
        finally:
            self._began = None
        start = 0
        for asked, rows in batch:
            asked.take(rows, scores[start : start + len(rows)])
            start += len(rows)


def _contained(work: Callable[[], T]) -> T:
    """What `work` returns; a tokenizer's panic, which is no `Exception`, becomes one."""
    try:
        return work()
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _closing() -> Refusal:
    return Refusal(503, "the server is shutting down; ask again")


async def answer_in_time(request: Request, work: Coroutine[Any, Any, T], *, seconds: float) -> T:
    """What `work` returns, which is cancelled once nobody waits for it any more.

    The body of the request must have been read: what comes next can only be its end.

    Raises:
        Refusal: 504 after `seconds`; 499 if the client is gone, which only the log will see.
    """
    working = asyncio.ensure_future(work)
    going = asyncio.ensure_future(_gone(request))
    try:
        done, _ = await asyncio.wait(
            {working, going}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working in done:
            return working.result()
        if going in done:
            raise Refusal(499, "the client has gone", code="client_gone")
        raise Refusal(504, f"not done after {seconds:g} s; ask for less, or later")
    finally:
        working.cancel()
        going.cancel()
        await asyncio.wait({working, going})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
