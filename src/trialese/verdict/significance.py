"""Tests of "there is no difference", and their correction when many labels are asked at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["holm", "mcnemar", "randomisation_p"]

Floats = NDArray[np.float64]


def randomisation_p(
    one: Floats,
    other: Floats,
    differences: Callable[[Floats, Floats], Floats],
    *,
    rounds: int,
    random: np.random.Generator,
) -> Floats:
    """Two-sided p-value of each figure's difference by approximate randomisation.

    If two systems are equally good, it does not matter which of them said what about a text; so
    the systems are swapped at random, cluster by cluster, and the p-value is how often a
    difference as large comes out (Noreen 1989; Yeh 2000), with one added to both counts.

    Args:
        one: sums of each cluster of the first system, (clusters, columns).
        other: those of the second, in the same order.
        differences: maps total sums (rounds, columns) of both to figures (rounds, figures).
        rounds: how often to swap.
        random: where the swaps come from.
    """
    total = (one + other).sum(axis=0)
    found = np.abs(differences(one.sum(axis=0)[None], other.sum(axis=0)[None]))
    # Clusters with equal differences are interchangeable: a binomial tells how many are swapped.
    kinds, counts = np.unique(one - other, axis=0, return_counts=True)
    kept = (kinds != 0).any(axis=1)
    kinds, counts = kinds[kept], counts[kept]
    portion = max(1, 4_000_000 // max(1, len(kinds)))
    as_large = np.zeros(found.shape[1])
    for start in range(0, rounds, portion):
        size = (min(portion, rounds - start), len(kinds))
        signs = 2.0 * random.binomial(counts, 0.5, size=size) - counts
        shift = signs @ kinds
        swapped = differences((total + shift) / 2, (total - shift) / 2)
        as_large += (np.abs(swapped) >= found - 1e-12).sum(axis=0)
    return np.asarray((as_large + 1) / (rounds + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value adjusted for having asked all of them, in the same order (Holm 1979).

    Rejecting where the adjusted value is below 5 % keeps the chance of any false alarm below 5 %.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = running
    return adjusted


def mcnemar(right: NDArray[np.bool_], rival_right: NDArray[np.bool_]) -> tuple[int, int, float]:
    """How often only the one was right, only the rival, and the exact two-sided p-value.

    For independent rows with one answer each (McNemar 1947, binomial form); rows that belong to
    clusters want `randomisation_p`, which is the same test when each cluster is one row.
    """
    only, rival_only = int((right & ~rival_right).sum()), int((rival_right & ~right).sum())
    trials, fewer = only + rival_only, min(only, rival_only)
    tail = sum(_binomial(trials, k) for k in range(fewer + 1))
    return only, rival_only, min(1.0, 2 * tail)


def _binomial(trials: int, hits: int) -> float:
    """The chance of so many heads of a fair coin; by logarithms, since 2**trials overflows."""
    ways = math.lgamma(trials + 1) - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1)
    return math.exp(ways - trials * math.log(2))
