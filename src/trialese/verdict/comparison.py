"""Who is better than whom: paired differences over the same rows, seeds and resamples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trialese.records import Difference
from trialese.settings import VerdictSettings
from trialese.verdict.bootstrap import interval
from trialese.verdict.lineup import Lineup
from trialese.verdict.significance import holm, mcnemar, randomisation_p
from trialese.verdict.tabulation import Table

__all__ = ["compare", "count_discordant"]

Floats = NDArray[np.float64]


def compare(
    table: Table, lineup: Lineup, settings: VerdictSettings, *, headlines: Sequence[str]
) -> tuple[Difference, ...]:
    """All differences: between models on every figure, and to the best baseline on headlines.

    The best baseline is the strongest on that very figure, so the choice is against the model.
    The p-value is that of approximate randomisation by cluster; those of the labels of one pair
    are adjusted for their number (Holm). A difference is called better or worse only if both
    its interval and its p-value exclude 0; otherwise "cannot tell".
    """
    per_label = [f"f1:{label}" for label in lineup.labels]
    found: list[Difference] = []
    for place, model in enumerate(lineup.models):
        for rival in lineup.models[place + 1 :]:
            p_values = _p_values(table, model, rival, settings)
            found += [_difference(table, model, rival, n, p_values[n]) for n in headlines]
            adjusted = holm([p_values[name] for name in per_label])
            found += [
                _difference(table, model, rival, name, p_value)
                for name, p_value in zip(per_label, adjusted, strict=True)
            ]
    for system in lineup.models or lineup.baselines:
        others = [name for name in lineup.baselines if name != system]
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


def count_discordant(lineup: Lineup) -> dict[str, list[dict[str, float]]]:
    """McNemar's counts of each pair of models, by seed; for a multiclass task, else empty.

    Exact for texts that are independent; where clusters hold several texts, trust the p-value of
    the difference, which swaps whole clusters.
    """
    if lineup.kind != "multiclass":
        return {}
    found: dict[str, list[dict[str, float]]] = {}
    for place, model in enumerate(lineup.models):
        for rival in lineup.models[place + 1 :]:
            for seed in lineup.seeds:
                right = [
                    np.concatenate(
                        [
                            each.truth[np.arange(len(each.ids)), each.test[name].scores.argmax(1)]
                            for each in lineup.rounds
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
