"""The law of the house: who may import whom, how large a module may be, what it must declare."""

import ast
import collections
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "trialese"
STAGES = ("collect", "corpus", "pretrain", "tasks", "verdict", "web")
MODULES = sorted(PACKAGE.rglob("*.py"))
# Those that know every room: the conductors and the command line.
CONDUCTORS = ("pipeline/", "cli/", "__main__.py", "__init__.py")
MOST_MODULES, MOST_LINES = 145, 600
TORCH = {"torch", "transformers", "peft"}
TORCH_ROOMS = ("pretrain/", "tasks/")


def relative(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imports(module: Path) -> set[str]:
    """Dotted names of every module that this one imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(module)}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def verbs_of(tree: ast.Module) -> set[str]:
    """Names in the module's `VERBS`, which the command line registers."""
    return {
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "VERBS"
        for name in ast.walk(node.value)
        if isinstance(name, ast.Name)
    }


def stage_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "trialese" and len(parts) > 1 and parts[1] in STAGES else None


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_stage_imports_only_the_core_and_earlier_stages(module: Path) -> None:
    name = relative(module)
    if name.startswith(CONDUCTORS):
        return
    own = stage_of("trialese." + name.replace("/", ".")) if "/" in name else None
    used = {stage for dotted in imports(module) if (stage := stage_of(dotted))}
    allowed = set(STAGES[: STAGES.index(own) + 1]) if own else set()
    if own == "verdict":
        allowed = {"verdict"}
    assert used <= allowed, f"{name} reaches {sorted(used - allowed)}"


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_heavy_and_outward_libraries_stay_in_their_rooms(module: Path) -> None:
    name = relative(module)
    roots = {dotted.split(".")[0] for dotted in imports(module)}
    if not name.startswith(TORCH_ROOMS):
        assert not roots & TORCH, f"{name} imports {roots & TORCH}"
    if name != "collect/api.py":
        assert not roots & {"requests", "httpx", "urllib3"}, name
    if not name.startswith("web/"):
        assert not roots & {"fastapi", "starlette", "uvicorn"}, name
    if name != "__main__.py" and not name.startswith("cli/"):
        own = "trialese.web" if name.startswith("web/") else "trialese.cli"
        assert not {
            dotted
            for dotted in imports(module)
            if dotted.startswith(("trialese.cli", "trialese.web")) and not dotted.startswith(own)
        }


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_modules_are_documented_and_say_what_they_export(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{relative(module)} has no docstring"
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    if defined and relative(module) != "__init__.py":
        exported = next(
            (
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign)
                and getattr(node.targets[0], "id", None) == "__all__"
            ),
            None,
        )
        assert exported is not None, f"{relative(module)} has no __all__"
        exported = {*exported, *verbs_of(tree)}
        assert defined <= exported, f"not exported: {sorted(defined - exported)}"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{relative(module)}: {node.name} has no docstring"


def test_one_idea_one_file() -> None:
    assert len(MODULES) <= MOST_MODULES, f"{len(MODULES)} modules"
    long = {
        relative(module): lines
        for module in MODULES
        if (lines := len(module.read_text("utf-8").splitlines())) > MOST_LINES
    }
    assert not long, f"are there two ideas in them? {long}"
    names = collections.Counter(m.name for m in MODULES if m.name != "__init__.py")
    assert not [name for name, times in names.items() if times > 1]


def test_rooms_have_no_faces() -> None:
    for module in MODULES:
        if module.name == "__init__.py" and module.parent != PACKAGE:
            body = ast.parse(module.read_text("utf-8")).body
            assert len(body) == 1, f"{relative(module)} is more than a docstring"


def arrows() -> dict[str, set[str]]:
    """Module -> the modules of trialese that it imports, inside functions and for types too."""
    dotted = {
        "trialese." + relative(m).removesuffix(".py").replace("/", "."): m
        for m in MODULES
        if m.name != "__init__.py"
    }
    found: dict[str, set[str]] = {}
    for name, module in dotted.items():
        tree = ast.parse(module.read_text("utf-8"))
        found[name] = {
            target
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            for target in (node.module, f"{node.module}.{alias.name}")
            if target in dotted
        }
    return found


def test_no_circle_of_imports() -> None:
    left = arrows()
    while free := [name for name, uses in left.items() if not uses & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"imported in a circle, or by one: {sorted(left)}"


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_only_the_command_line_prints(module: Path) -> None:
    if relative(module).startswith("cli/"):
        return
    calls = (n for n in ast.walk(ast.parse(module.read_text("utf-8"))) if isinstance(n, ast.Call))
    assert not [call for call in calls if getattr(call.func, "id", None) == "print"]


def test_the_stub_names_what_its_modules_export() -> None:
    """`__init__.pyi` is what type checkers and `lazy_loader` read; a moved name would show late."""
    import trialese

    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    named = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    for node in named:
        assert node.level == 1
        assert node.module is not None
        module = PACKAGE / (node.module.replace(".", "/") + ".py")
        exported = module.read_text(encoding="utf-8").partition("__all__")[2].partition("]")[0]
        for alias in node.names:
            assert alias.name == alias.asname, f"{alias.name}: a stub exports `x as x` only"
            assert f'"{alias.name}"' in exported, f"{node.module} exports no {alias.name}"
    names = {alias.name for node in named for alias in node.names} | {"__version__"}
    assert set(trialese.__all__) == names


POSIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios"}
POSIX_CALLS = {"fork", "getuid", "geteuid", "O_NOFOLLOW", "O_DIRECTORY", "mkfifo", "killpg"}


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_windows_can_import_everything(module: Path) -> None:
    tree = ast.parse(module.read_text("utf-8"))
    tried = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and "ModuleNotFoundError" in {ast.unparse(h.type) for h in node.handlers if h.type}
        for statement in node.body
        if isinstance(statement, ast.Import)
        for alias in statement.names
    }
    assert not ({dotted.split(".")[0] for dotted in imports(module)} & POSIX_ONLY) - tried
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "os"
    }
    assert not called & POSIX_CALLS


