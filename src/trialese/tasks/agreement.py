"""Agreement without a gold standard: of a classifier with other labels, and among annotators.

Labels that somebody else gave (a model's predictions, say) are no truth, so nothing here is a
score: agreement by class, Cohen's kappa, Krippendorff's alpha, and the disagreements, those first
that deserve a person's look.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trialese.artifacts import write_bytes
from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.tasks.labelled import read_silver
from trialese.tasks.scorer import given_labels
from trialese.tasks.shipped import name_of_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.tasks.scorer import Scorer

__all__ = [
    "Agreement",
    "AnnotatorAgreement",
    "Disagreement",
    "LabelAgreement",
    "LabelReliability",
    "annotator_agreement",
    "cohen_kappa",
    "compare_labels",
    "krippendorff_alpha",
    "write_disagreements",
]


logger = logging.getLogger(__name__)


class LabelAgreement(msgspec.Struct, frozen=True, kw_only=True):
    """One class: how often each side gives it, and how often both do."""

    label: str
    theirs: int
    """Rows with this label in the table."""
    given_too: int
    """Of them, rows that the classifier gives it, possibly with others."""
    first_too: int
    """Of them, rows for which it is the classifier's likeliest label."""
    ours: int
    """Rows for which it is the classifier's likeliest label."""


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """One text, however many rows have it, whose label the classifier does not give."""

    text: str
    rows: int
    example_id: str
    """Of the first row with the text."""
    theirs: str
    ours: tuple[str, ...]
    likeliest: str
    chance: float
    """The classifier's probability of its likeliest label."""
    chance_of_theirs: float


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """A table compared: rows used and left out, agreement by class, and every disagreement."""

    rows: int
    texts: int
    """Distinct among the rows."""
    left_out: dict[str, int]
    """By reason."""
    given_too: int
    first_too: int
    kappa: float
    """Cohen's, of the table's label and the classifier's likeliest one; 1 if all are one label."""
    labels: list[LabelAgreement]
    disagreements: list[Disagreement]
    """Surest first: probability of the likeliest label less that of the table's."""
    fitted_on: int = 0
    """Rows whose text the classifier was fitted on, as far as its folder tells."""


def compare_labels(
    classifier: Scorer,
    table: Path,
    column: str,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    allow_missing: bool = False,
    fitted_on: frozenset[str] = frozenset(),
    progress: Progress = silent,
) -> Agreement:
    """The classifier's labels beside those in a column of `table`, one label a row.

    Rows without text or label, and rows whose label the task does not know, are left out and
    counted. Equal texts are predicted once. `fitted_on` are the names of texts that the classifier
    was fitted on (`shipped.fitted_on`).

    Raises:
        RecordError: no such file or column, or no row that can be compared; without
            `allow_missing` also where more than half of the rows are left out.
    """
    task = classifier.task
    place = {label: number for number, label in enumerate(task.labels)}
    rows_read, left_out = read_silver(
        table, column, task, text_column=text_column, id_column=id_column
    )
    told = [row for row in rows_read if len(row.labels) == 1]
    if len(told) < len(rows_read):
        left_out["several labels"] = len(rows_read) - len(told)
    if not told:
        raise RecordError(f"{table}: every row has several labels in {column!r}; give one a row")
    missing = left_out.total()
    if missing > len(told) and not allow_missing:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common(5))
        raise RecordError(
            f"{table}: {missing:,} of {missing + len(told):,} rows are left out ({why}); mend the "
            f"table, or compare the other {len(told):,} with --allow-missing"
        )
    ids = [row.example_id for row in told]
    texts = [row.text for row in told]
    theirs = [place[row.labels[0]] for row in told]
    distinct = list(dict.fromkeys(texts))
    scores = classifier.predict_proba(distinct, progress=progress)
    where_of = {text: number for number, text in enumerate(distinct)}
    rows = np.array([where_of[text] for text in texts])
    given = given_labels(task, classifier.thresholds, scores)
    found = _agreement(task.labels, ids, distinct, rows, np.array(theirs), scores, given, left_out)
    seen = sum(name in fitted_on for name in map(name_of_text, ids, texts))
    if seen:
        logger.warning(
            "%s: the classifier was fitted on %d of the %d rows' texts, so it agrees too well",
            table, seen, len(ids),
        )  # fmt: skip
    return msgspec.structs.replace(found, fitted_on=seen)


