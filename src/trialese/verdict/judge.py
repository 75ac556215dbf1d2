"""The verdict on one task, from the predictions of all its systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from trialese import __version__
from trialese.artifacts import as_settings
from trialese.records import WEIGHTLESS, Audit, Predictions, Thresholds, Verdict
from trialese.settings import VerdictSettings
from trialese.thresholds import PUBLISHED_CUT, choose_thresholds, decide
from trialese.verdict.audits import audit_overlap, audit_scores
from trialese.verdict.calibration import risk_coverage
from trialese.verdict.scores import Scoreboard, averages_of, score, score_groups, score_slices
from trialese.verdict.significance import compare, count_discordant
from trialese.verdict.systems import Comparison, align_systems

__all__ = ["judge"]


def judge(
    runs: Mapping[str, Sequence[Predictions]],
    settings: VerdictSettings,
    *,
    allow_overlap: bool = False,
    audits: Sequence[Audit] = (),
    groups: Mapping[str, str] | None = None,
    slices: Mapping[str, Mapping[str, str]] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Verdict:
    """The verdict on one task: scores with intervals, paired differences, audits, signature.

    `runs` holds each system's tune and test predictions over the same seeds and folds.
    Thresholds, temperatures and set levels are chosen on the tune rows of each seed and fold and
    applied to its test rows. Rows are pooled over the folds of a seed; figures are averaged over
    seeds. Intervals come from resampling clusters of duplicates, the same ones for every system
    and seed, so they tell how far other test texts could move a figure; they do not tell how far
    other training runs could. `audits` are findings of earlier stages, such as `audit_giveaways`,
    to be shown with the verdict's own. `groups` (label -> coarser group) gives a second view: the
    same decisions, a group given where one of its labels is. `slices` (name -> id -> part, such as
    "phase" -> id -> "PHASE2") asks for scores by part; texts with one label and with several are
    always told apart. `about` goes into the notes:
    `synthetic` (true for made-up trials), `silver` (system -> how many texts labelled by a model it
    learnt from, which the signature names), `models` (system -> what its language model is) and
    `behaviour` (system -> its pass rate on each group of behavioural tests) are said with every
    table.

    Raises:
        RecordError: no rival, or systems that were not tested alike (see `align_systems`).
        LeakageError: test rows overlap with training or tune rows and `allow_overlap` is False.
            If it is True, the signature carries the brand `OVERLAP=` with the number of rows.
    """
    comparison = align_systems(runs)
    thresholds = {
        (system, each.seed, each.fold): choose_thresholds(each.tune[system], settings)
        for system in comparison.systems
        for each in comparison.rounds
    }
    overlap, leaked = audit_overlap(comparison, thresholds, allow_overlap=allow_overlap)
    board = score(comparison, thresholds, settings)
    scores = tuple(board.scores(system) for system in comparison.systems)
    headlines = tuple(f"{name}-f1" for name in averages_of(comparison))
    return Verdict(
        task=comparison.task,
        kind=comparison.kind,
        labels=comparison.labels,
        signature=_signature(comparison, settings, leaked, (about or {}).get("silver", {})),
        rows=len({text for each in comparison.rounds for text in each.ids}),
        clusters=len({cluster for each in comparison.rounds for cluster in each.clusters}),
        scores=scores,
        differences=compare(board.decisions, comparison, settings, headlines=headlines),
        audits=(*overlap, *audit_scores(comparison, scores), *audits),
        notes={
            **(about or {}),
            "settings": as_settings(settings),
            "test_digest": comparison.digest(),
            "rows_overlapping": leaked,
            "folds": len({each.fold for each in comparison.rounds}),
            "seeds": list(comparison.seeds),
            "baselines": list(comparison.baselines),
            "f1_by_seed": {
                system: {
                    name: [round(float(f), 10) for f in board.decisions.seeds_of(system, name)]
                    for name in headlines
                }
                for system in comparison.systems
            },
            "thresholds_median": _median_thresholds(comparison, thresholds),
            "reliability": {
                system: board.reliability_notes(system) for system in comparison.systems
            },
            "risk_coverage": {
                system: _risk_coverage(comparison, board, system)
                for system in comparison.systems
                if comparison.kind == "multilabel" and system not in WEIGHTLESS
            },
            "confusions": {system: board.confusions(system) for system in comparison.systems},
            "mcnemar": count_discordant(comparison),
            "set_coverage": {
                system: [
                    msgspec.to_builtins(board.coverage.interval(system, label))
                    for label in comparison.labels
                ]
                for system in comparison.systems
            },
            "slices": score_slices(
                comparison, board.decided, {**_own_slices(comparison), **(slices or {})}, settings
            ),
            "groups": score_groups(comparison, board.decided, groups, settings) if groups else {},
        },
    )


def _risk_coverage(
    comparison: Comparison, board: Scoreboard, system: str
) -> dict[str, dict[str, list[float]]]:
    """With the cut-offs chosen on tune, and with one fixed cut-off for all, as Open Targets has."""
    rounds = comparison.rounds
    truth = np.concatenate([each.truth for each in rounds])
    scores = np.concatenate([each.test[system].scores for each in rounds])
    chosen = np.concatenate([board.decided[system, each.seed, each.fold] for each in rounds])
    fixed = decide(scores, comparison.kind, PUBLISHED_CUT)
    return {
        "chosen": risk_coverage(scores, chosen, truth),
        "fixed": risk_coverage(scores, fixed, truth),
    }


def _own_slices(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Parts that every verdict tells apart, where there are any."""
    return {**_label_counts(comparison), **_contradictions(comparison)}


