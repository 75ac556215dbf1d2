"""Write what is told from the code: the JSON schema of recipes, and the pages in `reference/`.

python docs/reference.py            write them
python docs/reference.py --check    only say which are not as the code has them, and exit 1
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import tempfile
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
PAGES = ROOT / "docs" / "reference"
_NOTE = "\n<!-- made from the code by docs/reference.py -->\n"


@cache
def meanings(section: type[msgspec.Struct]) -> dict[str, str]:
    """What stands below each field of a section or record, those that it inherits among them."""
    found: dict[str, str] = {}
    for part in reversed(section.__mro__):
        if (
            not (isinstance(part, type) and issubclass(part, msgspec.Struct))
            or part is msgspec.Struct
        ):
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


def _words(kind: dict[str, Any]) -> str:
    """What may stand for a setting, in words."""
    if "anyOf" in kind:
        rest = [choice for choice in kind["anyOf"] if choice != {"type": "null"}]
        return f'{" or ".join(map(_words, rest))}, or ""'
    if "enum" in kind:
        return ", ".join(f"`{word}`" for word in kind["enum"])
    if "pattern" in kind:
        return "date, YYYY-MM-DD"
    limits = [
        f"{sign} {kind[name]:g}"
        for name, sign in (
            ("minimum", "≥"), ("exclusiveMinimum", ">"),
            ("maximum", "≤"), ("exclusiveMaximum", "<"),
        )
        if name in kind
    ]  # fmt: skip
    if kind.get("type") == "array":
        return f"list: {_words(kind['items'])}" if kind.get("items") else "list"
    return " ".join([_NAMED.get(kind.get("type", ""), "section"), *limits])


_NAMED = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true, false",
    "object": "table",
}  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _kinds() -> dict[str, dict[str, Any]]:
    return msgspec.json.schema_components([Recipe], ref_template="{name}")[1]


def settings_page() -> str:
    """Every setting of a recipe: section by section, with unit, limits, default and meaning."""
    lines = [
        "# Settings\n",
        "A recipe is a TOML file that states only what differs from these defaults;",
        "`--set pretrain.lora.rank=8` overrides one for a command. Units stand in the names:",
        "`_seconds`, `_bytes`, `_tokens`; shares and ratios are between 0 and 1.",
        '`""` unsets what may be left open. With the line `#:schema` that `trialese init` writes,',
        "an editor completes and checks them.\n",
    ]
    kinds = _kinds()

    def section(kind: str, held: Any, trail: str) -> None:
        struct = type(held)
        told = meanings(struct)
        lines.append(f"## {trail or 'At the top'}\n")
        lines.append(inspect.cleandoc(struct.__doc__ or "") + "\n")
        rows, below = [], []
        for field in msgspec.structs.fields(struct):
            value = getattr(held, field.name)
            if isinstance(value, Section):
                below.append((type(value).__name__, value, f"{trail}.{field.name}".lstrip(".")))
                continue
            shown = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
            if shown == "null":
                shown = "unset"
            name, words = field.name, _words(kinds[kind]["properties"][field.name])
            rows.append(
                f"| `{name}` | {_cell(words)} | `{_cell(shown)}` | {_cell(told.get(name, ''))} |"
            )
        if rows:
            lines.extend(
                ["| setting | value | default | meaning |", "|---|---|---|---|", *rows, ""]
            )
        for each in below:
            section(*each)

    section("Recipe", Recipe(), "")
    declared = settings.DeclaredTaskSettings(name="NAME", kind="multilabel", labels=())
    section("DeclaredTaskSettings", declared, "tasks.declared")
    silver = settings.SilverSettings(table="FILE")
    section("SilverSettings", silver, "silver")
    page = "\n".join(lines)
    return page.replace("## tasks.declared\n", "## tasks.declared (`[[tasks.declared]]`)\n")


def commands_page() -> str:
    """Every command: what it takes, and each option."""
    import typer.main

    from trialese.cli.main import app

    group: Any = typer.main.get_command(app)
    lines = [
        "# Commands\n",
        "Results go to stdout, progress and mistakes to stderr. A mistake is one line and exit",
        "status 1, or 2 where the command itself was wrong. Before the command stand `-q` (no",
        "progress), `-v` (more) and `--version`.\n",
    ]
    for name, command in sorted(group.commands.items()):
        lines.append(f"## {name}\n")
        lines.append(inspect.cleandoc(command.help or "") + "\n")
        takes = [each for each in command.params if each.param_type_name == "argument"]
        usage = " ".join(map(_argument, takes))
        lines.append(f"```text\ntrialese {name} {usage} [OPTIONS]".rstrip() + "\n```\n")
        rows = [
            f"| `{each.name.upper()}` | {_cell(getattr(each, 'help', '') or '')} |"
            for each in takes
        ]
        for option in command.params:
            if option.param_type_name == "option" and option.name != "help":
                words = ", ".join(f"`{each}`" for each in option.opts)
                rows.append(f"| {words} | {_cell(option.help or '')} |")
        lines.extend(["| given | meaning |", "|---|---|", *rows, ""])
    return "\n".join(lines)


def _argument(each: Any) -> str:
    name = each.metavar or each.name.upper() + ("..." if each.nargs == -1 else "")
    return name if each.required else f"[{name}]"


def python_page() -> str:
    """Every public name: its signature and what it says of itself."""
    import trialese

    lines = [
        "# Python\n",
        "`import trialese` offers these names, and loads what each needs on first use. What is",
        "wrong with an input is a `TrialeseError`, whose message names culprit and cure.\n",
    ]
    for name in sorted(trialese.__all__, key=str.lower):
        if name == "__version__":
            continue
        held = getattr(trialese, name)
        lines.append(f"## {name}\n")
        if inspect.isclass(held) and not issubclass(held, Exception):
            lines.append(_told(held))
            for method, function in vars(held).items():
                called = getattr(function, "__func__", function)
                if not method.startswith("_") and inspect.isfunction(called):
                    lines.append(f"### {name}.{method}\n")
                    lines.append(f"```text\n{_signature(f'{name}.{method}', called)}\n```\n")
                    lines.append(_told(called))
        elif inspect.isclass(held):
            lines.append(_told(held))
        else:
            lines.append(f"```text\n{_signature(name, held)}\n```\n")
            lines.append(_told(held))
    return "\n".join(lines)


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    # a function's own name, not where it lies in memory today
    signature = signature.replace(
        parameters=[
            each.replace(default=_Named(each.default.__name__))
            if inspect.isfunction(each.default)
            else each
            for each in signature.parameters.values()
        ]
    )
    line = f"{name}{signature}".replace("'", "")
    if len(line) <= 96:
        return line
    inside = ",\n    ".join(_parameters(signature))
    back = signature.return_annotation
    told = "" if back is inspect.Signature.empty else f" -> {back}"
    return f"{name}(\n    {inside},\n){told}".replace("'", "")


class _Named(str):
    """A default that is shown by its name."""

    __slots__ = ()
    __repr__ = str.__str__


def _parameters(signature: inspect.Signature) -> Iterator[str]:
    starred = False
    for each in signature.parameters.values():
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield str(each)


def _told(held: Any) -> str:
    """The docstring as Markdown: what is raised becomes a list."""
    text, _, raised = inspect.cleandoc(held.__doc__ or "").partition("\nRaises:\n")
    if not raised:
        return text + "\n"
    rows: list[str] = []
    for line in inspect.cleandoc(raised).splitlines():
        rows = (
            [*rows, line]
            if not line.startswith(" ")
            else [*rows[:-1], f"{rows[-1]} {line.strip()}"]
        )
    listed = "\n".join(f"- {row}" for row in rows if row)
    return f"{text.rstrip()}\n\nRaises:\n\n{listed}\n"


def http_page() -> str:
    """Every route of `trialese serve`, from the document that it serves itself."""
    from trialese.settings import ServeSettings
    from trialese.tasks.shipped import shipped_folder
    from trialese.web.app import create_app
    from trialese.web.models import open_served

    with tempfile.TemporaryDirectory() as folder:
        served = open_served([shipped_folder("stop-reasons", "small")], jobs=Path(folder))
        document = create_app(served, ServeSettings()).openapi()
    lines = [
        "# HTTP\n",
        "Routes of `trialese serve`. The server tells them itself, with examples, at `/docs` and",
        "in `/openapi.json`; limits stand in [serving](../serve.md).\n",
        "| route | what |",
        "|---|---|",
    ]
    for path, methods in sorted(document["paths"].items()):
        for method, told in methods.items():
            what = " ".join((told.get("description") or told.get("summary", "")).split())
            lines.append(f"| `{method.upper()} {path}` | {_cell(what)} |")
    return "\n".join(lines) + "\n"


def files_page() -> str:
    """What stands on disk: the manifest of every artifact, and the columns of the tables."""
    from trialese import predictions, records
    from trialese.collect.merge import ROW_COLUMNS
    from trialese.corpus import store

    def rows(names: Any, told: dict[str, str]) -> list[str]:
        table = [
            f"| `{name}` | {_cell(kind)} | {_cell(told.get(name, ''))} |" for name, kind in names
        ]
        return ["| | type | meaning |", "|---|---|---|", *table, ""]

    manifest = [(f.name, _kind_name(f.type)) for f in msgspec.structs.fields(records.Manifest)]
    trial = [(field.name, str(field.type)) for field in ROW_COLUMNS]
    documents = [(field.name, str(field.type)) for field in store._SCHEMA]
    lines = [
        "# Files\n",
        "An artifact is a folder with `manifest.json`, which is written last: where it stands, the",
        "folder is whole. Weights are safetensors or plain arrays, never pickles.\n",
        "## manifest.json\n",
        *rows(manifest, meanings(records.Manifest)),
        "## A snapshot: trials.parquet\n",
        "One row a study, sorted by NCT number. "
        + inspect.cleandoc(records.Trial.__doc__ or "").partition("\n\n")[2]
        + "\n",
        *rows(trial, meanings(records.Trial)),
        "`rejects.jsonl` holds what could not become a trial, a JSON object a line, with why.\n",
        "## A corpus: documents.parquet\n",
        *rows(
            documents,
            {"split": "train, tune or test", "era": "old or new", "cluster": "of near-copies"},
        ),
        "`drops.parquet` has `nct_id`, `reason`; `boilerplate.parquet` has `documents`, `text`.\n",
        "## A classifier: predictions.parquet\n",
        inspect.cleandoc(predictions.__doc__ or "").partition("\n\n")[2] + "\n",
    ]
    return "\n".join(lines)


def _kind_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def made() -> Iterator[tuple[Path, str]]:
    """Each file that is made from the code, and what it is to hold."""
    yield SCHEMA, json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"
    for name, page in (
        ("settings", settings_page), ("commands", commands_page), ("python", python_page),
        ("http", http_page), ("files", files_page),
    ):  # fmt: skip
        heading, _, rest = page().partition("\n")
        yield PAGES / f"{name}.md", f"{heading}\n{_NOTE}{rest.rstrip()}\n"


def differences() -> list[str]:
    """Names of the files that are not as the code has them."""
    return [
        file.relative_to(ROOT).as_posix()
        for file, text in made()
        if not file.is_file() or file.read_text(encoding="utf-8") != text
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("\n".join(differences()) or 0)  # an empty text would be status 1
    for file, text in made():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
