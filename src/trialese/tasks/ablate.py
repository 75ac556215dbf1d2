"""Ablation of the sex classifier's input: the same trials and folds, less and less to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trialese.artifacts import digest_of, write_artifact
from trialese.errors import RecipeError, suggest
from trialese.hub import locate_model
from trialese.predictions import save_predictions
from trialese.progress import Progress, silent
from trialese.records import Example, Predictions, Snapshot, Split
from trialese.settings import SexSettings, TasksSettings
from trialese.tasks import sex
from trialese.tasks.baselines import fit_baseline
from trialese.tasks.folds import (
    ExampleSet,
    as_predictions,
    build_examples,
    describe_section,
    folds_of,
    parts_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["VARIANTS", "ablate_sex"]


VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "titles": {"fields": ("brief_title", "official_title")},
    "criteria": {"fields": ("eligibility_criteria",)},
    "no-sex-words": {"without_sex_words": True},
}
"""Name -> what of `SexSettings` it changes."""

_RIVALS = ("keywords", "prior")
_Predict = Callable[[Sequence[str]], "NDArray[np.float64]"]


def ablate_sex(
    snapshot: Snapshot,
    model: str | Path | None,
    settings: TasksSettings,
    path: Path,
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    progress: Progress = silent,
) -> list[Path]:
    """Folders under `path`, one a variant and one a rival, each with predictions to be judged.

    `model` is what `hub.locate_model` takes; None: TF-IDF with logistic regression. Trials that say
    nothing in a variant stay, with an empty text, so that all variants score the same rows.

    Raises:
        RecipeError: a variant that there is not, or labels that come from a file: a labelled text
            cannot be rendered anew.
        RecordError: too few trials with the field.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise RecipeError(
            f"variant {unknown[0]!r} is unknown; {suggest(unknown[0], VARIANTS, lead='use')}"
        )
    if settings.sex.labelled is not None:
        raise RecipeError("tasks.sex.labelled: an ablation renders trials anew; give a snapshot")
    model = None if model is None else locate_model(model)
    full = build_examples("sex", settings, snapshot)
    section = describe_section(settings.sex, is_model=True)
    made = []
    for name in (*variants, *_RIVALS):
        found = _variant(full, snapshot, settings.sex, VARIANTS.get(name, {}))
        system = name if name in _RIVALS else "model" if model else "tfidf"
        described = {"task": "sex", "system": name, "section": section}
        inputs = {"examples": found.digest, "fitted": digest_of([system, str(model)])}
        with write_artifact(
            path / name, kind="classifier", settings=described, inputs=inputs
        ) as draft:
            runs = _runs(found, name, system, model, settings.sex, digest_of(inputs), progress)
            save_predictions(draft.folder / "predictions.parquet", runs)
            empty = sum(not example.text for example in found.examples)
            draft.counts.update(**found.counts, empty_texts=empty)
            draft.notes["masked_lm"] = _fitted(system, model)
            draft.notes["synthetic"] = bool(snapshot.manifest.notes.get("synthetic"))
        made.append(path / name)
    return made


def _fitted(system: str, model: Path | None) -> str:
    """What reads the text, to be said with every result."""
    if system == "model" and model is not None:
        return f"language model fine-tuned from {model.parent.name}/{model.name}"
    return "" if system in _RIVALS else "TF-IDF with logistic regression"


def _variant(
    full: ExampleSet, snapshot: Snapshot, section: SexSettings, changes: dict[str, object]
) -> ExampleSet:
    """The same examples with other texts."""
    if not changes:
        return full
    from trialese.collect.snapshot import read_trials

    changed = msgspec.structs.replace(section, **changes, max_trials=None)
    told = sex.examples_of_trials(read_trials(snapshot), changed, {})
    texts = {example.example_id: example.text for example in told}
    examples = tuple(replace(e, text=texts.get(e.example_id, "")) for e in full.examples)
    return replace(full, examples=examples)


def _runs(
    found: ExampleSet,
    name: str,
    system: str,
    model: Path | None,
    section: SexSettings,
    digest: str,
    progress: Progress,
) -> list[Predictions]:
    folds = folds_of(section)
    runs = []
    for done, fold in enumerate(folds):
        progress(f"ablation: folds of {name}", done, len(folds))
        parts = parts_of(found, section, fold)
        for seed in section.seeds:
            predict = _fit(found, system, model, section, parts["train"], parts["tune"], seed)
            fitted = frozenset(e.cluster for e in parts["train"])
            tuned = fitted | {e.cluster for e in parts["tune"]}
            seen: dict[Split, frozenset[str]] = {"tune": fitted, "test": tuned}
            for split, known in seen.items():
                rows = parts[split]
                runs.append(
                    as_predictions(
                        found.task,
                        rows,
                        predict([e.text for e in rows]),
                        system=name,
                        split=split,
                        seed=seed,
                        fold=fold,
                        trained_on=known,
                        model_digest=digest,
                    )
                )
    progress(f"ablation: folds of {name}", len(folds), len(folds))
    return runs


def _fit(
    found: ExampleSet,
    system: str,
    model: Path | None,
    section: SexSettings,
    train: Sequence[Example],
    tune: Sequence[Example],
    seed: int,
) -> _Predict:
    if system != "model":
        return fit_baseline(system, found.task, train, tune, keywords=sex.SEX_WORDS)
    from trialese.tasks.fit import fit_classifier

    assert model is not None
    return fit_classifier(found.task, train, tune, model, section.finetune, seed=seed)[
        0
    ].predict_proba
