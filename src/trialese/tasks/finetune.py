"""One system of one task over seeds and folds: its predictions, and a classifier to use.

A tenth of the texts is too few to choose a cut-off a label on. With inner folds every text that
is not test gives a score, nothing is kept back from training in all, and the members' weights
are averaged into one classifier (Wortsman et al. 2022, model soups, arXiv 2203.05482): they
start from the same weights and the same new head, so their mean lies in the same valley.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trialese.artifacts import (
    Draft,
    digest_of,
    digest_of_folder,
    read_manifest,
    write_artifact,
)
from trialese.errors import ArtifactError, RecipeError
from trialese.hub import check_masked_lm, locate_model, named_model
from trialese.parallel import count_threads
from trialese.predictions import load_predictions, save_predictions
from trialese.progress import Progress, silent
from trialese.records import (
    BASELINES,
    Example,
    Manifest,
    Predictions,
    Snapshot,
    Split,
    Task,
    Thresholds,
)
from trialese.settings import TaskSettings, TasksSettings
from trialese.tasks.baselines import check_system
from trialese.tasks.behaviour import behaviour_tests, check_behaviour, without_near
from trialese.tasks.blend import BlendClassifier, blend_predictions
from trialese.tasks.folds import (
    ExampleSet,
    Parts,
    as_predictions,
    build_examples,
    define_task,
    defined_in,
    describe_section,
    divide,
    folds_of,
)
from trialese.tasks.labelled import Silver, silver_examples
from trialese.tasks.linear import LinearClassifier
from trialese.tasks.predict import load_scorer
from trialese.tasks.scorer import origin_of, with_preference
from trialese.tasks.system import System, check_search, score_held
from trialese.tasks.task import TaskDefinition, sentence_examples
from trialese.tasks.unlabelled import read_as_masked_lm, unlabelled_texts
from trialese.temperature import Calibration, CalibrationKind, calibrate, fit_calibration
from trialese.thresholds import measure_points, read_preference, shrunk_cuts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.tasks.classifier import Classifier

__all__ = [
    "ClassifierBeginning",
    "begin_classifier",
    "blend_classifiers",
    "digest_of_model",
    "finetune",
    "fits_on_everything",
]

logger = logging.getLogger(__name__)


def finetune(
    name: str,
    system: str,
    *,
    path: str | Path,
    model: str | Path | None = None,
    snapshot: Snapshot | None = None,
    settings: TasksSettings = TasksSettings(),  # noqa: B008 - a frozen struct
    progress: Progress = silent,
) -> Manifest:
    """The manifest of the classifier artifact at `path`: one system of the task called `name`.

    It holds `predictions.parquet`, tune and test of every seed and fold, and for `tfidf` and for a
    language model (`model` is what `hub.locate_model` takes) `model/`: the classifier to use,
    fitted on all texts but given test ones, its calibration and cut-offs from scores of texts by
    fits that had not seen them; or the first fold's (see `FinetuneSettings.final_fit`). Baselines
    know no seed; theirs are fitted once a fold and stand under every seed. All systems get the same
    examples and folds from the same settings.

    Raises:
        RecipeError: no such task or baseline, a model missing or one too many.
        RecordError: examples that cannot be understood, or too few.
        ArtifactError: no usable model, or the disk refused.
    """
    given = begin_classifier(name, system, model, snapshot, settings)
    definition, found, inputs = given.definition, given.found, given.inputs
    section = definition.section
    silver = None
    if section.silver is not None:
        silver = silver_examples(found.task, section.silver, found.examples, section.dedup)
    if section.sentences:
        inputs["sentences"] = digest_of(definition.sentences)
    if section.behaviour_tests is not None:
        tests = behaviour_tests(definition.task, section.behaviour_tests)
        inputs["behaviour_tests"] = digest_of(msgspec.to_builtins(tests))
    plain = describe_section(section, is_model=model is not None)
    described: dict[str, Any] = {"task": name, "system": system, "section": plain}
    if silver is not None:
        inputs["silver"] = silver.digest
    unlabelled, start = None, given.model
    if start is not None:
        described["threshold_shrinkage"] = settings.threshold_shrinkage
        if section.unlabelled is not None:
            unlabelled = unlabelled_texts(definition, section.unlabelled, found.examples)
            inputs["unlabelled"] = unlabelled.digest
    with given.draft(Path(path), described) as draft:
        draft.notes["threads"], aside = count_threads(), draft.folder / ".unlabelled"
        if start is not None:
            draft.notes["masked_lm"] = origin_of(start) or named_model(model)
            if unlabelled is not None:
                texts, left_out = len(unlabelled.texts), unlabelled.left_out
                draft.notes["unlabelled"] = {"texts": texts, "left_out": left_out}
                draft.notes["masked_lm"] += f", which read {texts:,} texts without labels"
                start = read_as_masked_lm(
                    start, unlabelled, aside, fit=section.finetune, progress=progress
                )
        if silver is not None:
            draft.notes["silver"] = {"texts": len(silver.examples), "left_out": silver.left_out}
        runs = _runs(definition, found, system, start, silver, settings, inputs, draft, progress)
        shutil.rmtree(aside, ignore_errors=True)
        save_predictions(draft.folder / "predictions.parquet", runs)
    assert draft.manifest is not None
    return draft.manifest


@dataclass(frozen=True, slots=True)
class ClassifierBeginning:
    """What a classifier artifact is made from, whatever the protocol."""

    definition: TaskDefinition
    found: ExampleSet
    model: Path | None
    """Folder of the masked language model; None for a baseline."""
    inputs: dict[str, str]
    """Name -> digest, for the manifest."""
    snapshot: Snapshot | None
    """That the labels come from."""

    @contextmanager
    def draft(self, path: Path, described: Mapping[str, Any]) -> Iterator[Draft]:
        """The artifact at `path`, begun with the counts of its examples, and whether they are of
        made-up trials."""
        with write_artifact(
            path, kind="classifier", settings=described, inputs=self.inputs
        ) as draft:
            draft.counts.update(self.found.counts)
            source = self.snapshot
            draft.notes["synthetic"] = bool(source and source.manifest.notes.get("synthetic"))
            yield draft


def begin_classifier(
    name: str,
    system: str,
    model: str | Path | None,
    snapshot: Snapshot | None,
    settings: TasksSettings,
) -> ClassifierBeginning:
    """What `finetune` begins with: everything that can be wrong is told before hours of work.

    Raises:
        RecipeError: no such task or baseline, a model missing or one too many.
        RecordError: examples that cannot be understood, or too few.
        ArtifactError: no usable model.
    """
    definition = define_task(name, settings)
    check_system(name, system, model)
    folder = None if model is None else locate_model(model)
    check_search(name, definition.section)
    read_preference(definition.section.prefer or "f1", definition.task.kind)
    found = build_examples(name, settings, snapshot)
    inputs = {"examples": found.digest}
    if folder is not None:
        inputs["model"] = digest_of_model(folder)
    labelled = definition.section.labelled is not None
    return ClassifierBeginning(definition, found, folder, inputs, None if labelled else snapshot)


def _runs(
    definition: TaskDefinition,
    found: ExampleSet,
    system: str,
    model: Path | None,
    silver: Silver | None,
    settings: TasksSettings,
    inputs: dict[str, str],
    draft: Draft,
    progress: Progress,
) -> list[Predictions]:
    """Tune and test predictions of every fold and seed; fills the draft's notes and `model/`."""
    section, task = definition.section, found.task
    folds, first_seed = folds_of(section), section.seeds[0]
    what = f"{task.name}: fits of {system}"
    extra, silver, near = _learnt(definition, found, silver, is_model=model is not None)
    draft.notes |= {"near_behavioural_tests": len(near)} if near else {}
    fit = System(definition, system, model, silver, draft.folder / ".silver", progress)
    runs: list[Predictions] = []
    raw: list[Predictions] = []
    # of the first seed, tune before calibration
    gaps: dict[str, list[str]] = {}
    scores: dict[Split, NDArray[np.float64]] = {}
    calibration: Calibration | None = None
    finally_all = fits_on_everything(section, is_model=model is not None)
    for fold in folds:
        parts, rounds = divide(found, section, fold)
        rounds = fit.prepare(rounds, extra, near, fold)
        gaps |= _gaps(task, parts, fold)
        tests = _texts(parts["test"])
        for seed in section.seeds:
            progress(what, len(runs) // 2, len(folds) * len(section.seeds))
            digest = digest_of([inputs, system, fold, seed if model else None])
            name = partial(_predictions, task, system, seed=seed, fold=fold, digest=digest)
            if model is not None or seed == first_seed:
                members = fit.rounds(rounds, fold, seed)
                parts["tune"], scores["tune"] = score_held(rounds, members)
                scores["test"] = fit.scores_of(members, tests)
                tune = name("tune", parts, scores["tune"])
                raw += [tune] if seed == first_seed else []
                calibration = fit.calibration_of(tune)
                scores = {
                    part: calibrate(given, calibration, kind=task.kind)
                    for part, given in scores.items()
                }
            runs += [name(part, parts, scores[part]) for part in ("tune", "test")]
            if fit.classifier is not None and len(runs) == 2 and not finally_all:
                _finish(fit.classifier, definition, raw[0], calibration, settings, draft)
    if fit.is_classifier:
        about = _about_fold(found, folds[0], first_seed, parts=folds)
        if finally_all:
            learnt = tuple(e for e in found.examples if e.example_id not in near)
            final, tune = fit.everything(replace(found, examples=learnt), extra, _pooled(raw))
            _finish(final, definition, tune, fit.calibration_of(tune), settings, draft)
            about = _about_final(found, section, extra, folds)
            draft.notes["scored_by"] = final.engine
        elif fit.classifier is not None:
            draft.notes["scored_by"] = fit.classifier.engine
        draft.notes |= about | fit.about_search()
    fit.discard()
    progress(what, len(runs) // 2, len(runs) // 2)
    if fit.logs:
        draft.notes["fits"] = fit.logs
    if gaps:
        draft.notes["labels_without_examples"] = gaps
    return runs


def _learnt(
    definition: TaskDefinition, found: ExampleSet, silver: Silver | None, *, is_model: bool
) -> tuple[list[Example], Silver | None, set[str]]:
    """(texts to learn beside the labelled ones, silver texts, ids of what is not to be learnt).

    No text near a behavioural test is learnt from, wherever it comes from.
    """
    section = definition.section
    extra = sentence_examples(
        definition.sentences, found.examples, section.dedup, times=section.sentences
    )
    every = [*found.examples, *extra, *(silver.examples if silver is not None else ())]
    tests = behaviour_tests(definition.task, section.behaviour_tests)
    kept, _ = without_near(every, tests, section.dedup)
    near = {e.example_id for e in every} - {e.example_id for e in kept}
    extra = [example for example in extra if example.example_id not in near]
    if silver is not None and near:
        left = tuple(example for example in silver.examples if example.example_id not in near)
        silver = replace(silver, examples=left)
    if silver is not None and not is_model:
        extra += silver.examples
    return extra, silver, near


def fits_on_everything(section: TaskSettings, *, is_model: bool) -> bool:
    """Whether a classifier for use is fitted on all texts after the folds."""
    wanted = section.finetune.final_fit if is_model else True
    return len(folds_of(section)) > 1 if wanted is None else wanted


def _finish(
    classifier: Classifier | LinearClassifier | BlendClassifier,
    definition: TaskDefinition,
    tune: Predictions,
    calibration: Calibration | None,
    settings: TasksSettings,
    draft: Draft,
) -> None:
    """Give the classifier its calibration, and the cut-offs for what is then calibrated; test its
    behaviour, for the notes, and write it to `model/`."""
    scores = calibrate(tune.scores, calibration, kind=tune.kind)
    classifier.take_calibration(calibration)
    classifier.thresholds = _thresholds(replace(tune, scores=scores), settings.threshold_shrinkage)
    if definition.section.prefer:
        classifier.thresholds = with_preference(classifier, definition.section.prefer).thresholds
    classifier.preset = definition.preset
    if tests := behaviour_tests(definition.task, definition.section.behaviour_tests):
        report = check_behaviour(classifier, tests)
        draft.notes["behaviour"] = msgspec.to_builtins([*report.groups, report.total])
    classifier.save_pretrained(draft.folder / "model")


def _about_fold(found: ExampleSet, fold: int, seed: int, *, parts: Sequence[int]) -> dict[str, Any]:
    """Which weights the folder holds, where they are the first fold's."""
    given = any(example.split == "test" for example in found.examples)
    tested = "the given test texts" if given else f"the test texts of fold {fold}"
    more = (
        "" if len(parts) == 1 else f"; the scores are of folds {parts[0]} to {parts[-1]} together"
    )
    return {
        "model": f"of fold {fold}, seed {seed}, fitted without {tested}{more}",
        "must_not_be_tested_on": f"any labelled text but {tested}",
    }


def _about_final(
    found: ExampleSet, section: TaskSettings, extra: Sequence[Example], folds: Sequence[int]
) -> dict[str, Any]:
    """Which weights the folder holds, where they are fitted on everything."""
    texts = sum(example.split != "test" for example in found.examples)
    source = Path(section.labelled).name if section.labelled else "the snapshot"
    spared = len(found.examples) - texts
    whose = "left them out" if len(folds) == section.folds else "left some of them out"
    return {
        "model": (
            f"fitted on all {texts:,} texts{' but the given test texts' if spared else ''}; "
            f"the scores are of {len(folds)} other fits, which {whose}"
        ),
        "must_not_be_tested_on": (
            f"the {texts:,} texts of {source} whose ids stand in predictions.parquet"
            f"{' as tune' if spared else ''}"
            + (f", and {len(extra):,} sentences of the labels" if extra else "")
        ),
    }


def _pooled(runs: Sequence[Predictions]) -> Predictions:
    """The rows of several runs of one system as one; for cut-offs only."""
    return replace(
        runs[0],
        ids=tuple(name for run in runs for name in run.ids),
        clusters=tuple(name for run in runs for name in run.clusters),
        scores=np.concatenate([run.scores for run in runs]),
        truth=np.concatenate([run.truth for run in runs]),
    )


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


def _texts(examples: Sequence[Example]) -> list[str]:
    return [example.text for example in examples]


def _predictions(
    task: Task,
    system: str,
    split: Split,
    parts: Parts,
    scores: NDArray[np.float64],
    *,
    seed: int,
    fold: int,
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
    _, once = np.unique(np.array(tune.ids), return_index=True)  # several folds may hold a text
    return Thresholds(
        labels=tune.labels,
        values=tuple(float(value) for value in values),
        chosen_on="tune",
        chosen_from=frozenset(tune.clusters),
        points=measure_points(tune.scores[once], tune.truth[once], tune.kind),
    )


def digest_of_model(folder: Path) -> str:
    """sha256 over the names and bytes of the model's files; no folder of a model: ArtifactError."""
    check_masked_lm(folder)
    return digest_of_folder(folder)


def blend_classifiers(
    task: str,
    folders: Sequence[Path],
    system: str,
    path: str | Path,
    *,
    prefer: str | None = None,
    settings: TasksSettings = TasksSettings(),  # noqa: B008 - a frozen struct
) -> Manifest:
    """The manifest of the classifier artifact at `path`: the blend of two others of the task.

    It holds the blend's predictions and, where both members can be used, the blend as a classifier
    with copies of them. Its calibration and cut-offs are chosen as any other's, from its own tune
    scores: those of all folds where both members were fitted on everything after the folds, else
    the first fold's; `prefer` takes cut-offs for a use. Of a baseline that keeps no weights there
    are predictions alone, which is logged.

    Raises:
        RecipeError: not two folders, or one of another task or protocol; a baseline's name.
        RecordError: the two were not fitted on the same rows, seeds and folds, or read other texts.
        ArtifactError: no classifier artifacts, damaged ones, or the disk refused.
    """
    path = Path(path)
    manifests = _blendable(task, folders, system)
    given = [str(manifest.settings["system"]) for manifest in manifests]
    names = given if given[0] != given[1] else [given[0], f"{given[1]}-2"]
    runs = [load_predictions(folder / "predictions.parquet") for folder in folders]
    blended = blend_predictions(*runs, system=system)
    sections = [manifest.settings.get("section", {}) for manifest in manifests]
    shared = {key: each for key, each in sections[0].items() if sections[1].get(key) == each}
    if prefer is not None:
        read_preference(prefer, blended[0].kind)
        shared["prefer"] = prefer
    described: dict[str, Any] = {"task": task, "system": system}
    described |= {"blend_of": names, **({"section": shared} if shared else {})}
    described |= {"threshold_shrinkage": settings.threshold_shrinkage}
    inputs = {name: each.digest for name, each in zip(names, manifests, strict=True)}
    bare = [
        name
        for name, each in zip(names, manifests, strict=True)
        if not any(file.startswith("model/") for file in each.files)
    ]
    with write_artifact(path, kind="classifier", settings=described, inputs=inputs) as draft:
        draft.counts.update(manifests[0].counts)
        draft.notes |= _about_blend(names, manifests)
        draft.notes |= {} if bare else _about_members(names, manifests)
        if bare:
            logger.warning(
                "%s: predictions alone, for `trialese evaluate`; no weights are kept of %s",
                path,
                " and ".join(bare),
            )
        else:
            members = [
                (name, load_scorer(folder), folder / "model")
                for name, folder in zip(names, folders, strict=True)
            ]
            blend, definition = BlendClassifier.of(members), defined_in(described)
            if definition is None:
                raise ArtifactError(f"{folders[0]}: does not say what its task is; fit it again")
            how = definition.section.calibration
            tune = [run for run in blended if (run.seed, run.split) == (blended[0].seed, "tune")]
            if not all(each["final"] for each in draft.notes["members"].values()):
                tune = tune[:1]
            pooled = _pooled(tune)
            calibration = _calibration_of(pooled, how)
            _finish(blend, definition, pooled, calibration, settings, draft)
            draft.notes["scored_by"] = blend.engine
            blended = _calibrated(blended, how)
        save_predictions(draft.folder / "predictions.parquet", blended)
    assert draft.manifest is not None
    return draft.manifest


def _blendable(task: str, folders: Sequence[Path], system: str) -> list[Manifest]:
    """The manifests of two classifiers that may be blended under that name."""
    if len(folders) != 2:
        raise RecipeError(f"{task}: a blend is of two classifiers, not {len(folders)}; give two")
    if system in BASELINES:
        raise RecipeError(
            f"{task}: system {system!r} is a baseline's name; give the blend another, such as "
            "hybrid"
        )
    manifests = [read_manifest(folder, kind="classifier", verify=True) for folder in folders]
    if manifests[0].digest == manifests[1].digest:
        raise RecipeError(f"{folders[1]}: the same classifier twice; blend it with another")
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest.settings["task"] != task:
            raise RecipeError(f"{folder}: fitted for {manifest.settings['task']}, not for {task}")
        if manifest.settings.get("protocol", "honest") != "honest":
            raise RecipeError(
                f"{folder}: fitted the published way, to measure its inflation; blend honest ones"
            )
    return manifests


def _about_blend(names: Sequence[str], manifests: Sequence[Manifest]) -> dict[str, Any]:
    """What the blend owes to others: all that its members do."""
    told = [each.notes for each in manifests]
    about: dict[str, Any] = {"synthetic": any(bool(each.get("synthetic")) for each in told)}
    if silver := [each["silver"] for each in told if "silver" in each]:
        about["silver"] = silver[0]  # what either learnt from another model, the blend did
    if models := [str(each["masked_lm"]) for each in told if each.get("masked_lm")]:
        about["masked_lm"] = "; ".join(dict.fromkeys(models))
    searched = {n: each["search"] for n, each in zip(names, told, strict=True) if "search" in each}
    return about | ({"search": {"members": searched}} if searched else {})


def _about_members(names: Sequence[str], manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Which weights the folder of a blend holds, and what they must not be tested on."""
    members = {}
    for name, each in zip(names, manifests, strict=True):
        seen = each.notes.get("must_not_be_tested_on", f"any text that {name} was fitted on")
        members[name] = {
            "weight": 1 / len(names),
            "scored_by": each.notes.get("scored_by", ""),
            "model": each.notes.get("model", ""),
            "final": _is_final(each),
            "must_not_be_tested_on": seen,
        }
    never = dict.fromkeys(str(each["must_not_be_tested_on"]) for each in members.values())
    return {
        "members": members,
        "model": f"a blend of {' and '.join(names)}, the mean of their log-odds",
        "must_not_be_tested_on": "; nor on ".join(never),
    }


def _is_final(manifest: Manifest) -> bool:
    """Whether the classifier that an artifact holds was fitted on everything after the folds."""
    if members := manifest.notes.get("members"):
        return all(each["final"] for each in members.values())
    definition = defined_in(manifest.settings)
    assert definition is not None
    return fits_on_everything(definition.section, is_model="model" in manifest.inputs)


def _calibration_of(tune: Predictions, how: CalibrationKind) -> Calibration | None:
    return fit_calibration(tune.scores, tune.truth, tune.clusters, kind=tune.kind, how=how)


def _calibrated(runs: Sequence[Predictions], how: CalibrationKind) -> list[Predictions]:
    """The runs as chances, each fold and seed by the calibration of its own tune texts."""
    fitted = {(r.seed, r.fold): _calibration_of(r, how) for r in runs if r.split == "tune"}
    return [
        replace(run, scores=calibrate(run.scores, fitted.get((run.seed, run.fold)), kind=run.kind))
        for run in runs
    ]
