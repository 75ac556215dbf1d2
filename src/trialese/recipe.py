"""The recipe: one typed tree of settings, its strict TOML loader, and `--set`.

A TOML file states only what differs from the defaults in `settings.py`. There is no
inheritance between files, no interpolation and no environment variable.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from trialese.errors import RecipeError, suggest
from trialese.settings import (
    CollectSettings,
    CorpusSettings,
    Count,
    OpenShare,
    PanelSettings,
    PretrainSettings,
    Section,
    ServeSettings,
    Share,
    TasksSettings,
    VerdictSettings,
)

__all__ = [
    "Recipe",
    "RefreshSettings",
    "load_recipe",
    "parse_recipe",
    "schema_file",
    "shipped_recipes",
]


class RefreshSettings(Section, frozen=True, kw_only=True):
    """Keeping a finished run up to date; see docs/refresh.md."""

    keep: Annotated[int, msgspec.Meta(ge=2)] = 6
    """Generations kept on disk; more only where one in use is older."""
    overlap_days: Annotated[int, msgspec.Meta(ge=0)] = 14
    """Updates are asked for from so many days before the last data on: some appear late."""
    listing_days: Count = 28
    """So often every number of a large collection is listed, whatever the counts say."""
    least_new_trials: Count = 200
    """Posted since the language model's training; with fewer, adapting again is not considered."""
    again_share: Share = 0.25
    """After a challenger was refused, so many more new trials must come before the next one."""
    staleness_sample: Count = 40
    """Trials read of each quarter when staleness is measured."""
    margin: OpenShare = 0.02
    """The challenger's primary figure may be lower than the champion's by less than this."""


class Recipe(Section, frozen=True, kw_only=True):
    """Everything that a run is made from."""

    name: str = "run"
    folder: str = "runs"
    """Artifacts go to `folder`/`name`/."""
    collect: CollectSettings = CollectSettings()
    corpus: CorpusSettings = CorpusSettings()
    pretrain: PretrainSettings = PretrainSettings()
    tasks: TasksSettings = TasksSettings()
    panel: PanelSettings = PanelSettings()
    verdict: VerdictSettings = VerdictSettings()
    serve: ServeSettings = ServeSettings()
    refresh: RefreshSettings = RefreshSettings()


def shipped_recipes() -> dict[str, Path]:
    """The ready recipes by name, such as "quickstart": those in the package, or in a checkout."""
    return {file.stem: file for folder in _FOLDERS for file in sorted(folder.glob("*.toml"))}


def schema_file() -> Path:
    """The JSON schema of recipes, which editors of TOML complete and check settings with.

    A recipe names it in a comment, `#:schema` and a path or URL; `docs/reference.py` makes it.
    """
    return next(f for folder in _FOLDERS if (f := folder / "recipe.schema.json").is_file())


_FOLDERS = (Path(__file__).parent / "recipes", Path(__file__).parents[2] / "recipes")


