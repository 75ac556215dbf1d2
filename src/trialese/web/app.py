"""The application and the server that runs it; routes about health: `/healthz` to `/version`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import uvicorn
from fastapi import APIRouter, FastAPI, Response

from trialese import __version__
from trialese.errors import RecipeError, TrialeseError
from trialese.generations import Generation
from trialese.settings import ServeSettings
from trialese.web.changeover import Changeover
from trialese.web.engine import Engine
from trialese.web.jobs import JobRunner, JobState, JobStore, job_routes
from trialese.web.models import Served
from trialese.web.page import page_routes
from trialese.web.schemas import (
    Failure,
    Refusal,
    ServerState,
    ServerVersion,
    close_forms,
    handle_failures,
)
from trialese.web.scoring import predict_routes
from trialese.web.security import (
    LOOPBACK,
    METRICS_TYPE,
    LogRate,
    SecurityMiddleware,
    ServerMetrics,
    limited_connections,
)

__all__ = ["create_app", "health_routes", "serve"]


def health_routes(
    served: Served, engine: Engine, metrics: ServerMetrics, runner: JobRunner | None
) -> APIRouter:
    """Routes about the state of the server: health, readiness, metrics, version."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> ServerState:
        """The process answers."""
        return ServerState(status="ok")

    @routes.get("/readyz", responses={503: {"model": Failure}})
    async def readyz() -> ServerState:
        """Every model is loaded, the engine computes and jobs are worked on; else 503."""
        served.refuse_unless_ready()
        failure = engine.failure or (runner.failure if runner is not None else "")
        if failure:
            raise Refusal(503, failure)
        return ServerState(status="ready")

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            401: {"model": Failure},
        },
    )
    async def metrics_text() -> Response:
        """Counters in the text format of Prometheus."""
        metrics.waiting.set(engine.waiting)
        counts = runner.store.counts() if runner is not None else {}
        for state in get_args(JobState):
            metrics.jobs.labels(state).set(counts.get(state, 0))
        return Response(metrics.as_text(), media_type=METRICS_TYPE)

    @routes.get("/version", responses={401: {"model": Failure}})
    async def version() -> ServerVersion:
        """Of trialese, and of what is served."""
        return ServerVersion(
            version=__version__,
            generation=served.generation,
            models={name: model.scorer.digest for name, model in served.models.items()},
        )

    return routes


logger = logging.getLogger(__name__)


def create_app(
    served: Served,
    settings: ServeSettings,
    *,
    token: str | None = None,
    on_failure: Callable[[TrialeseError], None] | None = None,
    store: JobStore | None = None,
) -> FastAPI:
    """The application over `served`, whose models load in the background once it starts.

    Until they are loaded `/readyz` and what needs them answer 503. If they cannot be, `on_failure`
    gets the error; without it the error is raised when the application ends. With a `token`,
    requests must carry it (`Authorization: Bearer ...`). `store` holds the jobs where one is open
    already, and is not closed.
    """
    metrics = ServerMetrics()
    engine = Engine(settings, on_batch=metrics.count_batch)
    opened = JobStore(served.jobs) if served.jobs is not None and store is None else None
    store = store or opened
    runner = JobRunner(store, served, engine, settings) if store is not None else None

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if opened is not None:
                stack.callback(opened.close)
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
    app.state.runner = runner
    app.add_middleware(SecurityMiddleware, settings=settings, token=token, metrics=metrics)
    handle_failures(app)
    app.include_router(health_routes(served, engine, metrics, runner))
    app.include_router(predict_routes(served, engine, settings))
    if runner is not None:
        app.include_router(job_routes(served, runner, settings))
    app.include_router(page_routes(served, settings, engine.score_patiently))
    close_forms(app)
    return app


def serve(
    served: Served | Callable[[Generation], Served],
    settings: ServeSettings,
    *,
    token: str | None = None,
    run: Path | None = None,
    jobs: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    With the folder of a `run`, whatever generation of it is in use is served, and `served` tells
    what of it; `jobs` is then the folder of jobs.

    Raises:
        RecipeError: the address cannot be listened on.
        ArtifactError: a model cannot be loaded, or the folder of jobs cannot be used.
    """
    failures: list[TrialeseError] = []

    def stop(error: TrialeseError) -> None:
        failures.append(error)
        server.should_exit = True

    app: FastAPI | Changeover
    with ExitStack() as held:
        if callable(served):
            assert run is not None
            store = None if jobs is None else JobStore(jobs)
            if store is not None:
                held.callback(store.close)
            app = Changeover(
                run,
                served,
                partial(create_app, settings=settings, token=token, on_failure=stop, store=store),
                drain_seconds=settings.drain_seconds,
                on_failure=stop,
            )
        else:
            app = create_app(served, settings, token=token, on_failure=stop)
        server = _server(app, settings)
        with _listening(settings) as listener:
            if settings.host not in LOOPBACK and token is None:
                logger.warning(
                    "warning: listening on %s without a token: whoever reaches this machine can "
                    "use it; give --token",
                    settings.host,
                )
            name = f"[{settings.host}]" if ":" in settings.host else settings.host
            logger.info("http://%s:%d", name, listener.getsockname()[1])
            server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _server(app: FastAPI | Changeover, settings: ServeSettings) -> uvicorn.Server:
    connections = limited_connections(settings)
    config = uvicorn.Config(
        app,
        http=connections,
        ws="none",
        backlog=connections.backlog,
        timeout_keep_alive=settings.idle_seconds,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    for name in ("uvicorn.error", "asyncio"):  # else whoever sends nonsense fills the disk
        logging.getLogger(name).addFilter(LogRate())
    return uvicorn.Server(config)


def _listening(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it each answer on a
    # connection that was kept alive waits 40 ms for an acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        return listener
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); "
            "choose another with --host or --port"
        ) from error
