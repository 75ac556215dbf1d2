"""The verb that serves finished classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trialese.cli.options import RecipeOption, SetOption, read_recipe, watch
from trialese.errors import RecipeError

__all__ = ["VERBS"]


def serve(
    models: Annotated[list[Path], typer.Argument(help="Classifier folders; the first is default.")],
    snapshot: Annotated[Path | None, typer.Option(help="Trials to look up and search.")] = None,
    verdict: Annotated[Path | None, typer.Option(help="Verdict to show.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE.sqlite", help="Where answers of annotators go.")
    ] = None,
    jobs: Annotated[Path, typer.Option(help="Folder of uploaded files and their labels.")] = Path(
        "runs/serve"
    ),
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one.")] = None,
    token: Annotated[str | None, typer.Option(help="Secret that requests must carry.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the secret, which no process list shows.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask ClinicalTrials.gov for trials not in the snapshot.")
    ] = False,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Classifiers -> a web page and an API, until stopped."""
    try:
        from trialese.web import open_served
        from trialese.web import serve as run
    except ModuleNotFoundError as error:
        raise RecipeError(f"serving needs {error.name}; pip install 'trialese[serve]'") from error
    if token_file is not None:
        token = _read_token(token_file)
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise RecipeError("--token: printable ASCII only, and not empty")
    asked = {"serve.host": host, "serve.port": port, "serve.live": live or None}
    section = read_recipe(recipe, settings, asked).serve
    served = open_served(models, snapshot=snapshot, verdict=verdict, labels=labels, jobs=jobs)
    with watch():
        run(served, section, token=token)


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--token-file {path}: cannot be read ({error})") from error


VERBS = (serve,)
