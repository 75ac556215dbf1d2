from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trialese.records import Task
from trialese.settings import ServeSettings
from trialese.web.engine import Engine
from trialese.web.models import ServedModel
from trialese.web.schemas import Refusal


class Lengths:
    """Scores a text by its length; counts batches; waits for `gate` and refuses "bad"."""

    task = Task("lengths", ("length",), "multilabel")
    preprocessing: Any = None
    thresholds: Any = None
    digest = engine = ""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def predict_proba(self, texts: Sequence[str], **_: Any) -> NDArray[np.float64]:
        self.batches.append(list(texts))
        self.gate.wait(10)
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], np.float64)


def play(
    scene: Callable[[Engine, ServedModel, Lengths], Awaitable[None]], **settings: Any
) -> Lengths:
    """The scorer after `scene` has been played with it in a running engine."""
    scorer = Lengths()

    async def run() -> None:
        async with Engine(ServeSettings(**settings)) as engine:
            await scene(engine, ServedModel("lengths", scorer), scorer)

    asyncio.run(run())
    return scorer


async def started(scorer: Lengths, batches: int) -> None:
    while len(scorer.batches) < batches:
        await asyncio.sleep(0.001)


def test_waiting_requests_share_batches_and_get_their_own_rows() -> None:
    texts = [["a" * (1 + (7 * n + k) % 13) for k in range(n % 5 + 1)] for n in range(40)]

    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        answers = await asyncio.gather(*(engine.score(model, each) for each in texts))
        for asked, scores in zip(texts, answers, strict=True):
            assert scores[:, 0].tolist() == [len(text) for text in asked]
        assert engine.waiting == 0
        assert (await engine.score(model, [])).shape == (0, 1)

    scorer = play(scene, batch_texts=16)
    assert max(map(len, scorer.batches)) == 16
    assert len(scorer.batches) <= sum(map(len, texts)) // 16 + 2


def test_a_short_request_overtakes_a_long_one() -> None:
    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        scorer.gate.clear()
        long = asyncio.create_task(engine.score(model, ["long"] * 40))
        await started(scorer, 1)
        short = asyncio.create_task(engine.score(model, ["s"]))
        await asyncio.sleep(0)
        scorer.gate.set()
        await short
        assert not long.done()
        await long

    assert "s" in play(scene, batch_texts=4).batches[2]


def test_requests_come_before_jobs() -> None:
    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        scorer.gate.clear()
        job = asyncio.create_task(asyncio.to_thread(engine.score_patiently, model, ["job"] * 12))
        await started(scorer, 1)
        asked = asyncio.create_task(engine.score(model, ["ask"] * 8))
        await asyncio.sleep(0)
        scorer.gate.set()
        await asyncio.gather(job, asked)

    batches = play(scene, batch_texts=4).batches
    assert [batch[0] for batch in batches] == ["job", "ask", "ask", "job", "job"]


def test_a_full_queue_refuses_and_says_when() -> None:
    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(engine.score(model, ["x"] * 4))
        await started(scorer, 1)
        second = asyncio.create_task(engine.score(model, ["x"] * 8))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:
            await engine.score(model, ["x"] * 3)
        assert refused.value.status_code == 429
        assert int((refused.value.headers or {})["Retry-After"]) >= 1
        scorer.gate.set()
        await asyncio.gather(first, second)
        await engine.score(model, ["x"] * 3)

    play(scene, batch_texts=4, queue_texts=10)


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(engine.score(model, ["x"]))
        await started(scorer, 1)
        gone = asyncio.create_task(engine.score(model, ["gone"] * 50))
        await asyncio.sleep(0)
        assert engine.waiting == 50
        gone.cancel()
        await asyncio.wait({gone})
        assert engine.waiting == 0
        scorer.gate.set()
        await first
        await engine.score(model, ["y"])

    assert play(scene).batches == [["x"], ["y"]]


def test_a_bad_text_harms_only_its_own_request() -> None:
    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(engine.score(model, ["x"]))
        await started(scorer, 1)
        good = asyncio.create_task(engine.score(model, ["good"]))
        bad = asyncio.create_task(engine.score(model, ["bad", "other"]))
        await asyncio.sleep(0)
        scorer.gate.set()
        assert (await good).tolist() == [[4]]
        with pytest.raises(ValueError, match="bad"):
            await bad
        await first

    play(scene)


def test_models_do_not_share_batches() -> None:
    other = Lengths()

    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        second = ServedModel("other", other)
        asked = [engine.score(each, [each.name]) for each in (model, second) * 5]
        await asyncio.gather(*asked)

    scorer = play(scene)
    assert {text for batch in scorer.batches for text in batch} == {"lengths"}
    assert {text for batch in other.batches for text in batch} == {"other"}


class PanicError(BaseException):
    """As a tokenizer written in Rust raises it: no `Exception`."""


def test_a_panic_harms_only_its_own_request() -> None:
    def panic(texts: Sequence[str], **_: Any) -> NDArray[np.float64]:
        if "bad" in texts:
            raise PanicError("index out of bounds")
        return np.zeros((len(texts), 1))

    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        scorer.predict_proba = panic  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="PanicError: index out of bounds"):
            await engine.score(model, ["bad"])
        with pytest.raises(RuntimeError, match="PanicError"):
            await engine.run(lambda: panic(["bad"]))
        assert (await engine.score(model, ["good"])).shape == (1, 1)
        assert engine.failure == ""

    play(scene)


def test_an_engine_that_is_stuck_or_has_ended_says_so() -> None:
    async def scene(engine: Engine, model: ServedModel, scorer: Lengths) -> None:
        scorer.gate.clear()
        waiting = asyncio.create_task(engine.score(model, ["x"]))
        await started(scorer, 1)
        await asyncio.sleep(0.02)
        assert "one batch has been computed for" in engine.failure
        scorer.gate.set()
        await waiting
        assert engine.failure == ""
        engine._running.cancel()
        await asyncio.wait({engine._running})
        assert "ended" in engine.failure

    play(scene, stuck_seconds=0.01)
