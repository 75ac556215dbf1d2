"""Cut-offs per label, chosen on tune only."""

from __future__ import annotations

import numpy as np

from trialese.cutoffs import shrunk_cuts
from trialese.errors import LeakageError, RecordError
from trialese.records import Predictions, Thresholds
from trialese.settings import VerdictSettings

__all__ = ["choose_thresholds"]


def choose_thresholds(predictions: Predictions, settings: VerdictSettings) -> Thresholds:
    """The cut-off of each label: the best one for its F1, drawn towards the common one.

    The common cut-off is best for micro-F1; see `shrunk_cuts`. A fixed `settings.threshold` is
    taken as it is, chosen from no row. A multiclass task takes the highest score, so its cut-offs
    are 0.0 and play no part.

    Raises:
        LeakageError: the predictions are not of the tune split.
        RecordError: a multilabel task's tune split has no rows, or none with a label.
    """
    if predictions.split != "tune":
        raise LeakageError(
            f"thresholds of {predictions.system} on {predictions.task} would be chosen on "
            f"{predictions.split}; choose them on tune"
        )
    fixed = settings.threshold is not None and predictions.kind == "multilabel"
    if predictions.kind == "multiclass":
        values = np.zeros(len(predictions.labels))
    elif fixed:
        values = np.full(len(predictions.labels), settings.threshold)
    elif predictions.truth.any():
        values = shrunk_cuts(
            predictions.scores, predictions.truth, shrinkage=settings.threshold_shrinkage
        )
    else:
        lack = "holds no label" if predictions.ids else "is empty"
        raise RecordError(
            f"thresholds of {predictions.system} on {predictions.task}: tune {lack} "
            f"(seed {predictions.seed}, fold {predictions.fold}); raise tune_share"
        )
    return Thresholds(
        labels=predictions.labels,
        values=tuple(float(value) for value in values),
        chosen_on=predictions.split,
        chosen_from=frozenset() if fixed else frozenset(predictions.clusters),
    )
