"""Estimates: arithmetic against a count of the real products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.pretrain.conftest import save_family
from trialese.errors import ArtifactError
from trialese.pipeline.training_cost import estimate, flops_per_token, read_shape
from trialese.pretrain.backbone import load_masked_lm
from trialese.pretrain.encoder import MaskedEncoder
from trialese.settings import MaskingSettings, PhaseSettings


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "modernbert"])
def test_forward_operations_equal_torchs_own_count(family: str, tmp_path: Path, toy_settings):
    folder = save_family(tmp_path / family, family)
    settings = toy_settings(folder, masking=MaskingSettings(ratio=0.25), method="full")
    encoder = MaskedEncoder(load_masked_lm(folder)[0], explicit_attention=True)
    inputs, positions = torch.full((4, 32), 7), torch.arange(8).expand(4, 8).contiguous()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.logits(inputs, None, positions)
    forward, _ = flops_per_token(read_shape(settings), settings, 32)
    if family == "modernbert":  # one product makes its last layer's queries, of all tokens
        forward += 2 * 32 * 32 * (1 - 0.25)
    # Local layers look at no key out of reach, which the plan's cost does not go into.
    spread = 0.06 if family == "modernbert" else 0.01
    assert counter.get_total_flops() / 128 == pytest.approx(forward, rel=spread)
    shape, hidden, inner = read_shape(settings), 32, 48
    assert shape.inner_products == (3 if family == "modernbert" else 2)
    layers = hidden * (4 * hidden + shape.inner_products * inner) * shape.num_hidden_layers
    held = sum(
        value.numel()
        for name, value in load_masked_lm(folder)[0].named_parameters()
        if "layer" in name and value.ndim == 2
    )
    assert held == layers


def test_time_and_memory_grow_with_the_work(tiny_backbone: Path, toy_settings):
    settings = toy_settings(tiny_backbone)
    short = estimate(settings, PhaseSettings(epochs=1), tokens=50_000, gflops_per_second=10)
    twice = estimate(settings, PhaseSettings(epochs=2), tokens=50_000, gflops_per_second=10)
    wide = estimate(settings, PhaseSettings(batch_blocks=64), tokens=50_000, gflops_per_second=10)
    assert short.tokens >= 50_000 and twice.seconds == pytest.approx(2 * short.seconds, rel=0.05)
    assert wide.peak_bytes > short.peak_bytes
    fixed = estimate(settings, PhaseSettings(steps=3), tokens=50_000)
    assert fixed.tokens == 3 * 16 * 128 and fixed.seconds > 0


def test_a_config_without_sizes_is_refused(tmp_path: Path, toy_settings):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    settings = toy_settings(tmp_path)
    with pytest.raises(ArtifactError, match="not the config of an encoder"):
        estimate(settings, PhaseSettings(), tokens=10)
