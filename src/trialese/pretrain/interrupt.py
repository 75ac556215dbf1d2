"""Stopping on SIGINT between steps, so that what was done is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["note_interrupts"]


@contextmanager
def note_interrupts() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT only sets what the yielded function returns; a second one acts as usual."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    earlier = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: FrameType | None) -> None:
        seen.set()
        signal.signal(signal.SIGINT, earlier)

    signal.signal(signal.SIGINT, remember)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, earlier)
