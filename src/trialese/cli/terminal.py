"""How progress and manifests look: bars on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trialese.progress import Progress

__all__ = ["show_progress", "tree_lines"]


def tree_lines(tree: dict[str, Any], indent: str = "  ") -> Iterator[str]:
    """Indented lines for nested counts and notes; long lists are only counted."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{key}"
            yield from tree_lines(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{indent}{key:<28} {len(value)} entries; --json shows them"
        else:
            number = isinstance(value, int) and not isinstance(value, bool)
            text = f"{value:,}" if number else str(value)
            yield f"{indent}{key:<28} {text}"


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar for each thing counted on a terminal, a line every few seconds elsewhere."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bars:
        tasks: dict[str, Any] = {}

        def draw(what: str, done: int, total: int | None, /) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield draw


def _plain_lines(pause_seconds: float = 5.0) -> Progress:
    last: dict[str, float] = {}

    def say(what: str, done: int, total: int | None, /) -> None:
        now = time.monotonic()
        if done == total or now - last.setdefault(what, now) >= pause_seconds:
            last[what] = now
            sys.stderr.write(f"{what}: {done:,}{f' of {total:,}' if total else ''}\n")

    return say
