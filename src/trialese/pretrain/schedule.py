"""How long a phase is, which blocks each step sees, and at which learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialese.errors import RecipeError
from trialese.settings import PhaseSettings

__all__ = ["OLD_OFFSET", "Batch", "Plan", "learning_rate"]

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
class Plan:
    """Order and length of a phase: every block once an epoch, plus some replayed old ones.

    A pure function of its fields: a resumed run asks for the steps from where it stopped.
    """

    phase: PhaseSettings
    blocks: int
    old_blocks: int
    replay_share: float
    seed: int

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
        if self.phase.restart_every_epochs is None:
            return self.steps
        return min(self.steps, self.phase.restart_every_epochs * self.steps_per_epoch)

    @property
    def stable_steps(self) -> int | None:
        """Steps before the decay of a `wsd` schedule that does not restart; else None."""
        if self.phase.schedule != "wsd" or self.steps_per_cycle < self.steps:
            return None
        return self.steps - _decay_steps(self.steps, self.phase)

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
    """Learning rate at `position` (from 0) of a schedule of `length` steps.

    Linear warm-up from lr / warm-up steps to lr, then: `linear` falls to 0 at the end, `constant`
    stays, `wsd` stays and falls over the last `decay_share` as 1 - sqrt(progress) (Hägele et al.
    2024).
    """
    warmup = round(phase.warmup_share * length)
    if position < warmup:
        return phase.lr * (position + 1) / warmup
    match phase.schedule:
        case "constant":
            return phase.lr
        case "linear":
            return phase.lr * (length - position) / max(1, length - warmup)
        case "wsd":
            decay = _decay_steps(length, phase)
            progress = (position - (length - decay)) / decay
            return phase.lr * (1 - math.sqrt(progress) if progress > 0 else 1.0)


def _decay_steps(length: int, phase: PhaseSettings) -> int:
    return max(1, round(phase.decay_share * length))
