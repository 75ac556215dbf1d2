"""The data of a training phase: its length, order of blocks, learning rates and ready batches."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialese.errors import RecipeError
from trialese.pretrain.compute import Compute, own_share
from trialese.pretrain.heldout import HeldoutSet
from trialese.pretrain.masking import MaskedBlocks, Vocabulary, mask_blocks
from trialese.records import TokenBlocks
from trialese.settings import MaskingSettings, PhaseSettings

__all__ = [
    "OLD_OFFSET",
    "Batch",
    "Phase",
    "PhasePlan",
    "ReadyBatch",
    "learning_rate",
    "make_ready",
    "ready_batches",
    "scheduled_rate",
]


OLD_OFFSET = 1 << 40
"""Added to the row of a replayed old block, so that its masks differ from a new block's."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The blocks of one optimiser step."""

    step: int
    """From 1."""
    epoch: int
    block_ids: NDArray[np.int64]  # (blocks,): row, or row + OLD_OFFSET for a replayed old block


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """Order and length of a phase: every block once an epoch, plus some replayed old ones.

    A pure function of its fields: a resumed run asks for the steps from where it stopped.
    """

    phase: PhaseSettings
    blocks: int
    old_blocks: int
    replay_share: float
    seed: int
    cycle_steps: int | None = None
    """Instead of what `restart_every_epochs` makes of these blocks, if given."""

    def __post_init__(self) -> None:
        """Refuse what cannot be planned."""
        if self.blocks < 1:
            raise RecipeError("pretrain: no training blocks; widen the corpus or move new_from")
        for name in ("batch_blocks", "accumulation"):
            if getattr(self.phase, name) < 1:
                raise RecipeError(f"pretrain phase: {name} must be at least 1")

    @property
    def replayed(self) -> int:
        """Old blocks mixed into each epoch."""
        return min(round(self.replay_share * self.blocks), self.old_blocks)

    @property
    def blocks_per_step(self) -> int:
        """Blocks of a whole optimiser step, accumulation included."""
        return self.phase.batch_blocks * self.phase.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; the last one may be smaller."""
        return math.ceil((self.blocks + self.replayed) / self.blocks_per_step)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole phase."""
        if self.phase.steps is not None:
            return self.phase.steps
        return max(1, math.ceil(self.phase.epochs * self.steps_per_epoch))

    @property
    def steps_per_cycle(self) -> int:
        """Steps after which schedule and optimiser begin anew; `steps` if they never do."""
        if self.cycle_steps is not None:
            return min(self.steps, self.cycle_steps)
        if self.phase.restart_every_epochs is None:
            return self.steps
        return min(self.steps, self.phase.restart_every_epochs * self.steps_per_epoch)

    @property
    def stable_steps(self) -> int | None:
        """Steps before the decay of a `wsd` schedule that does not restart; else None."""
        if self.phase.schedule != "wsd" or self.steps_per_cycle < self.steps:
            return None
        return self.steps - _decay_steps(self.steps, self.phase.decay_share)

    def begins_cycle(self, step: int) -> bool:
        """Whether the optimiser begins anew before `step` (from 1)."""
        return (step - 1) % self.steps_per_cycle == 0

    def learning_rate(self, step: int) -> float:
        """Learning rate of `step` (from 1)."""
        position = (step - 1) % self.steps_per_cycle
        return learning_rate(position, self.steps_per_cycle, self.phase)

    def batches(self, after_step: int = 0) -> Iterator[Batch]:
        """The batches of every step after `after_step`."""
        for epoch in range(after_step // self.steps_per_epoch, self.steps):
            order = self.order(epoch)
            first = epoch * self.steps_per_epoch
            for start in range(0, len(order), self.blocks_per_step):
                step = first + start // self.blocks_per_step + 1
                if step > self.steps:
                    return
                if step > after_step:
                    yield Batch(step, epoch, order[start : start + self.blocks_per_step])

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Block ids of an epoch in the order of training."""
        generator = np.random.default_rng((self.seed, epoch))
        rows = np.arange(self.blocks, dtype=np.int64)
        old = generator.permutation(self.old_blocks)[: self.replayed].astype(np.int64)
        return generator.permutation(np.concatenate([rows, old + OLD_OFFSET]))


def learning_rate(position: int, length: int, phase: PhaseSettings) -> float:
    """`scheduled_rate` as the phase's settings have it."""
    return scheduled_rate(
        position,
        length,
        lr=phase.lr,
        schedule=phase.schedule,
        warmup_share=phase.warmup_share,
        decay_share=phase.decay_share,
    )


def scheduled_rate(
    position: int,
    length: int,
    *,
    lr: float = 1.0,
    schedule: Literal["linear", "constant", "wsd"] = "linear",
    warmup_share: float,
    decay_share: float = 0.2,
) -> float:
    """Learning rate at `position` (from 0) of a schedule of `length` steps.

    Linear warm-up from lr / warm-up steps to lr, then: `linear` falls to 0 at the end, `constant`
    stays, `wsd` stays and falls over the last `decay_share` as 1 - sqrt(progress) (Hägele et al.
    2024).
    """
    warmup = round(warmup_share * length)
    if position < warmup:
        return lr * (position + 1) / warmup
    match schedule:
        case "constant":
            return lr
        case "linear":
            return lr * (length - position) / max(1, length - warmup)
        case "wsd":
            decay = _decay_steps(length, decay_share)
            progress = (position - (length - decay)) / decay
            return lr * (1 - math.sqrt(progress) if progress > 0 else 1.0)


def _decay_steps(length: int, decay_share: float) -> int:
    return max(1, round(decay_share * length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Everything that one run of the loop is given, besides the model."""

    name: str
    """Shown in rows and progress: head, base or adapt."""
    plan: PhasePlan
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
    shares = [own_share(part) for part in masked]
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
