"""Write what is told from the code: the JSON schema of recipes, and the pages in `reference/`.

python docs/reference.py            write them
python docs/reference.py --check    only say which are not as the code has them, and exit 1
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from trialese import recipe, settings
from trialese.recipe import Recipe
from trialese.settings import Section

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "recipes" / "recipe.schema.json"


@cache
def meanings(section: type[Section]) -> dict[str, str]:
    """What stands below each setting of a section, those that it inherits among them."""
    found: dict[str, str] = {}
    for part in reversed(section.__mro__):
        if not (isinstance(part, type) and issubclass(part, Section)):
            continue
        (tree,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(part))).body
        assert isinstance(tree, ast.ClassDef)
        for setting, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(setting, ast.AnnAssign)
                and isinstance(setting.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[setting.target.id] = " ".join(str(below.value.value).split())
    return found


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 7, which every editor knows) of a recipe as TOML has it.

    TOML has no null: "" unsets what may be None.
    """
    (root,), parts = msgspec.json.schema_components([Recipe], ref_template="#/definitions/{name}")
    for name, part in parts.items():
        section = (
            Recipe if name == "Recipe" else getattr(settings, name, None) or getattr(recipe, name)
        )
        told = meanings(section)
        part["description"] = inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0]
        part["description"] = " ".join(part["description"].split())
        if not part.get("required"):
            part.pop("required", None)
        for setting, kind in part["properties"].items():
            part["properties"][setting] = _described(_without_null(kind), told.get(setting))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of trialese",
        **root,
        "definitions": parts,
    }


def _without_null(kind: dict[str, Any]) -> dict[str, Any]:
    choices = kind.get("anyOf", [])
    if {"type": "null"} in choices:
        rest = [choice for choice in choices if choice != {"type": "null"}]
        return {**kind, "anyOf": [*rest, {"const": ""}], "default": kind.get("default") or ""}
    return kind


def _described(kind: dict[str, Any], told: str | None) -> dict[str, Any]:
    if "$ref" in kind:  # beside it draft 7 reads nothing
        kind = {"allOf": [{"$ref": kind["$ref"]}]}
    return {**({"description": told} if told else {}), **kind}


def made() -> Iterator[tuple[Path, str]]:
    """Each file that is made from the code, and what it is to hold."""
    yield SCHEMA, json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def differences() -> list[str]:
    """Names of the files that are not as the code has them."""
    return [
        file.relative_to(ROOT).as_posix()
        for file, text in made()
        if not file.is_file() or file.read_text(encoding="utf-8") != text
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("\n".join(differences()))
    for file, text in made():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
