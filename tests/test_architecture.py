"""`docs/architecture.md` tells the files and the walk of a trial as the package has them."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import load_script

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src" / "trialese"
_NAMED = re.compile(r"`((?:[a-z_0-9]+\.)+[A-Za-z_0-9]+)`")


@pytest.fixture(scope="module")
def tree() -> ModuleType:
    return load_script("docs/tree.py")


def test_the_tree_is_the_package(tree: ModuleType) -> None:
    differences = tree.differences()
    assert not differences, "\n".join(["run `python docs/tree.py`:", *differences])


def test_a_line_that_is_not_true_is_found(tree: ModuleType, monkeypatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("errors.py", "mistakes.py"), encoding="utf-8")
    monkeypatch.setattr(tree, "PAGE", page)
    assert any("mistakes.py" in line for line in tree.differences())
    tree.rewrite()
    assert page.read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize("script", ["tree", "reference"])
def test_the_check_of_ci_and_hooks_passes_where_nothing_differs(script: str) -> None:
    check = [sys.executable, f"docs/{script}.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def defined(module: Path) -> set[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize("name", sorted(set(_NAMED.findall(PAGE.partition("## The files")[0]))))
def test_every_name_on_the_walk_exists(name: str) -> None:
    if name.endswith((".py", ".json", ".parquet")):
        return
    whole = PACKAGE / (name.replace(".", "/") + ".py")
    module, _, member = name.rpartition(".")
    within = PACKAGE / (module.replace(".", "/") + ".py")
    assert whole.is_file() or (within.is_file() and member in defined(within)), (
        f"docs/architecture.md tells of {name}, which is not in the package"
    )
