"""The verbs that keep a finished run up to date: `refresh` and `rollback`."""

from __future__ import annotations

import logging
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import msgspec
import typer

from trialese.cli.terminal import (
    AnswersOption,
    JsonOption,
    RunArgument,
    deaf_to_closed_pipes,
    print_json,
    watch,
)
from trialese.errors import ArtifactError

__all__ = ["VERBS"]

logger = logging.getLogger(__name__)


def refresh(
    run: RunArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Adapt the language model whatever the figures say.")
    ] = False,
    never: Annotated[
        bool, typer.Option("--never", help="Leave the language model as it is.")
    ] = False,
    keep: Annotated[
        int | None, typer.Option(min=2, help="Generations kept; else the recipe's, or 6.")
    ] = None,
    labels: AnswersOption = None,
    launcher: Annotated[
        str,
        typer.Option(
            help="What starts the training, such as 'torchrun --nproc-per-node 2' or 'srun python'."
        ),
    ] = "",
    notify: Annotated[
        str | None,
        typer.Option(metavar="URL", help="POST the summary there: https, or this machine."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Collect what changed since, and make the next generation.

    Scores what changed and puts the generation in use. Adapts the language model again if it has
    become stale, and lets what came of it take over only if it is no worse. Ends with 0 if there
    was nothing to do or a generation was promoted, 3 if a challenger was refused, 1 if it failed;
    then the generation in use stays.
    """
    from trialese.pipeline import refresh as keeping

    if force and never:
        raise typer.BadParameter("--force and --never do not go together")
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise typer.BadParameter(f"--launcher {launcher}: {error}") from error
    if launcher and not words:
        raise typer.BadParameter("--launcher: names no command")
    if notify is not None:
        keeping.check_webhook(notify)
    try:
        recipe = keeping.read_run_recipe(run)
        with (
            _heeding_sigterm(),
            watch() as progress,
            _answers(labels, recipe.tasks.names) as answers,
        ):
            outcome = keeping.refresh(
                run,
                recipe,
                force=force,
                never=never,
                keep=keep,
                answers=answers,
                launcher=launcher,
                progress=progress,
            )
    except Exception as error:
        reason = "stopped" if isinstance(error, typer.Exit) else str(error)
        failed = {"run": str(run), "outcome": "failed", "reason": reason}
        with suppress(OSError):  # of a full disk too somebody is to hear
            if (run / "recipe.json").is_file():
                keeping.log_outcome(run, failed)
        _tell(failed, "", notify, as_json=as_json)
        raise
    if labels is not None and outcome.decision not in {"promoted", "refused"}:
        logger.info("%s: the answers wait for the next challenger; none was made", labels)
    told: dict[str, Any] = msgspec.to_builtins(outcome)
    _tell(told, outcome.as_line(), notify, as_json=as_json)
    if outcome.status:
        raise typer.Exit(outcome.status)


def _tell(told: Mapping[str, Any], line: str, hook: str | None, *, as_json: bool) -> None:
    """Tell the webhook, then whoever reads stdout; what was done is done if nobody does."""
    from trialese.pipeline.refresh import notify

    if hook is not None:
        notify(hook, told)
    with deaf_to_closed_pipes():
        if as_json:
            print_json(told)
        elif line:
            print(line)


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """Within, SIGTERM ends as Ctrl-C does, so that log and webhook hear of it; with status 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except typer.Exit as stopped:
        raise (typer.Exit(128 + signal.SIGTERM) if ended else stopped) from None
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def _answers(labels: Path | None, tasks: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Task -> table of the answers that nobody contradicts, while the block lasts."""
    if labels is None:
        yield {}
        return
    from trialese.web.annotations import AnswerLog, as_tsv

    if not labels.is_file():
        raise ArtifactError(f"{labels}: no such file of answers; leave --labels out")
    log = AnswerLog(labels)
    try:
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for task in tasks:
                table, rows, disputed = as_tsv(log.standing(task), None, log.decisions(task))
                if disputed:
                    logger.warning(
                        "%s: left out of the answers for %s as long as annotators disagree and "
                        "nobody decides: %d", labels, task, disputed,
                    )  # fmt: skip
                if rows:
                    found[task] = Path(folder) / f"{task}.tsv"
                    found[task].write_text(table, encoding="utf-8")
            yield found
    finally:
        log.close()


def rollback(
    run: RunArgument,
    to: Annotated[
        int | None, typer.Option(help="Number of a generation; else the one before.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put an earlier generation of a run in use again.

    Nothing is removed.
    """
    from trialese.generations import hold_run, roll_back
    from trialese.pipeline.changes import write_feeds

    with hold_run(run):
        found = roll_back(run, to)
        write_feeds(run)
    timestamp = found.manifest.notes["data_timestamp"]
    if as_json:
        print_json({"run": str(run), "generation": found.number, "data_timestamp": timestamp})
    else:
        dated = f", data of {timestamp}" if timestamp else ""
        print(f"{run}: generation {found.number} is in use{dated}")


VERBS = (refresh, rollback)
