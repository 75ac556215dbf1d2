"""The README does what it says: its Python runs, its commands exist, its recipes are there."""

import re
from pathlib import Path

import pytest

from trialese.cli.main import app
from trialese.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for kind, block in BLOCKS
    if kind == "console"
    for line in block.splitlines()
    if line.startswith("$ ")
]
VERBS = sorted(command.callback.__name__.replace("_", "-") for command in app.registered_commands)


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "python"])
def test_python_blocks_run(
    block: str,
    toy: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert '"recipes/quickstart.toml"' in block
    assert len(block.strip().splitlines()) <= 20
    exec(block.replace("recipes/quickstart.toml", f"{toy.folder}/toy.toml"), {})
    assert "stop-reasons|test:" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert f"trialese {verb} " in README


def test_commands_and_recipes_of_the_readme_exist() -> None:
    assert COMMANDS
    for command in COMMANDS:
        words = command.split()
        assert words[0] in {"make", "trialese", "pip", "python", "duckdb"}, command
        if words[0] == "trialese":
            assert words[1] in VERBS, command
    for recipe in re.findall(r"recipes/\w+\.toml", README):
        assert (ROOT / recipe).is_file()
