"""Token-weighted loss and accuracy on stored, fixed masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from safetensors.numpy import save_file

from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.masking import MaskedBlocks, Vocabulary, hash_uniform, mask_blocks
from trialese.records import Split, TokenBlocks
from trialese.settings import HeldoutSettings

__all__ = [
    "HeldoutScore",
    "HeldoutSet",
    "fix_masks",
    "measure",
    "measure_all",
    "save_masks",
    "score_row",
]


@dataclass(frozen=True, slots=True)
class HeldoutSet:
    """Blocks of one era and split with their masks, the same at every measurement."""

    era: str
    split: Split
    rows: NDArray[np.int64]  # (blocks,): rows of the TokenBlocks
    owner: NDArray[np.int64]  # (blocks,): document of each block, for intervals
    masked: MaskedBlocks


@dataclass(frozen=True, slots=True)
class HeldoutScore:
    """Sums over each block's hidden tokens; every array is (blocks,)."""

    loss: NDArray[np.float64]
    top1: NDArray[np.int64]
    top5: NDArray[np.int64]
    tokens: NDArray[np.int64]


def fix_masks(
    blocks: TokenBlocks, era: str, split: Split, vocabulary: Vocabulary, settings: HeldoutSettings
) -> HeldoutSet:
    """At most `max_blocks` blocks, chosen by hash, with masks keyed by `settings.seed`."""
    rows = np.arange(len(blocks.ids), dtype=np.int64)
    if len(rows) > settings.max_blocks:
        rank = np.argsort(hash_uniform(rows, settings.seed), kind="stable")
        rows = np.sort(rank[: settings.max_blocks])
    masked = mask_blocks(
        np.asarray(blocks.ids[rows]),
        np.asarray(blocks.special[rows]),
        rows,
        vocabulary,
        ratio=settings.masking_ratio,
        seed=settings.seed,
        epoch=0,
        isolated=blocks.isolated,
    )
    return HeldoutSet(era, split, rows, np.asarray(blocks.owner[rows]), masked)


def save_masks(heldout: HeldoutSet, path: Path) -> None:
    """Write rows, positions, what the model reads there and what stood there (safetensors)."""
    masked = heldout.masked
    shown = np.take_along_axis(masked.inputs, masked.positions, axis=1)
    arrays = {
        "rows": heldout.rows,
        "positions": masked.positions.astype(np.int32),
        "shown": np.where(masked.valid, shown, -1).astype(np.int32),
        "targets": np.where(masked.valid, masked.targets, -1).astype(np.int32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)


@torch.no_grad()
def measure(
    encoder: MaskedEncoder, heldout: HeldoutSet, *, batch_blocks: int, device: torch.device
) -> HeldoutScore:
    """Loss (nats) and hits of every block; a target tied with another score counts as a hit."""
    masked = heldout.masked
    sums: list[NDArray[np.float64]] = []
    for start in range(0, len(heldout.rows), batch_blocks):
        part = slice(start, start + batch_blocks)
        attended = masked.take(part).attended
        logits = encoder.logits(
            _tensor(masked.inputs[part], device),
            None if attended is None else _tensor(attended, device),
            _tensor(masked.positions[part], device),
        )
        targets = _tensor(masked.targets[part], device).flatten()
        loss = F.cross_entropy(logits, targets, reduction="none")
        better = (logits > logits.gather(1, targets[:, None])).sum(1)
        figures = torch.stack([loss, (better < 1).float(), (better < 5).float()])
        shape = (3, *masked.valid[part].shape)
        by_token = figures.double().cpu().numpy().reshape(shape) * masked.valid[part]
        sums.append(by_token.sum(axis=2))
    total = np.concatenate(sums, axis=1) if sums else np.zeros((3, 0))
    hits = total[1:].astype(np.int64)
    return HeldoutScore(total[0], hits[0], hits[1], masked.valid.sum(axis=1))


def score_row(score: HeldoutScore, heldout: HeldoutSet) -> dict[str, Any]:
    """Means over all hidden tokens, as a row of metrics.jsonl holds them."""
    tokens = max(1, int(score.tokens.sum()))
    loss = float(score.loss.sum()) / tokens
    return {
        "era": heldout.era,
        "split": heldout.split,
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "top1": int(score.top1.sum()) / tokens,
        "top5": int(score.top5.sum()) / tokens,
        "masked_tokens": int(score.tokens.sum()),
    }


def _tensor(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def measure_all(
    encoder: MaskedEncoder,
    heldouts: Sequence[HeldoutSet],
    *,
    batch_blocks: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One row for each set; see `measure`."""
    return [
        score_row(measure(encoder, one, batch_blocks=batch_blocks, device=device), one)
        for one in heldouts
    ]
