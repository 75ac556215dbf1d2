"""Rewrite the file tree in `architecture.md`: one line a module, the first of its docstring.

python docs/tree.py            rewrite it
python docs/tree.py --check    only say which lines differ, and exit 1 if any does
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "src" / "trialese"
BEGIN, END = "<!-- tree: python docs/tree.py -->\n", "<!-- end of tree -->\n"
ROOMS = ("collect", "corpus", "pretrain", "tasks", "verdict", "web", "pipeline", "cli")


def first_line(module: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".")


def tree_lines() -> Iterator[str]:
    """The tree, core first and then room by room in the order in which data flows."""
    yield "```\nsrc/trialese/\n"
    for module in sorted(PACKAGE.glob("*.py")):
        yield f"  {module.name:<20} {first_line(module)}\n"
    for room in ROOMS:
        yield f"  {room + '/':<20} {first_line(PACKAGE / room / '__init__.py')}\n"
        for module in sorted((PACKAGE / room).glob("*.py")):
            if module.name != "__init__.py":
                yield f"    {module.name:<20} {first_line(module)}\n"
    yield "```\n"


def differences() -> list[str]:
    """Lines of the page's tree that are not as the package has them; [] when it is true."""
    page = PAGE.read_text(encoding="utf-8")
    told = page.partition(BEGIN)[2].partition(END)[0]
    diff = difflib.unified_diff(
        told.splitlines(), "".join(tree_lines()).splitlines(), "told", "package", n=0, lineterm=""
    )
    return list(diff)


def rewrite() -> None:
    """Put the package's tree between the markers."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "".join(tree_lines()) + END + after, encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("\n".join(differences()) or 0)  # an empty text would be status 1
    rewrite()
