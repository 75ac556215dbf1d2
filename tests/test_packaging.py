"""What a fresh install gets: pinned versions of every extra, and recipes in the wheel."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from trialese import __version__
from trialese.errors import EXTRAS as TOLD

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PINNED = {
    re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower(): line.partition("==")[2].strip()
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
}
EXTRAS = PROJECT["project"]["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    """Names of packages, without versions, extras and trialese's own."""
    plain = (re.match(r"[\w.-]+", each) for each in requirements)
    found = {re.sub(r"[-_.]+", "-", each[0]).lower() for each in plain if each}
    return found - {"trialese"}


@pytest.mark.parametrize("extra", ["", *(name for name in EXTRAS if name != "bench")])
def test_every_dependency_is_pinned_to_a_version(extra: str) -> None:
    wanted = names(EXTRAS[extra] if extra else PROJECT["project"]["dependencies"])
    in_place = names([each for each in EXTRAS.get(extra, ()) if "==" in each])
    assert wanted - in_place <= PINNED.keys()
    assert all(re.fullmatch(r"[\w.!+]+", version) for version in PINNED.values())


def test_what_runs_here_is_what_is_pinned() -> None:
    for name in names(PROJECT["project"]["dependencies"]):
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert installed.partition("+")[0] == PINNED[name], name


def test_the_wheel_holds_the_recipes_and_the_sdist_what_it_is_made_from() -> None:
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"] == {"recipes": "trialese/recipes"}
    for name in targets["sdist"]["include"]:
        assert (ROOT / name).exists(), name
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "Dockerfile"):
        assert (ROOT / name).is_file()
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_the_extras_that_a_missing_module_names_are_real() -> None:
    assert set(TOLD) <= EXTRAS.keys()
