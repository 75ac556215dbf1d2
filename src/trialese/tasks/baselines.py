"""Baselines: the prior, keywords, TF-IDF with logistic regression, and blends. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialese.artifacts import read_manifest, write_artifact
from trialese.errors import RecipeError, RecordError, suggest
from trialese.predictions import load_predictions, save_predictions
from trialese.records import BASELINES, Example, Manifest, Predictions, Task
from trialese.tasks.linear import fit_linear
from trialese.tasks.task import encode_labels
from trialese.thresholds import log_odds, sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Baseline",
    "blend_classifiers",
    "blend_predictions",
    "check_system",
    "fit_baseline",
]


Baseline = Callable[[Sequence[str]], "NDArray[np.float64]"]
"""Texts in, probabilities (texts, labels) out."""


def check_system(task: str, system: str, model: str | Path | None) -> None:
    """Refuse a baseline with a model, and any other system without one.

    Raises:
        RecipeError: a model missing or one too many.
    """
    if re.fullmatch(r"\w[\w.+-]*", system) is None:
        raise RecipeError(
            f"{task}: system {system!r} cannot be a name; take letters, digits, and . _ + -"
        )
    if system in BASELINES and model is not None:
        raise RecipeError(
            f"{task}: system {system!r} takes no model; leave it out, or give the system another "
            "name, such as adapted"
        )
    if system not in BASELINES and model is None:
        raise RecipeError(
            f"{task}: system {system!r} needs the folder of a masked-LM (--model), or to be a "
            f"baseline; {suggest(system, BASELINES)}"
        )


def fit_baseline(
    name: str,
    task: Task,
    train: Sequence[Example],
    tune: Sequence[Example],
    *,
    keywords: Mapping[str, Sequence[str]] | None = None,
) -> Baseline:
    """The baseline called `name`, fitted on `train`; `tfidf` chooses its C on `tune`.

    `keywords` are lower-case words of each label; without any, those of the label's name.

    Raises:
        RecipeError: no such baseline.
    """
    if name == "prior":
        return _prior(task, train)
    if name == "keywords":
        return _keywords(task, keywords or _words_of_names(task), train)
    if name == "tfidf":
        return fit_linear(task, train, tune).scores_of
    raise RecipeError(f"baseline {name!r} is unknown; use one of {', '.join(BASELINES)}")


def _prior(task: Task, train: Sequence[Example]) -> Baseline:
    """Each label's share of the training texts, whatever the text."""
    shares = encode_labels(task, train).mean(axis=0)
    return lambda texts: np.tile(shares, (len(texts), 1))


def _words_of_names(task: Task) -> dict[str, tuple[str, ...]]:
    return {label: (label.replace("_", " ").casefold(),) for label in task.labels}


def _keywords(task: Task, words: Mapping[str, Sequence[str]], train: Sequence[Example]) -> Baseline:
    """Each label's share of the training texts with the same keywords (Laplace's rule).

    Several labels: a label is looked up by whether one of its own words stands in the text. One
    label: texts are looked up by the label whose words stand most often.
    """
    truth = encode_labels(task, train)  # (texts, labels)
    hits = _count_words(task, words, [example.text for example in train])
    if task.kind == "multilabel":
        share = np.stack(
            [
                ((truth & ((hits > 0) == found)).sum(axis=0) + 1)
                / (((hits > 0) == found).sum(axis=0) + 2)
                for found in (False, True)
            ]
        )  # (2, labels)

        def several(texts: Sequence[str]) -> NDArray[np.float64]:
            found = (_count_words(task, words, texts) > 0).astype(np.intp)
            return np.asarray(np.take_along_axis(share, found, axis=0))

        return several
    cells = hits.argmax(axis=1)
    table = np.stack(
        [truth[cells == cell].sum(axis=0) + 1.0 for cell in range(len(task.labels))]
    )  # (cells, labels)
    table /= table.sum(axis=1, keepdims=True)
    return lambda texts: table[_count_words(task, words, texts).argmax(axis=1)]


def _count_words(
    task: Task, words: Mapping[str, Sequence[str]], texts: Sequence[str]
) -> NDArray[np.int64]:
    """How often each label's words stand in each text: (texts, labels)."""
    counts = np.zeros((len(texts), len(task.labels)), np.int64)
    for column, label in enumerate(task.labels):
        if label in words:
            pattern = re.compile("|".join(map(re.escape, words[label])))
            counts[:, column] = [len(pattern.findall(f" {text.casefold()} ")) for text in texts]
    return counts


def blend_classifiers(task: str, folders: Sequence[Path], system: str, path: Path) -> Manifest:
    """The manifest of a classifier artifact at `path` that holds the blend's predictions alone.

    `folders` are two classifier artifacts of the task; the blend is the mean of their log-odds.

    Raises:
        RecipeError: not two folders, or one of another task.
        RecordError: the two were not fitted on the same rows, seeds and folds.
        ArtifactError: no classifier artifacts, or the disk refused.
    """
    if len(folders) != 2:
        raise RecipeError(f"{task}: a blend is of two classifiers, not {len(folders)}; give two")
    manifests = [read_manifest(folder, kind="classifier") for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest.settings["task"] != task:
            raise RecipeError(f"{folder}: fitted for {manifest.settings['task']}, not for {task}")
    runs = [load_predictions(folder / "predictions.parquet") for folder in folders]
    names = [str(manifest.settings["system"]) for manifest in manifests]
    settings = {"task": manifests[0].settings["task"], "system": system, "blend_of": names}
    inputs = {name: manifest.digest for name, manifest in zip(names, manifests, strict=True)}
    with write_artifact(path, kind="classifier", settings=settings, inputs=inputs) as draft:
        draft.counts.update(manifests[0].counts)
        draft.notes["synthetic"] = any(bool(each.notes.get("synthetic")) for each in manifests)
        silver = [each.notes["silver"] for each in manifests if "silver" in each.notes]
        if silver:  # what either learnt from another model, the blend did
            draft.notes["silver"] = silver[0]
        blended = blend_predictions(*runs, system=system)
        save_predictions(draft.folder / "predictions.parquet", blended)
    assert draft.manifest is not None
    return draft.manifest


def blend_predictions(
    one: Sequence[Predictions], other: Sequence[Predictions], *, system: str
) -> list[Predictions]:
    """Each run of `one` with the mean of its log-odds and those of the same run of `other`.

    What either was trained on counts as seen by the blend.

    Raises:
        RecordError: a run without its partner, or partners with other rows.
    """
    partners = {(run.task, run.seed, run.fold, run.split): run for run in other}
    blended = []
    for run in one:
        key = (run.task, run.seed, run.fold, run.split)
        partner = partners.get(key)
        name = f"{run.task}, {run.split} of seed {run.seed}, fold {run.fold}"
        if partner is None or len(one) != len(other):
            raise RecordError(f"{name}: not in both systems; fit both with the same recipe")
        if (run.labels, run.clusters) != (partner.labels, partner.clusters) or (
            run.ids != partner.ids
        ):
            raise RecordError(f"{name}: the systems saw different rows; fit both with one recipe")
        mean = (log_odds(run.scores) + log_odds(partner.scores)) / 2
        blended.append(
            replace(
                run,
                system=system,
                scores=sigmoid(mean),
                trained_on=run.trained_on | partner.trained_on,
                model_digest=f"{run.model_digest}+{partner.model_digest}",
            )
        )
    return blended
