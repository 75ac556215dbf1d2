"""How far annotators agree: Cohen's kappa of two, Krippendorff's alpha of any number.

Cohen 1960, "A coefficient of agreement for nominal scales"; Krippendorff 2011, "Computing
Krippendorff's alpha-reliability". Both are 1 for perfect agreement and 0 for what chance would
bring; None where they are undefined, because everybody always gave the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from trialese.tasks.agreement import cohen_kappa

__all__ = ["Agreement", "LabelAgreement", "agree", "cohen_kappa", "krippendorff_alpha"]

Answers = Mapping[str, Mapping[str, frozenset[str]]]
"""Annotator -> text -> the labels given to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAgreement:
    """One label: given or not given, by two annotators or more."""

    label: str
    given: int
    """How often it was given, over all annotators and shared texts."""
    kappa: float | None
    """Of two annotators; None with more."""
    alpha: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement on the texts that two annotators or more have answered."""

    annotators: tuple[str, ...]
    texts: int
    same: int
    """Texts with the very same set of labels from everybody."""
    alpha: float | None
    """Over whole label sets: two sets agree only if they are equal."""
    labels: tuple[LabelAgreement, ...]


def agree(answers: Answers, labels: Sequence[str]) -> Agreement:
    """Agreement over the texts that at least two annotators have answered."""
    names = sorted(answers)
    told: dict[str, dict[str, frozenset[str]]] = {}
    for name in names:
        for text, given in answers[name].items():
            told.setdefault(text, {})[name] = given
    shared = {text: by for text, by in sorted(told.items()) if len(by) > 1}
    present = tuple(name for name in names if any(name in by for by in shared.values()))
    rows = []
    for label in labels:
        units = [[label in given for given in by.values()] for by in shared.values()]
        both = None
        if len(present) == 2:
            both = cohen_kappa([unit[0] for unit in units], [unit[1] for unit in units])
        rows.append(
            LabelAgreement(
                label=label,
                given=sum(map(sum, units)),
                kappa=both,
                alpha=krippendorff_alpha(units),
            )
        )
    return Agreement(
        annotators=present,
        texts=len(shared),
        same=sum(len(set(by.values())) == 1 for by in shared.values()),
        alpha=krippendorff_alpha(list(by.values()) for by in shared.values()),
        labels=tuple(rows),
    )


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values: a list of answers for each text, one or more.

    Texts with a single answer count for nothing.
    """
    values: Counter[Hashable] = Counter()
    disagreement = 0.0
    for unit in units:
        if len(unit) < 2:
            continue
        values.update(unit)
        unequal = sum(a != b for a, b in combinations(unit, 2))
        disagreement += 2 * unequal / (len(unit) - 1)
    total = sum(values.values())
    chance = total**2 - sum(count**2 for count in values.values())
    return None if not chance else 1 - (total - 1) * disagreement / chance
