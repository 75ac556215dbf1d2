"""Behavioural tests of a classifier: short texts by hand whose labels every reader would agree on.

A test names labels that must be given and labels that must not, and belongs to a group such as
negation or two reasons in a sentence; a group's pass rate says what a score over drawn texts
cannot.
Source of the idea: Ribeiro et al. 2020, "Beyond Accuracy: Behavioral Testing of NLP Models with
CheckList", ACL. The texts are never trained on, and `without_near` keeps what is near them out of
training too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import msgspec

from trialese.collect.delimited import BadRow, find_column, is_unicode
from trialese.collect.tables import read_table
from trialese.corpus.dedup import near_any
from trialese.errors import RecordError
from trialese.hub import locate_labelled
from trialese.progress import Progress, silent
from trialese.records import Interval
from trialese.tasks.label_tools import LabelNames, split_labels
from trialese.tasks.scorer import given_labels
from trialese.tasks.shipped import name_of_text

if TYPE_CHECKING:
    from trialese.records import Example, Task
    from trialese.settings import DedupSettings
    from trialese.tasks.scorer import Scorer

__all__ = [
    "BehaviourFailure",
    "BehaviourReport",
    "BehaviourTest",
    "GroupResult",
    "behaviour_tests",
    "check_behaviour",
    "read_behaviour_tests",
    "shipped_tests",
    "without_near",
]

logger = logging.getLogger(__name__)

_COLUMNS = ("group", "text", "must", "must_not")
_TOTAL = "all"


class BehaviourTest(msgspec.Struct, frozen=True, kw_only=True):
    """One text with the labels that must and must not be given to it."""

    group: str
    text: str
    must: tuple[str, ...]
    must_not: tuple[str, ...] = ()


class BehaviourFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A text that did not get what it must, or got what it must not."""

    group: str
    text: str
    given: tuple[str, ...]
    missing: tuple[str, ...]
    wrong: tuple[str, ...]


class GroupResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many texts of a group passed; the interval is Wilson's, 95 %."""

    group: str
    passed: int
    texts: int
    rate: Interval


class BehaviourReport(msgspec.Struct, frozen=True, kw_only=True):
    """All groups, the total, and every failure in the order of the tests."""

    task: str
    engine: str
    model_digest: str
    groups: tuple[GroupResult, ...]
    total: GroupResult
    failures: tuple[BehaviourFailure, ...]
    fitted_on: tuple[str, ...] = ()
    """Texts that the classifier was fitted on, word for word: they tell nothing."""


def shipped_tests(task: Task) -> tuple[BehaviourTest, ...]:
    """The tests that trialese ships for the task; none for a task that it does not know."""
    with as_file(files("trialese.tasks") / "behaviours" / f"{task.name}.tsv") as table:
        return read_behaviour_tests(table, task) if table.is_file() else ()


def behaviour_tests(task: Task, own: str | None) -> tuple[BehaviourTest, ...]:
    """The shipped tests of the task and those of one's `own` table; a text that stands in both is
    tested as one's own table wants it.

    Raises:
        RecordError: see `read_behaviour_tests`.
    """
    if own is None:
        return shipped_tests(task)
    mine = read_behaviour_tests(locate_labelled(own), task)
    texts = {test.text for test in mine}
    return (*(test for test in shipped_tests(task) if test.text not in texts), *mine)


