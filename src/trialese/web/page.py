"""The page: its files as they lie in `static/`, and what it needs to know first."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

from trialese import __version__
from trialese.collect.source import ATTRIBUTION
from trialese.settings import CollectSettings, ServeSettings
from trialese.web.labelling import labelling_routes
from trialese.web.models import Served
from trialese.web.schemas import PageFacts, Refusal, SnapshotFacts
from trialese.web.state import Desk, Score
from trialese.web.trials import trials_routes

__all__ = ["page_routes"]

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
_LOOKUP = CollectSettings(source="registry", retries=1, timeout_seconds=10, pause_seconds=0.5)


def page_routes(served: Served, settings: ServeSettings, score: Score) -> APIRouter:
    """The page with everything that only it needs; `score` computes when nobody else waits.

    Raises:
        ArtifactError: the file of answers cannot be used.
    """
    desk = Desk(served, score, registry=_LOOKUP if settings.live else None)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        desk.reader.start()
        yield
        await asyncio.to_thread(desk.close)  # the engine still works: the reader may wait for it

    routes = APIRouter(lifespan=life)
    assets = _assets()
    # A frame cannot send the token, so whoever has it is told a path that nobody can guess.
    report = f"/static/verdict-{secrets.token_urlsafe(24)}.html"

    @routes.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        return _asset("page.html", assets, request)

    @routes.get("/static/{name}", include_in_schema=False)
    def static(name: str, request: Request) -> Response:
        if served.verdict is not None and f"/static/{name}" == report:
            html = (served.verdict / "report.html").read_bytes()
            return Response(html, media_type=_KINDS[".html"], headers=_report_headers())
        return _asset(name, assets, request)

    @routes.get("/v1/page", tags=["page"])
    def facts() -> PageFacts:
        """What is served beside the models."""
        return PageFacts(
            version=__version__,
            ready=served.ready,
            snapshot=_snapshot_facts(desk),
            verdict=report if served.verdict is not None else None,
            labelling=desk.log is not None,
            live=desk.live,
        )

    routes.include_router(trials_routes(desk))
    routes.include_router(labelling_routes(desk))
    return routes


def _snapshot_facts(desk: Desk) -> SnapshotFacts | None:
    if desk.served.snapshot is None:
        return None
    shelf, notes = desk.reader.shelf, desk.served.snapshot.manifest.notes
    trials = int(desk.served.snapshot.manifest.counts["trials"])
    read = {}
    if shelf is not None:
        for name, model in desk.served.models.items():
            read[name] = shelf.read_until(model.scorer.digest) / max(1, shelf.trials)
    return SnapshotFacts(
        trials=trials,
        data_timestamp=notes.get("data_timestamp"),
        synthetic=bool(notes.get("synthetic")),
        attribution=notes.get("attribution") or ATTRIBUTION,
        indexed=shelf is not None,
        read=read,
        failure=desk.reader.failure,
    )


def _assets() -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, kind) of every file of the page; the palette is the report's."""
    found = {"palette.css": (files("trialese.verdict") / "palette.css").read_bytes()}
    for file in (files("trialese.web") / "static").iterdir():
        found[file.name] = file.read_bytes()
    return {
        name: (data, _KINDS["." + name.rpartition(".")[2]])
        for name, data in found.items()
        if "." + name.rpartition(".")[2] in _KINDS
    }


def _asset(name: str, assets: dict[str, tuple[bytes, str]], request: Request) -> Response:
    if name not in assets:
        raise Refusal(404, "no such file")
    data, kind = assets[name]
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)


def _report_headers() -> dict[str, str]:
    return {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}
