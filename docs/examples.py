"""Run the examples of the README and put what they print below them.

python docs/examples.py    run them on inputs made up here, and rewrite README.md

`...` stands for any output: a line of it for any number of lines. An example that is nothing else
takes minutes; the tests alone run it, with a toy in the language model's place.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"^```(console|pycon)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROMPTS = {"console": "$ ", "pycon": ">>> "}


class Example(NamedTuple):
    """A command or a statement, and the lines that stand below it."""

    source: str
    expected: list[str]


class Block(NamedTuple):
    """A block of examples that follow one another."""

    kind: str
    examples: list[Example]
    start: int
    end: int


def blocks(text: str) -> Iterator[Block]:
    """The blocks of shell and Python in a page, in their order."""
    for found in _BLOCK.finditer(text):
        kind, body = found[1], found[2]
        examples: list[Example] = []
        for line in body.splitlines():
            if line.startswith(_PROMPTS[kind]):
                examples.append(Example(line.removeprefix(_PROMPTS[kind]), []))
            else:
                examples[-1].expected.append(line)
        yield Block(kind, examples, found.start(2), found.end(2))


def call(arguments: list[str]) -> tuple[int, str]:
    """(exit status, stdout) of the command line called here, as after the base install."""
    from trialese.cli.main import main

    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["trialese", *arguments]),
        mock.patch("trialese.tasks.shipped._lacking", return_value="torch"),
        contextlib.redirect_stdout(out),
    ):
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue()
    raise AssertionError("the command line always exits")


def evaluate(statement: str, names: dict[str, Any]) -> str:
    """What an interactive Python prints for the statement."""
    out = io.StringIO()
    with (
        mock.patch("trialese.tasks.shipped._lacking", return_value="torch"),
        contextlib.redirect_stdout(out),
    ):
        exec(compile(statement, "README.md", "single"), names)
    return out.getvalue()


def make_inputs(folder: Path) -> None:
    """The tables that the examples read."""
    reasons = ("Slow accrual", "Lack of funding", "Sponsor decision", "COVID-19 pandemic")
    lines = ["nct_id,why_stopped", *(f"NCT0000000{n},{text}" for n, text in enumerate(reasons))]
    (folder / "reasons.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = ["text,label"]
    for number in range(30):
        rows.append(f"too few people came to site {number},slow")
        rows.append(f"no money was left in year {number},money")
        rows.append(f"the drug did harm to patient {number},harm")
    (folder / "my-table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def matches(expected: list[str], printed: str) -> bool:
    """Whether the lines are those printed."""
    pattern = "\n".join(re.escape(line.rstrip()).replace(r"\.\.\.", ".*") for line in expected)
    lines = "\n".join(line.rstrip() for line in printed.splitlines())
    return re.fullmatch(pattern, lines, re.DOTALL) is not None


def rewritten(text: str, run: Callable[[str, str], str]) -> str:
    """The page with what `run(kind, source)` printed below each example."""
    page, done = "", 0
    for block in blocks(text):
        page += text[done : block.start]
        for example in block.examples:
            page += f"{_PROMPTS[block.kind]}{example.source}\n"
            shown = example.expected
            if example.expected != ["..."] and is_run(block.kind, example.source):
                printed = run(block.kind, example.source)
                shown = shown if matches(shown, printed) else printed.splitlines()
            page += "".join(f"{line.rstrip()}\n" for line in shown)
        done = block.end
    return page + text[done:]


def is_run(kind: str, source: str) -> bool:
    """Whether it is ours to run; installing is not."""
    return kind == "pycon" or source.startswith("trialese ")


if __name__ == "__main__":
    from trialese.tasks import shipped

    names: dict[str, Any] = {}

    def run(kind: str, source: str) -> str:
        if kind == "pycon":
            return evaluate(source, names)
        status, printed = call(shlex.split(source)[1:])
        if status:
            sys.exit(f"{source}: exit status {status}")
        return printed

    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        os.chdir(folder)
        # what the base install prints, which runs the small classifiers
        shipped._lacking = lambda: "torch"
        page = rewritten(README.read_text(encoding="utf-8"), run)
    README.write_text(page, encoding="utf-8")
