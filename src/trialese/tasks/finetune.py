"""Several fits over one fold: each text outside test is scored by a fit that has not seen it.

A tenth of the texts is too few to choose a cut-off a label on. With inner folds every text that
is not test gives a score, nothing is kept back from training in all, and the members' weights
are averaged into one classifier (Wortsman et al. 2022, model soups, arXiv 2203.05482): they
start from the same weights and the same new head, so their mean lies in the same valley.


One system of one task over seeds and folds: its predictions, and a classifier to use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trialese.artifacts import Draft, digest_of, digest_of_folder, write_artifact
from trialese.corpus.split import assign_fold
from trialese.errors import RecordError
from trialese.predictions import save_predictions
from trialese.progress import Progress, silent
from trialese.records import Example, Manifest, Predictions, Snapshot, Split, Task, Thresholds
from trialese.settings import DeclaredTaskSettings, SexSettings, StopReasonsSettings, TasksSettings
from trialese.tasks.baselines import check_system, fit_baseline
from trialese.tasks.folds import (
    ExampleSet,
    Parts,
    TaskSection,
    as_predictions,
    build_examples,
    describe_section,
    folds_of,
    parts_of,
    section_of,
)
from trialese.tasks.labelled import Silver, SilverStart, silver_examples
from trialese.tasks.scorer import check_masked_lm, origin_of
from trialese.tasks.sex import WITHHELD
from trialese.tasks.stop_reasons import sentence_examples
from trialese.thresholds import shrunk_cuts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.tasks.classifier import Classifier

__all__ = [
    "Round",
    "average_weights",
    "digest_of_model",
    "divide",
    "finetune",
    "inner_rounds",
    "score_held",
]


Round = tuple[list[Example], list[Example]]
"""Texts to fit on, and texts that the fit is stopped on and scores."""


def divide(found: ExampleSet, section: TaskSection, fold: int) -> tuple[Parts, list[Round]]:
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


def score_held(
    rounds: Sequence[Round], predicts: Sequence[Callable[[Sequence[str]], NDArray[np.float64]]]
) -> tuple[list[Example], NDArray[np.float64]]:
    """Every round's held texts, and their scores (texts, labels) by the round's own fit."""
    held = [replace(text, split="tune") for _, texts in rounds for text in texts]
    scores = [
        predict([text.text for text in texts])
        for (_, texts), predict in zip(rounds, predicts, strict=True)
    ]
    return held, np.concatenate(scores)


def average_weights(classifiers: Sequence[Classifier]) -> Classifier:
    """The first classifier with the mean of all their weights; the others are left alone."""
    first, *others = classifiers
    if others:
        states = [each.model.state_dict() for each in classifiers]
        first.model.load_state_dict(
            {
                name: sum(state[name] for state in states) / len(states)
                if value.is_floating_point()
                else value
                for name, value in states[0].items()
            }
        )
    return first


logger = logging.getLogger(__name__)


def finetune(
    name: str,
    system: str,
    model: Path | None,
    snapshot: Snapshot | None,
    settings: TasksSettings,
    path: Path,
    *,
    progress: Progress = silent,
) -> Manifest:
    """The manifest of the classifier artifact at `path`: one system of the task called `name`.

    It holds `predictions.parquet`, tune and test of every seed and fold, and for a language
    model (`model` is the folder of a masked-LM) `model/`: the classifier of the first seed and
    fold. Baselines know no seed; theirs are fitted once a fold and stand under every seed. All
    systems get the same examples and folds from the same settings.

    Raises:
        RecipeError: no such task or baseline, a model missing or one too many.
        RecordError: examples that cannot be understood, or too few.
        ArtifactError: no usable model, or the disk refused.
    """
    check_system(name, system, model)
    found = build_examples(name, settings, snapshot)
    section = section_of(found.task, settings)
    silver = _silver_of(found, section)
    inputs = {"examples": found.digest}
    plain = describe_section(section, is_model=model is not None)
    described: dict[str, Any] = {"task": name, "system": system, "section": plain}
    if silver is not None:
        inputs["silver"] = silver.digest
    if model is not None:
        inputs["model"] = digest_of_model(model)
        described["threshold_shrinkage"] = settings.threshold_shrinkage
    with write_artifact(path, kind="classifier", settings=described, inputs=inputs) as draft:
        draft.counts.update(found.counts)
        trials = snapshot if section.labelled is None else None
        draft.notes["synthetic"] = bool(trials and trials.manifest.notes.get("synthetic"))
        if model is not None:
            draft.notes["masked_lm"] = origin_of(model)
        if silver is not None:
            draft.notes["silver"] = {"texts": len(silver.examples), "left_out": silver.left_out}
        runs = _runs(found, system, model, silver, settings, section, inputs, draft, progress)
        save_predictions(draft.folder / "predictions.parquet", runs)
    assert draft.manifest is not None
    return draft.manifest


def _runs(
    found: ExampleSet,
    system: str,
    model: Path | None,
    silver: Silver | None,
    settings: TasksSettings,
    section: TaskSection,
    inputs: dict[str, str],
    draft: Draft,
    progress: Progress,
) -> list[Predictions]:
    """Tune and test predictions of every fold and seed; fills the draft's notes and `model/`."""
    folds = folds_of(section)
    fits = [(fold, seed) for fold in folds for seed in section.seeds]
    runs: list[Predictions] = []
    logs: list[dict[str, Any]] = []
    gaps: dict[str, list[str]] = {}
    extra = _extra(found, section, silver if model is None else None)
    starts = None
    if silver is not None and model is not None:
        starts = SilverStart(silver, model, section.finetune, draft.folder / ".silver", progress)
        section = msgspec.structs.replace(section, finetune=starts.then)
    scores: dict[Split, NDArray[np.float64]] = {}
    for done, (fold, seed) in enumerate(fits):
        progress(f"{found.task.name}: fits of {system}", done, len(fits))
        first = seed == section.seeds[0]
        if first:
            parts, rounds = divide(found, section, fold)
            rounds = [(train + extra, held) for train, held in rounds]
            gaps |= _gaps(found.task, parts, fold)
        predicts: list[Callable[[Sequence[str]], NDArray[np.float64]]] = []
        if model is not None:
            start = starts.of(seed) if starts else model
            members = []
            for train, held in rounds:
                member, log = _fit(found.task, section, start, train, held, seed, progress)
                members.append(member)
                logs.append({"fold": fold, "seed": seed, **log})
            predicts += [member.predict for member in members]
        elif first:
            predicts += [fit_baseline(system, found.task, *texts) for texts in rounds]
        if predicts:
            parts["tune"], scores["tune"] = score_held(rounds, predicts)
            if model is not None:
                classifier = average_weights(members)
                predicts = [classifier.predict]
            tests = _texts(parts["test"])
            scores["test"] = np.mean([predict(tests) for predict in predicts], axis=0)
        digest = digest_of([inputs, system, fold, seed if model else None])
        runs += [
            _predictions(found.task, system, part, seed, fold, parts, scores[part], digest)
            for part in ("tune", "test")
        ]
        if model is not None and done == 0:
            classifier.thresholds = _thresholds(runs[0], settings.threshold_shrinkage)
            classifier.save(draft.folder / "model")
    if starts is not None:
        starts.discard()
    progress(f"{found.task.name}: fits of {system}", len(fits), len(fits))
    if logs:
        draft.notes["fits"] = logs
    if gaps:
        draft.notes["labels_without_examples"] = gaps
    return runs


