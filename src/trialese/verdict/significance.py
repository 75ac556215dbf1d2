"""Paired comparisons of systems: approximate randomisation, McNemar's test, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trialese.bootstrap import interval
from trialese.records import Difference
from trialese.settings import VerdictSettings
from trialese.verdict.scores import Table
from trialese.verdict.systems import Comparison

__all__ = ["compare", "count_discordant", "holm", "mcnemar", "randomisation_p"]


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


def compare(
    table: Table, comparison: Comparison, settings: VerdictSettings, *, headlines: Sequence[str]
) -> tuple[Difference, ...]:
    """All differences: between models on every figure, and to the best baseline on headlines.

    The best baseline is the strongest on that very figure, so the choice is against the model.
    The p-value is that of approximate randomisation by cluster; those of the labels of one pair
    are adjusted for their number (Holm). A difference is called better or worse only if both
    its interval and its p-value exclude 0; otherwise "cannot tell".
    """
    per_label = [f"f1:{label}" for label in comparison.labels]
    found: list[Difference] = []
    for place, model in enumerate(comparison.models):
        for rival in comparison.models[place + 1 :]:
            p_values = _p_values(table, model, rival, settings)
            found += [_difference(table, model, rival, n, p_values[n]) for n in headlines]
            adjusted = holm([p_values[name] for name in per_label])
            found += [
                _difference(table, model, rival, name, p_value)
                for name, p_value in zip(per_label, adjusted, strict=True)
            ]
    for system in comparison.models or comparison.baselines:
        others = [name for name in comparison.baselines if name != system]
        best = {name: _strongest(table, others, name) for name in headlines if others}
        p_by_rival = {
            rival: _p_values(table, system, rival, settings)
            for rival in dict.fromkeys(best.values())
        }
        found += [
            _difference(table, system, rival, name, p_by_rival[rival][name])
            for name, rival in best.items()
        ]
    return tuple(found)


def _strongest(table: Table, systems: Sequence[str], name: str) -> str:
    return max(systems, key=lambda system: table.point(system, name))


def count_discordant(comparison: Comparison) -> dict[str, list[dict[str, float]]]:
    """McNemar's counts of each pair of models, by seed; for a multiclass task, else empty.

    Exact for texts that are independent; where clusters hold several texts, trust the p-value of
    the difference, which swaps whole clusters.
    """
    if comparison.kind != "multiclass":
        return {}
    found: dict[str, list[dict[str, float]]] = {}
    for place, model in enumerate(comparison.models):
        for rival in comparison.models[place + 1 :]:
            for seed in comparison.seeds:
                right = [
                    np.concatenate(
                        [
                            each.truth[np.arange(len(each.ids)), each.test[name].scores.argmax(1)]
                            for each in comparison.rounds
                            if each.seed == seed
                        ]
                    )
                    for name in (model, rival)
                ]
                only, rival_only, p_value = mcnemar(right[0], right[1])
                counts = {"seed": seed, "only": only, "rival_only": rival_only}
                found.setdefault(f"{model} - {rival}", []).append(
                    {**counts, "p_value": round(p_value, 10)}
                )
    return found


def _p_values(table: Table, system: str, rival: str, settings: VerdictSettings) -> dict[str, float]:
    one, other = (table.sums[:, table.systems.index(name)] for name in (system, rival))
    clusters, seeds, columns = one.shape

    def differences(total: Floats, other_total: Floats) -> Floats:
        first, second = (
            table.flat(each.reshape(-1, seeds, columns)).mean(axis=1)
            for each in (total, other_total)
        )
        return np.asarray(first - second)

    p_values = randomisation_p(
        one.reshape(clusters, -1),
        other.reshape(clusters, -1),
        differences,
        rounds=settings.resamples,
        random=np.random.default_rng([settings.seed, 1]),
    )
    return {name: float(p_values[place]) for name, place in table.places.items()}


def _difference(table: Table, system: str, rival: str, name: str, p_value: float) -> Difference:
    found = interval(
        table.point(system, name) - table.point(rival, name),
        table.drawn(system, name) - table.drawn(rival, name),
        confidence=table.confidence,
    )
    conclusion = "cannot tell"
    if p_value < 1 - table.confidence:
        conclusion = "better" if found.low > 0 else "worse" if found.high < 0 else conclusion
    return Difference(
        system=system,
        rival=rival,
        metric=name,
        interval=found,
        p_value=round(p_value, 10),
        conclusion=conclusion,
    )
