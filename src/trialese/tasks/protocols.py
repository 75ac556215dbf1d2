"""The published protocol, re-made to the letter so that its inflation can be measured.

Stop reasons: rows divided at random, 90 to 10 with seed 42, fitted on the 90 %, the best epoch
chosen on the 10 %, scored at a cut-off of 0.3 over *all* rows. Sex: rows 0-361,264 divided in the
same way, scored on rows 0-40,140, nine in ten of which were fitted on. Nothing here may be used to
say how good a model is; `finetune` and the verdict do that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialese.artifacts import digest_of, write_artifact
from trialese.cutoffs import PUBLISHED_CUT, decide, f1_averages
from trialese.errors import RecipeError
from trialese.predictions import save_predictions
from trialese.progress import Progress, silent
from trialese.records import Example, Manifest, Snapshot, Split
from trialese.settings import TasksSettings
from trialese.tasks.baselines import check_system, fit_baseline
from trialese.tasks.fits import digest_of_model
from trialese.tasks.folds import ExampleSet, as_predictions, build_examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["count_known", "divide_published", "finetune_published"]

_SEED = 42
_SEX_ROWS, _SEX_TRAIN_ROWS, _SEX_TEST_ROWS = 401_406, 361_265, 40_141


def finetune_published(
    name: str,
    system: str,
    model: Path | None,
    snapshot: Snapshot | None,
    settings: TasksSettings,
    path: Path,
    *,
    progress: Progress = silent,
) -> Manifest:
    """The manifest of a classifier artifact at `path` that was fitted the published way.

    It holds predictions alone: of the 10 % as tune, of the rows that the prior art scored as test,
    with what each was trained on. `evaluate` judges them with `--protocol published` or `both`.

    Raises:
        RecipeError: no such task or baseline, a task that the prior art has not, a model missing or
            one too many.
        RecordError: examples that cannot be understood, or too few.
        ArtifactError: no usable model, or the disk refused.
    """
    check_system(name, system, model)
    found = build_examples(name, settings, snapshot)
    fitted, held, scored = divide_published(found.task.name, found.examples)
    inputs = {"examples": found.digest}
    if model is not None:
        inputs["model"] = digest_of_model(model)
    described = {"task": name, "system": system, "protocol": "published"}
    with write_artifact(path, kind="classifier", settings=described, inputs=inputs) as draft:
        predict = _fit(found, system, model, fitted, held, progress)
        known = frozenset(example.cluster for example in fitted)
        chosen_on = frozenset(example.cluster for example in held)
        parts: tuple[tuple[Split, list[Example], frozenset[str]], ...] = (
            ("tune", held, known),
            ("test", scored, known | chosen_on),
        )
        runs = [
            as_predictions(
                found.task,
                rows,
                predict([example.text for example in rows]),
                system=system,
                split=split,
                seed=_SEED,
                fold=0,
                trained_on=trained_on,
                model_digest=digest_of([inputs, described]),
            )
            for split, rows, trained_on in parts
        ]
        save_predictions(draft.folder / "predictions.parquet", runs)
        draft.counts.update(found.counts)
        draft.notes["synthetic"] = bool(snapshot and snapshot.manifest.notes.get("synthetic"))
        draft.notes["overlap"] = {
            **{f"scored_{what}": n for what, n in count_known(scored, fitted).items()},
            **{f"held_out_{what}": n for what, n in count_known(held, fitted).items()},
        }
        tune = runs[0]
        averages = f1_averages(tune.truth, decide(tune.scores, tune.kind, PUBLISHED_CUT))
        draft.notes["held_out_f1"] = [round(value, 6) for value in averages]
    assert draft.manifest is not None
    return draft.manifest


def divide_published(
    task: str, examples: Sequence[Example]
) -> tuple[list[Example], list[Example], list[Example]]:
    """(rows fitted on, rows the epoch is chosen on, rows scored), whatever they share.

    Stop reasons are scored on all rows, sex on the first tenth; both divide what they train on as
    `datasets`' train_test_split(test_size=0.1, seed=42) does. Shorter tables of sex are cut in the
    same proportion.

    Raises:
        RecipeError: a task that the prior art has not.
    """
    if task == "sex":
        share = min(1.0, len(examples) / _SEX_ROWS)
        pool = list(examples[: round(_SEX_TRAIN_ROWS * share)])
        scored = list(examples[: round(_SEX_TEST_ROWS * share)])
    elif task == "stop-reasons":
        pool = scored = list(examples)
    else:
        raise RecipeError(f"{task}: the prior art has stop-reasons and sex only; judge it honestly")
    order = np.random.default_rng(_SEED).permutation(len(pool)).tolist()
    tenth = -(-len(pool) // 10)
    return [pool[row] for row in order[tenth:]], [pool[row] for row in order[:tenth]], scored


def count_known(rows: Sequence[Example], fitted: Sequence[Example]) -> dict[str, int]:
    """How many of the rows were fitted on: themselves, word for word, or as near-duplicates."""
    from trialese.corpus import normalise

    ids = {example.example_id for example in fitted}
    texts = {normalise(example.text) for example in fitted}
    clusters = {example.cluster for example in fitted}
    return {
        "rows": len(rows),
        "trained_on": sum(example.example_id in ids for example in rows),
        "trained_on_exactly": sum(normalise(example.text) in texts for example in rows),
        "trained_on_nearly": sum(example.cluster in clusters for example in rows),
    }


def _fit(
    found: ExampleSet,
    system: str,
    model: Path | None,
    fitted: Sequence[Example],
    held: Sequence[Example],
    progress: Progress,
) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    if model is None:
        return fit_baseline(system, found.task, fitted, held)
    from trialese.tasks.published import PublishedFit, fit_published

    how = PublishedFit(epochs=20, max_tokens=177, eval_steps=None, patience=None)
    if found.task.name == "sex":
        how = PublishedFit(epochs=3, max_tokens=256, eval_steps=1000, patience=5)
    return fit_published(
        found.task, fitted, held, model, how, cut=PUBLISHED_CUT, seed=_SEED, progress=progress
    )
