"""`/healthz`, `/readyz`, `/metrics` and `/version`: for whoever watches the server."""

from __future__ import annotations

from typing import get_args

from fastapi import APIRouter, Response

from trialese import __version__
from trialese.web.engine import Engine
from trialese.web.jobstore import JobState, JobStore
from trialese.web.measures import METRICS_TYPE, Measures
from trialese.web.schemas import Failure, State, Version
from trialese.web.served import Served

__all__ = ["health_routes"]


def health_routes(
    served: Served, engine: Engine, measures: Measures, store: JobStore | None
) -> APIRouter:
    """Routes that tell how the server is."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> State:
        """The process answers."""
        return State(status="ok")

    @routes.get("/readyz", responses={503: {"model": Failure}})
    async def readyz() -> State:
        """Every model is loaded; else 503."""
        served.refuse_unless_ready()
        return State(status="ready")

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            401: {"model": Failure},
        },
    )
    async def metrics() -> Response:
        """Counters in the text format of Prometheus."""
        measures.waiting.set(engine.waiting)
        counts = store.counts() if store is not None else {}
        for state in get_args(JobState):
            measures.jobs.labels(state).set(counts.get(state, 0))
        return Response(measures.as_text(), media_type=METRICS_TYPE)

    @routes.get("/version", responses={401: {"model": Failure}})
    async def version() -> Version:
        """Of trialese."""
        return Version(version=__version__)

    return routes