def _contradictions(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Whether a text's cluster holds other labels too, so that nobody can be right on all of it."""
    held: dict[str, set[bytes]] = {}
    for each in comparison.rounds:
        for cluster, row in zip(each.clusters, each.truth, strict=True):
            held.setdefault(cluster, set()).add(row.tobytes())
    if all(len(rows) == 1 for rows in held.values()):
        return {}
    parts = {
        text: "other labels too" if len(held[cluster]) > 1 else "the same labels, or alone"
        for each in comparison.rounds
        for text, cluster in zip(each.ids, each.clusters, strict=True)
    }
    return {"labels of nearly equal texts": parts}


def _label_counts(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Of a multilabel task, whether each text has one true label, several or none."""
    if comparison.kind == "multiclass":
        return {}
    words = ("no label", "one label", "several labels")
    counts = {
        text: words[min(int(count), 2)]
        for each in comparison.rounds
        for text, count in zip(each.ids, each.truth.sum(axis=1), strict=True)
    }
    return {"labels of a text": counts}


def _median_thresholds(
    comparison: Comparison, thresholds: Mapping[tuple[str, int, int], Thresholds]
) -> dict[str, list[float]] | str:
    if comparison.kind == "multiclass":
        return "argmax: the highest score is taken, no cut-off is chosen"
    found = {}
    for system in comparison.systems:
        values = [thresholds[system, each.seed, each.fold].values for each in comparison.rounds]
        found[system] = [round(float(value), 10) for value in np.median(values, axis=0)]
    return found


def _signature(
    comparison: Comparison, settings: VerdictSettings, leaked: int, silver: Mapping[str, int]
) -> str:
    """What the scores depend on, in one line; parts after the seed only if not the default."""
    cut_offs = "tune" if settings.threshold is None else f"{settings.threshold:g}"
    if comparison.kind == "multiclass":
        cut_offs = "argmax"
    parts = [
        comparison.task,
        f"test:{comparison.digest()[:6]}",
        f"thr={cut_offs}",
        f"boot={settings.resamples}",
        f"seed={settings.seed}",
    ]
    default = VerdictSettings()
    if settings.confidence != default.confidence:
        parts.append(f"ci={settings.confidence:g}")
    if settings.threshold_shrinkage != default.threshold_shrinkage and cut_offs == "tune":
        parts.append(f"shrink={settings.threshold_shrinkage:g}")
    if settings.label_sets != default.label_sets:
        parts.append(f"sets={settings.label_sets}")
    if silver:
        parts.append("SILVER=" + ",".join(f"{name}:{texts}" for name, texts in silver.items()))
    if leaked:
        parts.append(f"OVERLAP={leaked}")
    return "|".join([*parts, f"v{__version__}"])
