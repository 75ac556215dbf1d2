"""How much a run changed on held-out blocks, with an interval over documents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialese.pretrain.heldout import HeldoutScore
from trialese.records import Interval

__all__ = ["changed_loss", "gained_top1"]


def gained_top1(
    before: HeldoutScore,
    after: HeldoutScore,
    owner: NDArray[np.int64],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 7,
) -> Interval:
    """Paired gain in top-1 accuracy, after - before, over the same blocks and masks.

    Percentile bootstrap over documents (`owner` is (blocks,)), since blocks of one document are
    not independent: each resample draws as many documents as there are and pools their tokens.
    It says how far the gain holds for other documents; not for other seeds of training.
    """
    change = after.top1 - before.top1
    return _pooled(change, before.tokens, owner, resamples, confidence, seed)


def changed_loss(
    before: HeldoutScore,
    after: HeldoutScore,
    owner: NDArray[np.int64],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 7,
) -> Interval:
    """Paired change of the loss in nats a hidden token; negative is better. See `gained_top1`."""
    change = after.loss - before.loss
    return _pooled(change, before.tokens, owner, resamples, confidence, seed)


def _pooled(
    change: NDArray[Any],
    tokens: NDArray[np.int64],
    owner: NDArray[np.int64],
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    documents, place = np.unique(owner, return_inverse=True)
    changes = np.bincount(place, weights=change.astype(np.float64))
    counts = np.bincount(place, weights=tokens.astype(np.float64))
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(documents), (resamples, len(documents)))
    share = changes[drawn].sum(axis=1) / np.maximum(counts[drawn].sum(axis=1), 1.0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(share, [tail, 1 - tail])
    return Interval(float(changes.sum() / max(counts.sum(), 1.0)), float(low), float(high))
