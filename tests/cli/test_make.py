"""The command line as a user meets it: help, results, one line for a mistake, exit statuses."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trialese.cli.main import app
from trialese.recipe import Recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(toy: Recipe) -> Path:
    return Path(toy.folder) / "toy"


COMMANDS = [each.callback.__name__.replace("_", "-") for each in app.registered_commands]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from trialese.cli.main import main\n"
        f"sys.argv = ['trialese', *{[command] if command else []!r}, '--help']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'matplotlib', 'requests'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: trialese" in done.stdout


def test_one_stage_after_another(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("collect", "-o", tmp_path / "snap", "-s", "collect.sample.studies=40")
    assert status == 0
    assert "synthetic_notice" in out
    status, out, _ = run("corpus", tmp_path / "snap", "-o", tmp_path / "corpus")
    assert status == 0
    assert "documents" in out
    status, out, _ = run("show", tmp_path / "corpus", "--json")
    assert json.loads(out)["kind"] == "corpus"


def test_a_finished_adapter_goes_on_with_another_corpus(
    run: Run, home: Path, toy: Recipe, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    run("collect", "-o", newer / "snap", "-s", "collect.sample.studies=60",
        "-s", "collect.sample.seed=9")  # fmt: skip
    run("corpus", newer / "snap", "-o", newer / "corpus")
    recipe = Path(toy.folder) / "toy.toml"
    options = ("-r", recipe, "--continue-from", home / "adapter")
    status, out, err = run("pretrain", newer / "corpus", "-o", newer / "run", *options)
    assert status == 0, err
    assert "top1_gain" in out
    assert not (newer / "run" / "base").exists()
    assert (newer / "run" / "adapter" / "model").is_dir()
    status, _, err = run("pretrain", newer / "corpus", "-o", newer / "other", "-r", recipe,
                         "--continue-from", home / "snapshot")  # fmt: skip
    assert status == 1 and "this is a snapshot" in err
    assert not (newer / "other").exists()


def test_evaluate_prints_tables_and_writes_the_report(run: Run, home: Path, tmp_path: Path) -> None:
    folders = [home / "sex" / system for system in ("tfidf", "adapted")]
    status, out, _ = run("evaluate", *folders, "-o", tmp_path / "v", "-s", "verdict.resamples=100")
    assert status == 0
    assert "sex|test:" in out
    assert "synthetic trials: no evidence about real ones" in out
    assert (tmp_path / "v" / "report.html").is_file()


def test_finetune_ends_with_the_scores_of_what_it_fitted(
    run: Run, home: Path, tmp_path: Path
) -> None:
    arguments = ("finetune", "sex", "--system", "tfidf", "--snapshot", home / "snapshot")
    fewer = ("-s", "tasks.sex.max_trials=100", "-s", "tasks.sex.run_folds=1")
    status, out, _ = run(*arguments, "-o", tmp_path / "c", *fewer)
    assert status == 0
    assert "against tfidf" in out and "prior" in out and "sex|test:" in out
    status, out, _ = run(*arguments, "-o", tmp_path / "d", *fewer, "--json")
    made = json.loads(out)
    assert status == 0 and made["scores"]["signature"].startswith("sex|test:")


def test_run_says_what_it_would_do(run: Run, toy: Recipe) -> None:
    recipe = Path(toy.folder) / "toy.toml"
    status, out, _ = run("run", recipe, "--dry-run")
    assert status == 0
    assert "0 of 20 stages to do" in out
    status, out, err = run("run", recipe)
    assert status == 0
    assert err.count("skip") == 20
    assert "report.html" in out


@pytest.mark.parametrize(
    ("arguments", "status", "culprit", "cure"),
    [
        (["show", "nowhere"], 1, "nowhere", "no such folder"),
        (["run", "nowhere.toml"], 1, "nowhere.toml", "recipes/"),
        (["collect", "-o", "x", "-s", "collect.sample.studes=4"], 1, "studes", "did you mean"),
        (["collect", "nowhere.zip", "-o", "x"], 1, "nowhere.zip", "no such file"),
        (["predict", "nowhere", "text"], 1, "nowhere", ""),
        (
            ["collect", "-o", "x", "-s", "corpus.new_from=2006-1-1"],
            1,
            "corpus.new_from",
            "YYYY-MM-DD",
        ),
        (["finetune", "height", "-o", "x", "--system", "prior"], 1, "height", "sex"),
        (["evaluate", "nowhere", "-o", "x"], 1, "nowhere", "no such folder"),
        (["collect"], 2, "--out", ""),
        (["nonsense"], 2, "nonsense", ""),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str],
    status: int,
    culprit: str,
    cure: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == status
    assert out == ""
    assert culprit in err
    assert cure in err
    if status == 1:
        assert len(err.strip().splitlines()) == 1
    assert not [file for file in tmp_path.rglob("*") if not file.name.endswith(".lock")]


def test_a_snapshot_beside_a_labelled_file_is_told(
    run: Run, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text("text\tlabels\n" + "slow accrual\tInsufficient_Enrollment\n" * 9)
    status, _, _ = run(
        "finetune", "stop-reasons", "--system", "prior", "--snapshot", home / "snapshot",
        "--set", f"tasks.stop_reasons.labelled={table}", "--dry-run", "-o", tmp_path / "x",
    )  # fmt: skip
    assert status == 0
    assert f"snapshot: not read; labels of stop-reasons come from {table}" in caplog.text


def test_both_protocols_side_by_side(run: Run, home: Path, tmp_path: Path) -> None:
    published = []
    for system in ("tfidf", "prior"):
        published.append(tmp_path / system)
        status, out, _ = run(
            "finetune", "stop-reasons", "--system", system, "--snapshot", home / "snapshot",
            "--protocol", "published", "-o", published[-1],
        )  # fmt: skip
        assert status == 0, out
        assert "trained_on_exactly" in out
    honest = [home / "stop-reasons" / system for system in ("tfidf", "prior", "base")]
    twin = tmp_path / "twin"
    status, out, _ = run(
        "evaluate", *honest, *published, "--protocol", "both", "-o", twin,
        "-s", "verdict.resamples=100",
    )  # fmt: skip
    assert status == 0
    assert "# stop-reasons: published and honest" in out
    assert "| tfidf | Success |" in out
    assert (twin / "report.html").is_file()
    status, _, err = run("evaluate", *honest, *published, "-o", tmp_path / "v")
    assert status == 1
    assert "leave it out, or judge by --protocol both" in err


def test_ablation_and_agreement_from_the_command_line(run: Run, home: Path, tmp_path: Path) -> None:
    status, out, _ = run(
        "ablate", home / "snapshot", "-o", tmp_path / "a", "-s", "tasks.sex.max_trials=100",
        "-s", "tasks.sex.run_folds=1", "-s", "verdict.resamples=100",
    )  # fmt: skip
    assert status == 0
    assert "of the gain over the prior" in " ".join(out.lower().split())
    table = tmp_path / "theirs.tsv"
    table.write_text("text\tprediction\nSlow accrual\tInsufficient_Enrollment\nx y\t\n")
    status, out, _ = run(
        "agree", home / "stop-reasons" / "adapted", table, "-o", tmp_path / "d.tsv"
    )
    assert status == 0
    assert "1 rows (1 texts); left out: 1 no label" in out
    status, out, _ = run("agree", home / "stop-reasons" / "adapted", table, "--json")
    assert json.loads(out)["rows"] == 1


def test_a_run_of_made_up_trials_ends_on_real_words(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialese.tasks.shipped._lacking", lambda: "torch")  # the small one
    status, out, _ = run("run", home.parent / "toy.toml")
    assert status == 0
    asked, labelled = re.search(r"^\$ trialese (predict .*)\n((?:.+\t.+\n)+)", out, re.M).groups()  # type: ignore[union-attr]
    assert run(*shlex.split(asked)) == (0, labelled, "")
    assert "Insufficient_Enrollment" in labelled and "Safety_Sideeffects" in labelled
    tried = [shlex.split(line)[1:] for line in out.partition("\nnext:\n")[2].splitlines()]
    assert {words[0] for words in tried} == {"explain", "predict", "export", "serve"}
    for words in tried:
        if words[0] in ("explain", "predict"):
            assert run(*words)[0] == 0
    assert str(home / "snapshot") in tried[-1]
    status, out, _ = run("run", home.parent / "toy.toml", "--json")
    assert status == 0
    json.loads(out)
