"""Tasks: labels and kind declared, never guessed from data, and labels as arrays."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from trialese.corpus.clean import clean_text
from trialese.corpus.dedup import near_any
from trialese.corpus.render import render_document
from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Task, Trial
from trialese.settings import DeclaredTaskSettings, DedupSettings, RenderSettings, TaskSettings
from trialese.tasks.scorer import Preprocessing, Preset

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ReadTrials",
    "TaskDefinition",
    "check_example",
    "declared_task",
    "define_declared",
    "encode_labels",
    "examples_of_declared",
    "examples_of_field",
    "select_examples",
    "sentence_examples",
]


ReadTrials = Callable[[Iterable[Trial], dict[str, int]], list[Example]]
"""(trials, dropped) -> one example a trial, ordered by id; `dropped` counts the rest by reason."""


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """All that reading, fitting, judging and planning ask of a task.

    Raises:
        RecipeError: words, sentences, groups or descriptions of labels that the task has not, or
            `sentences` in the recipe of a task that has none.
    """

    task: Task
    section: TaskSettings
    """Its part of the recipe: where labels come from, how texts are divided, how it is fitted."""
    read_trials: ReadTrials
    """Examples from a snapshot."""
    fields: tuple[str, ...] = ()
    """Of a trial, what is read; () for a task with one text of its own."""
    withhold: tuple[str, ...] = ()
    """Fields that give the answer away."""
    without_sex_words: bool = False
    """Whether sentences that say a sex are left out of what is read."""
    missing_label: str | None = None
    """What a row of a labelled file without a label gets. Where the task does not know it, the
    row is dropped and counted."""
    leave_out_other_values: bool = False
    """Whether rows of a labelled file with labels that the task has not are left out, counted."""
    keywords: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Label -> lower-case words of the baseline `keywords`; {}: the words of the label's name."""
    sentences: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Label, or several joined by `|` -> sentences that say it, in a registry's words."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Label -> coarser group that the verdict scores too."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """Label -> what it means."""
    preset: Preset | None = None
    """Another pipeline's cut-off for these labels, saved beside those that are chosen."""
    tokens_a_text: int | None = None
    """On average, for estimates; None: as many as the classifier takes."""
    labelled_share: float = 1.0
    """Of synthetic trials, those that carry a label; for estimates."""

    def __post_init__(self) -> None:
        said = list(self.sentences)
        if self.task.kind == "multilabel":  # a sentence may give several reasons
            said = [label for key in self.sentences for label in key.split("|")]
        named = (self.keywords, said, self.groups, self.descriptions)
        foreign = [label for each in named for label in each if label not in self.task.labels]
        if foreign:
            known = ", ".join(self.task.labels)
            raise RecipeError(f"tasks, {self.task.name}: no label {foreign[0]!r}; it has {known}")
        if self.groups and len(self.groups) < len(self.task.labels):
            lacking = next(label for label in self.task.labels if label not in self.groups)
            raise RecipeError(
                f"tasks, {self.task.name}: groups lack {lacking!r}; give a group for every label"
            )
        if self.section.sentences and not self.sentences:
            raise RecipeError(
                f"tasks, {self.task.name}: sentences = {self.section.sentences}, but its labels "
                "have none; write label_sentences in [[tasks.declared]], or leave it at 0"
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a text before the model of this task reads it."""
        return Preprocessing(
            max_tokens=self.section.finetune.max_tokens,
            fields=self.fields,
            withhold=self.withhold,
            without_sex_words=self.without_sex_words,
        )


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


def define_declared(settings: DeclaredTaskSettings) -> TaskDefinition:
    """All of a task that a recipe declares.

    Raises:
        RecipeError: see `declared_task` and `TaskDefinition`.
    """
    from_trials = settings.field is not None
    return TaskDefinition(
        task=declared_task(settings),
        section=settings,
        read_trials=lambda trials, dropped: examples_of_declared(trials, settings, dropped),
        fields=settings.fields if from_trials else (),
        withhold=_withheld(settings) if from_trials else (),
        leave_out_other_values=settings.leave_out_other_values,
        keywords=settings.keywords,
        sentences=settings.label_sentences,
        groups=settings.groups,
        descriptions=settings.label_descriptions,
    )


def _withheld(settings: DeclaredTaskSettings) -> tuple[str, ...]:
    return (*filter(None, (settings.field,)), *settings.withhold)


def examples_of_declared(
    trials: Iterable[Trial], settings: DeclaredTaskSettings, dropped: dict[str, int]
) -> list[Example]:
    """One example a trial that has the field, ordered by nct_id; see `examples_of_field`."""
    assert settings.field is not None
    try:
        return examples_of_field(
            trials,
            declared_task(settings),
            settings.field,
            RenderSettings(fields=settings.fields, withhold=_withheld(settings)),
            dropped,
            max_trials=settings.max_trials,
            leave_out_others=settings.leave_out_other_values,
        )
    except RecordError as error:
        cure = "declare it, or set leave_out_other_values = true to leave such trials out"
        raise RecordError(f"{error}; {cure}") from error


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
    leave_out_others: bool = False,
) -> list[Example]:
    """One example a trial: its rendered text and the value of `field`, ordered by nct_id.

    Yes and no stand for truth values. Trials without a value are dropped, or get
    `missing_label`; those without text are dropped; with `max_trials` those with the smallest
    hashes of their ids stay; with `leave_out_others` those with a value that is no label are
    dropped. `dropped` counts by reason. `edit` has the last word on the text.

    Raises:
        RecordError: a value that the task does not declare as a label.
    """

    def usable() -> Iterator[Example]:
        for trial in trials:
            labels = _labels_of(getattr(trial, field))
            if not labels and missing_label is None:
                _count(dropped, f"no_{field}")
                continue
            labels = labels or (str(missing_label),)
            if leave_out_others and not set(labels) <= set(task.labels):
                _count(dropped, f"other_{field}")
                continue
            check_example(task, labels, trial.nct_id)
            text = edit(render_document(trial, render).text)
            if not text.strip():
                _count(dropped, "no_text")
                continue
            yield Example(trial.nct_id, text, labels)

    return select_examples(usable(), max_trials, dropped)


def _labels_of(value: object) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("Yes",) if value else ("No",)
    if isinstance(value, tuple):
        return tuple(map(str, value))
    return () if value is None or value == "" else (str(value),)


def select_examples(
    examples: Iterable[Example], limit: int | None, dropped: dict[str, int]
) -> list[Example]:
    """Those with the `limit` smallest hashes of their ids (None: all), ordered by id.

    The others are counted in `dropped` as "beyond_max_trials".
    """
    seen = 0

    def hashed() -> Iterator[tuple[str, str, Example]]:
        nonlocal seen
        for seen, example in enumerate(examples, start=1):  # noqa: B007 - read below
            key = hashlib.sha256(f"chosen|{example.example_id}".encode()).hexdigest()
            yield key, example.example_id, example

    if limit is None:
        return sorted(examples, key=lambda example: example.example_id)
    chosen = [entry[2] for entry in heapq.nsmallest(limit, hashed())]
    if seen > len(chosen):
        dropped["beyond_max_trials"] = seen - len(chosen)
    return sorted(chosen, key=lambda example: example.example_id)


def sentence_examples(
    sentences: Mapping[str, Sequence[str]],
    labelled: Sequence[Example],
    dedup: DedupSettings,
    *,
    times: int,
) -> list[Example]:
    """Each label's sentences, `times` over, to be learnt beside labelled texts; never scored.

    A sentence that is equal or nearly equal to a labelled text is left out, so that no text is
    judged that stood among them. Keys are labels, or several joined by `|`.
    """
    if not times or not sentences:
        return []
    written = {
        f"sentence {key} {place}": Example("", clean_text(text), tuple(key.split("|")))
        for key, texts in sentences.items()
        for place, text in enumerate(texts)
    }
    near = near_any([e.text for e in written.values()], [e.text for e in labelled], dedup)
    return [
        replace(sentence, example_id=f"{name} {time}", cluster=name)
        for time in range(times)
        for (name, sentence), is_near in zip(written.items(), near, strict=True)
        if not is_near
    ]


def _count(dropped: dict[str, int], reason: str) -> None:
    dropped[reason] = dropped.get(reason, 0) + 1