def _silver_of(found: ExampleSet, section: TaskSection) -> Silver | None:
    """The silver texts, where the section names some."""
    settings = section.silver if isinstance(section, StopReasonsSettings) else None
    if settings is None:
        return None
    return silver_examples(found.task, settings, found.examples, section.dedup)


def _extra(found: ExampleSet, section: TaskSection, silver: Silver | None) -> list[Example]:
    """What every fit learns from besides its own part of the examples."""
    times = section.sentences if isinstance(section, StopReasonsSettings) else 0
    sentences = sentence_examples(found.task, found.examples, section.dedup, times=times)
    return [*sentences, *(silver.examples if silver else ())]


def _gaps(task: Task, parts: Parts, fold: int) -> dict[str, list[str]]:
    """The labels that a split of this fold has no example of: told, since F1 is then 0."""
    gaps = {}
    for split, members in parts.items():
        if not members:  # train, where inner folds made all of it tune
            continue
        held = {label for example in members for label in example.labels}
        absent = [label for label in task.labels if label not in held]
        if absent:
            gaps[f"fold {fold}, {split}"] = absent
            logger.warning(
                "%s: fold %d has no %s example of %s", task.name, fold, split, ", ".join(absent)
            )
    return gaps


def _fit(
    task: Task,
    section: TaskSection,
    model: Path,
    train: list[Example],
    tune: list[Example],
    seed: int,
    progress: Progress,
) -> tuple[Classifier, dict[str, Any]]:
    from trialese.tasks.classifier import Preprocessing
    from trialese.tasks.fit import fit_classifier

    preprocessing = Preprocessing(max_tokens=section.finetune.max_tokens)
    if isinstance(section, SexSettings):
        preprocessing = msgspec.structs.replace(
            preprocessing,
            fields=section.fields,
            withhold=WITHHELD,
            without_sex_words=section.without_sex_words,
        )
    elif isinstance(section, DeclaredTaskSettings) and section.field is not None:
        preprocessing = msgspec.structs.replace(
            preprocessing, fields=section.fields, withhold=(section.field, *section.withhold)
        )
    classifier, log = fit_classifier(
        task,
        train,
        tune,
        model,
        section.finetune,
        seed=seed,
        preprocessing=preprocessing,
        progress=progress,
    )
    return classifier, {
        "best_epoch": log.best_epoch,
        "epochs": len(log.losses),
        "loss": [round(loss, 6) for loss in log.losses],
        "tune_f1": [[round(micro, 6), round(macro, 6)] for micro, macro in log.tune_scores],
        "new_pooler": log.new_pooler,
    }


