"""Audits of overlap: was anything judged that had been trained on, or tuned on?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trialese.errors import LeakageError
from trialese.records import Audit, Thresholds
from trialese.verdict.lineup import Lineup, Round

__all__ = ["audit_overlap", "count_overlap"]

Chosen = Mapping[tuple[str, int, int], Thresholds]
"""Thresholds by system, seed and fold."""

_SHOWN = 3


def audit_overlap(
    lineup: Lineup, thresholds: Chosen, *, allow_overlap: bool = False
) -> tuple[tuple[Audit, ...], int]:
    """Audits of overlap, and how many test rows (once a round) overlap with training or tune.

    Raises:
        LeakageError: there is such an overlap, and it was not explicitly allowed. The message
            has the count and some of the clusters.
    """
    sources: tuple[tuple[str, str, Callable[[str, Round], frozenset[str]]], ...] = (
        (
            "test against training texts",
            "was trained on",
            lambda system, each: each.test[system].trained_on,
        ),
        (
            "test against the texts that thresholds were chosen from",
            "took thresholds from",
            lambda system, each: thresholds[system, each.seed, each.fold].chosen_from,
        ),
    )
    audits, leaked = [], 0
    for name, deed, source in sources:
        worst, rows, clusters = "", 0, set[str]()
        for system in lineup.systems:
            found = [count_overlap(each, source(system, each)) for each in lineup.rounds]
            total = sum(count for count, _ in found)
            if total > rows:
                worst, rows, clusters = system, total, set().union(*(names for _, names in found))
        audits.append(
            _overlap_audit(
                lineup,
                name,
                deed,
                system=worst,
                rows=rows,
                clusters=clusters,
                allowed=allow_overlap,
            )
        )
        leaked = max(leaked, rows)
    divided = _divided(lineup)
    if divided and not allow_overlap:
        raise LeakageError(
            f"{lineup.task}: {len(divided)} clusters of duplicates are divided between test folds, "
            f"such as {_some(divided)}; split by cluster, or allow the overlap (--allow-overlap)"
        )
    leaked = max(leaked, sum(count_overlap(each, frozenset(divided))[0] for each in lineup.rounds))
    audits += [
        Audit(
            name="clusters of duplicates are not divided between folds",
            passed=not divided,
            finding=f"{len(divided)} divided" + (f", such as {_some(divided)}" if divided else ""),
        ),
        _undeclared(lineup),
    ]
    return tuple(audits), leaked


def count_overlap(each: Round, known: frozenset[str]) -> tuple[int, set[str]]:
    """How many test rows lie in a known cluster, and those clusters."""
    shared = set(each.clusters) & known
    return sum(cluster in shared for cluster in each.clusters) if shared else 0, shared


def _overlap_audit(
    lineup: Lineup,
    name: str,
    deed: str,
    *,
    system: str,
    rows: int,
    clusters: set[str],
    allowed: bool,
) -> Audit:
    tested = sum(len(each.ids) for each in lineup.rounds)
    if not rows:
        return Audit(name=name, passed=True, finding=f"0 of {tested:,} test rows overlap")
    finding = (
        f"{rows:,} of {tested:,} test rows lie in clusters that {system} {deed}, "
        f"such as {_some(clusters)}"
    )
    if not allowed:
        raise LeakageError(
            f"{lineup.task}: {finding}; split by cluster, or allow it (--allow-overlap), "
            "which brands the report"
        )
    return Audit(name=name, passed=False, finding=finding)


def _divided(lineup: Lineup) -> set[str]:
    """Clusters that are tested in more than one fold of a seed."""
    divided, home = set(), dict[tuple[int, str], int]()
    for each in lineup.rounds:
        for cluster in set(each.clusters):
            if home.setdefault((each.seed, cluster), each.fold) != each.fold:
                divided.add(cluster)
    return divided


def _undeclared(lineup: Lineup) -> Audit:
    """Without the list of training texts the first audit sees nothing."""
    silent = [
        system
        for system in lineup.systems
        if any(not each.test[system].trained_on for each in lineup.rounds)
    ]
    models = [system for system in silent if system in lineup.models]
    finding = f"{', '.join(silent)} declared none" if silent else "every system declared them"
    return Audit(name="training texts are declared", passed=not models, finding=finding)


def _some(names: Sequence[str] | set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(repr(name) for name in shown) + (", …" if len(names) > _SHOWN else "")
