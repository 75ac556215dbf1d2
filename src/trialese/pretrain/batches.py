"""What the loop is given, and its batches made ready one ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialese.pretrain import workers
from trialese.pretrain.device import Compute
from trialese.pretrain.heldout import HeldoutSet
from trialese.pretrain.masking import MaskedBlocks, Vocabulary, mask_blocks
from trialese.pretrain.schedule import OLD_OFFSET, Batch, Plan
from trialese.records import TokenBlocks
from trialese.settings import MaskingSettings

__all__ = ["Phase", "ReadyBatch", "make_ready", "ready_batches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Everything that one run of the loop is given, besides the model."""

    name: str
    """Shown in rows and progress: head, base or adapt."""
    plan: Plan
    blocks: TokenBlocks
    old_blocks: TokenBlocks | None
    vocabulary: Vocabulary
    masking: MaskingSettings
    compute: Compute
    heldouts: Sequence[HeldoutSet] = ()
    heldout_every_steps: int = 100
    heldout_batch_blocks: int = 32
    checkpoint: Path | None = None
    """File to resume from and to write to."""
    checkpoint_every_steps: int = 200
    dropout: float = 0.0
    compile: bool = False
    data_workers: int = 1


@dataclass(frozen=True, slots=True)
class ReadyBatch:
    """One optimiser step's blocks, masked and as tensors on the CPU."""

    batch: Batch
    parts: list[dict[str, Tensor | None]]
    """This process's share of each micro-batch: arguments of the loss."""
    masked_tokens: int
    """Of the whole batch, over all micro-batches and processes."""
    tokens: int


def ready_batches(phase: Phase, *, after_step: int = 0) -> Iterator[ReadyBatch]:
    """Every batch after `after_step`, in order.

    `phase.data_workers` threads mask the next ones while a step runs; masks are pure functions,
    so their number changes nothing but the time.
    """
    with ThreadPoolExecutor(max_workers=phase.data_workers) as threads:
        ahead: deque[Future[ReadyBatch]] = deque()
        for batch in phase.plan.batches(after_step=after_step):
            ahead.append(threads.submit(make_ready, phase, batch))
            if len(ahead) > phase.data_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def make_ready(phase: Phase, batch: Batch) -> ReadyBatch:
    """The batch masked, cut into micro-batches, and this process's share of each as tensors."""
    size = phase.plan.phase.batch_blocks
    ids = [batch.block_ids[i : i + size] for i in range(0, len(batch.block_ids), size)]
    masked = [_mask(phase, part, batch.epoch) for part in ids]
    shares = [workers.own_share(part) for part in masked]
    pin = phase.compute.device.type == "cuda"
    return ReadyBatch(
        batch,
        [_tensors(share, pin=pin) for share in shares if len(share.inputs)],
        max(1, sum(part.masked_tokens for part in masked)),
        batch.block_ids.size * phase.blocks.ids.shape[1],
    )


def _tensors(part: MaskedBlocks, *, pin: bool) -> dict[str, Tensor | None]:
    def put(array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if pin else tensor

    kept = part.valid.flatten().nonzero()[0]
    return {
        "inputs": put(part.inputs),
        "attended": None if part.attended is None else put(part.attended),
        "positions": put(part.positions),
        "kept": put(kept),
        "targets": put(part.targets.flatten()[kept]),
    }


def _mask(phase: Phase, block_ids: NDArray[np.int64], epoch: int) -> MaskedBlocks:
    """The blocks of one micro-batch, new and replayed, with tokens hidden."""
    old = block_ids >= OLD_OFFSET
    rows = np.where(old, block_ids - OLD_OFFSET, block_ids)
    length = phase.blocks.ids.shape[1]
    ids = np.empty((len(rows), length), dtype=np.int64)
    special = np.empty((len(rows), length), dtype=bool)
    for chosen, blocks in ((~old, phase.blocks), (old, phase.old_blocks)):
        if blocks is not None and chosen.any():
            ids[chosen] = blocks.ids[rows[chosen]]
            special[chosen] = blocks.special[rows[chosen]]
    return mask_blocks(
        ids,
        special,
        block_ids,
        phase.vocabulary,
        ratio=phase.masking.ratio,
        whole_word=phase.masking.whole_word,
        seed=phase.plan.seed,
        epoch=epoch,
        isolated=phase.blocks.isolated,
    )
