"""Two processes over gloo against one process with the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file

from trialese.artifacts import verify_files
from trialese.pretrain.heldout import read_rows

SCRIPT = """
import sys
from pathlib import Path
import msgspec, torch
from trialese.pretrain import build_base, train_adapter
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
