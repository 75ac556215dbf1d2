"""Options that several verbs share, and how progress and results look on a terminal."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, cast

import msgspec
import typer

from trialese.progress import Progress, silent
from trialese.recipe import Recipe, load_recipe, parse_recipe

if TYPE_CHECKING:
    from trialese.pipeline.plan import PlannedStage

__all__ = [
    "MASKED_LM",
    "AllowOverlapOption",
    "AnswersOption",
    "ClassifierArgument",
    "DryRunOption",
    "ForceOption",
    "IdColumnOption",
    "JsonOption",
    "LabelColumnOption",
    "ModelSizeOption",
    "OutOption",
    "PreferOption",
    "RecipeOption",
    "RunArgument",
    "SetOption",
    "SnapshotArgument",
    "TextColumnOption",
    "close_stdout",
    "deaf_to_closed_pipes",
    "folded",
    "hanging",
    "harmless",
    "harmless_output",
    "or_shipped",
    "print_json",
    "print_plan",
    "read_recipe",
    "refuse_options",
    "show_progress",
    "tree_lines",
    "wants_colour",
    "watch",
    "writing",
]


MASKED_LM = (
    "Masked-LM: a folder such as OUT/adapter/model, minilm, mpnet, or owner/name@revision of the "
    "Hugging Face hub."
)
"""Help of every option and argument that takes one."""


def tree_lines(tree: dict[str, Any], indent: str = "  ") -> Iterator[str]:
    """Indented lines for nested counts and notes, within 80 columns where words can be divided.

    Long lists are only counted.
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}"
            yield from tree_lines(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{indent}{key:<28} {len(value)} entries; --json shows them"
        else:
            number = isinstance(value, int) and not isinstance(value, bool)
            text = f"{value:,}" if number else "none" if value in (None, {}) else str(value)
            if isinstance(value, list):
                text = ", ".join(map(str, value))
            yield from hanging(f"{indent}{key:<28} ", text)


def hanging(head: str, text: str) -> list[str]:
    """The text behind its head, within 80 columns where words can be divided."""
    return textwrap.wrap(
        text, 80, initial_indent=head, subsequent_indent=" " * len(head),
        break_long_words=False, break_on_hyphens=False,
    ) or [head.rstrip()]  # fmt: skip


def refuse_options(given: Mapping[str, object], why: str) -> None:
    """Do nothing where none of the options (name -> what was given) was given: none is ignored in
    silence.

    Raises:
        BadParameter: one was; says `why` it means nothing here.
    """
    for option in (name for name, value in given.items() if value):
        raise typer.BadParameter(f"{why}; leave {option} out")


def or_shipped(folder: Path) -> Path:
    """The folder; where there is none of a classifier's name that ships, that classifier's."""
    from trialese.tasks.scorer import find_classifier
    from trialese.tasks.shipped import shipped_sizes

    ships = not folder.exists() and shipped_sizes(str(folder))
    return find_classifier(folder) if ships else folder


def folded(text: str) -> str:
    """The text with its sentences within 80 columns; rows of tables stay as they are."""
    return "\n".join(
        line
        if len(line) <= 80 or "  " in line.strip()
        else textwrap.fill(line, 80, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


_HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """The text with what steers a terminal, or turns its lines round, written as escapes.

    Line feeds and tabs stay. Texts and labels come from registries and strangers.
    """
    return _HARMFUL.sub(lambda found: ascii(found[0])[1:-1], text)


_STYLES = {
    "head": re.compile(r"^(?:stage|system|label|group|quarter|target) .*|^[A-Z][a-z]+:", re.M),
    "option": re.compile(r"(?<![\w-])--?[a-z][\w-]*"),
    "good": re.compile(r"\b(?:passed|whole|better|adapt|done)\b"),
    "bad": re.compile(r"\b(?:FAILED|worse|error|altered|left out)\b"),
    "number": re.compile(r"(?<![\w.-])[-+]?\d[\d,]*(?:\.\d+)?%?(?![\w-])"),
    "interval": re.compile(r"\[[-+]?\d[^\[\]]*\]"),
}
_COLOURS = {
    "head": "bold", "option": "cyan", "good": "green", "bad": "red", "number": "cyan",
    "interval": "dim",
}  # fmt: skip


def wants_colour(stream: TextIO) -> bool:
    """Whether what is written there is for a terminal whose user has not refused colour."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not refused and stream.isatty()


class _HarmlessText:
    """A text stream that writes only what is harmless, in colour on a terminal.

    Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        shown = harmless(text)
        if wants_colour(self._stream) and shown.strip() and not shown.startswith(("{", "[{")):
            _write_coloured(self._stream, shown)
        else:
            self._stream.write(shown)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _write_coloured(stream: TextIO, text: str) -> None:
    """The text with numbers, intervals, headings and verdicts told apart."""
    from rich.console import Console
    from rich.text import Text

    styled = Text(text)
    for name, pattern in _STYLES.items():
        styled.highlight_regex(pattern, _COLOURS[name])
    console = Console(file=stream, soft_wrap=True, highlight=False)
    console.print(styled, end="", soft_wrap=True)


@contextmanager
def harmless_output() -> Iterator[None]:
    """Within it, what is printed holds no control characters and fits the terminal's encoding."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with redirect_stdout(cast(TextIO, _HarmlessText(sys.stdout))):
        yield


@contextmanager
def deaf_to_closed_pipes() -> Iterator[None]:
    """Within, and from then on, it does not matter that nobody reads our stdout any more."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        close_stdout()


def close_stdout() -> None:
    """Let the interpreter's last flush go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    print(msgspec.json.encode(value).decode())


def print_plan(planned: list[PlannedStage], *, as_json: bool) -> None:
    """Print what a command would do and what it would cost."""
    from trialese.pipeline.plan import format_plan

    if as_json:
        print_json(planned)
    else:
        print(format_plan(planned))


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar for each thing counted on a terminal, a line every few seconds elsewhere.

    Both tell the rate and, where the total is known, about how long it still takes.
    """
    if logging.getLogger("trialese").level > logging.INFO:
        yield silent
        return
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    pace_column = TextColumn("{task.fields[pace]}")
    with Bars(*columns, pace_column, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}
        pace = _Pace()

        def draw(what: str, done: int, total: int | None, /) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, pace="")
            bars.update(tasks[what], completed=done, total=total, pace=pace(what, done, total))

        yield draw


def _plain_lines(pause_seconds: float = 5.0) -> Progress:
    last: dict[str, float] = {}
    pace = _Pace()

    def say(what: str, done: int, total: int | None, /) -> None:
        now = time.monotonic()
        told = pace(what, done, total)
        if done == total or now - last.setdefault(what, now) >= pause_seconds:
            last[what] = now
            of = f" of {total:,}" if total else ""
            sys.stderr.write(f"{what}: {done:,}{of}{told and ', '}{told}\n")

    return say


class _Pace:
    """How fast each thing goes since it began: "120/s, 3 min left"; "" too early.

    What counts from the start again, such as the epochs of the next fit, begins anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int | None) -> str:
        now = self._clock()
        if done < self._last.get(what, done + 1):
            self._began[what] = (now, done)
        self._last[what] = done
        since, before = self._began[what]
        if done <= before or now - since < 1:
            return ""
        each = (now - since) / (done - before)
        if each > 60:
            told = f"{_duration(each)} each"
        else:
            told = f"{1 / each:,.0f}/s" if each <= 0.1 else f"{60 / each:,.0f}/min"
        left = ((total or done) - done) * each
        return f"{told}, {_duration(left)} left" if left > 0 else told


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


ClassifierArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CLASSIFIER",
        help="Classifier folder, an exported one, or stop-reasons or sex, which ship.",
    ),
]
SnapshotArgument = Annotated[
    Path, typer.Argument(metavar="SNAPSHOT", help="Folder that `collect` wrote.")
]
RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Folder of a finished run, such as runs/quickstart."),
]
TextColumnOption = Annotated[
    str | None,
    typer.Option(
        "--column", "--text-column", metavar="NAME", help="Column of texts; else by its name."
    ),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option("--label-column", metavar="NAME", help="Column of labels; else by its name."),
]
IdColumnOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column that names the rows; else by its name."),
]
AllowOverlapOption = Annotated[
    bool,
    typer.Option(
        "--allow-overlap", help="Keep test texts that are trained on too; brands the signature."
    ),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE.sqlite", help="Where the answers of annotators are."),
]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", "-r", help="TOML file; without it, the defaults.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting; repeatable."),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace whatever stands at OUT, an input or a stranger's.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only print what there is to do, and about how long.")
]
ModelSizeOption = Annotated[
    Literal["small", "large"] | None,
    typer.Option(
        help="Of a classifier that ships; without it, the large one where torch is installed."
    ),
]
PreferOption = Annotated[
    str | None,
    typer.Option(help="Cut-offs for a use: f1, or a promise: precision=0.9, recall=0.9."),
]
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


@contextmanager
def writing(
    out: Path, kind: str | None, *, inputs: Iterable[Path | None] = (), force: bool = False
) -> Iterator[Progress]:
    """`watch`, after a check that a `kind` of artifact may be written at `out`.

    `kind` None is a folder of several; see `artifacts.refuse_other`.
    """
    from trialese.artifacts import refuse_other, replacing_anything

    with replacing_anything(force):
        refuse_other(out, kind, inputs=[given for given in inputs if given is not None])
        with watch() as progress:
            yield progress
