"""Where and in which number format a run computes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from trialese.errors import RecipeError
from trialese.settings import PretrainSettings

__all__ = ["Compute", "choose_compute", "cpu_has_bf16", "keep_freed_memory"]


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
        bf16 = torch.cuda.is_bf16_supported() if name == "cuda" else cpu_has_bf16()
    dtype = torch.bfloat16 if bf16 else torch.float32
    # oneDNN packs bf16 weights only for AVX-512 (avx512bw, vl and dq)
    can_pack = name == "cpu" and (not bf16 or torch.cpu._is_avx512_supported())
    can_pack = can_pack and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if settings.packed_weights and not can_pack:
        raise RecipeError(
            "pretrain.packed_weights: needs a CPU with oneDNN (for bf16 with AVX-512); "
            "set it to false"
        )
    if settings.compile and settings.packed_weights:
        raise RecipeError("pretrain.packed_weights does not go with pretrain.compile; drop one")
    # It paid with AVX-512 (MKL is slow there on AMD); with AVX2 both reach the chip's rate
    packed = can_pack and torch.cpu._is_avx512_supported() and not settings.compile
    if settings.packed_weights is not None:
        packed = settings.packed_weights
    if name == "cpu":
        keep_freed_memory()
    # SDPA's bf16 backward is slow on CPU: 324 ms a step against 64 for the explicit product
    explicit = name == "cpu" and bf16
    return Compute(torch.device(name), dtype, packed, explicit)


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed for the next step; whether it could be asked.

    By default every large tensor is mapped anew and faulted in page by page, which took a third
    of a training step here. The process keeps its peak memory until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim_threshold, mmap_threshold, top_pad = -1, -3, -2  # malloc.h
    asked = ((mmap_threshold, 2**30), (trim_threshold, 2**31 - 1), (top_pad, 2**28))
    answers = [mallopt(parameter, value) == 1 for parameter, value in asked]
    return all(answers)  # every one is asked, whatever the first answers


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
