"""Two systems' predictions in, those of their blend out: the mean of the log-odds. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trialese.artifacts import read_manifest, write_artifact
from trialese.cutoffs import chance_of, log_odds
from trialese.errors import RecordError
from trialese.predictions import load_predictions, save_predictions
from trialese.records import Manifest, Predictions

__all__ = ["blend_classifiers", "blend_predictions"]


def blend_classifiers(one: Path, other: Path, system: str, path: Path) -> Manifest:
    """The manifest of a classifier artifact at `path` that holds the blend's predictions alone.

    Raises:
        RecordError: the two were not fitted on the same rows, seeds and folds.
        ArtifactError: no classifier artifacts, or the disk refused.
    """
    folders = (one, other)
    manifests = [read_manifest(folder, kind="classifier") for folder in folders]
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
                scores=chance_of(mean),
                trained_on=run.trained_on | partner.trained_on,
                model_digest=f"{run.model_digest}+{partner.model_digest}",
            )
        )
    return blended
