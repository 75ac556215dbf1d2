"""The command line's own behaviour: how it ends, what it refuses, what reaches a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trialese import __version__
from trialese.artifacts import read_manifest, write_artifact
from trialese.cli.main import app
from trialese.cli.terminal import harmless
from trialese.errors import EXTRAS
from trialese.recipe import Recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(toy: Recipe) -> Path:
    return Path(toy.folder) / "toy"


def called(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "trialese", *arguments],
        capture_output=True, check=False, timeout=60, **options,
    )  # type: ignore[call-overload]  # fmt: skip


def test_version_and_short_help(run: Run) -> None:
    assert run("--version") == (0, f"trialese {__version__}\n", "")
    for arguments in (["-h"], [], ["show", "-h"]):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        assert out.startswith("Usage: trialese")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'. (`trialese --help` tells more)"),
        (["shwo"], "No such command 'shwo'"),
        (["collect"], "Missing option '--out' / '-o'. (`trialese collect --help` tells more)"),
        (["show", "--jsn", "x"], "No such option: --jsn"),
        (["predict", "m", "t", "--precision", "fp23"], "'fp23' is not one of"),
        (["corpus", "", "-o", "x"], "an empty argument; is a variable of the shell unset?"),
        (["collect", "--ids", "", "-o", "x"], "an empty argument"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments: list[str], said: str, run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_broken_pipe_ends_silently(home: Path) -> None:
    script = f"{sys.executable} -m trialese show {home / 'snapshot'} | true"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False, timeout=60)
    assert done.stderr == b""


@pytest.mark.parametrize(("option", "lines"), [("-q", 0), ("--quiet", 0), ("-v", 1)])
def test_quiet_tells_nothing_on_stderr(option: str, lines: int, run: Run, tmp_path: Path) -> None:
    collect = ("collect", "-o", tmp_path / "s", "-s", "collect.sample.studies=20")
    status, out, err = run(option, *collect)
    assert status == 0
    assert out
    assert (len(err.splitlines()) > 0) == bool(lines)


def test_verbose_shows_where_a_mistake_was_met(run: Run) -> None:
    _, _, err = run("-v", "show", "nowhere")
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: nowhere: no such folder")


def test_what_steers_a_terminal_is_written_as_escapes() -> None:
    text = "a\x1b]0;title\x07b\x1b[31m\x9b1m\r\u202edcba\x7f"
    shown = r"a\x1b]0;title\x07b\x1b[31m\x9b1m\r" + r"\u202edcba\x7f"
    assert harmless(text) == shown
    assert harmless("line\n\ttab é 日本") == "line\n\ttab é 日本"


def test_notes_of_strangers_do_not_reach_the_terminal_raw(run: Run, tmp_path: Path) -> None:
    with write_artifact(tmp_path / "model", kind="model") as draft:
        draft.notes["backbone"] = "nice\x1b]52;c;cm0gLXJmIH4=\x07"
    status, out, _ = run("show", tmp_path / "model")
    assert status == 0
    assert "\x1b" not in out
    assert r"nice\x1b]52" in out
    status, _, err = run("show", tmp_path / "no\x1b[2J")
    assert "\x1b" not in err
    assert status == 1


def test_an_ascii_terminal_gets_escapes_and_no_traceback(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "model", kind="model") as draft:
        draft.notes["backbone"] = "é ≥ 日"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = called("show", str(tmp_path / "model"), env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\xe9 \u2265 \u65e5" in done.stdout


HIDDEN = [
    ("torch", ["predict", "{home}/sex/adapted", "text"], "train"),
    ("transformers", ["explain", "{home}/sex/adapted", "text"], "train"),
    ("torch", ["export", "{home}/sex/adapted", "-o", "x"], "train"),
    ("onnx", ["export", "{home}/sex/adapted", "-o", "x"], "export"),
    ("torch", ["agree", "{home}/stop-reasons/adapted", "{table}"], "train"),
    ("peft", ["pretrain", "{home}/corpus", "-o", "x"], "train"),
    ("torch", ["staleness", "{home}/snapshot", "--backbone", "{home}/base/model",
               "--trained-until", "2021-12-31"], "train"),
    ("sklearn", ["ablate", "{home}/snapshot", "-o", "x"], "linear"),
    ("sklearn", ["finetune", "stop-reasons", "--system", "tfidf", "--snapshot",
                 "{home}/snapshot", "-o", "x"], "linear"),
    ("pyarrow", ["collect", "-o", "x"], "data"),
    ("pyarrow", ["evaluate", "{home}/sex/prior", "-o", "x"], "data"),
    ("fastapi", ["serve", "{home}/sex/adapted"], "serve"),
    ("uvicorn", ["serve", "{home}/sex/adapted"], "serve"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        pytest.param(
            *each,
            id=f"{each[0]}-{each[1][0]}",
            marks=[] if each[0] in {"torch", "fastapi"} else [pytest.mark.slow],
        )
        for each in HIDDEN
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(
    module: str, arguments: list[str], extra: str, home: Path, tmp_path: Path
) -> None:
    table = tmp_path / "theirs.tsv"
    table.write_text("text\tprediction\nSlow accrual\tInsufficient_Enrollment\n")
    filled = [each.format(home=home, table=table) for each in arguments]
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from trialese.cli.main import main\n"
        f"sys.argv = ['trialese', *{filled!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    said = done.stderr.strip().splitlines()
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert said[-1].startswith("error: ")
    assert f" needs {module}" in said[-1] or module == "transformers"
    assert f"pip install 'trialese[{extra}]'" in said[-1]
    assert not [file for file in (tmp_path / "x").rglob("*") if file.is_file()]


def test_the_base_install_predicts_with_a_linear_classifier(home: Path, tmp_path: Path) -> None:
    """Texts, tables and files in and out, with none of the packages that extras bring."""
    hidden = sorted(name for names in EXTRAS.values() for name in names)
    (tmp_path / "reasons.csv").write_text("id,text\n7,Slow accrual\n8,Lack of funding\n")
    model = str(home / "stop-reasons" / "tfidf")
    for arguments in (
        ["predict", model, "Slow accrual"],
        ["predict", model, "reasons.csv", "--format", "tsv"],
        ["predict", model, "reasons.csv", "-o", "labels.csv"],
        ["explain", model, "Slow accrual"],
        ["check-behaviour", model],
    ):
        code = (
            f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
            "from trialese.cli.main import main\n"
            f"sys.argv = ['trialese', *{arguments!r}]\n"
            "main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
        )  # fmt: skip
        told = done.stderr.splitlines()
        odd = [line for line in told if "not calibrated" not in line]  # too few tune texts
        assert (done.returncode, odd) == (0, []), arguments
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["id", "7", "8"]


OUT = [
    ["evaluate", "{home}/sex/prior", "{home}/sex/tfidf", "-o", "{copy}"],
    ["corpus", "{copy}", "-o", "{copy}"],
    ["collect", "-o", "{corpus}", "-s", "collect.sample.studies=20"],
    ["collect", "{copy}", "-o", "{copy}"],
    ["pretrain", "{home}/corpus", "-o", "{copy}"],
    ["finetune", "sex", "--system", "prior", "--snapshot", "{copy}", "-o", "{copy}"],
    ["export", "{home}/sex/adapted", "-o", "{copy}"],
    ["staleness", "{copy}", "--backbone", "{home}/base/model", "--trained-until", "2021-12-31",
     "-o", "{copy}"],
    ["ablate", "{copy}", "-o", "{copy}"],
    ["agree", "{home}/stop-reasons/adapted", "{table}", "-o", "{table}"],
    ["agree", "{home}/stop-reasons/adapted", "{table}", "-o", "{foreign}"],
    ["predict", "{home}/stop-reasons/adapted", "{table}", "-o", "{table}"],
    ["predict", "{home}/stop-reasons/adapted", "{table}", "-o", "{foreign}"],
    ["predict", "{home}/stop-reasons/adapted", "{table}", "-o", "{copy}", "--format", "csv"],
    ["diff", "{copy}", "{copy}", "--ids", "{lists}"],
    ["collect", "-o", "{copy}/deeper"],
    ["collect", "-o", "."],
    ["collect", "-o", "/proc/x"],
    ["agree", "{home}/stop-reasons/adapted", "{table}", "-o", "."],
]  # fmt: skip


@pytest.mark.parametrize("arguments", OUT, ids=[f"{n}-{a[0]}" for n, a in enumerate(OUT)])
def test_nothing_of_another_kind_is_replaced(
    arguments: list[str], home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {name: tmp_path / name for name in ("copy", "corpus", "table", "foreign", "lists")}
    run("collect", "-o", named["copy"], "-s", "collect.sample.studies=30")
    with write_artifact(named["corpus"], kind="corpus") as draft:
        (draft.folder / "data").write_text("x")
    named["table"].write_text("text\tprediction\nSlow accrual\tInsufficient_Enrollment\n")
    named["foreign"].write_text("years of work\n")
    named["lists"].mkdir()
    (named["lists"] / "new.txt").write_text("a novel, not a list\n")

    def bytes_of() -> dict[str, bytes]:
        return {str(f): f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}

    before = bytes_of()
    status, out, err = run(*(each.format(home=home, **named) for each in arguments))
    assert (status, out) == (1, ""), err
    assert len(err.splitlines()) == 1, err
    assert bytes_of() == before


def test_force_replaces_it_all_the_same(run: Run, tmp_path: Path) -> None:
    with write_artifact(tmp_path / "corpus", kind="corpus") as draft:
        (draft.folder / "data").write_text("x")
    collect = ("collect", "-o", tmp_path / "corpus", "-s", "collect.sample.studies=20")
    assert run(*collect)[0] == 1
    assert run(*collect, "--force")[0] == 0
    assert read_manifest(tmp_path / "corpus").kind == "snapshot"


def test_every_command_that_writes_can_be_forced_and_those_that_tell_can_do_so_in_json() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        names = set(command.callback.__annotations__)
        if command.callback.__name__ != "serve":
            assert "as_json" in names, command.callback.__name__
        if names & {"out", "ids"} or command.callback.__name__ == "run":
            assert "force" in names, command.callback.__name__


def test_results_as_json_are_one_value(run: Run, tmp_path: Path) -> None:
    status, out, _ = run(
        "collect", "-o", tmp_path / "s", "-s", "collect.sample.studies=20", "--json"
    )
    assert status == 0
    assert json.loads(out)["kind"] == "snapshot"


def test_verify_finds_a_flipped_bit(run: Run, tmp_path: Path) -> None:
    run("collect", "-o", tmp_path / "runs" / "a", "-s", "collect.sample.studies=20")
    run("collect", "-o", tmp_path / "runs" / "b", "-s", "collect.sample.studies=20")
    status, out, _ = run("verify", tmp_path / "runs")
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()] == [["whole", "snapshot"]] * 2
    file = tmp_path / "runs" / "b" / "trials.parquet"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    status, out, _ = run("verify", tmp_path / "runs")
    assert status == 1
    assert f"{file}: altered since it was written" in out
    status, out, _ = run("verify", tmp_path / "runs" / "b", "--json")
    assert status == 1
    assert list(json.loads(out)["damaged"]) == [str(tmp_path / "runs" / "b")]
    status, _, err = run("verify", tmp_path / "nothing")
    assert status == 1
    assert "no such folder" in err


def test_show_tells_each_figure_once(run: Run, home: Path, tmp_path: Path) -> None:
    _, out, _ = run("show", home / "snapshot")
    words = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert words.count("trials") == 1
    assert "synthetic_stop_reasons" not in words


WRONG = [
    (["finetune", "stop-resons", "-o", "x"], "did you mean stop-reasons?"),
    (["finetune", "Sex", "-o", "x", "--system", "prior"], "did you mean sex?"),
    (["finetune", "sex", "-o", "x", "--system", "tfdf"], "did you mean tfidf?"),
    (["finetune", "sex", "-o", "x", "--system", "../up", "--model", "m"], "cannot be a name"),
    (["finetune", "sex", "-o", "x", "--system", "tfidf", "--model", "m"], "takes no model"),
    (["finetune", "sex", "-o", "x", "--snapshot", "{home}/snapshot", "--model", "{home}/adapter",
      "-s", "tasks.sex.max_trials=60"],
     "this is an adapter, but a masked-LM is needed; give {home}/adapter/model"),
    (["finetune", "sex", "-o", "x", "--snapshot", "{home}/snapshot", "--model",
      "{home}/adapter/adapter", "-s", "tasks.sex.max_trials=60"],
     "the weights of an adapter alone; give {home}/adapter/model"),
    (["finetune", "sex", "-o", "x", "--snapshot", "{home}/snapshot", "--model", "minlm"],
     "did you mean minilm?"),
    (["ablate", "{home}/snapshot", "-o", "x", "--model", "{home}/bas/model"],
     "did you mean {home}/base/model?"),
    (["panel", "{home}/snapshot", "a={home}/base", "a={home}/adapter", "-o", "x"],
     "two models are called 'a'"),
    (["panel", "{home}/snapshot", "{home}/adaptr/model", "-o", "x"],
     "did you mean {home}/adapter/model?"),
    (["staleness", "{home}/snapshot", "--model", "{home}/adapter", "--trained-until", "2020-01-01"],
     "give {home}/adapter/model"),
    (["pretrain", "{home}/corpus", "-o", "x", "-s", "pretrain.backbone.name=mpnett"],
     "did you mean mpnet?"),
    (["pretrain", "{home}/corpus", "-o", "x", "-s", "pretrain.backbone.name={home}/base"],
     "give {home}/base/model"),
    (["show", "{home}"], "holds artifacts and is none itself; give one of them: adapter, base"),
    (["predict", "{home}/sex/prior", "text"], "prior is a baseline"),
    (["predict", "{home}/snapshot", "text"], "this is a snapshot"),
    (["predict", "{home}", "text"], "give one of them: "),
    (["corpus", "{home}/corpus", "-o", "x"], "this is a corpus, but a snapshot is needed here"),
    (["evaluate", "{home}/verdict", "-o", "x"], "this is a verdict, but a classifier is needed"),
    (["ablate", "{home}/snapshot", "-o", "x", "--variant", "title"], "did you mean titles?"),
    (["collect", "-o", "x", "-s", "tasks.sex.finetune.loss=\"focl\""],
     "did you mean focal? known here: ranking, cross-entropy, focal"),
    (["collect", "-o", "x", "-s", "collect.source=file"], "did you mean files?"),
    (["collect", "-o", "x", "-r", "{recipe}"],
     "tasks.declared.0.kind: Invalid enum value 'multi-class'; did you mean multiclass?"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_unknown_names_get_the_nearest_and_wrong_kinds_what_is_wanted(
    arguments: list[str], said: str, run: Run, home: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[[tasks.declared]]\nname = "a"\nlabels = ["x", "y"]\nkind = "multi-class"\n')
    status, out, err = run(*(each.format(home=home, recipe=recipe) for each in arguments))
    assert (status, out) == (1, "")
    assert said.format(home=home) in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_init_drafts_a_recipe_that_runs_as_it_is(
    run: Run, tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["text,label"]
    for number in range(30):
        lines += [f"too few people came to site {number},slow", f"no money left in year {number},"]
        lines += [f"the drug did harm to patient {number},harm"]
    Path("My table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    status, _, err = run("finetune", "My table.csv", "-o", "x")
    assert status == 1
    assert "`trialese init 'My table.csv'` writes a recipe for it" in err
    status, out, _ = run("init", "My table.csv", "-o", "mine.toml")
    assert (status, out.splitlines()[-1].strip()) == (0, "trialese run mine.toml")
    drafted = Path("mine.toml").read_text(encoding="utf-8")
    assert 'kind = "multiclass"' in drafted
    assert "60 rows with labels, 30 without" in drafted
    assert run("init", "My table.csv", "-o", "mine.toml")[0] == 0  # drafted by us: drafted again
    status, _, err = run("init", "My table.csv", "-o", "My table.csv")
    assert (status, "is what the command reads" in err) == (1, True)
    changes = ("-s", f"pretrain.backbone.name={tiny_backbone}", "-s", "verdict.resamples=60")
    changes += ("-s", "tasks.declared.0.run_folds=1", "-s", "tasks.declared.0.finetune.epochs=1")
    status, out, err = run("run", "mine.toml", "--dry-run", *changes)
    assert status == 0, err
    assert "my-table/base" in out and "5 of 5 stages to do" in out
    assert not Path("runs").exists()
    status, out, err = run("run", "mine.toml", *changes)
    assert status == 0, err
    assert "my-table|test:" in out
    made = {file.parent.name for file in Path("runs").rglob("manifest.json")}
    assert made == {"prior", "keywords", "tfidf", "base", "verdict"}
    status, out, _ = run("run", "mine.toml", *changes, "--dry-run")
    assert "0 of 5 stages to do" in out
    Path("My table.csv").unlink()
    status, out, err = run("run", "mine.toml", "--dry-run", *changes)
    assert (status, out) == (1, "")
    assert "My table.csv: no such input file" in err


def test_a_language_model_is_never_adapted_to_synthetic_studies_unasked(
    run: Run, tmp_path: Path
) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text("text\tlabel\na b\tx\nc d\ty\n")
    recipe = tmp_path / "mine.toml"
    declared = (
        f'[[tasks.declared]]\nname = "mine"\nlabelled = "{table}"\nlabels = ["x", "y"]\n'
        'kind = "multiclass"\n'
    )
    recipe.write_text(f'[tasks]\nnames = ["mine"]\n{declared}')
    _, out, _ = run("run", recipe, "--dry-run", "--json")
    assert [stage["name"] for stage in json.loads(out)] == [
        "mine/prior", "mine/keywords", "mine/tfidf", "mine/base", "verdict",
    ]  # fmt: skip
    _, out, _ = run("run", recipe, "--dry-run", "--json", "-s", "collect.source=sample")
    assert "adapter" in [stage["name"] for stage in json.loads(out)]
    recipe.write_text(f'[tasks]\nnames = ["mine", "sex"]\n{declared}')
    status, _, err = run("run", recipe, "--dry-run")
    assert status == 1
    assert "sex: its labels come from trials, but the recipe names none; set collect.source" in err
    status, _, err = run("collect", "-r", recipe, "-o", tmp_path / "x")
    assert status == 1
    assert "collect.source: none" in err


def test_ready_recipes_are_known_by_name(run: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("run", "quickstart", "--dry-run", "--json")
    assert status == 0
    assert json.loads(out)[0]["name"] == "snapshot"
    status, _, err = run("run", "quikstart", "--dry-run")
    assert status == 1
    assert "did you mean quickstart?" in err


def test_labels_can_be_printed_down_to_the_least_likely(
    run: Run, home: Path, tmp_path: Path
) -> None:
    model = home / "stop-reasons" / "adapted"
    _, out, _ = run("predict", model, "Slow accrual", "--top", 3)
    assert len(out.split("\t")[0].split(", ")) == 3
    _, out, _ = run("predict", model, "Slow accrual", "--all-scores")
    shown = [float(each.split()[1]) for each in out.split("\t")[0].split(", ")]
    assert len(shown) == 17
    assert shown == sorted(shown, reverse=True)
    status, _, err = run("predict", model, "x y", "--top", 3, "-o", tmp_path / "x.csv")
    assert status == 2
    assert "--top and --all-scores go with lines" in err


def test_literal_texts_are_written_to_a_file(run: Run, home: Path, tmp_path: Path) -> None:
    model, out = home / "stop-reasons" / "adapted", tmp_path / "deep" / "x.csv"
    status, said, err = run("predict", model, "Slow accrual", "no\nfunds, alas", "-o", out)
    assert status == 0, err
    assert "2 texts of 2 records" in said
    assert len(out.read_text().splitlines()) == 3
    assert sorted(file.name for file in out.parent.iterdir()) == ["x.csv", "x.csv.about.json"]
    status, _, err = run("predict", model, "nowhere.tsv", "-o", tmp_path / "y.csv")
    assert (status, "nowhere.tsv: no such file" in err) == (1, True)


def test_no_room_for_temporary_files_is_one_line(run: Run, tmp_path: Path, monkeypatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trialese.collect.collection.collect_snapshot", full)
    status, out, err = run("collect", "-o", tmp_path / "x")
    assert (status, out) == (1, "")
    assert err.startswith("error: temporary files (TMPDIR): cannot write (No space left on device)")
    assert len(err.splitlines()) == 1


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What a command writes to a terminal of 80 columns, whatever it is written for."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    parent, child = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "trialese", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=child, stderr=child, env=settings,
    )  # fmt: skip
    os.close(child)
    told = b""
    with os.fdopen(parent, "rb", buffering=0) as terminal, process:
        while True:
            try:
                part = terminal.read(65536)
            except OSError:  # Linux says so when the other side has closed
                break
            if not part:
                break
            told += part
    return told.decode()


def test_a_terminal_gets_colour_and_who_refuses_it_none(home: Path, tmp_path: Path) -> None:
    with write_artifact(tmp_path / "model", kind="model") as draft:
        draft.notes["backbone"] = "nice\x1b]52;c;cm0gLXJmIH4=\x07"
        draft.counts["layers"] = 1234
    for asked in (("show", tmp_path / "model"), ("show", "nowhere")):
        coloured = on_a_terminal(*asked, NO_COLOR="")
        assert "\x1b[" in coloured
        plain = on_a_terminal(*asked, NO_COLOR="1")
        assert "\x1b" not in plain
        assert on_a_terminal("--no-color", *asked, NO_COLOR="") == plain
        assert on_a_terminal(*asked, NO_COLOR="", TERM="dumb") == plain
        assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == plain  # the same words
    coloured = on_a_terminal("show", tmp_path / "model", NO_COLOR="")
    assert "\x1b]" not in coloured and r"nice\x1b]" in coloured  # a stranger's is shown, not obeyed
    assert "\x1b[36m1,234\x1b[0m" in coloured


def test_what_is_piped_has_no_colour(tmp_path: Path) -> None:
    for arguments in (["--help"], ["show", "nowhere"]):
        done = called(*arguments)
        assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_are_completed(shell: str) -> None:
    asked = {
        "COMP_WORDS": "trialese pre",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "trialese pre",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TRIALESE_COMPLETE": f"complete_{shell}",
    }
    done = called(env={**os.environ, **asked})
    assert b"predict" in done.stdout and b"pretrain" in done.stdout
    assert b"serve" not in done.stdout


@pytest.mark.parametrize("verb", ["snapshot", "corpus", "adapter", "verdict", "sex/tfidf"])
def test_sentences_and_counts_fit_into_80_columns(verb: str, run: Run, home: Path) -> None:
    status, out, err = run("show", home / verb)
    assert status == 0, err
    sentences = [line for line in out.splitlines() if "  " not in line.strip()]
    counts = [] if verb == "verdict" else out.splitlines()  # a table is as wide as its systems
    assert not [line for line in sentences + counts if len(line) > 80 and len(line.split()) > 3]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_000, 60_000])
@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "{home}/corpus", "-r", "{recipe}"],
        ["finetune", "sex", "--model", "{home}/adapter/model", "--snapshot", "{home}/snapshot",
         "-r", "{recipe}"],
    ],
    ids=["pretrain", "finetune"],
)  # fmt: skip
def test_a_full_disk_is_one_line(
    arguments: list[str], limit: int, home: Path, toy: Recipe, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: every library meets it as it writes."""
    recipe = Path(toy.folder) / "toy.toml"
    filled = [each.format(home=home, recipe=recipe) for each in arguments]
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "import sys; from trialese.cli.main import main\n"
        f"sys.argv = ['trialese', *{filled!r}, '-o', 'out']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "cannot write" in last
    assert not list(tmp_path.rglob("manifest.json")) or arguments[0] == "pretrain"
