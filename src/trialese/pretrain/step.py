"""One optimiser step of masked-language modelling, and one measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from trialese.pretrain import workers
from trialese.pretrain.batches import Phase, ReadyBatch
from trialese.pretrain.encoder import MaskedEncoder, no_dropout, seeded_dropout
from trialese.pretrain.heldout import measure_all

__all__ = ["Step"]

logger = logging.getLogger(__name__)


class Step:
    """One optimiser step, and one measurement, over fixed settings."""

    def __init__(self, model: nn.Module, phase: Phase, named: Mapping[str, Tensor]) -> None:
        self._phase, self._named = phase, named
        compute = phase.compute
        rows = phase.plan.phase.batch_blocks * phase.blocks.ids.shape[1]
        self._encoder = MaskedEncoder(
            model,
            dtype=compute.dtype,
            dropout=phase.dropout,
            packed_rows=rows if compute.packed else None,
            explicit_attention=compute.explicit_attention,
            plain=phase.compile,
        )
        self._loss = _loss_of(self._encoder)
        if phase.compile:
            self._loss = torch.compile(self._loss)
        self._dropping = _any_dropout(model, phase.dropout)
        self._generator = torch.Generator(device=compute.device)
        self._drop = seeded_dropout(self._generator) if self._dropping else no_dropout
        self.optimiser = _new_optimiser(phase, named)

    def restart_optimiser(self) -> None:
        """Begin AdamW anew, as the prior art does every few epochs."""
        self.optimiser = _new_optimiser(self._phase, self._named)

    def take(self, ready: ReadyBatch) -> Tensor:
        """Sum of the losses over the batch's masked tokens, a scalar on the device; one update.

        Nothing here waits for the device, so that it is never short of work.
        """
        phase, step = self._phase, ready.batch.step
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=phase.compute.device)
        for micro, part in enumerate(ready.parts):
            if self._dropping:
                self._generator.manual_seed(self._dropout_seed(step, micro))
            moved = {name: self._move(value) for name, value in part.items()}
            loss = self._loss(**moved, drop=self._drop)
            (loss / ready.masked_tokens).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        workers.sum_gradients(list(self._named.values()))
        if phase.plan.phase.gradient_clip > 0:
            nn.utils.clip_grad_norm_(self._named.values(), phase.plan.phase.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = phase.plan.learning_rate(step)
        self.optimiser.step()
        return workers.sum_of(total)

    def measure(self, step: int, seen: int) -> list[dict[str, Any]]:
        """Rows of the held-out sets."""
        phase = self._phase
        about = {"phase": phase.name, "step": step, "tokens": seen}
        rows = measure_all(
            self._encoder,
            phase.heldouts,
            batch_blocks=phase.heldout_batch_blocks,
            device=phase.compute.device,
        )
        for row in rows:
            logger.info(
                "%s step %d, %s %s: loss %.4f, top-1 %.4f",
                *(phase.name, step, row["era"], row["split"], row["loss"], row["top1"]),
            )
        return [about | row for row in rows]

    def _move(self, value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(self._phase.compute.device, non_blocking=True)

    def _dropout_seed(self, step: int, micro: int) -> int:
        sequence = np.random.SeedSequence(
            (self._phase.plan.seed, step, micro, workers.rank(), len(self._phase.name))
        )
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _loss_of(encoder: MaskedEncoder) -> Callable[..., Tensor]:
    def loss(inputs: Tensor, positions: Tensor, targets: Tensor, **options: Any) -> Tensor:
        logits = encoder.logits(inputs, positions=positions, **options)
        return F.cross_entropy(logits, targets, reduction="sum")

    return loss


def _new_optimiser(phase: Phase, named: Mapping[str, Tensor]) -> torch.optim.AdamW:
    """AdamW; biases and norms do not decay."""
    settings = phase.plan.phase
    matrices = [value for value in named.values() if value.ndim > 1]
    vectors = [value for value in named.values() if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = phase.compute.device.type == "cuda"
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.lr, fused=fused
    )


def _any_dropout(model: nn.Module, dropout: float) -> bool:
    config = getattr(model, "peft_config", {}).get("default")
    return dropout > 0 or (config is not None and config.lora_dropout > 0)
