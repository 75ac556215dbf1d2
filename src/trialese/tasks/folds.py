"""Examples of a task, their duplicate clusters, and the folds that never divide a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trialese.artifacts import digest_of
from trialese.corpus import assign_fold, assign_split
from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Snapshot, Split, Task
from trialese.settings import (
    DeclaredTaskSettings,
    DedupSettings,
    SexSettings,
    SplitSettings,
    StopReasonsSettings,
    TasksSettings,
)
from trialese.tasks import sex, stop_reasons
from trialese.tasks.fields import examples_of_declared
from trialese.tasks.labelled import read_labelled
from trialese.tasks.task import task_named

__all__ = [
    "ExampleSet",
    "TaskSection",
    "build_examples",
    "gather_examples",
    "section_of",
    "split_fold",
]

TaskSection = StopReasonsSettings | SexSettings | DeclaredTaskSettings


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Every example of a task with its cluster, and the count of what was left out, by reason."""

    task: Task
    examples: tuple[Example, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    contradictions: int = 0
    """Normalised texts that stand more than once, with different labels. They are kept."""

    @property
    def digest(self) -> str:
        """sha256 of the task, and of every example's id, text, labels and cluster."""
        rows = [[e.example_id, e.text, e.labels, e.cluster] for e in self.examples]
        return digest_of([self.task.name, self.task.kind, self.task.labels, rows])

    @property
    def counts(self) -> dict[str, object]:
        """Rows, clusters, positives of each label, drops and contradictions."""
        positives = Counter(label for example in self.examples for label in example.labels)
        return {
            "examples": len(self.examples),
            "clusters": len({example.cluster for example in self.examples}),
            "labels": {label: positives[label] for label in self.task.labels},
            "dropped": dict(sorted(self.dropped.items())),
            "contradictory_texts": self.contradictions,
        }


def build_examples(name: str, settings: TasksSettings, snapshot: Snapshot | None) -> ExampleSet:
    """The examples of the task called `name`: the same for every system, seed and fold.

    Raises:
        RecipeError: no such task, or nothing given to take its examples from.
        RecordError: a labelled row that cannot be understood, or no example at all.
    """
    task = task_named(name, settings)
    section = section_of(task, settings)
    if isinstance(section, SexSettings):
        task = sex.task_for(section)
    dropped: dict[str, int] = {}
    if section.labelled is not None:
        examples = read_labelled(Path(section.labelled), task)
    elif snapshot is None:
        raise RecipeError(f"{name}: no snapshot to take examples from; give --snapshot")
    else:
        from trialese.collect import read_trials

        trials = read_trials(snapshot)
        if isinstance(section, SexSettings):
            examples = sex.examples_of_trials(trials, section, dropped)
        elif isinstance(section, StopReasonsSettings):
            examples = stop_reasons.examples_of_trials(trials, dropped)
        else:
            examples = examples_of_declared(trials, section, dropped)
    return gather_examples(task, examples, section.dedup, dropped)


def section_of(task: Task, settings: TasksSettings) -> TaskSection:
    """The task's section of the recipe."""
    declared = {section.name: section for section in settings.declared}
    if task.name in declared:
        return declared[task.name]
    return settings.sex if task.name == "sex" else settings.stop_reasons


def gather_examples(
    task: Task, examples: Sequence[Example], dedup: DedupSettings, dropped: dict[str, int]
) -> ExampleSet:
    """The examples with their clusters; contradictory labels of one text are kept and counted.

    Raises:
        RecordError: no example at all, or only one cluster.
    """
    from trialese.corpus import cluster_texts, normalise

    clusters = cluster_texts(((e.example_id, e.text) for e in examples), dedup)
    if len(set(clusters.values())) < 2:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"
        raise RecordError(
            f"{task.name}: {len(examples)} usable examples (dropped: {why}), too few to learn "
            "from; give a labelled file or a snapshot whose trials carry the label"
        )
    told: dict[str, set[frozenset[str]]] = {}
    for example in examples:
        told.setdefault(normalise(example.text), set()).add(frozenset(example.labels))
    return ExampleSet(
        task,
        tuple(replace(example, cluster=clusters[example.example_id]) for example in examples),
        dropped,
        sum(len(labels) > 1 for labels in told.values()),
    )


def split_fold(
    examples: Sequence[Example], *, folds: int, fold: int, tune_share: float, seed: int
) -> list[Example]:
    """The examples with their split for one fold: its clusters are test, the rest train or tune.

    Which clusters of the rest are tune differs from fold to fold. Everything follows from the
    names of the clusters and `seed`.

    Raises:
        RecordError: a split without any example.
    """
    share = SplitSettings(tune_share=tune_share, test_share=0.0, seed=seed)

    def split_of(cluster: str) -> Split:
        if assign_fold(cluster, folds=folds, seed=seed) == fold:
            return "test"
        return assign_split(f"fold {fold} {cluster}", share)

    divided = [replace(example, split=split_of(example.cluster)) for example in examples]
    sizes = Counter(example.split for example in divided)
    if len(sizes) < 3:
        raise RecordError(
            f"fold {fold} of {folds}: {sizes['train']} train, {sizes['tune']} tune and "
            f"{sizes['test']} test texts; give more texts or fewer folds"
        )
    return divided
