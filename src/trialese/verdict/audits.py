"""Audits of data and scores: what makes a figure mean less than it seems to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from trialese.records import Audit, Scores
from trialese.verdict.lineup import Lineup

__all__ = ["audit_giveaways", "audit_scores"]

_TOO_GOOD_F1 = 0.995
_TOO_GOOD_SUPPORT = 50


def audit_scores(lineup: Lineup, scores: Sequence[Scores]) -> tuple[Audit, ...]:
    """The audits that need only predictions and what was scored."""
    return (
        _constant(lineup),
        _empty_labels(lineup),
        _unseen_on_tune(lineup),
        _contradictory(lineup),
        _too_good(scores),
    )


def audit_giveaways(
    texts: Sequence[tuple[str, Sequence[str]]],
    labels: Sequence[str],
    words_of: Callable[[str], Iterable[str]] = str.split,
    *,
    least_texts: int = 20,
    least_share: float = 0.98,
) -> Audit:
    """Words that all but name a label: in at least `least_texts` texts, nearly all with it.

    `texts` are (text, true labels) of the training split. A word counts if the label holds for
    `least_share` of its texts and for less than half of all others, so that a label that almost
    every text has is not flagged. A finding is a question, not an error: "female" should tell
    who may enrol if the text says so, and should not if it is the answer's own field.
    """
    with_word: dict[str, int] = {}
    with_both: dict[tuple[str, str], int] = {}
    with_label = dict.fromkeys(labels, 0)
    for text, held in texts:
        for label in held:
            with_label[label] += 1
        for word in {each.casefold() for each in words_of(text)}:
            with_word[word] = with_word.get(word, 0) + 1
            for label in held:
                with_both[word, label] = with_both.get((word, label), 0) + 1
    found = []
    for (word, label), both in with_both.items():
        count = with_word[word]
        others = len(texts) - count
        rare_elsewhere = others > 0 and (with_label[label] - both) / others < 0.5
        if count >= least_texts and both / count >= least_share and rare_elsewhere:
            found.append((-both, word, label, count))
    shown = ", ".join(
        f"{word!r} tells {label} in {-both} of {count} texts"
        for both, word, label, count in sorted(found)[:5]
    )
    return Audit(
        name="no single word gives a label away",
        passed=not found,
        finding=f"{len(found)} do: {shown}" if found else f"none in {len(texts):,} training texts",
    )


def _constant(lineup: Lineup) -> Audit:
    """A system that gives every text the same scores has learnt nothing but the prior."""
    flat = [
        system
        for system in lineup.systems
        if all(np.ptp(each.test[system].scores, axis=0).max() == 0.0 for each in lineup.rounds)
    ]
    unexpected = [system for system in flat if system != "prior"]
    finding = f"constant: {', '.join(flat)}" if flat else "no system's scores are constant"
    return Audit(name="scores vary from text to text", passed=not unexpected, finding=finding)


def _empty_labels(lineup: Lineup) -> Audit:
    totals = sum(each.truth.sum(axis=0) for each in lineup.rounds)
    empty = [label for label, total in zip(lineup.labels, totals, strict=True) if total == 0]
    finding = (
        f"no test text has {', '.join(empty)}; F1 counts as 0 and lowers the macro average"
        if empty
        else f"the rarest label has {int(min(totals) / len(lineup.seeds))} test texts"
    )
    return Audit(name="every label occurs in test", passed=not empty, finding=finding)


def _unseen_on_tune(lineup: Lineup) -> Audit:
    """A label without positives on tune gets the common cut-off, for want of anything better."""
    first = lineup.systems[0]
    lacking: dict[str, int] = {}
    for each in lineup.rounds:
        positives = each.tune[first].truth.sum(axis=0).tolist()
        for label, count in zip(lineup.labels, positives, strict=True):
            if not count:
                lacking[label] = lacking.get(label, 0) + 1
    rounds = len(lineup.rounds)
    finding = ", ".join(f"{label} in {n} of {rounds} folds" for label, n in lacking.items())
    return Audit(
        name="every label occurs in tune",
        passed=not lacking,
        finding=f"absent: {finding}" if lacking else f"in all {rounds}",
    )


def _contradictory(lineup: Lineup) -> Audit:
    """Near-identical texts with different labels bound what any classifier can reach."""
    truths: dict[str, set[bytes]] = {}
    for each in lineup.rounds:
        for cluster, row in zip(each.clusters, each.truth, strict=True):
            truths.setdefault(cluster, set()).add(row.tobytes())
    torn = {cluster for cluster, found in truths.items() if len(found) > 1}
    return Audit(
        name="near-identical texts have the same labels",
        passed=not torn,
        finding=f"{len(torn):,} of {len(truths):,} clusters hold texts with different labels",
    )


def _too_good(scores: Sequence[Scores]) -> Audit:
    """A label that is all but always right is more often given away than learnt."""
    found = [
        f"{each.system} on {label.label} ({label.f1.point:.4f})"
        for each in scores
        for label in each.labels
        if label.f1.point >= _TOO_GOOD_F1 and label.support >= _TOO_GOOD_SUPPORT
    ]
    return Audit(
        name="no label is too good to be true",
        passed=not found,
        finding=f"ask what gives it away: {', '.join(found)}"
        if found
        else f"no F1 of {_TOO_GOOD_F1} or more on {_TOO_GOOD_SUPPORT} or more texts",
    )
