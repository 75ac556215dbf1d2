"""Test texts that are given, not drawn: those of a file of their own, or the latest trials.

Examples of a task, their duplicate clusters, and the folds that never divide a cluster."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trialese.artifacts import as_settings, digest_of
from trialese.corpus.split import assign_fold, assign_split
from trialese.errors import LeakageError, RecipeError, RecordError
from trialese.hub import locate_labelled
from trialese.records import SPLITS, Example, Predictions, Snapshot, Split, Task
from trialese.settings import (
    DeclaredTaskSettings,
    DedupSettings,
    SexSettings,
    SplitSettings,
    StopReasonsSettings,
    TasksSettings,
)
from trialese.tasks import sex, stop_reasons
from trialese.tasks.labelled import read_labelled
from trialese.tasks.task import declared_task, encode_labels, examples_of_declared

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ExampleSet",
    "Parts",
    "TaskSection",
    "as_predictions",
    "build_examples",
    "check_held_out",
    "describe_section",
    "folds_of",
    "gather_examples",
    "hold_out_late",
    "parts_of",
    "refuse_overlap",
    "section_of",
    "split_fold",
    "task_named",
]


_SHOWN = 3


def check_held_out(name: str, section: Any) -> None:
    """Refuse a section (RecipeError) whose given test texts do not go with its other settings."""
    test_from = getattr(section, "test_from", None)
    if section.test_labelled is None and test_from is None:
        return
    if section.test_labelled is not None and test_from is not None:
        raise RecipeError(f"tasks, {name}: give either test_labelled or test_from")
    if section.labelled is not None and test_from is not None:
        raise RecipeError(
            f"tasks, {name}: test_from needs the dates of trials, which a labelled file lacks; "
            "take labels from a snapshot"
        )
    if section.labelled is None and section.test_labelled is not None:
        raise RecipeError(f"tasks, {name}: test_labelled needs labelled, to train on")
    if section.run_folds != 1:
        raise RecipeError(
            f"tasks, {name}: the test texts are given, so there is one fold; set run_folds = 1"
        )


def refuse_overlap(found: ExampleSet, *, allowed: bool) -> None:
    """Refuse test texts that stand among the others too, word for word or nearly.

    Raises:
        LeakageError: there are some, and `allowed` is False; with their count and examples.
    """
    known = {example.cluster for example in found.examples if example.split != "test"}
    tested = [example for example in found.examples if example.split == "test"]
    shared = [example.text for example in tested if example.cluster in known]
    if shared and not allowed:
        some = ", ".join(repr(text[:60]) for text in shared[:_SHOWN])
        raise LeakageError(
            f"{found.task.name}: {len(shared):,} of {len(tested):,} test texts are among the "
            f"training texts, word for word or nearly, such as {some}; take them out of either "
            "file, or allow it (--allow-overlap), which brands the report"
        )


def hold_out_late(found: ExampleSet, snapshot: Snapshot, test_from: str) -> ExampleSet:
    """The examples, those of clusters that began on or after `test_from` (ISO 8601) marked test.

    A cluster begins with the earliest `first_posted` among its trials; one without any date is not
    tested.
    """
    from trialese.collect.snapshot import read_trials

    cluster_of = {example.example_id: example.cluster for example in found.examples}
    began: dict[str, str] = {}
    for trial in read_trials(snapshot):
        cluster = cluster_of.get(trial.nct_id)
        if cluster is not None and trial.first_posted:
            began[cluster] = min(began.get(cluster, "9999"), trial.first_posted)
    examples = tuple(
        replace(e, split="test") if began.get(e.cluster, "") >= test_from else e
        for e in found.examples
    )
    return replace(found, examples=examples)


logger = logging.getLogger(__name__)

TaskSection = StopReasonsSettings | SexSettings | DeclaredTaskSettings

Parts = dict[Split, list[Example]]


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


def task_named(name: str, settings: TasksSettings | None = None) -> Task:
    """The task called `name`: one of trialese's, or one that `settings` declare.

    Raises:
        RecipeError: no such task; names those that there are.
    """
    known = {task.name: task for task in (stop_reasons.STOP_REASONS, sex.SEX)}
    for section in settings.declared if settings else ():
        if section.name in known:
            raise RecipeError(f"tasks.declared: {section.name!r} is taken; choose another name")
        known[section.name] = declared_task(section)
    if name not in known:
        raise RecipeError(f"task {name!r} is unknown; use one of {', '.join(known)}")
    return known[name]


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
    check_held_out(name, section)
    dropped: dict[str, int] = {}
    if section.labelled is not None:
        examples = _read(section.labelled, task, dropped)
    elif snapshot is None:
        raise RecipeError(f"{name}: no snapshot to take examples from; give --snapshot")
    else:
        from trialese.collect.snapshot import read_trials

        trials = read_trials(snapshot)
        if isinstance(section, SexSettings):
            examples = sex.examples_of_trials(trials, section, dropped)
        elif isinstance(section, StopReasonsSettings):
            examples = stop_reasons.examples_of_trials(trials, dropped)
        else:
            examples = examples_of_declared(trials, section, dropped)
    tested = _read(section.test_labelled, task, dropped) if section.test_labelled else []
    tested = [replace(e, example_id=f"test {e.example_id}", split="test") for e in tested]
    found = gather_examples(task, [*examples, *tested], section.dedup, dropped)
    if tested:
        refuse_overlap(found, allowed=settings.allow_overlap)
    test_from = None if isinstance(section, StopReasonsSettings) else section.test_from
    if test_from is not None and snapshot is not None:
        found = hold_out_late(found, snapshot, test_from)
    if task.kind == "multiclass":
        _refuse_one_class(found, section)
    return found


def _refuse_one_class(found: ExampleSet, section: TaskSection) -> None:
    """Told before anything is fitted: where every text has one label, nothing can be told apart."""
    for fold in folds_of(section):
        try:
            parts = parts_of(found, section, fold)
        except RecordError:
            continue  # too few texts for this fold: whoever fits it is told so
        sides: tuple[Split, Split] = ("train", "test")
        for split in sides:
            held = {example.labels for example in parts[split]}
            if len(held) == 1:
                raise RecordError(
                    f"{found.task.name}, fold {fold} of {section.folds}: every {split} text is "
                    f"{', '.join(*held)}, so nothing can be told apart; give more texts or fewer "
                    "folds"
                )


def _read(labelled: str, task: Task, dropped: dict[str, int]) -> list[Example]:
    """The examples of a labelled file; of sex, those without a label as the settings want them."""
    path = locate_labelled(labelled)
    if task.name != "sex":
        return read_labelled(path, task)
    whole = replace(task, labels=(*sex.SEX.labels, "None"))
    examples = read_labelled(path, whole, missing_label="None")
    kept = [e for e in examples if set(e.labels) <= set(task.labels)]
    if len(kept) < len(examples):
        dropped["no_sex"] = len(examples) - len(kept)
    return kept


def section_of(task: Task, settings: TasksSettings) -> TaskSection:
    """The task's section of the recipe."""
    declared = {section.name: section for section in settings.declared}
    if task.name in declared:
        return declared[task.name]
    return settings.sex if task.name == "sex" else settings.stop_reasons