def read_behaviour_tests(path: Path, task: Task) -> tuple[BehaviourTest, ...]:
    """Tests from a table with the columns group, text, must and must_not (labels as `label_tools`
    understands them).

    Raises:
        RecordError: no such file, a column is missing, or rows that cannot be tests; all of
            them are named at once.
    """
    names = LabelNames(task.labels)
    tests, bad = [], []
    lines: dict[str, int] = {}
    for row in read_table(path, wanted=_COLUMNS):
        where = f"line {row.line}"
        if isinstance(row, BadRow):
            bad.append(f"{where} {row.detail}")
            continue
        columns = (find_column(list(row.cells), [column]) for column in _COLUMNS)
        group, text, *cells = ("" if name is None else row.cells[name] for name in columns)
        must, must_not = (split_labels(cell, names) for cell in cells)
        group, text = (
            each.strip() if isinstance(each, str) and is_unicode(each) else ""
            for each in (group, text)
        )
        unknown = [label for label in (*must, *must_not) if label not in task.labels]
        first = lines.setdefault(text, row.line)
        if unknown:
            bad.append(f"{where}: {task.name} has no label {', '.join(unknown)}")
        elif not group or not text:
            bad.append(f"{where}: no group or no text")
        elif group == _TOTAL:
            bad.append(f"{where}: {group!r} is the name of the total; call the group otherwise")
        elif first != row.line:
            bad.append(f"{where}: the text of line {first} again; write one row a text")
        elif not must and not must_not:
            bad.append(f"{where}: no label that must or must not be given")
        elif both := set(must) & set(must_not):
            bad.append(f"{where}: {', '.join(sorted(both))} must and must not")
        else:
            tests.append(BehaviourTest(group=group, text=text, must=must, must_not=must_not))
    if bad:
        raise RecordError(f"{path}: {'; '.join(bad)}")
    if not tests:
        raise RecordError(f"{path}: no behavioural test in it; add rows below the header")
    return tuple(tests)


def check_behaviour(
    scorer: Scorer,
    tests: Sequence[BehaviourTest],
    *,
    fitted_on: frozenset[str] = frozenset(),
    progress: Progress = silent,
) -> BehaviourReport:
    """The report of a classifier over the tests, its own cut-offs deciding.

    `fitted_on` are the names of texts that it was fitted on (`shipped.fitted_on`).

    Raises:
        RecordError: there are no tests.
    """
    if not tests:
        raise RecordError(
            f"{scorer.task.name}: trialese ships no behavioural tests for this task; "
            "give your own with --tests FILE.tsv"
        )
    labels = scorer.task.labels
    scores = scorer.predict_proba([test.text for test in tests], progress=progress)
    decided = given_labels(scorer.task, scorer.thresholds, scores)
    counts: dict[str, list[int]] = {}
    failures = []
    for test, row in zip(tests, decided, strict=True):
        given = tuple(label for label, holds in zip(labels, row, strict=True) if holds)
        missing = tuple(label for label in test.must if label not in given)
        wrong = tuple(label for label in test.must_not if label in given)
        tally = counts.setdefault(test.group, [0, 0])
        tally[1] += 1
        if missing or wrong:
            failures.append(
                BehaviourFailure(
                    group=test.group, text=test.text, given=given, missing=missing, wrong=wrong
                )
            )
        else:
            tally[0] += 1
    seen = tuple(test.text for test in tests if name_of_text("", test.text) in fitted_on)
    if seen:
        some = "; ".join(map(repr, seen[:3]))
        logger.warning("fitted on %d of the texts, which tell nothing: %s", len(seen), some)
    groups = tuple(_result(group, *tally) for group, tally in counts.items())
    total = _result(_TOTAL, sum(g.passed for g in groups), len(tests))
    return BehaviourReport(
        task=scorer.task.name,
        engine=scorer.engine,
        model_digest=scorer.digest,
        groups=groups,
        total=total,
        failures=tuple(failures),
        fitted_on=seen,
    )


def _result(group: str, passed: int, texts: int) -> GroupResult:
    rate = passed / texts
    z = NormalDist().inv_cdf(0.975)
    middle = (rate + z**2 / (2 * texts)) / (1 + z**2 / texts)
    reach = z / (1 + z**2 / texts) * math.sqrt(rate * (1 - rate) / texts + (z / (2 * texts)) ** 2)
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return GroupResult(group=group, passed=passed, texts=texts, rate=Interval(rate, low, high))


def without_near(
    examples: Iterable[Example], tests: Sequence[BehaviourTest], dedup: DedupSettings
) -> tuple[list[Example], int]:
    """The examples that are neither equal nor nearly equal to a test's text, and how many were."""
    examples = list(examples)
    if not tests:
        return examples, 0
    near = near_any([example.text for example in examples], [test.text for test in tests], dedup)
    return [e for e, is_near in zip(examples, near, strict=True) if not is_near], sum(near)
