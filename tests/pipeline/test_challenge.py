"""A challenger is adapted, fitted and weighed; only the better one is ever in use."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForMaskedLM

from trialese.artifacts import read_manifest, verify_files
from trialese.errors import RecipeError
from trialese.generations import (
    Generation,
    current_generation,
    list_generations,
    prune,
    roll_back,
)
from trialese.pipeline.decision import read_decision
from trialese.pipeline.refresh import Outcome, read_run_recipe, refresh
from trialese.pipeline.stages import run_recipe
from trialese.pretrain.lora import load_lora, merge_lora
from trialese.recipe import load_recipe
from trialese.tasks.history import read_held, read_history

RECIPE = """
name = "run"
folder = "{folder}"
[collect.sample]
studies = 240
from_date = "2024-09-01"
to_date = "2024-12-31"
[corpus]
new_from = "2024-11-15"
[corpus.blocks]
block_tokens = 32
[pretrain]
backbone = {{ name = "{backbone}" }}
base_phase = {{ steps = 2 }}
adapt_phase = {{ steps = 12, lr = 5e-3 }}
heldout = {{ max_blocks = 16, every_steps = 12 }}
precision = "fp32"
[tasks]
names = ["sex"]
baselines = ["prior"]
[tasks.sex]
max_trials = 120
run_folds = 1
finetune = {{ epochs = 1, max_tokens = 32, precision = "fp32" }}
[verdict]
resamples = 100
[refresh]
least_new_trials = 40
margin = 0.98
"""


@pytest.fixture(scope="module")
def template(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a language model; read only."""
    folder = tmp_path_factory.mktemp("challenge")
    text = RECIPE.format(folder=folder, backbone=tiny_backbone)
    (folder / "run.toml").write_text(text, encoding="utf-8")
    run_recipe(load_recipe(folder / "run.toml"))
    return folder / "run"


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "run"))


def go(run: Path, *, lr: float | None = None, **more: object) -> Outcome:
    recipe = read_run_recipe(run)
    if lr is not None:
        phase = msgspec.structs.replace(recipe.pretrain.adapt_phase, lr=lr)
        pretrain = msgspec.structs.replace(recipe.pretrain, adapt_phase=phase)
        recipe = msgspec.structs.replace(recipe, pretrain=pretrain)
    return refresh(run, recipe, **more)  # type: ignore[arg-type]


def now_of(run: Path) -> Generation:
    found = current_generation(run)
    assert found is not None
    return found


def model_of(generation: Generation) -> str:
    assert generation.language_model is not None
    return read_manifest(generation.language_model).digest


def test_a_challenger_takes_over_and_is_turned_back_from(run: Path) -> None:
    outcome = go(run, force=True)
    assert (outcome.outcome, outcome.decision, outcome.status) == ("promoted", "promoted", 0)
    now = now_of(run)
    verify_files(now.path)
    assert now.number == 2
    before = Generation(1, now.path.parent / "0001", read_manifest(now.path.parent / "0001"))
    assert model_of(now) != model_of(before)
    decision = read_decision(now)
    assert any("challenger - control" in figure.name for figure in decision.figures)
    held = read_held(now.predictions("sex"))
    assert {row.model for row in held.values()} != {
        row.model for row in read_held(before.predictions("sex")).values()
    }
    history = read_history(now.predictions("sex"), next(iter(held)))
    assert [row.generation for row in history] == [1, 2]
    assert history[0].model != history[1].model
    assert outcome.scored == len(held)
    page = (now.path / "report.html").read_text("utf-8")
    assert "The challenger takes over." in page

    go(run, never=True)
    roll_back(run)
    roll_back(run)  # past the generation that kept it, and the one that brought it
    assert model_of(now_of(run)) == model_of(before)
    again = go(run)  # what was turned back from is not made again at once
    assert again.decision == "not yet"
    assert read_decision(now_of(run)).tried_at == decision.new_trials
    assert model_of(now_of(run)) == model_of(before)


def test_a_refused_challenger_leaves_the_champion_and_the_new_data(run: Path) -> None:
    outcome = go(run, lr=1e-12, force=True)  # it learns nothing
    assert (outcome.outcome, outcome.status) == ("refused", 3)
    assert "does not read new trials better" in outcome.reason
    now = now_of(run)
    assert (now.number, outcome.new > 0) == (2, True)
    first = now.path.parent / "0001"
    assert model_of(now) == read_manifest(first / "language-model").digest
    assert "The champion stays." in (now.path / "report.html").read_text("utf-8")
    assert go(run).decision == "no need"  # two months of trials more, so that it was measured
    names = [figure.name for figure in read_decision(now_of(run)).figures]
    assert any(name.startswith("staleness") for name in names)


