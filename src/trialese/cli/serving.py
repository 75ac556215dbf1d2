"""The verb that serves finished classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from trialese.cli.options import RecipeOption, SetOption, read_recipe
from trialese.errors import RecipeError

__all__ = ["VERBS"]


def serve(
    models: Annotated[list[Path], typer.Argument(help="Classifier folders; the first is default.")],
    snapshot: Annotated[Path | None, typer.Option(help="Trials to look up and search.")] = None,
    verdict: Annotated[Path | None, typer.Option(help="Verdict to show.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE.sqlite", help="Where answers of annotators go.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one.")] = None,
    token: Annotated[str | None, typer.Option(help="Secret that requests must carry.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Classifiers -> a web page and an API, until stopped."""
    try:
        from trialese.web import open_served
        from trialese.web import serve as run
    except ModuleNotFoundError as error:
        raise RecipeError(f"serving needs {error.name}; pip install 'trialese[serve]'") from error
    asked = {"host": host, "port": port}
    section = msgspec.structs.replace(
        read_recipe(recipe, settings).serve,
        **{name: value for name, value in asked.items() if value is not None},
    )
    served = open_served(models, snapshot=snapshot, verdict=verdict, labels=labels)
    run(served, section, token=token)


VERBS = (serve,)
