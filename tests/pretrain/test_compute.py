"""What the settings ask for against what the machine has.

An interrupt is noted, and the earlier handler comes back.

Two processes over gloo against one process with the same global batch.

The same run on a GPU: bf16, compiled or not, beside fp32 on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from trialese.artifacts import verify_files
from trialese.errors import RecipeError
from trialese.pretrain.adapt import build_base, train_adapter
from trialese.pretrain.compute import (
    choose_compute,
    cpu_has_bf16,
    keep_freed_memory,
    note_interrupts,
)
from trialese.pretrain.heldout import read_rows
from trialese.settings import PretrainSettings


def test_precision_is_as_asked_or_as_the_chip_has_it():
    fp32 = choose_compute(PretrainSettings(device="cpu", precision="fp32"))
    assert fp32.dtype == torch.float32 and fp32.device.type == "cpu"
    auto = choose_compute(PretrainSettings(device="cpu"))
    assert auto.dtype == (torch.bfloat16 if cpu_has_bf16() else torch.float32)
    asked = choose_compute(PretrainSettings(device="cpu", precision="bf16"))
    assert asked.dtype == torch.bfloat16 and asked.explicit_attention


def test_packing_is_off_where_it_does_not_go():
    assert not choose_compute(PretrainSettings(device="cpu", packed_weights=False)).packed
    assert not choose_compute(PretrainSettings(device="cpu", compile=True)).packed
    with pytest.raises(RecipeError, match="does not go with"):
        choose_compute(PretrainSettings(device="cpu", compile=True, packed_weights=True))


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="sees no GPU"):
        choose_compute(PretrainSettings(device="cuda"))


def test_keeping_memory_can_be_asked_for_more_than_once():
    assert keep_freed_memory() == keep_freed_memory()


@pytest.fixture
def handler():
    """Python's own handler: a process in the background of a shell is started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_the_first_is_noted_and_the_second_acts(handler):
    with pytest.raises(KeyboardInterrupt), note_interrupts() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_in_another_thread_nothing_is_installed():
    seen = []

    def work() -> None:
        with note_interrupts() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


SCRIPT = """
import sys
from pathlib import Path
import msgspec, torch
from trialese.pretrain.adapt import build_base, train_adapter
from trialese.pretrain.compute import join_workers
from trialese.settings import PretrainSettings

torch.set_num_threads(1)
settings = msgspec.json.decode(sys.argv[1], type=PretrainSettings)
blocks, home = Path(sys.argv[2]), Path(sys.argv[3])
with join_workers(settings):
    build_base(blocks, settings, home / "base")
    train_adapter(blocks, home / "base", settings, home / "adapter")
"""


def launch(count: int, *arguments: object) -> None:
    """Run the script in so many processes, told their place as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(count):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if count > 1:
            environment |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in running:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-2000:]


@pytest.mark.slow
def test_torchrun_starts_the_command_line_as_the_page_says(toy: Any, tmp_path: Path):
    home = Path(toy.folder)
    command = ["-m", "trialese", "pretrain", str(home / "toy" / "corpus"), "-r", home / "toy.toml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        done = subprocess.run(
            [sys.executable, *launcher, *command, "--out", tmp_path / name],
            env=environment, check=False, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("top1_gain") == 1  # told once, not by every process
    rows, others = (read_rows(tmp_path / n / "adapter" / "metrics.jsonl") for n in ("one", "two"))
    assert [row["loss"] for row in others] == pytest.approx([r["loss"] for r in rows], abs=1e-5)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(tiny_backbone, toy_blocks, toy_settings, tmp_path):
    phase = msgspec.structs.replace(
        toy_settings(tiny_backbone).adapt_phase,
        steps=None,
        epochs=3,
        batch_blocks=6,
        accumulation=2,
    )
    settings = toy_settings(tiny_backbone, adapt_phase=phase)
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        told = msgspec.json.encode(settings).decode()
        launch(count, told, toy_blocks, tmp_path / str(count))
    one, two = tmp_path / "1" / "adapter", tmp_path / "2" / "adapter"
    verify_files(two)
    rows, others = read_rows(one / "metrics.jsonl"), read_rows(two / "metrics.jsonl")
    assert len(rows) == len(others) > 8
    for row, other in zip(rows, others, strict=True):
        for key, value in row.items():
            expected = pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
            if key not in {"perplexity", "top1", "top5"}:
                assert other[key] == expected, (row, other)
    weights = load_file(one / "adapter" / "adapter_model.safetensors")
    for name, value in load_file(two / "adapter" / "adapter_model.safetensors").items():
        assert (value - weights[name]).abs().max() < 1e-4
    assert sorted(p.name for p in (tmp_path / "2").iterdir()) == sorted(
        p.name for p in (tmp_path / "1").iterdir()
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_follows_the_cpu(
    headless_backbone, toy_blocks, toy_settings, tmp_path: Path, compiled
):
    ends = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "bf16")):
        settings = toy_settings(
            headless_backbone,
            device=device,
            precision=precision,
            compile=compiled and device == "cuda",
        )
        build_base(toy_blocks, settings, tmp_path / device / "base")
        train_adapter(
            toy_blocks, tmp_path / device / "base", settings, tmp_path / device / "adapter"
        )
        rows = read_rows(tmp_path / device / "adapter" / "metrics.jsonl")
        ends[device] = [row["loss"] for row in rows]
    assert ends["cuda"] == pytest.approx(ends["cpu"], rel=0.03)


GPU_TABLE = Path(__file__).parents[2] / "benchmarks" / "pretrain_gpu.py"


@pytest.mark.parametrize(
    ("minutes", "lines"), [(0, 1), pytest.param(9, 2, marks=pytest.mark.slow)], ids=["none", "two"]
)
def test_the_table_of_a_gpu_runs_dry_on_a_cpu(minutes: int, lines: int, tmp_path: Path):
    command = [sys.executable, str(GPU_TABLE), "--dry-run", "--json", str(tmp_path / "gpu.json")]
    command += ["--minutes", str(minutes), "--lines", str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    found = msgspec.json.decode((tmp_path / "gpu.json").read_bytes())
    assert found["resumed_exactly"] and "the same bytes" in done.stdout
    variants = {"ours", "B stock bf16", "C stock bf16 compiled"}
    if not minutes:
        assert found["rows"] == [] and len(found["left_out"]) == len(variants)
        assert "left out for want of time: toy 32 rank 1 ours" in done.stdout
        return
    assert {(row["shape"], row["variant"]) for row in found["rows"]} == {
        (shape, variant) for shape in ("toy", "toy-modernbert") for variant in variants
    }
    assert all(row["tokens_per_second"] > 0 for row in found["rows"])
    assert done.stdout.count(" times ") == 2 and not found["failed"]