def test_what_an_adapter_names_as_its_base_outlives_the_generation(run: Path) -> None:
    def base_of(generation: Generation) -> Path:
        assert generation.language_model is not None
        config = generation.language_model / "adapter" / "adapter_config.json"
        return Path(json.loads(config.read_bytes())["base_model_name_or_path"])

    go(run, force=True)
    first = base_of(now_of(run))
    while list_generations(run)[0] < 2:
        go(run, never=True, keep=1)
    now = now_of(run)
    assert base_of(now) == first
    whole = now.language_model
    assert whole is not None
    start, last = (AutoModelForMaskedLM.from_pretrained(each) for each in (first, whole / "model"))
    merged: Any = merge_lora(load_lora(start, whole / "adapter"))
    for name, weight in last.state_dict().items():
        assert torch.allclose(merged.state_dict()[name], weight, atol=1e-6), name
    for rest in ("0" * 16, ".half.partial"):  # of a challenger that was refused, or killed
        shutil.copytree(first.parent, run / "bases" / rest)
    prune(run, 1)
    assert list((run / "bases").iterdir()) == [first.parent]


@pytest.mark.parametrize(
    ("launcher", "told"),
    [
        ("torchrun-that-is-absent --nproc-per-node 2", "torchrun-that-is-absent: No such file"),
        ("false", "ended with 1; what it said stands above"),
        ("sh -c 'kill -9 $$'", "ended with -9"),
        ("true", "ended with 0 and left no .*control of this corpus"),
    ],
)
def test_a_launcher_that_trains_nothing_is_told(run: Path, launcher: str, told: str) -> None:
    with pytest.raises(RecipeError, match=f"--launcher.*{told}"):
        go(run, force=True, launcher=launcher)
    assert now_of(run).number == 1
    assert list_generations(run) == [1]


def test_what_an_earlier_launcher_left_is_not_taken_for_what_this_one_made(
    run: Path, tmp_path: Path
) -> None:
    left = run / "generations" / ".work" / "pretrain"
    go(run, never=True)
    for name, made in (("blocks", "blocks"), ("adapter", "adapter"), ("control", "adapter")):
        shutil.copytree(run / made, left / name)  # whole, and of another corpus
    with pytest.raises(RecipeError, match="ended with 0 and left no"):
        go(run, force=True, launcher="true")


def test_a_launcher_ends_with_the_refresh_and_says_nothing_on_its_stdout(
    run: Path, tmp_path: Path
) -> None:
    script, ended = tmp_path / "launch.sh", tmp_path / "ended"
    script.write_text(
        f"echo of the launcher; trap 'touch {ended}; exit 0' TERM; touch {tmp_path}/begun\n"
        "while true; do sleep 0.05; done\n"
    )
    command = [sys.executable, "-m", "trialese", "-q", "refresh", str(run), "--force", "--json"]
    command += ["--launcher", f"sh {script}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told, said = process.communicate(timeout=60)
    assert (process.returncode, ended.exists()) == (143, True)
    assert json.loads(told) == {"run": str(run), "outcome": "failed", "reason": "stopped"}
    assert "of the launcher" in said
    assert json.loads((run / "refresh.jsonl").read_text().splitlines()[-1])["reason"] == "stopped"


@pytest.mark.slow
def test_a_launcher_trains_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "run"
    shutil.copytree(run, other)
    go(run, force=True)
    go(other, force=True, launcher=sys.executable)
    files = [read_manifest(now_of(each).language_model or each).files for each in (run, other)]
    weights = "model/model.safetensors"
    assert files[0][weights] == files[1][weights]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_in_any_stage_the_same_command_ends_in_the_same_bytes(
    run: Path, tmp_path: Path
) -> None:
    spare = tmp_path / "spare"
    shutil.copytree(run, spare)
    command = [sys.executable, "-m", "trialese", "-q", "refresh", str(run), "--force"]
    begun = time.monotonic()
    assert subprocess.run(command, check=False, capture_output=True).returncode in {0, 3}
    seconds = time.monotonic() - begun

    def digests() -> dict[str, str]:
        found = {str(n): read_manifest(run / "generations" / f"{n:04d}").digest
                 for n in list_generations(run)}  # fmt: skip
        return {**found, "current": (run / "current.json").read_text("utf-8")}

    wanted = digests()
    rng = random.Random(11)
    kills = 0
    while kills < 20:
        shutil.rmtree(run)
        shutil.copytree(spare, run)
        while True:  # killed again and again on the way
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(rng.uniform(0.1, 1.1) * seconds)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                now, work = current_generation(run), run / "generations" / ".work"
                if now and now.number == 2 and not work.exists():
                    break  # it was on its way out: the same command would rightly go on
        assert digests() == wanted
