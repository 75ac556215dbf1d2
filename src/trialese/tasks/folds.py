"""Examples of a task, their duplicate clusters, and the folds that never divide a cluster.

Test texts are drawn fold by fold, or given: those of a file of their own, or the latest trials.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trialese.artifacts import as_settings, digest_of
from trialese.collect.snapshot import read_trials
from trialese.corpus.dedup import cluster_texts, normalise
from trialese.corpus.split import assign_fold, assign_split
from trialese.errors import ArtifactError, LeakageError, RecipeError, RecordError, suggest
from trialese.hub import locate_labelled
from trialese.records import SPLITS, Example, Predictions, Snapshot, Split, Task
from trialese.settings import DedupSettings, SplitSettings, TaskSettings, TasksSettings
from trialese.tasks import sex, stop_reasons
from trialese.tasks.labelled import read_labelled
from trialese.tasks.task import TaskDefinition, define_declared, encode_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "TASKS",
    "ExampleSet",
    "Parts",
    "Round",
    "as_predictions",
    "build_examples",
    "check_held_out",
    "define_task",
    "defined_in",
    "describe_section",
    "divide",
    "files_of",
    "folds_of",
    "gather_examples",
    "hold_out_late",
    "inner_rounds",
    "parts_of",
    "refuse_overlap",
    "settings_of",
    "split_fold",
    "task_named",
    "with_columns",
    "with_section",
]


logger = logging.getLogger(__name__)

TASKS: dict[str, Callable[[TasksSettings], TaskDefinition]] = {
    stop_reasons.STOP_REASONS.name: stop_reasons.define,
    sex.SEX.name: sex.define,
}
"""Every task in code, by name. Its section of the recipe has the same name, with `_` for `-`."""

Parts = dict[Split, list[Example]]

Round = tuple[list[Example], list[Example]]
"""Texts to fit on, and texts that the fit is stopped on and scores."""

_SHOWN = 3


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
    return define_task(name, settings or TasksSettings()).task


def define_task(name: str, settings: TasksSettings) -> TaskDefinition:
    """All of the task called `name`, as `settings` want it.

    Raises:
        RecipeError: no such task (names those that there are), or a wrong declaration.
    """
    declared = {section.name: section for section in settings.declared}
    for taken in TASKS.keys() & declared.keys():
        raise RecipeError(f"tasks.declared: {taken!r} is taken; choose another name")
    if name in TASKS:
        return TASKS[name](settings)
    if name in declared:
        return define_declared(declared[name])
    if Path(name).is_file():
        raise RecipeError(
            f"{name}: is a file, not a task; `trialese init {shlex.quote(name)}` writes a recipe "
            "for it, and `trialese run` carries that out"
        )
    cure = suggest(name, [*TASKS, *declared], lead="use one of")
    raise RecipeError(f"task {name!r} is unknown; {cure}")


def settings_of(name: str, section: Mapping[str, Any]) -> TasksSettings:
    """The recipe's `tasks` with one section as a manifest holds it.

    A task in code that the recipe cannot set has its own section, whatever the manifest holds.

    Raises:
        ArtifactError: a section that this version does not understand.
    """
    field = name.replace("-", "_")
    plain = {field: section} if name in TASKS else {"declared": [section]}
    if name in TASKS and field not in TasksSettings.__struct_fields__:
        plain = {}
    try:
        return msgspec.convert(plain, TasksSettings)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"settings of {name}: {error}; fit the classifier again") from error


def defined_in(described: Mapping[str, Any]) -> TaskDefinition | None:
    """The task that a classifier's manifest settings tell of; None: they do not hold its section.

    Raises:
        ArtifactError, RecipeError: see `settings_of` and `define_task`.
    """
    name = str(described["task"])
    if "section" in described:
        return define_task(name, settings_of(name, described["section"]))
    return TASKS[name](TasksSettings()) if name in TASKS else None


def files_of(section: TaskSettings, *, is_model: bool) -> list[str]:
    """Every file, or data set on the hub, that a fit reads; of a baseline, none that only language
    models do."""
    tables = (section.silver, section.unlabelled if is_model else None)
    named = (section.labelled, section.test_labelled, section.behaviour_tests)
    return [*filter(None, named), *(each.table for each in tables if each is not None)]


def check_held_out(name: str, section: TaskSettings) -> None:
    """Refuse a section (RecipeError) whose given test texts do not go with its other settings."""
    test_from = section.test_from
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


def build_examples(name: str, settings: TasksSettings, snapshot: Snapshot | None) -> ExampleSet:
    """The examples of the task called `name`: the same for every system, seed and fold.

    Raises:
        RecipeError: no such task, or nothing given to take its examples from.
        RecordError: a labelled row that cannot be understood, or no example at all.
    """
    definition = define_task(name, settings)
    task, section = definition.task, definition.section
    check_held_out(name, section)
    columns = ("text_column", "label_column", "id_column")
    named = [column for column in columns if getattr(section, column) is not None]
    if named and section.labelled is None:
        raise RecipeError(
            f"tasks, {name}: {named[0]} is of a labelled file, and labels come from the trials; "
            "leave it out, or name the file as labelled"
        )
    dropped: dict[str, int] = {}
    if section.labelled is not None:
        examples = _read(section.labelled, definition, dropped)
    elif snapshot is None:
        raise RecipeError(f"{name}: no snapshot to take examples from; give --snapshot")
    else:
        examples = definition.read_trials(read_trials(snapshot), dropped)
    tested = _read(section.test_labelled, definition, dropped) if section.test_labelled else []
    tested = [replace(e, example_id=f"test {e.example_id}", split="test") for e in tested]
    found = gather_examples(task, [*examples, *tested], section.dedup, dropped)
    if tested:
        refuse_overlap(found, allowed=settings.allow_overlap)
    if section.test_from is not None and snapshot is not None:
        found = hold_out_late(found, snapshot, section.test_from)
    if task.kind == "multiclass":
        _refuse_one_class(found, section)
    return found


def _refuse_one_class(found: ExampleSet, section: TaskSettings) -> None:
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


def _read(labelled: str, definition: TaskDefinition, dropped: dict[str, int]) -> list[Example]:
    """The examples of a labelled file; rows without a label as the task wants them."""
    path, task, missing = locate_labelled(labelled), definition.task, definition.missing_label
    section = definition.section
    whole = task
    if missing is not None and missing not in task.labels:
        whole = replace(task, labels=(*task.labels, missing))
    examples = read_labelled(
        path,
        whole,
        missing_label=missing,
        dropped=dropped,
        leave_out_others=definition.leave_out_other_values,
        text_column=section.text_column,
        label_column=section.label_column,
        id_column=section.id_column,
    )
    kept = [e for e in examples if set(e.labels) <= set(task.labels)]
    if len(kept) < len(examples):
        dropped[f"no_{task.name}"] = len(examples) - len(kept)
    return kept


def with_columns(
    settings: TasksSettings,
    name: str,
    *,
    text: str | None = None,
    label: str | None = None,
    id_: str | None = None,
    prefer: str | None = None,
) -> TasksSettings:
    """The settings with these columns of labelled files for the task called `name`, and cut-offs
    for this use.

    Raises:
        RecipeError: no such task.
    """
    asked = {"text_column": text, "label_column": label, "id_column": id_, "prefer": prefer}
    asked = {key: column for key, column in asked.items() if column is not None}
    section = define_task(name, settings).section
    return with_section(settings, section, msgspec.structs.replace(section, **asked))


def with_section(
    settings: TasksSettings, section: TaskSettings, changed: TaskSettings
) -> TasksSettings:
    """The settings with `changed` in the place of the very object `section`, wherever it stands."""

    def swapped(each: Any) -> Any:
        if isinstance(each, tuple):
            return tuple(map(swapped, each))
        return changed if each is section else each

    values = {key: swapped(value) for key, value in msgspec.structs.asdict(settings).items()}
    return TasksSettings(**values)


def describe_section(section: TaskSettings, *, is_model: bool) -> dict[str, Any]:
    """The section as plain values; of a baseline, without what only language models heed."""
    plain = as_settings(section)
    for name in section.undescribed:
        if not plain[name]:
            del plain[name]
    grid = {name: plain["search"][name] for name in _searched(is_model) if name in plain["search"]}
    plain["search"] = grid
    # What was fitted before a setting was there stays finished while that has its default.
    if not grid:
        del plain["search"], plain["search_folds"]
    if section.calibration == "labels":
        del plain["calibration"]
    if section.finetune.final_fit is None:
        del plain["finetune"]["final_fit"]
    if section.silver is not None and section.silver.text_column is None:
        del plain["silver"]["text_column"]
    if not is_model:
        del plain["finetune"]
        plain.pop("unlabelled", None)
        for name in ("epochs", "lr") if plain.get("silver") else ():
            del plain["silver"][name]
    return plain


def _searched(is_model: bool) -> tuple[str, ...]:
    return ("finetune",) if is_model else ("tfidf",)


def gather_examples(
    task: Task, examples: Sequence[Example], dedup: DedupSettings, dropped: dict[str, int]
) -> ExampleSet:
    """The examples with their clusters; contradictory labels of one text are kept and counted.

    Raises:
        RecordError: no example at all, or only one cluster.
    """
    clusters = cluster_texts(((e.example_id, e.text) for e in examples), dedup)
    if len(set(clusters.values())) < 2:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"
        if len(examples) > 1:
            raise RecordError(
                f"{task.name}: {len(examples)} usable examples (dropped: {why}) are one cluster of "
                f"duplicates, such as {examples[0].text[:60]!r}, so none can be tested that was "
                "not learnt from; give other texts"
            )
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


def folds_of(section: TaskSettings) -> range:
    """The folds that are run, of all that the texts are divided into."""
    return range(section.folds)[section.first_fold :][: section.run_folds]


def parts_of(found: ExampleSet, section: TaskSettings, fold: int) -> Parts:
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


def divide(found: ExampleSet, section: TaskSettings, fold: int) -> tuple[Parts, list[Round]]:
    """The fold's texts by split, and its rounds of fitting. With inner folds, all but test is tune.

    Raises:
        RecordError: a split or an inner fold without any text.
    """
    parts = parts_of(found, section, fold)
    rounds = inner_rounds(
        parts["train"], parts["tune"], section.inner_folds, fold=fold, seed=section.split_seed
    )
    if section.inner_folds:
        parts = {**parts, "train": [], "tune": [text for _, held in rounds for text in held]}
    return parts, rounds


def inner_rounds(
    train: Sequence[Example], tune: Sequence[Example], folds: int, *, fold: int, seed: int
) -> list[Round]:
    """One round, (train, tune), where `folds` is 0; else one an inner fold of both together.

    A cluster is in one inner fold: which one follows from its name, `fold` and `seed` alone.

    Raises:
        RecordError: an inner fold without any text, or `folds` of 1.
    """
    if not folds:
        return [(list(train), list(tune))]
    texts = [*train, *tune]
    place = [assign_fold(f"inner {fold} {text.cluster}", folds=folds, seed=seed) for text in texts]
    rounds = [
        (
            [text for text, its in zip(texts, place, strict=True) if its != inner],
            [text for text, its in zip(texts, place, strict=True) if its == inner],
        )
        for inner in range(folds)
    ]
    if not all(others and held for others, held in rounds):
        raise RecordError(
            f"fold {fold}: {len(texts)} texts outside test do not fill {folds} inner folds; "
            "set inner_folds to 0, or give more texts"
        )
    return rounds


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
