"""`/healthz`, `/readyz` and `/version`: whether the server lives, and whether it can work."""

from __future__ import annotations

from fastapi import APIRouter

from trialese import __version__
from trialese.web.failures import Refusal
from trialese.web.served import Served

__all__ = ["health_routes"]


def health_routes(served: Served) -> APIRouter:
    """Routes for whoever watches the server."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Every model is loaded; else 503."""
        if not served.ready:
            raise Refusal(503, "the models are still loading; ask again", retry_seconds=2)
        return {"status": "ready"}

    @routes.get("/version")
    async def version() -> dict[str, str]:
        """Of trialese."""
        return {"version": __version__}

    return routes
