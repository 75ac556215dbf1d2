"""Several processes, one model each: PyTorch Distributed, data-parallel, no scheduler of our own.

Every process draws the same global batch and masks (pure functions of seed and step) and takes
every n-th block of it; gradients are summed, having been divided by the masked tokens of the
whole batch. Outside `torchrun` each function is that of one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from trialese.pretrain.masking import MaskedBlocks
from trialese.settings import PretrainSettings

__all__ = [
    "any_of",
    "join_workers",
    "only_first",
    "own_share",
    "rank",
    "sum_gradients",
    "sum_of",
    "wait_for_all",
    "world_size",
]


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
