"""Run the application until it is told to stop."""

from __future__ import annotations

import logging

import uvicorn

from trialese.errors import TrialeseError
from trialese.settings import ServeSettings
from trialese.web.app import create_app
from trialese.web.guard import LOOPBACK
from trialese.web.served import Served

__all__ = ["serve"]

logger = logging.getLogger(__name__)


def serve(served: Served, settings: ServeSettings, *, token: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Raises:
        ArtifactError: a model cannot be loaded.
    """
    if settings.host not in LOOPBACK and token is None:
        logger.warning(
            "listening on %s without a token: whoever reaches this machine can use it; "
            "give --token",
            settings.host,
        )
    failures: list[TrialeseError] = []

    def stop(error: TrialeseError) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(served, settings, token=token, on_failure=stop)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = uvicorn.Server(config)
    logger.info("http://%s:%d", settings.host, settings.port)
    server.run()
    if failures:
        raise failures[0]
