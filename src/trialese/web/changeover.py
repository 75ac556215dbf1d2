"""The server's change from one generation of a run to the next: whole, and without a restart.

Each generation has an application of its own. The next one is loaded and made searchable beside the
one that answers, and takes over between two requests; those under way finish on the one that they
began with. So no answer is made of two generations.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from trialese.errors import TrialeseError
from trialese.generations import Generation, current_generation, read_pointer, serving
from trialese.web.state import prepare_search

if TYPE_CHECKING:
    from trialese.web.models import Served

__all__ = ["Changeover"]

POLL_SECONDS = 2.0

logger = logging.getLogger(__name__)


class _House:
    """One generation's application while it answers, and the requests under way in it."""

    def __init__(self, generation: Generation, app: FastAPI) -> None:
        self.generation, self.app = generation, app
        self.requests = 0
        self.empty = asyncio.Event()
        self.life = AsyncExitStack()

    async def enter(self) -> None:
        """Start what the application runs beside its answers."""
        self.life.enter_context(serving(self.generation))
        await self.life.enter_async_context(self.app.router.lifespan_context(self.app))

    async def leave(self, seconds: float) -> None:
        """End it, once nobody is in it any more or `seconds` are over."""
        if self.requests:
            try:
                await asyncio.wait_for(self.empty.wait(), seconds)
            except TimeoutError:
                logger.warning(
                    "generation %d: %d requests were not done in %g s",
                    self.generation.number, self.requests, seconds,
                )  # fmt: skip
        await self.life.aclose()

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Let the application answer one request."""
        self.requests += 1
        self.empty.clear()
        try:
            await self.app(scope, receive, send)
        finally:
            self.requests -= 1
            if not self.requests:
                self.empty.set()


class Changeover:
    """An ASGI application that hands each request to the application of the generation in use."""

    def __init__(
        self,
        run: Path,
        open_generation: Callable[[Generation], Served],
        make_app: Callable[[Served], FastAPI],
        *,
        drain_seconds: float,
        poll_seconds: float = POLL_SECONDS,
        on_failure: Callable[[TrialeseError], None] = lambda error: None,
    ) -> None:
        """`open_generation` tells what is served of a generation, `make_app` serves it.

        `on_failure` hears if the first one cannot be served; later, the one before stays.
        """
        self._run, self._open, self._make_app = run, open_generation, make_app
        self._drain_seconds, self._poll_seconds = drain_seconds, poll_seconds
        self._on_failure = on_failure
        self._house: _House | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._refused = ""
        """Digest of a generation that could not be served."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or start and stop with the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._house is not None
        await self._house.answer(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            await self._begin()
        except TrialeseError as error:
            self._on_failure(error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        watching = asyncio.create_task(self._watch())
        await receive()
        watching.cancel()
        await asyncio.gather(watching, *self._leaving, return_exceptions=True)
        if self._house is not None:
            await self._house.life.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _begin(self) -> None:
        """The generation in use; its models load while the server answers 503."""
        generation = current_generation(self._run)
        assert generation is not None
        house = _House(generation, self._make_app(self._open(generation)))
        await house.enter()
        self._house = house

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.look()
            except Exception as error:  # whatever it is, the next one must be seen
                known = isinstance(error, TrialeseError | OSError)
                logger.error(
                    "%s: the generation before goes on answering: %s", self._run, error,
                    exc_info=None if known else error,
                )  # fmt: skip

    async def look(self) -> None:
        """Change over if another generation is in use now.

        Raises:
            TrialeseError: it cannot be served, and is not tried again.
        """
        assert self._house is not None
        pointer = await asyncio.to_thread(read_pointer, self._run)
        if pointer is None or pointer.digest in (
            self._house.generation.manifest.digest, self._refused,
        ):  # fmt: skip
            return
        try:
            generation = await asyncio.to_thread(current_generation, self._run)
            assert generation is not None
            served = await asyncio.to_thread(self._open, generation)
            await asyncio.to_thread(served.load)
            await self._prepare(served)
        except TrialeseError:
            self._refused = pointer.digest
            raise
        before = self._house
        runner = getattr(before.app.state, "runner", None)
        if runner is not None:  # two must not work on the same jobs
            await runner.__aexit__(None, None, None)
        house = _House(generation, self._make_app(served))
        await house.enter()
        self._house, self._refused = house, ""
        logger.info("generation %d answers now", generation.number)
        leaving = asyncio.create_task(before.leave(self._drain_seconds))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _prepare(self, served: Served) -> None:
        """Make what is served searchable while the generation before answers."""
        stopping = threading.Event()
        try:
            await asyncio.to_thread(prepare_search, served, stopping)
        except asyncio.CancelledError:  # the server ends
            stopping.set()
            raise
