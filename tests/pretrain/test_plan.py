"""Estimates: arithmetic against a count of the real products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trialese.errors import ArtifactError
from trialese.pipeline.plan import estimate, flops_per_token, read_shape
from trialese.pretrain.backbone import load_masked_lm
from trialese.pretrain.encoder import MaskedEncoder
from trialese.settings import MaskingSettings, PhaseSettings


def test_forward_operations_equal_torchs_own_count(tiny_backbone: Path, toy_settings):
    settings = toy_settings(tiny_backbone, masking=MaskingSettings(ratio=0.25), method="full")
    encoder = MaskedEncoder(load_masked_lm(tiny_backbone)[0], explicit_attention=True)
    inputs, positions = torch.full((4, 32), 7), torch.arange(8).expand(4, 8).contiguous()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.logits(inputs, None, positions)
    forward, _ = flops_per_token(read_shape(settings), settings, 32)
    assert counter.get_total_flops() / 128 == pytest.approx(forward, rel=0.01)


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
