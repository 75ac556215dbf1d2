"""Which split or fold a cluster belongs to: by hash of its name, before anything learns.

The hash knows the cluster and the seed and nothing else, so trials that come later never move
those that are there, as long as the cluster keeps its smallest id.
"""

from __future__ import annotations

import hashlib

from trialese.records import Split
from trialese.settings import SplitSettings

__all__ = ["assign_fold", "assign_split"]


def assign_split(cluster: str, settings: SplitSettings) -> Split:
    """The split of every member of `cluster`, in the shares that `settings` states."""
    place = _hash(f"split|{settings.seed}|{cluster}") / 2**64
    if place < settings.test_share:
        return "test"
    if place < settings.test_share + settings.tune_share:
        return "tune"
    return "train"


def assign_fold(cluster: str, *, folds: int, seed: int) -> int:
    """The fold, 0 ... folds - 1, of every member of `cluster`; equal shares in expectation.

    Raises:
        ValueError: fewer than one fold.
    """
    if folds < 1:
        raise ValueError(f"folds must be at least 1, not {folds}")
    return _hash(f"fold|{seed}|{cluster}") % folds


def _hash(key: str) -> int:
    """64 bits of sha256: the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
