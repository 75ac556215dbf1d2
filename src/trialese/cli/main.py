"""The command `trialese`: its verbs, its options, and how it ends.

Arguments in, lines out, no logic: results go to stdout, progress and mistakes to stderr. A
mistake is one line and exit status 1, or 2 where the command itself was wrong.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from trialese import __version__
from trialese.cli import keep, look, make, use
from trialese.cli.terminal import close_stdout, harmless, harmless_output, wants_colour
from trialese.errors import TrialeseError, missing_module

__all__ = ["app", "main", "set_loudness"]

_BEFORE_THE_COMMAND = {"-v", "--verbose", "-q", "--quiet", "--no-color", "--version"}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

app = typer.Typer(
    name="trialese",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keep a language model of clinical-trial text up to date, and score it honestly.",
)
for _verb in (*make.VERBS, *keep.VERBS, *use.VERBS, *look.VERBS):
    app.command()(_verb)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"trialese {__version__}")
        raise typer.Exit


@app.callback()
def set_loudness(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell more, and show a mistake's traceback.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Neither progress nor notes on stderr.")
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colour on a terminal, as NO_COLOR=1 says too.")
    ] = False,
) -> None:
    """Set how much is told on stderr, and how; the options stand before the command."""
    if no_color:
        os.environ["NO_COLOR"] = "1"
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO
    logging.getLogger("trialese").setLevel(level)


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line on stderr and exit status 1 or 2."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        with harmless_output():
            status = _run(sys.argv[1:])
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has enough
        close_stdout()
        sys.exit(1)
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    try:
        if "" in arguments:
            raise typer.BadParameter("an empty argument; is a variable of the shell unset?")
        return app(arguments or ["--help"], prog_name="trialese", standalone_mode=False) or 0
    except (Exception, typer.Abort) as error:
        told = _told(error)
        if told is None:
            raise
        if logging.getLogger("trialese").level == logging.DEBUG:
            sys.excepthook(type(error), error, error.__traceback__)
        message, status = told
        word = "\x1b[31merror:\x1b[0m" if wants_colour(sys.stderr) else "error:"
        print(f"{word} {harmless(' '.join(message.split()))}", file=sys.stderr)
        return status


def _told(error: Exception) -> tuple[str, int] | None:
    """The line and the exit status of what a user can cause and cure; None for a bug."""
    if isinstance(error, TyperException):
        return f"{_usage_message(error)}{_where_help_is(error)}", error.exit_code
    if isinstance(error, typer.Abort):
        return "stopped", 1
    if isinstance(error, TrialeseError):
        return str(error), 1
    if isinstance(error, ModuleNotFoundError) and (told := missing_module(error.name or "")):
        return told, 1
    return _told_of_files(error) if isinstance(error, OSError) else None


def _told_of_files(error: OSError) -> tuple[str, int] | None:
    name = None if error.filename is None else os.fsdecode(error.filename)
    if error.errno in _NO_ROOM:
        place = name or "temporary files (TMPDIR)"
        return f"{place}: cannot write ({error.strerror}); free some space, or name another disk", 1
    if name is None or error.errno == errno.EPIPE:
        return None  # of no file of the user's: a bug
    return f"{name}: {error.strerror}; check path and permissions", 1


def _usage_message(error: TyperException) -> str:
    if isinstance(error, typer.BadParameter) and error.param is None and not error.param_hint:
        return error.message  # not of one option: no "Invalid value" before it
    if getattr(error, "option_name", None) in _BEFORE_THE_COMMAND:
        return f"{error.option_name} stands before the command"  # type: ignore[attr-defined]
    return error.format_message()


def _where_help_is(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (`{context.command_path} --help` tells more)" if context else ""
