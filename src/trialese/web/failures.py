"""What went wrong, as one JSON shape: `{"error": code, "message": line, "details": [...]}`."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from trialese.errors import RecordError

__all__ = ["Refusal", "as_response", "handle_failures"]

logger = logging.getLogger(__name__)

_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    422: "invalid",
    429: "queue_full",
    503: "not_ready",
    504: "timeout",
}


class Refusal(HTTPException):
    """An answer that is no result: its status, a code for programs, a line for people."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        retry_seconds: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if retry_seconds is not None:
            headers = {**(headers or {}), "Retry-After": str(retry_seconds)}
        super().__init__(status, message, headers)
        self.code = code or _CODES.get(status, "refused")


def as_response(error: HTTPException) -> JSONResponse:
    """The refusal as it is sent."""
    code = getattr(error, "code", None) or _CODES.get(error.status_code, "refused")
    return _answer(error.status_code, code, str(error.detail), headers=error.headers)


def handle_failures(app: FastAPI) -> None:
    """Give every failure of `app` the one shape; an unforeseen one tells the client nothing."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            error.headers = {"Allow": _allowed(app, request)}
        return as_response(error)

    @app.exception_handler(RecordError)
    async def misunderstood(_: Request, error: RecordError) -> JSONResponse:
        return _answer(422, "invalid", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # the input itself is left out: it may be large, and no text at all
        details = [
            {"where": ".".join(map(str, each["loc"])), "message": each["msg"]}
            for each in error.errors()
        ]
        first = details[0]
        return _answer(422, "invalid", f"{first['where']}: {first['message']}", details)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return _answer(500, "internal", "this is a bug of the server; its log has the details")


def _allowed(app: FastAPI, request: Request) -> str:
    """All methods of the path; the framework names those of one route only."""
    path = getattr(request.scope.get("route"), "path", "")
    return ", ".join(sorted(method.upper() for method in app.openapi()["paths"].get(path, ())))


def _answer(
    status: int, code: str, message: str, details: Any = (), headers: Any = None
) -> JSONResponse:
    content = {"error": code, "message": message, "details": list(details)}
    return JSONResponse(content, status, headers)
