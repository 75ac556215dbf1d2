"""What long commands say beforehand: what there is to do, how long it takes, and no trace of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trialese.cli.main import app
from trialese.pipeline import machine
from trialese.pipeline.machine import MachineSpeed
from trialese.recipe import Recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed is known, and the user's cache, empty."""
    speed = MachineSpeed(
        fp32_gflops=100.0, bf16_gflops=None, parsed_bytes=2e8, prepared_characters=3e6
    )
    monkeypatch.setattr(machine, "calibrate", lambda: speed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


LONG = [
    ["run", "{recipe}"],
    ["pretrain", "{home}/corpus", "-r", "{recipe}", "-o", "x", "--control"],
    ["pretrain", "{home}/corpus", "-r", "{recipe}", "-o", "x", "--continue-from", "{home}/adapter"],
    ["finetune", "sex", "--model", "{home}/adapter/model", "--snapshot", "{home}/snapshot",
     "-r", "{recipe}", "-o", "x"],
    ["panel", "{home}/snapshot", "{home}/base", "-o", "x"],
    ["staleness", "{home}/snapshot", "--model", "{home}/base/model",
     "--trained-until", "2021-12-31"],
    ["predict", "{home}/stop-reasons/tfidf", "{home}/snapshot", "-o", "x.csv"],
    ["predict", "{home}/stop-reasons/adapted", "{table}", "--format", "csv"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", LONG, ids=[f"{n}-{a[0]}" for n, a in enumerate(LONG)])
def test_long_commands_say_beforehand_how_long_and_leave_no_trace(
    arguments: list[str], toy: Recipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(toy.folder) / "toy"
    table = tmp_path / "mine.csv"
    table.write_text("id,text\n1,Slow accrual\n2,No funds\n")
    monkeypatch.chdir(tmp_path)
    recipe = home.parent / "toy.toml"
    asked = [each.format(home=home, recipe=recipe, table=table) for each in arguments]
    status, out, err = run(*asked, "--dry-run", "--json")
    assert status == 0, err
    planned = json.loads(out)
    assert planned and all(
        p["finished"] or p["seconds"] is None or p["seconds"] > 0 for p in planned
    )
    assert arguments[0] == "run" or any(stage["seconds"] for stage in planned)
    assert run(*asked, "--dry-run", "--json")[1] == out  # from call to call the same
    status, out, err = run(*asked, "--dry-run")
    assert status == 0 and "stages to do" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert {file.name for file in tmp_path.iterdir()} <= {"cache", "mine.csv"}


def test_the_plan_of_a_fit_counts_other_texts_and_its_own_precision(
    toy: Recipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = MachineSpeed(
        fp32_gflops=100.0, bf16_gflops=400.0, parsed_bytes=2e8, prepared_characters=3e6
    )
    monkeypatch.setattr(machine, "calibrate", lambda: speed)
    more = tmp_path / "more.tsv"
    more.write_text("text\tlabels\n" + "Slow accrual\tInsufficient_Enrollment\n" * 1000)
    home = Path(toy.folder) / "toy"

    def seconds(*settings: str) -> float:
        asked = [part for each in settings for part in ("--set", f"tasks.stop_reasons.{each}")]
        status, out, err = run(
            "finetune", "stop-reasons", "--model", home / "adapter/model",
            "--snapshot", home / "snapshot", "-r", home.parent / "toy.toml", "-o", "x", *asked,
            "--dry-run", "--json",
        )  # fmt: skip
        assert status == 0, err
        return json.loads(out)[0]["seconds"]

    plain = seconds("finetune.precision=bf16")
    assert seconds("finetune.precision=fp32") == pytest.approx(4 * plain, rel=0.01)
    for table in ("silver", "unlabelled"):
        assert seconds("finetune.precision=bf16", f"{table}={{table='{more}'}}") > 1.5 * plain


def test_every_long_command_has_a_dry_run() -> None:
    with_it = {
        command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None and "dry_run" in command.callback.__annotations__
    }
    assert with_it >= {"run", "collect", "pretrain", "finetune", "predict", "panel", "staleness"}


def test_what_cannot_be_done_is_told_by_the_dry_run_too(toy: Recipe, run: Run) -> None:
    home = Path(toy.folder) / "toy"
    for arguments, said in (
        (["finetune", "stop-resons", "-o", "x"], "did you mean stop-reasons?"),
        (["pretrain", home / "snapshot", "-o", "x"], "a corpus is needed"),
        (["predict", home / "stop-reasons" / "tfidf", "Slow accrual"], "one file or snapshot"),
        (["finetune", "sex", "--system", "tfidf", "-o", "x"], "give --snapshot"),
    ):
        status, out, err = run(*arguments, "--dry-run")
        assert (status > 0, out) == (True, "") and said in err, err
