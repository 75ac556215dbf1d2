from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trialese.artifacts import as_settings
from trialese.errors import RecipeError
from trialese.recipe import Recipe, load_recipe, parse_recipe
from trialese.settings import Section

RECIPES = Path(__file__).parent.parent / "recipes"


def refused(text: str = "", *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides=overrides, origin="my.toml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def leaves(section: Section, trail: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from leaves(value, (*trail, field.name))
        else:
            yield ".".join((*trail, field.name)), value


def test_empty_recipe_is_the_defaults() -> None:
    assert parse_recipe("") == Recipe()


def test_file_states_only_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('name = "x"\n[pretrain.lora]\nrank = 4\n', encoding="utf-8")
    recipe = load_recipe(file)
    assert recipe.name == "x"
    assert recipe.pretrain.lora.rank == 4
    assert msgspec.structs.replace(recipe.pretrain.lora, rank=16) == Recipe().pretrain.lora


def one_by_one(*, own_defaults: bool) -> list[tuple[str, str]]:
    """Each setting with its default, as --set takes it; TOML has no null, so None is left out."""
    found = []
    for key, value in leaves(Recipe()):
        section: Any = Recipe()
        own = False
        for part in key.split(".")[:-1]:
            section = getattr(section, part)
            own = own or section != type(section)()
        if value is not None and own == own_defaults:
            found.append((key, msgspec.json.encode(value).decode()))
    return found


@pytest.mark.parametrize(("key", "value"), one_by_one(own_defaults=False))
def test_every_setting_can_be_set_to_what_it_is(key: str, value: str) -> None:
    assert parse_recipe("", overrides=[f"{key}={value}"]) == Recipe()


def test_sections_with_defaults_of_their_own_keep_them() -> None:
    """`tasks.sex.finetune` has 3 epochs, its type 12: a learning rate must not change that."""
    for key, value in one_by_one(own_defaults=True):
        assert parse_recipe("", overrides=[f"{key}={value}"]) == Recipe(), key


def test_every_setting_is_in_the_saved_tree_and_comes_back() -> None:
    tree = as_settings(Recipe())
    assert msgspec.convert(tree, Recipe) == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 'x'", "my.toml: unknown key nmae; did you mean name?"),
        (
            "[pretrain.lora]\nrnak = 4",
            "unknown key pretrain.lora.rnak; did you mean pretrain.lora.rank?",
        ),
        ("[pretrian]\nseed = 4", "unknown key pretrian; did you mean pretrain?"),
        ("[verdict]\nzzz = 4", "unknown key verdict.zzz; known here: confidence, label_sets, "),
        ("verdict = 4", "my.toml: verdict is a section; write [verdict]"),
        ("[corpus]\nsplit = 'x'", "corpus.split is a section; write [corpus.split]"),
        ("[pretrain.lora]\nrank = 'many'", "pretrain.lora.rank: Expected `int`, got `str`"),
        ("[pretrain]\nmethod = 'magic'", "pretrain.method: Invalid enum value 'magic'"),
        ("[tasks]\nnames = 'sex'", "tasks.names: Expected `array`, got `str`"),
        ("name = ", "my.toml: not valid TOML"),
        ("name = 'a'\nname = 'b'", "my.toml: not valid TOML"),
    ],
)
def test_mistakes_in_the_file_are_named(text: str, message: str) -> None:
    assert message in refused(text)


def test_overrides() -> None:
    recipe = parse_recipe(
        "[pretrain.lora]\nrank = 4\n",
        overrides=[
            "pretrain.lora.rank=8",
            "name=plain words",
            "collect.source=files",
            'collect.paths=["a b.zip"]',
            "pretrain.lora.alpha = 2.5",
            "corpus.dedup.near=false",
        ],
    )
    assert recipe.pretrain.lora.rank == 8
    assert recipe.pretrain.lora.alpha == 2.5
    assert recipe.name == "plain words"
    assert recipe.collect.source == "files"
    assert recipe.collect.paths == ("a b.zip",)
    assert recipe.corpus.dedup.near is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.lora.rank", "write key=value, such as pretrain.lora.rank=16"),
        ("=3", "write key=value"),
        ("pretrain..rank=3", "write key=value"),
        ("pretrain.lora.rnak=3", "did you mean pretrain.lora.rank?"),
        ("pretrain.lora.rank=many", "pretrain.lora.rank: Expected `int`, got `str`"),
        ("pretrain.lora=3", "pretrain.lora is a section"),
        ("name.inner=3", "name: Expected `str`, got `object`"),
    ],
)
def test_mistakes_in_set_are_named(override: str, message: str) -> None:
    assert message in refused("", override)


def test_set_under_a_value_of_the_file() -> None:
    assert "name is a value, not a section" in refused("name = 'x'", "name.inner=3")


def test_an_empty_string_unsets_and_a_date_is_text() -> None:
    recipe = parse_recipe("[corpus]\nnew_from = ''", overrides=["tasks.sex.run_folds="])
    assert recipe.corpus.new_from is None
    assert recipe.tasks.sex.run_folds is None
    assert parse_recipe("[corpus]\nnew_from = 2006-01-01").corpus.new_from == "2006-01-01"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such recipe; recipes/ holds ready ones"):
        load_recipe(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot read as UTF-8"):
        load_recipe(tmp_path / "binary.toml")
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda f: f.stem)
def test_recipes_of_the_repository_load(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe != Recipe()
    assert recipe.name == file.stem


def test_entries_of_a_list_are_overridden_by_their_position() -> None:
    text = """
[[tasks.declared]]
name = "a"
labels = ["x", "y"]
kind = "multiclass"
[[tasks.declared]]
name = "b"
labels = ["x", "y"]
kind = "multiclass"
"""
    overrides = ("tasks.declared.1.run_folds=2", "tasks.declared.0.labels.1=z")
    first, second = parse_recipe(text, overrides=overrides).tasks.declared
    assert (first.run_folds, first.labels) == (None, ("x", "z"))
    assert (second.run_folds, second.labels) == (2, ("x", "y"))
    for override, said in (
        ("tasks.declared.2.run_folds=1", "lists 2 there; '2' is none of 0 to 1"),
        ("tasks.declared.first.run_folds=1", "'first' is none of 0 to 1"),
        ("tasks.declared.0.name.x=1", "name is a value, not a section"),
        ("tasks.declared.0.run_fold=1", "did you mean run_folds?"),
    ):
        with pytest.raises(RecipeError, match=said.replace("?", r"\?")):
            parse_recipe(text, overrides=[override])
