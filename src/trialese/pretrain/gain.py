"""How much a run changed on held-out blocks, with an interval over documents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialese.pretrain.heldout import HeldoutScore
from trialese.records import Interval

__all__ = ["changed_loss", "gained_top1", "interval_of", "resampled_shares"]


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
    return _gained(after.top1 - before.top1, before, owner, resamples, confidence, seed)


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
    return _gained(after.loss - before.loss, before, owner, resamples, confidence, seed)


def _gained(
    change: NDArray[Any],
    before: HeldoutScore,
    owner: NDArray[np.int64],
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    _, place = np.unique(owner, return_inverse=True)
    changes = np.bincount(place, weights=change.astype(np.float64))
    counts = np.bincount(place, weights=before.tokens.astype(np.float64))
    shares = resampled_shares(changes, counts, resamples=resamples, seed=seed)
    point = float(changes.sum() / max(counts.sum(), 1.0))
    return interval_of(point, shares, confidence=confidence)


def resampled_shares(
    sums: NDArray[Any], counts: NDArray[Any], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Pooled sums over pooled counts, (resamples,), of bootstrap samples of the units: (units,)."""
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    shares: NDArray[np.float64] = sums[drawn].sum(axis=1) / np.maximum(
        counts[drawn].sum(axis=1), 1.0
    )
    return shares


def interval_of(
    point: float, samples: NDArray[np.float64], *, confidence: float = 0.95
) -> Interval:
    """The point with the middle share of the bootstrap samples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(point, float(low), float(high))
