"""Run the application until it is told to stop."""

from __future__ import annotations

import logging
import socket

import uvicorn

from trialese.errors import RecipeError, TrialeseError
from trialese.settings import ServeSettings
from trialese.web.app import create_app
from trialese.web.guard import LOOPBACK
from trialese.web.served import Served

__all__ = ["serve"]

logger = logging.getLogger(__name__)


def serve(served: Served, settings: ServeSettings, *, token: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Raises:
        RecipeError: the address cannot be listened on.
        ArtifactError: a model cannot be loaded, or the folder of jobs cannot be used.
    """
    failures: list[TrialeseError] = []

    def stop(error: TrialeseError) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(served, settings, token=token, on_failure=stop)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = uvicorn.Server(config)
    with _listening(settings) as listener:
        if settings.host not in LOOPBACK and token is None:
            logger.warning(
                "warning: listening on %s without a token: whoever reaches this machine can use "
                "it; give --token",
                settings.host,
            )
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        logger.info("http://%s:%d", name, listener.getsockname()[1])
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _listening(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); "
            "choose another with --host or --port"
        ) from error
