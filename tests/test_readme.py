"""The README does what it says: its examples print what stands below them, its recipes are there.

So do the pages of the documentation: their Python runs, their commands exist.
"""

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load_script
from trialese.cli.main import app
from trialese.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.name != "LOG.md"
}
VERBS = sorted(command.callback.__name__.replace("_", "-") for command in app.registered_commands)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


EXAMPLES = load_script("docs/examples.py")
BLOCKS = [*EXAMPLES.blocks(README)]


@pytest.fixture(scope="module")
def sandbox(toy: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: tables of their own, and the quickstart, here of a two-layer toy."""
    folder = tmp_path_factory.mktemp("readme")
    EXAMPLES.make_inputs(folder)
    shutil.copytree(Path(toy.folder) / "toy", folder / "runs" / "quickstart")
    recipe = (Path(toy.folder) / "toy.toml").read_text(encoding="utf-8")
    recipe = re.sub(r'^(name|folder) = ".*"\n', "", recipe, flags=re.MULTILINE)
    (folder / "recipes").mkdir()
    (folder / "recipes" / "quickstart.toml").write_text(
        f'name = "quickstart"\nfolder = "runs"\n{recipe}', encoding="utf-8"
    )
    return folder


def arguments_of(command: str, toy: Recipe) -> list[str]:
    """Those of a command; where it fits a language model, of the toy and for one epoch."""
    found = shlex.split(command)[1:]
    if found[0] == "run" and found[1].startswith("my-"):
        small = ("tasks.declared.0.run_folds=1", "tasks.declared.0.finetune.epochs=1")
        for change in (f"pretrain.backbone.name={toy.pretrain.backbone.name}", *small):
            found += ["-s", change]
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.examples[0].source[:40])
def test_the_examples_print_what_stands_below_them(
    block: Any, toy: Recipe, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sandbox)
    monkeypatch.setattr("trialese.tasks.shipped._lacking", lambda: "torch")  # the base install
    names: dict[str, Any] = {}
    for example in block.examples:
        if not EXAMPLES.is_run(block.kind, example.source):
            words = shlex.split(example.source)
            assert words[:2] == ["pip", "install"]
            assert (ROOT / words[words.index("-c") + 1]).is_file()
            assert set(re.findall(r"\[(\w+)\]", example.source)) <= EXTRAS.keys()
            continue
        if block.kind == "pycon":
            printed = EXAMPLES.evaluate(example.source, names)
        else:
            status, printed = EXAMPLES.call(arguments_of(example.source, toy))
            assert status == 0, example.source
        assert EXAMPLES.matches(example.expected, printed), f"{example.source}\n{printed}"


def test_what_stands_below_an_example_is_compared() -> None:
    assert EXAMPLES.matches(["a", "...", "z"], "a\nb\nc\nz\n")
    assert EXAMPLES.matches(["4 texts  ..."], "4 texts  abc\n")
    assert not EXAMPLES.matches(["4 texts"], "5 texts\n")
    assert not EXAMPLES.matches([], "something\n")
    page = "```console\n$ trialese x\nold\n$ trialese y\n...\n$ pip install .\n```\n"
    assert EXAMPLES.rewritten(page, lambda _, source: f"new {source[-1]}\n") == (
        "```console\n$ trialese x\nnew x\n$ trialese y\n...\n$ pip install .\n```\n"
    )


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert f"trialese {verb} " in README


@pytest.mark.parametrize("page", PAGES)
def test_python_of_the_pages_runs(
    page: str,
    toy: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL):
        if "recipes/quickstart.toml" in block:
            assert len(block.strip().splitlines()) <= 20
            exec(block.replace("recipes/quickstart.toml", f"{toy.folder}/toy.toml"), {})
            assert "stop-reasons|test:" in capsys.readouterr().out
        else:
            compile(block, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_recipes_of_the_pages_exist(page: str) -> None:
    commands = re.findall(r"^(?:\$ )((?:.*\\\n)*.*)$", PAGES[page], re.MULTILINE)
    for command in commands:
        words = command.replace("\\\n", " ").split()
        if "trialese" in words[:1]:
            assert words[1] in (*VERBS, "--version", "-v", "-q", "--install-completion"), command
    for recipe in re.findall(r"recipes/\w+\.toml", PAGES[page]):
        assert (ROOT / recipe).is_file(), recipe


def test_one_page_shows_every_stage_in_python() -> None:
    assert any('"recipes/quickstart.toml"' in page for page in PAGES.values())
