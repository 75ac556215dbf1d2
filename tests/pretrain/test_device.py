"""What the settings ask for against what the machine has."""

from __future__ import annotations

import pytest
import torch

from trialese.errors import RecipeError
from trialese.pretrain.compute import choose_compute, cpu_has_bf16, keep_freed_memory
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
