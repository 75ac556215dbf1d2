"""What is made from the code is current, and editors' schema says what the loader says."""

import json
import tomllib
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from tests.conftest import load_script
from trialese.errors import RecipeError
from trialese.recipe import Recipe, parse_recipe, schema_file, shipped_recipes
from trialese.tasks.draft import draft_recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return load_script("docs/reference.py")


def test_what_is_made_from_the_code_is_current(reference: ModuleType) -> None:
    assert reference.differences() == [], "run `python docs/reference.py`"


def test_a_setting_that_changed_is_found(reference: ModuleType, monkeypatch, tmp_path) -> None:
    stale = tmp_path / "recipe.schema.json"
    stale.write_text(reference.SCHEMA.read_text("utf-8").replace('"rank"', '"rang"'), "utf-8")
    (now,) = [text for file, text in reference.made() if file == reference.SCHEMA]
    monkeypatch.setattr(reference, "made", lambda: [(stale, now)])
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    assert reference.differences() == ["recipe.schema.json"]


def faults(text: str) -> list[str]:
    """What the schema finds in a recipe, as an editor would tell it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(below) for key, below in value.items()}
        if isinstance(value, list):
            return [plain(below) for below in value]
        return value.isoformat() if isinstance(value, date) else value

    schema = json.loads(schema_file().read_text(encoding="utf-8"))
    found = jsonschema_rs.Draft7Validator(schema).iter_errors(plain(tomllib.loads(text)))
    return [f"{'.'.join(map(str, each.instance_path))}: {each.message}" for each in found]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_name_the_schema_and_keep_it(name: str) -> None:
    recipe = shipped_recipes()[name]
    first, _, _ = recipe.read_text(encoding="utf-8").partition("\n")
    assert first == "#:schema ./recipe.schema.json"
    assert (recipe.parent / "recipe.schema.json") == schema_file()
    assert faults(recipe.read_text(encoding="utf-8")) == []


def test_a_drafted_recipe_names_the_schema_and_keeps_it(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("text,labels\nslow accrual,a\nno funds,b\nnone,a\n")
    text = draft_recipe(table)
    assert text.splitlines()[1] == f"#:schema {schema_file().as_uri()}"
    assert faults(text) == []


GOOD = (
    "",
    "[corpus]\nnew_from = 2022-12-04",
    "[corpus]\nnew_from = ''",
    "[pretrain]\nbackbone = { name = 'o/n', revision = '' }\nlora.rank = 8\nlora.alpha = 8",
    "[tasks.stop_reasons]\nsilver = { table = 'x.tsv' }\nrun_folds = 2",
    "[[tasks.declared]]\nname = 'a'\nkind = 'multiclass'\nlabels = ['x', 'y']\nlabelled = 'a.csv'",
    "[verdict]\nthreshold = 0.3",
)
BAD = (
    "[pretrain.lora]\nrnak = 8",
    "[pretrain.lora]\nrank = 0",
    "[pretrain]\nmethod = 'lra'",
    "[corpus]\nnew_from = '2022-13-04'",
    "[collect]\nsource = 3",
    "[masking]\nratio = 0.2",
    "[pretrain.masking]\nratio = 1.5",
    "[[tasks.declared]]\nlabels = ['x']",
)


@pytest.mark.parametrize("text", [*GOOD, *BAD])
def test_the_schema_and_the_loader_agree(text: str) -> None:
    try:
        parse_recipe(text)
    except RecipeError:
        assert text in BAD
        assert faults(text)
    else:
        assert text in GOOD
        assert faults(text) == []


def test_every_setting_is_in_the_schema_with_what_it_means(reference: ModuleType) -> None:
    schema = json.loads(schema_file().read_text(encoding="utf-8"))
    masking = schema["definitions"]["PretrainSettings"]["properties"]["precision"]
    assert masking["default"] == "auto"
    assert masking["description"].startswith("bf16 is for products")
    sex = schema["definitions"]["SexSettings"]["properties"]
    assert sex["labelled"]["description"].startswith("Labelled file, or")
    sections = [field for field in msgspec.structs.fields(Recipe) if field.type is not str]
    assert faults("\n".join(f"[{section.name}]" for section in sections)) == []
