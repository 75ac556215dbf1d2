"""Audits: overlap of test with training or tune texts, labels given away, scores too good.

Each audit says what was looked for and what was found. Overlap that nobody allowed is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trialese.errors import LeakageError
from trialese.records import Audit, Interval, Scores, Verdict
from trialese.verdict.systems import Comparison, Round, RoundThresholds

__all__ = [
    "audit_giveaways",
    "audit_overlap",
    "audit_scores",
    "audit_sources",
    "best_of_clusters",
    "count_overlap",
    "describe_ablation",
]


Bools = NDArray[np.bool_]

_TOO_GOOD_F1 = 0.995
_TOO_GOOD_SUPPORT = 50
_SHOWN = 3


def audit_scores(comparison: Comparison, scores: Sequence[Scores]) -> tuple[Audit, ...]:
    """The audits that need only predictions and what was scored."""
    return (
        _constant(comparison),
        _empty_labels(comparison),
        _unseen_on_tune(comparison),
        _contradictory(comparison),
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

    `texts` are (text, true labels), all that the task has. A word counts if the label holds for
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
        finding=f"{len(found)} do: {shown}" if found else f"none in {len(texts):,} labelled texts",
    )


def audit_sources(
    texts: Sequence[tuple[str, Sequence[str]]], labels: Sequence[str], *, most_gain: float = 0.05
) -> Audit:
    """Whether the file that a text comes from gives its labels away.

    `texts` are (file, true labels). The rule that knows only the file gives each text the commonest
    set of labels in its file; it is compared by macro-F1 with the commonest set of all. Told with
    the label that one file holds most beyond its share of the texts.
    """
    by_file: dict[str, Counter[tuple[str, ...]]] = {}
    for file, held in texts:
        by_file.setdefault(file, Counter())[tuple(sorted(held))] += 1
    every = sum(by_file.values(), Counter[tuple[str, ...]]())
    common = {file: counts.most_common(1)[0][0] for file, counts in by_file.items()}
    overall = every.most_common(1)[0][0]
    knowing = _macro_f1(((common[file], held) for file, held in texts), labels)
    blind = _macro_f1(((overall, held) for _, held in texts), labels)
    shares = []
    for label in labels:
        of_label = Counter(file for file, held in texts if label in held)
        for file, count in of_label.items():
            share = sum(by_file[file].values()) / len(texts)
            shares.append(
                (count / of_label.total() - share, label, file, count / of_label.total(), share)
            )
    _, label, file, part, share = max(shares)
    return Audit(
        name="the file that a trial comes from does not give its label away",
        passed=knowing <= blind + most_gain,
        finding=(
            f"a rule that knows only which of {len(by_file)} files reaches macro-F1 {knowing:.3f}, "
            f"without it {blind:.3f}; {part:.0%} of {label} come from {file}, which holds "
            f"{share:.0%} of the texts"
        ),
    )


def _macro_f1(pairs: Iterable[tuple[Sequence[str], Sequence[str]]], labels: Sequence[str]) -> float:
    """Of (given, true) labels, undefined ratios counted as 0."""
    right, given, true = (dict.fromkeys(labels, 0) for _ in range(3))
    for answer, held in pairs:
        for label in answer:
            given[label] += 1
            right[label] += label in held
        for label in held:
            true[label] += 1
    return sum(2 * right[x] / max(given[x] + true[x], 1) for x in labels) / len(labels)


def _constant(comparison: Comparison) -> Audit:
    """A system that gives every text the same scores has learnt nothing but the prior."""
    flat = [
        system
        for system in comparison.systems
        if all(np.ptp(each.test[system].scores, axis=0).max() == 0.0 for each in comparison.rounds)
    ]
    unexpected = [system for system in flat if system != "prior"]
    finding = f"constant: {', '.join(flat)}" if flat else "no system's scores are constant"
    return Audit(name="scores vary from text to text", passed=not unexpected, finding=finding)


def _empty_labels(comparison: Comparison) -> Audit:
    totals = sum(each.truth.sum(axis=0) for each in comparison.rounds)
    empty = [label for label, total in zip(comparison.labels, totals, strict=True) if total == 0]
    finding = (
        f"no test text has {', '.join(empty)}; F1 counts as 0 and lowers the macro average"
        if empty
        else f"the rarest label has {int(min(totals) / len(comparison.seeds))} test texts"
    )
    return Audit(name="every label occurs in test", passed=not empty, finding=finding)


def _unseen_on_tune(comparison: Comparison) -> Audit:
    """A label without positives on tune gets the common cut-off, for want of anything better."""
    first = comparison.systems[0]
    lacking: dict[str, int] = {}
    for each in comparison.rounds:
        positives = each.tune[first].truth.sum(axis=0).tolist()
        for label, count in zip(comparison.labels, positives, strict=True):
            if not count:
                lacking[label] = lacking.get(label, 0) + 1
    rounds = len(comparison.rounds)
    finding = ", ".join(f"{label} in {n} of {rounds} folds" for label, n in lacking.items())
    return Audit(
        name="every label occurs in tune",
        passed=not lacking,
        finding=f"absent: {finding}" if lacking else f"in all {rounds}",
    )


def _contradictory(comparison: Comparison) -> Audit:
    """Near-identical texts with different labels bound what answers that are equal can reach."""
    first = [each for each in comparison.rounds if each.seed == comparison.seeds[0]]
    members: dict[str, list[Bools]] = {}
    for each in first:
        for cluster, row in zip(each.clusters, each.truth, strict=True):
            members.setdefault(cluster, []).append(row)
    several = [np.array(rows) for rows in members.values() if len(rows) > 1]
    torn = sum(bool((rows != rows[0]).any()) for rows in several)
    finding = f"{torn:,} of {len(members):,} clusters hold texts with different labels"
    if torn:
        apart = [rows for rows in several if (rows != rows[0]).any()]
        whole = [np.array(rows) for rows in members.values()]
        finding += (
            f"; among the {len(several):,} with several texts, one text's labels predict "
            f"another's with micro-F1 {_agreement(several):.2f}, which is how far labels agree"
            f"; equal answers for all texts of a cluster, chosen with these labels in sight, reach "
            f"{best_of_clusters(apart):.2f} at most on the {sum(map(len, apart)):,} texts with "
            f"different labels and {best_of_clusters(whole):.2f} on all: a ceiling for answers "
            "that do not tell them apart"
        )
    return Audit(name="near-identical texts have the same labels", passed=not torn, finding=finding)


def _agreement(clusters: Sequence[Bools]) -> float:
    """Micro-F1 of one text's labels as a guess at another's, each cluster counted once."""
    hits = sizes = 0.0
    for rows in clusters:
        count, held = len(rows), rows.sum(axis=0)
        pairs = count * (count - 1)
        hits += float((held * (held - 1)).sum()) / pairs
        sizes += float(held.sum()) * (count - 1) / pairs
    return hits / sizes if sizes else 1.0


def best_of_clusters(clusters: Sequence[Bools]) -> float:
    """The highest micro-F1 of answers that are equal for all texts of a cluster.

    `clusters` are their true labels, (texts, labels) each. Giving a label pays where more than half
    of the best F1 of a cluster's texts have it (Dinkelbach's rule), so the best is found in steps.
    """
    counts = np.array([len(rows) for rows in clusters])[:, None]
    held = np.array([rows.sum(axis=0) for rows in clusters])
    best, last = 0.0, -1.0
    while best > last:
        given = held > best / 2 * counts
        hits, size = (held * given).sum(), (counts * given).sum() + held.sum()
        last, best = best, float(2 * hits / size) if size else 1.0
    return best


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


def audit_overlap(
    comparison: Comparison, thresholds: RoundThresholds, *, allow_overlap: bool = False
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
        for system in comparison.systems:
            found = [count_overlap(each, source(system, each)) for each in comparison.rounds]
            total = sum(count for count, _ in found)
            if total > rows:
                worst, rows, clusters = system, total, set().union(*(names for _, names in found))
        audits.append(
            _overlap_audit(
                comparison,
                name,
                deed,
                system=worst,
                rows=rows,
                clusters=clusters,
                allowed=allow_overlap,
            )
        )
        leaked = max(leaked, rows)
    divided = _divided(comparison)
    if divided and not allow_overlap:
        raise LeakageError(
            f"{comparison.task}: {len(divided)} clusters of duplicates are divided between "
            f"test folds, such as {_some(divided)}; split by cluster, "
            "or allow the overlap (--allow-overlap)"
        )
    leaked = max(
        leaked, sum(count_overlap(each, frozenset(divided))[0] for each in comparison.rounds)
    )
    audits += [
        Audit(
            name="clusters of duplicates are not divided between folds",
            passed=not divided,
            finding=f"{len(divided)} divided" + (f", such as {_some(divided)}" if divided else ""),
        ),
        _undeclared(comparison),
    ]
    return tuple(audits), leaked


def count_overlap(each: Round, known: frozenset[str]) -> tuple[int, set[str]]:
    """How many test rows lie in a known cluster, and those clusters."""
    shared = set(each.clusters) & known
    return sum(cluster in shared for cluster in each.clusters) if shared else 0, shared


def _overlap_audit(
    comparison: Comparison,
    name: str,
    deed: str,
    *,
    system: str,
    rows: int,
    clusters: set[str],
    allowed: bool,
) -> Audit:
    tested = sum(len(each.ids) for each in comparison.rounds)
    if not rows:
        return Audit(name=name, passed=True, finding=f"0 of {tested:,} test rows overlap")
    finding = (
        f"{rows:,} of {tested:,} test rows lie in clusters that {system} {deed}, "
        f"such as {_some(clusters)}"
    )
    if not allowed:
        raise LeakageError(
            f"{comparison.task}: {finding}; split by cluster, or allow it (--allow-overlap), "
            "which brands the report"
        )
    return Audit(name=name, passed=False, finding=finding)


def _divided(comparison: Comparison) -> set[str]:
    """Clusters that are tested in more than one fold of a seed."""
    divided, home = set(), dict[tuple[int, str], int]()
    for each in comparison.rounds:
        for cluster in set(each.clusters):
            if home.setdefault((each.seed, cluster), each.fold) != each.fold:
                divided.add(cluster)
    return divided


def _undeclared(comparison: Comparison) -> Audit:
    """Without the list of training texts the first audit sees nothing."""
    silent = [
        system
        for system in comparison.systems
        if any(not each.test[system].trained_on for each in comparison.rounds)
    ]
    models = [system for system in silent if system in comparison.models]
    finding = f"{', '.join(silent)} declared none" if silent else "every system declared them"
    return Audit(name="training texts are declared", passed=not models, finding=finding)


def _some(names: Sequence[str] | set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(repr(name) for name in shown) + (", …" if len(names) > _SHOWN else "")


_VARIANTS = {
    "titles": "titles alone",
    "criteria": "criteria alone",
    "no-sex-words": "everything but the sentences that say a sex",
}


def describe_ablation(verdict: Verdict) -> str:
    """What of the gain over the prior survives the cut of the telling sentences; "" if no ablation.

    Macro-F1 of each variant with its interval, then the share of what the full text gains over
    the prior that is left without the sentences that say a sex: reading; the rest is peeking.
    """
    by_name = {scores.system: scores for scores in verdict.scores}
    if not {"full", "no-sex-words", "prior"} <= set(by_name):
        return ""
    full, cut, prior = (_macro(by_name[name]) for name in ("full", "no-sex-words", "prior"))
    parts = [
        f"{_f1(_macro(by_name[name]))} from {said}"
        for name, said in _VARIANTS.items()
        if name in by_name
    ]
    gain = full.point - prior.point
    if gain <= 0:
        return f"The full text ({_f1(full)}) gains nothing over the prior ({prior.point:.4f})."
    share = max(0.0, min(1.0, (cut.point - prior.point) / gain))
    verb = "reads more than it peeks" if share > 0.5 else "peeks more than it reads"
    if cut.low <= prior.high:
        verb = "peeks: without those sentences it cannot be told from the prior"
    return (
        f"Macro-F1 {_f1(full)} from the full text; {'; '.join(parts)}; {prior.point:.4f} for the "
        f"prior. Of the gain over the prior {share:.0%} is left without the sentences that say a "
        f"sex, so the classifier {verb}."
    )


def _macro(scores: Scores) -> Interval:
    return scores.averages["macro"].f1


def _f1(found: Interval) -> str:
    return f"{found.point:.4f} [{found.low:.4f}, {found.high:.4f}]"