def _texts(examples: Sequence[Example]) -> list[str]:
    return [example.text for example in examples]


def _predictions(
    task: Task,
    system: str,
    split: Split,
    seed: int,
    fold: int,
    parts: Parts,
    scores: NDArray[np.float64],
    digest: str,
) -> Predictions:
    """The scores of one split. For test, `trained_on` holds train and tune: weights were fitted
    on the one and stopped on the other. With inner folds no text is train alone, and it is empty
    for tune: no row was scored by a fit that had seen it."""
    members = parts[split]
    fitted = parts["train"] + (parts["tune"] if split == "test" else [])
    return as_predictions(
        task,
        members,
        scores,
        system=system,
        split=split,
        seed=seed,
        fold=fold,
        trained_on=frozenset(example.cluster for example in fitted),
        model_digest=digest,
    )


def _thresholds(tune: Predictions, shrinkage: float) -> Thresholds:
    values = np.zeros(len(tune.labels))
    if tune.kind == "multilabel":
        values = shrunk_cuts(tune.scores, tune.truth, shrinkage=shrinkage)
    return Thresholds(
        labels=tune.labels,
        values=tuple(float(value) for value in values),
        chosen_on="tune",
        chosen_from=frozenset(tune.clusters),
    )


def digest_of_model(folder: Path) -> str:
    """sha256 over the names and bytes of the model's files; no folder of a model: ArtifactError."""
    check_masked_lm(folder)
    return digest_of_folder(folder)
