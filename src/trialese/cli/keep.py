"""The verbs that keep a finished run up to date: `refresh` and `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from trialese.cli.terminal import JsonOption, print_json, watch

__all__ = ["VERBS"]

_Run = Annotated[Path, typer.Argument(help="Folder of a finished run, such as runs/quickstart.")]


def refresh(
    run: _Run,
    force: Annotated[
        bool, typer.Option("--force", help="Adapt the language model whatever the figures say.")
    ] = False,
    never: Annotated[
        bool, typer.Option("--never", help="Leave the language model as it is.")
    ] = False,
    keep: Annotated[
        int | None, typer.Option(min=2, help="Generations kept; else the recipe's, or 6.")
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(metavar="URL", help="POST the summary there: https, or this machine."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Collect what changed since, score it, and put the next generation of a run in use.

    Adapts the language model again if it has become stale, and lets what came of it take over only
    if it is no worse. Ends with 0 if there was nothing to do or a generation was promoted, 3 if a
    challenger was refused, 1 if it failed; then the generation in use stays.
    """
    from trialese.pipeline import refresh as keeping

    if force and never:
        raise typer.BadParameter("--force and --never do not go together")
    if notify is not None:
        keeping.check_webhook(notify)
    recipe = keeping.read_run_recipe(run)
    try:
        with watch() as progress:
            outcome = keeping.refresh(
                run, recipe, force=force, never=never, keep=keep, progress=progress
            )
    except Exception as error:
        if notify is not None:
            keeping.notify(notify, {"run": str(run), "outcome": "failed", "reason": str(error)})
        raise
    told: dict[str, Any] = msgspec.to_builtins(outcome)
    if as_json:
        print_json(told)
    else:
        print(outcome.as_line())
    if notify is not None:
        keeping.notify(notify, told)
    if outcome.status:
        raise typer.Exit(outcome.status)


def rollback(
    run: _Run,
    to: Annotated[
        int | None, typer.Option(help="Number of a generation; else the one before.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put an earlier generation of a run in use again; nothing is removed."""
    from trialese.generations import hold_run, roll_back
    from trialese.pipeline.changes import write_feeds

    with hold_run(run):
        found = roll_back(run, to)
        write_feeds(run)
    timestamp = found.manifest.notes["data_timestamp"]
    if as_json:
        print_json({"run": str(run), "generation": found.number, "data_timestamp": timestamp})
    else:
        print(f"{run}: generation {found.number} is in use, data of {timestamp or 'no date'}")


VERBS = (refresh, rollback)
