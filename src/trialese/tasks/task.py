"""What a task declares, and labels as arrays: nothing about a task is guessed from data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.settings import TasksSettings

__all__ = ["check_example", "encode_labels", "task_named"]


def task_named(name: str, settings: TasksSettings | None = None) -> Task:
    """The task called `name`: one of trialese's, or one that `settings` declare.

    Raises:
        RecipeError: no such task; names those that there are.
    """
    from trialese.tasks.fields import declared_task
    from trialese.tasks.sex import SEX
    from trialese.tasks.stop_reasons import STOP_REASONS

    known = {task.name: task for task in (STOP_REASONS, SEX)}
    for section in settings.declared if settings else ():
        if section.name in known:
            raise RecipeError(f"tasks.declared: {section.name!r} is taken; choose another name")
        known[section.name] = declared_task(section)
    if name not in known:
        raise RecipeError(f"task {name!r} is unknown; use one of {', '.join(known)}")
    return known[name]


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
