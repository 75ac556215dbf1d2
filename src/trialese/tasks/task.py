"""What a task declares, and labels as arrays: nothing about a task is guessed from data.

Examples whose labels stand in a field of the trial, and whose text is the rendered rest."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Task, Trial
from trialese.settings import DeclaredTaskSettings, RenderSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "check_example",
    "declared_task",
    "encode_labels",
    "examples_of_declared",
    "examples_of_field",
]


def check_example(task: Task, labels: Sequence[str], where: str) -> None:
    """Return nothing if `labels` fit the task.

    Raises:
        RecordError: a label that the task does not know, or, of a multiclass task, not exactly
            one; the message begins with `where`.
    """
    for label in labels:
        if label not in task.labels:
            raise RecordError(
                f"{where}: unknown label {label!r}; {task.name} knows {', '.join(task.labels)}"
            )
    if task.kind == "multiclass" and len(labels) != 1:
        raise RecordError(
            f"{where}: {len(labels)} labels, but {task.name} takes exactly one; correct the row"
        )


def encode_labels(task: Task, examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Truth as an array (examples, labels), columns in the task's order.

    Raises:
        RecordError: labels that do not fit the task; names the example.
    """
    column = {label: place for place, label in enumerate(task.labels)}
    truth = np.zeros((len(examples), len(task.labels)), np.bool_)
    for row, example in enumerate(examples):
        check_example(task, example.labels, f"example {example.example_id}")
        truth[row, [column[label] for label in example.labels]] = True
    return truth


def declared_task(settings: DeclaredTaskSettings) -> Task:
    """The task that a recipe declares.

    Raises:
        RecipeError: no labels, a label twice, or not exactly one of `field` and `labelled`.
    """
    where = f"tasks.declared {settings.name!r}"
    if not settings.labels or len(set(settings.labels)) != len(settings.labels):
        raise RecipeError(f"{where}: labels are missing or repeated; list each label once")
    if (settings.field is None) == (settings.labelled is None):
        raise RecipeError(f"{where}: give either `field` or `labelled`, to take labels from")
    if settings.field is not None and settings.field not in Trial.__struct_fields__:
        known = ", ".join(Trial.__struct_fields__)
        raise RecipeError(f"{where}: a trial has no field {settings.field!r}; it has {known}")
    return Task(settings.name, settings.labels, settings.kind, settings.description)


def examples_of_declared(
    trials: Iterable[Trial], settings: DeclaredTaskSettings, dropped: dict[str, int]
) -> list[Example]:
    """One example a trial that has the field, ordered by nct_id; see `examples_of_field`."""
    assert settings.field is not None
    return examples_of_field(
        trials,
        declared_task(settings),
        settings.field,
        RenderSettings(fields=settings.fields, withhold=(settings.field, *settings.withhold)),
        dropped,
    )


def examples_of_field(
    trials: Iterable[Trial],
    task: Task,
    field: str,
    render: RenderSettings,
    dropped: dict[str, int],
    *,
    missing_label: str | None = None,
    edit: Callable[[str], str] = str,
    max_trials: int | None = None,
) -> list[Example]:
    """One example a trial: its rendered text and the value of `field`, ordered by nct_id.

    Yes and no stand for truth values. Trials without a value are dropped, or get
    `missing_label`; those without text are dropped; with `max_trials` those with the smallest
    hashes of their ids stay. `dropped` counts by reason. `edit` has the last word on the text.

    Raises:
        RecordError: a value that the task does not declare as a label.
    """

    def usable() -> Iterator[Example]:
        from trialese.corpus.render import render_document

        for trial in trials:
            labels = _labels_of(getattr(trial, field))
            if not labels and missing_label is None:
                _count(dropped, f"no_{field}")
                continue
            labels = labels or (str(missing_label),)
            check_example(task, labels, trial.nct_id)
            text = edit(render_document(trial, render).text)
            if not text.strip():
                _count(dropped, "no_text")
                continue
            yield Example(trial.nct_id, text, labels)

    chosen = list(usable()) if max_trials is None else _smallest(usable(), max_trials, dropped)
    return sorted(chosen, key=lambda example: example.example_id)


def _labels_of(value: object) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("Yes",) if value else ("No",)
    if isinstance(value, tuple):
        return tuple(map(str, value))
    return () if value is None or value == "" else (str(value),)


def _smallest(examples: Iterable[Example], limit: int, dropped: dict[str, int]) -> list[Example]:
    seen = 0

    def hashed() -> Iterator[tuple[str, str, Example]]:
        nonlocal seen
        for seen, example in enumerate(examples, start=1):  # noqa: B007 - read below
            key = hashlib.sha256(f"chosen|{example.example_id}".encode()).hexdigest()
            yield key, example.example_id, example

    chosen = [entry[2] for entry in heapq.nsmallest(limit, hashed())]
    if seen > len(chosen):
        dropped["beyond_max_trials"] = seen - len(chosen)
    return chosen


def _count(dropped: dict[str, int], reason: str) -> None:
    dropped[reason] = dropped.get(reason, 0) + 1
