"""The command line: arguments in, lines out; no logic. Results to stdout, the rest to stderr."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer

from trialese.cli import look, make, use
from trialese.errors import TrialeseError

__all__ = ["app", "main"]


app = typer.Typer(
    name="trialese",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Keep a language model of clinical-trial text up to date, and score it honestly.",
)
for _verb in (*make.VERBS, *use.VERBS, *look.VERBS):
    app.command()(_verb)


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("trialese").setLevel(logging.INFO)
    try:
        app()
    except TrialeseError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)
