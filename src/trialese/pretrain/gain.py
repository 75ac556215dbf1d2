"""How much a run gained on held-out blocks, with an interval over documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trialese.pretrain.heldout import HeldoutScore
from trialese.records import Interval

__all__ = ["gained_top1"]


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
    documents, place = np.unique(owner, return_inverse=True)
    gained = np.bincount(place, weights=(after.top1 - before.top1).astype(np.float64))
    tokens = np.bincount(place, weights=before.tokens.astype(np.float64))
    generator = np.random.default_rng(seed)
    count = len(documents)
    drawn = generator.integers(0, count, (resamples, count))  # (resamples, documents)
    share = gained[drawn].sum(axis=1) / np.maximum(tokens[drawn].sum(axis=1), 1.0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(share, [tail, 1 - tail])
    return Interval(float(gained.sum() / max(tokens.sum(), 1.0)), float(low), float(high))