def cohen_kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two annotators' answers to the same texts, in the same order.

    1 for perfect agreement, 0 for what chance would bring; None where it is undefined: no text,
    or one and the same answer everywhere. Cohen 1960, "A coefficient of agreement for nominal
    scales".
    """
    if len({*one, *other}) < 2:
        return None
    same = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    counts = Counter(other)
    chance = sum(count * counts[answer] for answer, count in Counter(one).items()) / len(one) ** 2
    return (same - chance) / (1 - chance)


def write_disagreements(path: Path, found: Agreement) -> None:
    """Write every disagreement to a TSV file, one text a line, the surest first."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(
        ["id", "rows", "theirs", "ours", "likeliest", "chance", "chance_of_theirs", "text"]
    )
    for each in found.disagreements:
        writer.writerow(
            [
                each.example_id,
                each.rows,
                each.theirs,
                "|".join(each.ours),
                each.likeliest,
                f"{each.chance:.4f}",
                f"{each.chance_of_theirs:.4f}",
                " ".join(each.text.split()),
            ]
        )
    write_bytes(path, out.getvalue().encode())


def _agreement(
    labels: tuple[str, ...],
    ids: list[str],
    distinct: list[str],
    rows: NDArray[np.intp],
    theirs: NDArray[np.intp],
    scores: NDArray[np.float64],
    given: NDArray[np.bool_],
    left_out: Counter[str],
) -> Agreement:
    first = scores.argmax(axis=1)[rows]
    too, same = given[rows, theirs], first == theirs
    size = len(labels)
    their_counts, our_counts = (np.bincount(x, minlength=size) for x in (theirs, first))
    kappa = cohen_kappa(theirs.tolist(), first.tolist())
    seen: dict[tuple[int, int], list[int]] = {}
    for number in np.flatnonzero(~too).tolist():
        seen.setdefault((int(rows[number]), int(theirs[number])), []).append(number)
    disagreements = [
        Disagreement(
            text=distinct[text],
            rows=len(members),
            example_id=ids[members[0]],
            theirs=labels[their],
            ours=tuple(labels[n] for n in np.flatnonzero(given[text])),
            likeliest=labels[int(scores[text].argmax())],
            chance=round(float(scores[text].max()), 6),
            chance_of_theirs=round(float(scores[text, their]), 6),
        )
        for (text, their), members in seen.items()
    ]
    disagreements.sort(key=lambda d: (d.chance_of_theirs - d.chance, d.text))
    return Agreement(
        rows=len(rows),
        texts=len(distinct),
        left_out=dict(left_out),
        given_too=int(too.sum()),
        first_too=int(same.sum()),
        kappa=1.0 if kappa is None else round(kappa, 6),
        labels=[
            LabelAgreement(
                label=label,
                theirs=int(their_counts[n]),
                given_too=int(too[theirs == n].sum()),
                first_too=int(same[theirs == n].sum()),
                ours=int(our_counts[n]),
            )
            for n, label in enumerate(labels)
        ],
        disagreements=disagreements,
    )


Answers = Mapping[str, Mapping[str, frozenset[str]]]
"""Annotator -> text -> the labels given to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReliability:
    """One label: given or not given, by two annotators or more."""

    label: str
    given: int
    """How often it was given, over all annotators and shared texts."""
    kappa: float | None
    """Of two annotators; None with more."""
    alpha: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorAgreement:
    """Agreement on the texts that two annotators or more have answered."""

    annotators: tuple[str, ...]
    texts: int
    same: int
    """Texts with the very same set of labels from everybody."""
    alpha: float | None
    """Over whole label sets: two sets agree only if they are equal."""
    labels: tuple[LabelReliability, ...]


def annotator_agreement(answers: Answers, labels: Sequence[str]) -> AnnotatorAgreement:
    """Agreement over the texts that at least two annotators have answered."""
    names = sorted(answers)
    by_text: dict[str, dict[str, frozenset[str]]] = {}
    for name in names:
        for text, given in answers[name].items():
            by_text.setdefault(text, {})[name] = given
    shared = {text: by for text, by in sorted(by_text.items()) if len(by) > 1}
    present = tuple(name for name in names if any(name in by for by in shared.values()))
    rows = []
    for label in labels:
        units = [[label in given for given in by.values()] for by in shared.values()]
        both = None
        if len(present) == 2:
            both = cohen_kappa([unit[0] for unit in units], [unit[1] for unit in units])
        rows.append(
            LabelReliability(
                label=label,
                given=sum(map(sum, units)),
                kappa=both,
                alpha=krippendorff_alpha(units),
            )
        )
    return AnnotatorAgreement(
        annotators=present,
        texts=len(shared),
        same=sum(len(set(by.values())) == 1 for by in shared.values()),
        alpha=krippendorff_alpha(list(by.values()) for by in shared.values()),
        labels=tuple(rows),
    )


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values: a list of answers for each text, one or more.

    Texts with a single answer count for nothing. None where it is undefined, because everybody
    always gave the same answer. Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
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
