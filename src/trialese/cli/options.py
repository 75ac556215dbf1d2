"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec
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


def read_recipe(
    path: Path | None,
    overrides: list[str] | None,
    asked: Mapping[str, object] = MappingProxyType({}),
) -> Recipe:
    """The recipe in the file, or the defaults, with the overrides applied.

    `asked` are the values of a verb's own options by the setting that each stands for; None: not
    given. They come last, and are refused in the same words as anywhere else.
    """
    options = [f"{key}={_as_toml(value)}" for key, value in asked.items() if value is not None]
    whole = [*(overrides or ()), *options]
    if path is None:
        return parse_recipe("", overrides=whole, origin="--set")
    return load_recipe(path, overrides=whole)


def _as_toml(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


@contextmanager
def watch() -> Iterator[Progress]:
    """Progress on stderr; Ctrl-C ends with one line and exit status 130."""
    try:
        with show_progress() as progress:
            yield progress
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped; what was finished stays", file=sys.stderr)
        raise typer.Exit(130) from stop
