"""Device, number format, memory, interruption and processes of a training run."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from trialese.errors import RecipeError
from trialese.pretrain.masking import MaskedBlocks
from trialese.settings import Precision, PretrainSettings

__all__ = [
    "Compute",
    "any_of",
    "choose_compute",
    "computes_in_bf16",
    "cpu_has_bf16",
    "join_workers",
    "keep_freed_memory",
    "note_interrupts",
    "only_first",
    "own_share",
    "product_rates",
    "rank",
    "sum_gradients",
    "sum_of",
    "wait_for_all",
    "world_size",
]


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
    bf16 = computes_in_bf16(settings.precision, name)
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


def computes_in_bf16(precision: Precision, device: str) -> bool:
    """Whether products are in bf16 on the device, "cpu" or "cuda"; `auto`: if it has them."""
    if precision != "auto":
        return precision == "bf16"
    return bool(torch.cuda.is_bf16_supported()) if device == "cuda" else cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def product_rates(seconds: float = 0.15) -> tuple[float, float | None]:
    """GFLOP/s of a layer's products in fp32 and in bf16, None where the chip has none, measured.

    On a CPU one thread is timed, by its own processor time, and counted once for each thread. On a
    GPU half the rate is told: passes over the states, cheap on a CPU, take the other half of a
    step's time there (an H200: steps do 0.32 to 0.54 of its best matrix rate).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fp32 = _product_rate(device, torch.float32, seconds)
    bf16 = (
        _product_rate(device, torch.bfloat16, seconds) if computes_in_bf16("auto", device) else None
    )
    return fp32, bf16


def _product_rate(device: str, dtype: torch.dtype, seconds: float) -> float:
    rows, inner, outer = 1024 if device == "cpu" else 32_768, 768, 768
    one = torch.ones(rows, inner, dtype=dtype, device=device)
    weight = torch.ones(outer, inner, dtype=dtype, device=device)
    threads = torch.get_num_threads()
    clock = time.perf_counter if device == "cuda" else time.thread_time
    best, spent, runs = float("inf"), 0.0, 0
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            while spent < seconds or runs < 5:
                begun = clock()
                torch.nn.functional.linear(one, weight)
                if device == "cuda":
                    torch.cuda.synchronize()
                took = clock() - begun
                best, spent, runs = min(best, took), spent + took, runs + 1
    finally:
        torch.set_num_threads(threads)
    rate = 2 * rows * inner * outer / max(best, 1e-9) / 1e9
    return rate / 2 if device == "cuda" else rate * threads


@contextmanager
def note_interrupts() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT only sets what the yielded function returns; a second one acts as usual."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    earlier = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: FrameType | None) -> None:
        seen.set()
        signal.signal(signal.SIGINT, earlier)

    signal.signal(signal.SIGINT, remember)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, earlier)


@contextmanager
def join_workers(settings: PretrainSettings) -> Iterator[None]:
    """Within, this process takes part in what `torchrun` started; alone, nothing changes.

    torchrun tells each process its place in WORLD_SIZE, RANK and LOCAL_RANK.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or world_size() > 1:
        yield
        return
    cuda = settings.device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    return bool(sum_of(torch.tensor(float(flag), device=device))) if world_size() > 1 else flag


def only_first(action: Callable[[], object]) -> None:
    """Do something in the first process alone; the others go on when it is done."""
    if rank() == 0:
        action()
    wait_for_all()


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def world_size() -> int:
    """Processes taking part; 1 outside torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number from 0; only 0 writes."""
    return dist.get_rank() if world_size() > 1 else 0


def own_share(masked: MaskedBlocks) -> MaskedBlocks:
    """Every n-th block, beginning at this process's number."""
    size, first = world_size(), rank()
    if size == 1:
        return masked
    return masked.take(slice(first, None, size))


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace each gradient by its sum over processes, in one message."""
    if world_size() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def sum_of(value: Tensor) -> Tensor:
    """The sum of a tensor over processes, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value
