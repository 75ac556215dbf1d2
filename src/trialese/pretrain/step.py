"""One optimiser step of masked-language modelling, and one measurement."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn

from trialese.errors import RecipeError
from trialese.pretrain import workers
from trialese.pretrain.device import Compute
from trialese.pretrain.encoder import MaskedEncoder, no_dropout, seeded_dropout
from trialese.pretrain.heldout import HeldoutSet, measure_all
from trialese.pretrain.masking import MaskedBlocks, Vocabulary, mask_blocks
from trialese.pretrain.schedule import OLD_OFFSET, Batch, Plan
from trialese.records import TokenBlocks
from trialese.settings import MaskingSettings

__all__ = ["Phase", "Step"]

logger = logging.getLogger(__name__)


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
    heldouts: Sequence[HeldoutSet]
    heldout_every_steps: int
    heldout_batch_blocks: int
    checkpoint_every_steps: int
    checkpoint: Path | None
    """File to resume from and to write to."""
    compute: Compute
    dropout: float = 0.0
    compile: bool = False


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
        )
        self._loss = _loss_of(self._encoder)
        if phase.compile:
            self._loss = torch.compile(self._loss, dynamic=True)
        self._dropping = _any_dropout(model, phase.dropout)
        self._generator = torch.Generator(device=compute.device)
        self.optimiser = _new_optimiser(phase, named)

    def restart_optimiser(self) -> None:
        """Begin AdamW anew, as the prior art does every few epochs."""
        self.optimiser = _new_optimiser(self._phase, self._named)

    def take(self, batch: Batch) -> tuple[float, int]:
        """Sum of the losses over all masked tokens of the batch, and their number; one update."""
        phase = self._phase
        size = phase.plan.phase.batch_blocks
        parts = [batch.block_ids[i : i + size] for i in range(0, len(batch.block_ids), size)]
        masked = [_mask(phase, ids, batch.epoch) for ids in parts]
        tokens = max(1, sum(part.masked_tokens for part in masked))
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=phase.compute.device)
        for micro, part in enumerate(masked):
            share = workers.own_share(part)
            if not len(share.inputs):
                continue
            self._generator.manual_seed(self._dropout_seed(batch.step, micro))
            loss = self._loss(**self._tensors(share), drop=self._drop())
            (loss / tokens).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        workers.sum_gradients(list(self._named.values()))
        loss_sum = workers.sum_of(total)
        if not math.isfinite(loss_sum):
            raise RecipeError(
                f"pretrain, {phase.name} phase: the loss is not finite at step {batch.step}; "
                f"lower its lr ({phase.plan.phase.lr:g}) or set pretrain.precision to fp32"
            )
        if phase.plan.phase.gradient_clip > 0:
            nn.utils.clip_grad_norm_(self._named.values(), phase.plan.phase.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = phase.plan.learning_rate(batch.step)
        self.optimiser.step()
        return loss_sum, tokens

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

    def _tensors(self, part: MaskedBlocks) -> dict[str, Tensor | None]:
        device = self._phase.compute.device

        def put(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        kept = part.valid.flatten().nonzero()[0]
        return {
            "inputs": put(part.inputs),
            "attended": None if part.attended.all() else put(part.attended),
            "positions": put(part.positions),
            "kept": put(kept),
            "targets": put(part.targets.flatten()[kept]),
        }

    def _dropout_seed(self, step: int, micro: int) -> int:
        sequence = np.random.SeedSequence(
            (self._phase.plan.seed, step, micro, workers.rank(), len(self._phase.name))
        )
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _drop(self) -> Any:
        return seeded_dropout(self._generator) if self._dropping else no_dropout


def _loss_of(encoder: MaskedEncoder) -> Callable[..., Tensor]:
    def loss(inputs: Tensor, positions: Tensor, targets: Tensor, **options: Any) -> Tensor:
        logits = encoder.logits(inputs, positions=positions, **options)
        return F.cross_entropy(logits, targets, reduction="sum")

    return loss


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
    )


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
