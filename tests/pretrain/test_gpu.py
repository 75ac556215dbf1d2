"""The same run on a GPU: bf16, compiled or not, beside fp32 on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trialese.pretrain.adapt import build_base, train_adapter
from trialese.pretrain.heldout import read_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


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
