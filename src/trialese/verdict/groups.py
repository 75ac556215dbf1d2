"""The second view: the same decisions by coarser groups of labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trialese.errors import RecordError
from trialese.settings import VerdictSettings
from trialese.verdict.lineup import Lineup, Round
from trialese.verdict.metrics import row_figures
from trialese.verdict.scoreboard import averages_of, score_decisions, tabulate_decisions

__all__ = ["score_groups"]

Bools = NDArray[np.bool_]


def score_groups(
    lineup: Lineup,
    decided: Mapping[tuple[str, int, int], Bools],
    groups: Mapping[str, str],
    settings: VerdictSettings,
) -> dict[str, Any]:
    """`members` (group -> its labels) and `scores` (system -> labels and averages), for the notes.

    A group is true, or given, where at least one of its labels is: what is taken for another label
    of the same group counts as right. `decided` holds the labels by system, seed and fold.

    Raises:
        RecordError: a label without a group.
    """
    lacking = [label for label in lineup.labels if label not in groups]
    if lacking:
        raise RecordError(f"{lineup.task}: no group for {', '.join(lacking)}; give every label one")
    names = list(dict.fromkeys(groups[label] for label in lineup.labels))
    columns = [[groups[label] == name for label in lineup.labels] for name in names]

    def merged(labels: Bools) -> Bools:
        return np.stack([labels[:, column].any(axis=1) for column in columns], axis=1)

    def figures(system: str, each: Round) -> NDArray[np.float64]:
        given = decided[system, each.seed, each.fold]
        return row_figures(merged(given), merged(each.truth))

    table = tabulate_decisions(lineup, figures, names, settings)
    found = {}
    for system in lineup.systems:
        labels, averages = score_decisions(table, system, names, averages_of(lineup))
        found[system] = msgspec.to_builtins({"labels": labels, "averages": averages})
    members = {name: [x for x in lineup.labels if groups[x] == name] for name in names}
    return {"members": members, "scores": found}
