"""The application: routes put together; everything they share is handed to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from trialese import __version__
from trialese.errors import TrialeseError
from trialese.settings import ServeSettings
from trialese.web.engine import Engine
from trialese.web.failures import handle_failures
from trialese.web.guard import Guard
from trialese.web.health import health_routes
from trialese.web.jobrunner import JobRunner
from trialese.web.jobs import job_routes
from trialese.web.jobstore import JobStore
from trialese.web.measures import Measures
from trialese.web.page import page_routes
from trialese.web.predict import predict_routes
from trialese.web.served import Served

__all__ = ["create_app"]

logger = logging.getLogger(__name__)


def create_app(
    served: Served,
    settings: ServeSettings,
    *,
    token: str | None = None,
    on_failure: Callable[[TrialeseError], None] | None = None,
) -> FastAPI:
    """The application over `served`, whose models load in the background once it starts.

    Until they are loaded `/readyz` and what needs them answer 503. If they cannot be, `on_failure`
    is told; without it the error comes up when the application ends. With a `token`, requests
    must carry it (`Authorization: Bearer ...`).
    """
    measures = Measures()
    engine = Engine(settings, on_batch=measures.saw_batch)
    store = JobStore(served.jobs) if served.jobs is not None else None
    runner = JobRunner(store, served, engine) if store is not None else None

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if store is not None:
                stack.callback(store.close)
            await stack.enter_async_context(engine)
            if runner is not None:
                await stack.enter_async_context(runner)
            loading = asyncio.create_task(load())
            yield
            await loading

    async def load() -> None:
        try:
            await asyncio.to_thread(served.load)
        except TrialeseError as error:
            if on_failure is None:
                raise
            on_failure(error)
        if runner is not None:
            runner.wake()

    app = FastAPI(
        title="trialese",
        summary="Labels with probabilities for clinical trials.",
        version=__version__,
        lifespan=life,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guard, settings=settings, token=token, measures=measures)
    handle_failures(app)
    app.include_router(health_routes(served, engine, measures, store))
    app.include_router(predict_routes(served, engine, settings))
    if store is not None and runner is not None:
        app.include_router(job_routes(served, store, runner, settings))
    app.include_router(page_routes(served, settings, engine.score_patiently))
    return app
