"""Which split or fold a cluster belongs to: by hash of its name, before anything learns.

The hash knows the cluster and the seed and nothing else, so trials that come later never move
those that are there, as long as the cluster keeps its smallest id.
"""

from __future__ import annotations

import hashlib

from trialese.errors import RecipeError
from trialese.records import Split
from trialese.settings import SplitSettings

__all__ = ["assign_fold", "assign_split", "check_split"]


def assign_split(
    cluster: str, settings: SplitSettings, *, first_posted: str | None = None
) -> Split:
    """The split of every member of `cluster`, in the shares or by the dates of `settings`.

    With `settings.by == "date"`, `first_posted` is the earliest date among the cluster's trials
    (ISO 8601): a cluster that began before the hold-out is no unseen text. Without a date it is
    train.
    """
    if settings.by == "date":
        test_from = settings.test_from or "9999"
        tune_from = settings.tune_from or test_from
        held_out: Split = "test" if (first_posted or "") >= test_from else "tune"
        return held_out if (first_posted or "") >= tune_from else "train"
    place = _hash(f"split|{settings.seed}|{cluster}") / 2**64
    if place < settings.test_share:
        return "test"
    return "tune" if place < settings.test_share + settings.tune_share else "train"


def check_split(settings: SplitSettings) -> None:
    """Refuse shares or dates that make no split (RecipeError)."""
    if min(settings.tune_share, settings.test_share) < 0 or (
        settings.tune_share + settings.test_share >= 1
    ):
        raise RecipeError(
            f"corpus.split: tune_share {settings.tune_share} and test_share {settings.test_share} "
            "leave nothing to train on; they must not be negative and add up to less than 1"
        )
    if settings.by == "date" and settings.test_from is None:
        raise RecipeError("corpus.split: by = 'date' needs test_from, such as '2024-01-01'")
    if settings.by == "hash" and (settings.tune_from or settings.test_from):
        raise RecipeError("corpus.split: tune_from and test_from need by = 'date'")
    if settings.tune_from and settings.test_from and settings.tune_from > settings.test_from:
        raise RecipeError("corpus.split: tune_from is after test_from; swap them")


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