def describe_section(section: TaskSection, *, is_model: bool) -> dict[str, Any]:
    """The section as plain values; of a baseline, without what only language models heed."""
    plain = as_settings(section)
    if not is_model:
        del plain["finetune"]
        if plain.get("silver"):
            plain["silver"] = {name: plain["silver"][name] for name in ("table", "column")}
    return plain


def gather_examples(
    task: Task, examples: Sequence[Example], dedup: DedupSettings, dropped: dict[str, int]
) -> ExampleSet:
    """The examples with their clusters; contradictory labels of one text are kept and counted.

    Raises:
        RecordError: no example at all, or only one cluster.
    """
    from trialese.corpus.dedup import cluster_texts, normalise

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
    torn = [text for text, labels in told.items() if len(labels) > 1]
    if torn:
        logger.warning(
            "%s: %d texts stand more than once with different labels, such as %r; kept, but no "
            "classifier can get both right",
            task.name,
            len(torn),
            torn[0],
        )
    return ExampleSet(
        task,
        tuple(replace(example, cluster=clusters[example.example_id]) for example in examples),
        dropped,
        len(torn),
    )


def folds_of(section: TaskSection) -> range:
    """The folds that are run, of all that the texts are divided into."""
    return range(section.folds)[section.first_fold :][: section.run_folds]


def parts_of(found: ExampleSet, section: TaskSection, fold: int) -> Parts:
    """The examples of each split of a fold, in their order; see `split_fold`.

    Raises:
        RecordError: a split without any example.
    """
    divided = split_fold(
        found.examples,
        folds=section.folds,
        fold=fold,
        tune_share=section.tune_share,
        seed=section.split_seed,
    )
    return {split: [e for e in divided if e.split == split] for split in SPLITS}


def split_fold(
    examples: Sequence[Example], *, folds: int, fold: int, tune_share: float, seed: int
) -> list[Example]:
    """The examples with their split for one fold: its clusters are test, the rest train or tune.

    Which clusters of the rest are tune differs from fold to fold. Everything follows from the
    names of the clusters and `seed`. Where some examples are test already (held out by file or
    date), they and no others are.

    Raises:
        RecordError: a split without any example.
    """
    given = any(example.split == "test" for example in examples)
    share = SplitSettings(tune_share=tune_share, test_share=0.0, seed=seed)

    def split_of(example: Example) -> Split:
        if given and example.split == "test":
            return "test"
        if not given and assign_fold(example.cluster, folds=folds, seed=seed) == fold:
            return "test"
        return assign_split(f"fold {fold} {example.cluster}", share)

    divided = [replace(example, split=split_of(example)) for example in examples]
    sizes = Counter(example.split for example in divided)
    if len(sizes) < 3:
        raise RecordError(
            f"fold {fold} of {folds}: {sizes['train']} train, {sizes['tune']} tune and "
            f"{sizes['test']} test texts; give more texts or fewer folds"
        )
    return divided


def as_predictions(
    task: Task,
    rows: Sequence[Example],
    scores: NDArray[np.float64],
    *,
    system: str,
    split: Split,
    seed: int,
    fold: int,
    trained_on: frozenset[str],
    model_digest: str,
) -> Predictions:
    """The scores (rows, labels) of these examples with their truth, to be saved and judged."""
    return Predictions(
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        system=system,
        split=split,
        seed=seed,
        fold=fold,
        ids=tuple(example.example_id for example in rows),
        clusters=tuple(example.cluster for example in rows),
        scores=np.clip(scores, 0.0, 1.0),
        truth=encode_labels(task, rows),
        trained_on=trained_on,
        model_digest=model_digest,
    )
