"""Where and in which number format a run computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trialese.errors import RecipeError
from trialese.settings import PretrainSettings

__all__ = ["Compute", "choose_compute"]


@dataclass(frozen=True, slots=True)
class Compute:
    """Device, number format of products, and the levers that go with them."""

    device: torch.device
    dtype: torch.dtype
    packed: bool
    explicit_attention: bool


def choose_compute(settings: PretrainSettings) -> Compute:
    """What the settings ask for, `auto` resolved by what the machine has.

    Raises:
        RecipeError: a device that is not there.
    """
    name = settings.device
    if name == "cuda" and not torch.cuda.is_available():
        raise RecipeError("pretrain.device: cuda, but torch sees no GPU; set it to auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    bf16 = settings.precision == "bf16"
    if settings.precision == "auto":
        bf16 = torch.cuda.is_bf16_supported() if name == "cuda" else _cpu_has_bf16()
    dtype = torch.bfloat16 if bf16 else torch.float32
    can_pack = name == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if settings.packed_weights and not can_pack:
        raise RecipeError("pretrain.packed_weights: needs a CPU with oneDNN; set it to false")
    packed = can_pack if settings.packed_weights is None else settings.packed_weights
    # SDPA's bf16 backward is slow on CPU: 324 ms a step against 64 for the explicit product
    explicit = name == "cpu" and bf16
    return Compute(torch.device(name), dtype, packed, explicit)


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
