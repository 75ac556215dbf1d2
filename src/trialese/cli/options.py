"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from trialese.cli.terminal import show_progress
from trialese.progress import Progress
from trialese.recipe import Recipe, load_recipe, parse_recipe

__all__ = ["JsonOption", "OutOption", "RecipeOption", "SetOption", "read_recipe", "watch"]

RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", "-r", help="TOML file; without it, the defaults.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting; repeatable."),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable lines on stdout.")]


def read_recipe(path: Path | None, overrides: list[str] | None) -> Recipe:
    """The recipe in the file, or the defaults, with the overrides applied."""
    if path is None:
        return parse_recipe("", overrides=overrides or (), origin="--set")
    return load_recipe(path, overrides=overrides or ())


@contextmanager
def watch() -> Iterator[Progress]:
    """Progress on stderr; Ctrl-C ends with one line and exit status 130."""
    try:
        with show_progress() as progress:
            yield progress
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped; what was finished stays", file=sys.stderr)
        raise typer.Exit(130) from stop
