"""Paired comparisons of systems: approximate randomisation, McNemar's test, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trialese.bootstrap import distinct_rows
from trialese.errors import RecipeError
from trialese.records import BASELINES, Difference
from trialese.settings import VerdictSettings
from trialese.verdict.scores import Table
from trialese.verdict.systems import Comparison

__all__ = [
    "NO_DIFFERENCE",
    "TOO_FEW",
    "compare",
    "count_discordant",
    "holm",
    "mcnemar",
    "randomisation_p",
]


Floats = NDArray[np.float64]

NO_DIFFERENCE, TOO_FEW = "no significant difference", "too few texts"
_FEWEST_TEXTS = 20
"""Below so many texts with a label the interval of a difference holds the truth too seldom."""
_COARSE = 0.1
"""A test set that leaves so large a difference open is too small to speak of no difference."""
_POWER = NormalDist().inv_cdf(0.8)


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
    kinds, counts = distinct_rows(one - other)
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

    The verdict rests on the primary figure of the first system against every other one; these
    p-values are adjusted together (Holm). All other differences are exploratory: those of the
    labels of one pair are adjusted for their number, those of further averages are not. The best
    baseline is the strongest on that very figure, so the choice is against the model.

    P-values are those of approximate randomisation by cluster. A difference is called better or
    worse only if both its interval and its p-value exclude 0. Where each system was trained once,
    the interval is first widened by `settings.seed_spread`, unless neither is a model. Otherwise
    it is called "too few texts" if a label stands in fewer than 20 texts or the interval of an
    average reaches beyond 0.1 either way, and else "no significant difference".

    Raises:
        RecipeError: so few resamples that no p-value could come out below the level.
    """
    systems, seeds = comparison.systems, len(comparison.seeds)
    leader, rivals = systems[0], systems[1:]
    _refuse_too_few_resamples(comparison, settings)
    per_label = [f"f1:{label}" for label in comparison.labels]
    support = comparison.support()
    found: dict[tuple[str, str, str], Difference] = {}

    @cache
    def p_values(system: str, rival: str) -> dict[str, float]:
        return _p_values(table, system, rival, settings)

    def add(system: str, rival: str, name: str, p_value: float, *, primary: bool = False) -> None:
        key = (system, rival, name)
        if key not in found and (rival, system, name) not in found:
            trained_once = seeds == 1 and not {system, rival} <= set(BASELINES)
            label = name.startswith("f1:")
            found[key] = _difference(
                table,
                key,
                p_value,
                p_values(system, rival)[name],
                spread=settings.seed_spread * (len(per_label) ** 0.5 if label else 1.0)
                if trained_once
                else 0.0,
                support=support[name.removeprefix("f1:")] if label else None,
                primary=primary,
            )

    first = [p_values(leader, rival)[settings.primary] for rival in rivals]
    for rival, p_value in zip(rivals, holm(first), strict=True):
        add(leader, rival, settings.primary, p_value, primary=True)
    for place, model in enumerate(comparison.models):
        for rival in comparison.models[place + 1 :]:
            found_p = p_values(model, rival)
            for name in headlines:
                add(model, rival, name, found_p[name])
            adjusted = holm([found_p[name] for name in per_label])
            for name, p_value in zip(per_label, adjusted, strict=True):
                add(model, rival, name, p_value)
    for system in comparison.models or comparison.baselines:
        others = [name for name in comparison.baselines if name != system]
        for name in headlines if others else ():
            rival = _strongest(table, others, name)
            add(system, rival, name, p_values(system, rival)[name])
    return tuple(found.values())


def _refuse_too_few_resamples(comparison: Comparison, settings: VerdictSettings) -> None:
    pairs, level = len(comparison.systems) - 1, 1 - settings.confidence
    if pairs / (settings.resamples + 1) >= level:
        raise RecipeError(
            f"{comparison.task}: {settings.resamples} resamples are too few for {pairs} "
            f"comparisons at the {level:.2g} level; set verdict.resamples to at least "
            f"{math.ceil(pairs / level)}, better 2000"
        )


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


def _difference(
    table: Table,
    key: tuple[str, str, str],
    p_value: float,
    raw_p_value: float,
    *,
    spread: float,
    support: float | None,
    primary: bool,
) -> Difference:
    system, rival, name = key
    found = table.difference(system, rival, name)
    level = NormalDist().inv_cdf((1 + table.confidence) / 2)
    low = found.point - math.hypot(found.point - found.low, level * spread)
    high = found.point + math.hypot(found.high - found.point, level * spread)
    deviation = float((table.drawn(system, name) - table.drawn(rival, name)).std())
    few = support < _FEWEST_TEXTS if support is not None else max(-found.low, found.high) > _COARSE
    conclusion = TOO_FEW if few else NO_DIFFERENCE
    decided = round(p_value, 10) < round(1 - table.confidence, 10) and (low > 0 or high < 0)
    if decided and not (few and support is not None):
        conclusion = "better" if low > 0 else "worse"
    return Difference(
        system=system,
        rival=rival,
        metric=name,
        interval=found,
        p_value=round(p_value, 10),
        raw_p_value=round(raw_p_value, 10),
        conclusion=conclusion,
        primary=primary,
        detectable=round((level + _POWER) * math.hypot(deviation, spread), 10),
    )