def load_recipe(path: Path | str, *, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, with `overrides` such as "pretrain.lora.rank=16" applied.

    Where no file stands, the name of a ready recipe, such as "quickstart", means that.

    Raises:
        RecipeError: no such file, no TOML, an unknown key, or a value of the wrong type; names
            the key and, where one is near, the right one.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        shipped = shipped_recipes()
        if str(path) in shipped:
            return load_recipe(shipped[str(path)], overrides=overrides)
        cure = suggest(str(path), shipped)
        raise RecipeError(f"{path}: no such recipe; recipes/ holds ready ones; {cure}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot read as UTF-8 text ({error})") from error
    return parse_recipe(text, overrides=overrides, origin=str(path))


def parse_recipe(text: str, *, overrides: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """The recipe in TOML text; see `load_recipe`."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin}: not valid TOML ({error})") from error
    for override in overrides:
        _apply(tree, override)
    resolved = _lay_over(Recipe(), tree, origin)
    try:
        recipe = msgspec.convert(resolved, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{origin}: {_plain(error)}") from error
    if "source" in tree.get("collect", {}) or not _is_labelled(recipe.tasks):
        return recipe
    collect = msgspec.structs.replace(recipe.collect, source="none")
    return msgspec.structs.replace(recipe, collect=collect)


def _is_labelled(tasks: TasksSettings) -> bool:
    """Whether a task that is to be run takes its labels from a file."""
    declared = {section.name: section for section in tasks.declared}
    sections = (
        declared.get(name, getattr(tasks, name.replace("-", "_"), None)) for name in tasks.names
    )
    return any(getattr(section, "labelled", None) for section in sections)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"--set {override}: write key=value, such as pretrain.lora.rank=16")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    below: Any = tree
    for number, part in enumerate(parts[:-1]):
        if isinstance(below, dict):
            below = below.setdefault(part, {})
        elif isinstance(below, list):
            below = below[_position(below, part, override)]
        else:
            raise RecipeError(f"--set {override}: {parts[number - 1]} is a value, not a section")
    if isinstance(below, list):
        below[_position(below, parts[-1], override)] = parsed
    elif isinstance(below, dict):
        below[parts[-1]] = parsed
    else:
        raise RecipeError(f"--set {override}: {parts[-2]} is a value, not a section")


def _position(entries: list[Any], part: str, override: str) -> int:
    """Which entry of a list is meant, counted from 0."""
    if part.isascii() and part.isdigit() and int(part) < len(entries):
        return int(part)
    raise RecipeError(
        f"--set {override}: the recipe lists {len(entries)} there; {part!r} is none of "
        f"0 to {len(entries) - 1}"
    )


def _lay_over(
    section: Section, tree: Mapping[str, Any], origin: str, trail: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The section's own values with those of `tree` over them, key by key.

    TOML has no null, so "" unsets what may be None; it has dates, which stand here as text.
    """
    merged: dict[str, Any] = msgspec.to_builtins(section)
    known = {field.name: field.type for field in msgspec.structs.fields(section)}
    for key, value in tree.items():
        dotted = ".".join((*trail, key))
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            cure = f"did you mean {'.'.join((*trail, near[0]))}?" if near else _choices(known)
            raise RecipeError(f"{origin}: unknown key {dotted}; {cure}")
        below = getattr(section, key)
        if isinstance(below, Section):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{origin}: {dotted} is a section; write [{dotted}]")
            merged[key] = _lay_over(below, value, origin, (*trail, key))
        elif value == "" and type(None) in get_args(known[key]):
            merged[key] = None
        else:
            merged[key] = value.isoformat() if isinstance(value, date) else value
    return merged


def _choices(known: Mapping[str, Any]) -> str:
    return f"known here: {', '.join(sorted(known))}"


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's message with its path `$.a.b` as the recipe's own dotted key."""
    message, _, where = str(error).partition(" - at `$.")
    where = where.rstrip("`")
    if "matching regex" in message:  # only dates have a pattern
        message = "write a date as YYYY-MM-DD"
    named = re.fullmatch(r"(?:Invalid enum|.* unknown field).* [`'](.*)[`']", message)
    if named is not None:
        message += f"; {suggest(named[1], _known_at(where))}"
    where = re.sub(r"\[(\d+|\.\.\.)\]", r".\1", where)
    return f"{where}: {message}" if where else message


def _known_at(where: str) -> list[str]:
    """The words that a setting may have, or the names of a section's settings."""
    kind: Any = Recipe
    for part in re.findall(r"\w+|\[.*?\]", where):
        if part.startswith("["):
            kind = get_args(kind)[0]
        else:
            kind = next(iter(_structs(kind)), kind)
            kind = {field.name: field.type for field in msgspec.structs.fields(kind)}[part]
    if structs := _structs(kind):
        return [field.name for field in msgspec.structs.fields(structs[0])]
    return _words(kind)


def _structs(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    inner = get_args(kind) if get_origin(kind) is not tuple else ()
    return [struct for each in inner for struct in _structs(each)]


def _words(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    return [word for each in get_args(kind) for word in _words(each)]
