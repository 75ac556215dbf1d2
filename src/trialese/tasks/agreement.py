"""How far a classifier agrees with labels that somebody else gave, and where it does not.

The other labels are no truth (a model's predictions, say), so nothing here is a score: agreement by
class, and the disagreements, those first that deserve a person's look.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trialese.artifacts import write_bytes
from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.tasks.labelled import read_silver
from trialese.tasks.scorer import given_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.tasks.scorer import Scorer

__all__ = [
    "Agreement",
    "Disagreement",
    "LabelAgreement",
    "cohen_kappa",
    "compare_labels",
    "write_disagreements",
]


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


def compare_labels(
    classifier: Scorer, table: Path, column: str, *, progress: Progress = silent
) -> Agreement:
    """The classifier's labels beside those in a column of `table`, one label a row.

    Rows without text or label, and rows whose label the task does not know, are left out and
    counted. Equal texts are predicted once.

    Raises:
        RecordError: no such file or column, or no row that can be compared.
    """
    task = classifier.task
    place = {label: number for number, label in enumerate(task.labels)}
    rows_read, left_out = read_silver(table, column, task)
    told = [row for row in rows_read if len(row.labels) == 1]
    if len(told) < len(rows_read):
        left_out["several labels"] = len(rows_read) - len(told)
    if not told:
        raise RecordError(f"{table}: every row has several labels in {column!r}; give one a row")
    ids = [row.example_id for row in told]
    texts = [row.text for row in told]
    theirs = [place[row.labels[0]] for row in told]
    distinct = list(dict.fromkeys(texts))
    scores = classifier.predict(distinct, progress=progress)
    where_of = {text: number for number, text in enumerate(distinct)}
    rows = np.array([where_of[text] for text in texts])
    given = given_labels(task, classifier.thresholds, scores)
    return _agreement(task.labels, ids, distinct, rows, np.array(theirs), scores, given, left_out)


def cohen_kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two annotators' answers to the same texts, in the same order.

    1 for perfect agreement, 0 for what chance would bring; None where it is undefined: no text,
    or one and the same answer everywhere. Cohen 1960, "A coefficient of agreement for nominal
    scales".
    """
    if not one:
        return None
    size = len(one)
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / size
    first, second = Counter(one), Counter(other)
    expected = sum(first[value] * second[value] for value in first) / size**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


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
