"""Work for a client that waits: given up when its time is over or the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from trialese.web.failures import Refusal

__all__ = ["answer_in_time"]

T = TypeVar("T")


async def answer_in_time(request: Request, work: Coroutine[Any, Any, T], *, seconds: float) -> T:
    """What `work` returns, which is cancelled once nobody waits for it any more.

    The body of the request must have been read: what comes next can only be its end.

    Raises:
        Refusal: 504 after `seconds`; 499 if the client is gone, which only the log will see.
    """
    working = asyncio.ensure_future(work)
    going = asyncio.ensure_future(_gone(request))
    try:
        done, _ = await asyncio.wait(
            {working, going}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working in done:
            return working.result()
        if going in done:
            raise Refusal(499, "the client has gone", code="client_gone")
        raise Refusal(504, f"not done after {seconds:g} s; ask for less, or later")
    finally:
        working.cancel()
        going.cancel()
        await asyncio.wait({working, going})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