def test_every_public_name_can_be_had() -> None:
    import trialese

    for name in trialese.__all__:
        assert getattr(trialese, name) is not None


def test_the_stub_names_what_the_modules_hold() -> None:
    """What type checkers read is what runs: each public name is that of its module, and typed."""
    import importlib

    import trialese

    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    offered = [
        (node.module, alias.name, alias.asname)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(name for _, name, _ in offered) == sorted({*trialese.__all__} - {"__version__"})
    for module, name, alias in offered:
        assert name == alias, "without `as` a type checker takes the import for a private one"
        held = getattr(importlib.import_module(f"trialese.{module}"), name)
        assert getattr(trialese, name) is held
        assert held.__module__ == f"trialese.{module}", f"{name} is only passed on by {module}"


@pytest.mark.slow
def test_a_type_checker_sees_the_public_names(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "import trialese\n"
        "reveal_type(trialese.load_recipe('x.toml'))\n"
        "reveal_type(trialese.Classifier.from_pretrained('x').predict(['a']))\n"
        "trialese.nothing_of_this_name\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path / "cache"),
         "--follow-imports=silent", str(tmp_path / "user.py")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert 'Revealed type is "trialese.recipe.Recipe"' in done.stdout
    assert "list[tuple[str, ...]]" in done.stdout.replace("builtins.", "")
    assert "nothing_of_this_name" in done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import trialese, trialese.cli.main, trialese.recipe, trialese.pipeline.stages",
        "import trialese.collect.collection, trialese.corpus.assemble, trialese.verdict.judge",
        "import trialese.tasks.scorer, trialese.tasks.predict, trialese.tasks.baselines",
        "import trialese.pipeline.plan, trialese.pipeline.evaluate, trialese.predictions",
    ],
)
def test_importing_loads_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; print([m for m in {sorted(TORCH)!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BASE = {re.split(r"[^\w-]", each)[0].replace("-", "_") for each in PROJECT["dependencies"]}
# Modules that say at their head what only an extra brings; nothing of the base install loads them.
ARROW_MODULES = {
    "collect/diff.py", "collect/increment.py", "collect/merge.py", "collect/snapshot.py",
    "corpus/store.py", "tasks/history.py",
}  # fmt: skip
SERVE_MODULES = {"fastapi", "h11", "prometheus_client", "pydantic", "starlette", "uvicorn"}


def at_the_head(module: Path) -> set[str]:
    """Roots of what loading the module itself imports from other packages."""
    tree = ast.parse(module.read_text("utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"trialese"}


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_what_an_extra_brings_is_not_loaded_without_it(module: Path) -> None:
    name = relative(module)
    allowed = set(BASE)
    if name in ARROW_MODULES:
        allowed |= {"pyarrow"}
    if name.startswith(TORCH_ROOMS):
        allowed |= {*TORCH, "safetensors"}
    if name.startswith("web/"):
        allowed |= SERVE_MODULES
    assert at_the_head(module) <= allowed, name


def test_every_other_package_has_an_extra_that_names_it() -> None:
    from trialese.errors import missing_module

    for module in MODULES:
        roots = {dotted.partition(".")[0] for dotted in imports(module)}
        for root in roots - set(sys.stdlib_module_names) - BASE - {"trialese"}:
            assert missing_module(root), f"{relative(module)}: no extra brings {root}"


BASE_INSTALL = (
    "trialese.cli.main", "trialese.cli.use", "trialese.recipe", "trialese.thresholds",
    "trialese.tasks.predict", "trialese.tasks.formats", "trialese.tasks.linear",
    "trialese.tasks.explain", "trialese.tasks.behaviour", "trialese.tasks.labelled",
    "trialese.collect.files", "trialese.collect.parse", "trialese.collect.tables",
    "trialese.corpus.clean", "trialese.corpus.dedup", "trialese.corpus.render",
    "trialese.verdict.judge", "trialese.verdict.text",
)  # fmt: skip


def test_the_base_install_loads_without_any_extra() -> None:
    from trialese.errors import EXTRAS

    code = (
        "import sys, importlib\n"
        f"for name in {sorted(name for names in EXTRAS.values() for name in names)!r}:\n"
        "    sys.modules[name] = None\n"
        f"for name in {BASE_INSTALL!r}:\n"
        "    importlib.import_module(name)\n"
        "import trialese\n"
        "print(trialese.clean_text.__name__)\n"
        "try:\n"
        "    trialese.Classifier\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "clean_text"
    assert second == (
        "trialese.Classifier: this needs torch, which is not installed; "
        "run `pip install 'trialese[train]'`"
    )
