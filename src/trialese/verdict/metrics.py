"""Precision, recall, F1 and accuracy, computed from sums of per-row figures.

That makes a bootstrap resample one matrix product (see `bootstrap`). Definitions are those of
scikit-learn's `precision_recall_fscore_support` with `zero_division=0`: a ratio without a
denominator counts as 0, so a label that is absent and never predicted has F1 0 and stays in the
macro average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialese.bootstrap import interval
from trialese.records import Interval
from trialese.settings import VerdictSettings
from trialese.verdict.systems import Comparison

__all__ = [
    "DecisionMetrics",
    "measure",
    "pseudo_counts",
    "rank_systems",
    "ranking_scores",
    "row_figures",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

AVERAGES = ("micro", "macro", "weighted", "samples")
_TAIL = 6  # samples precision, recall, F1; share of right cells; all cells right; rows


@dataclass(frozen=True, slots=True)
class DecisionMetrics:
    """Metrics over any leading axes (such as resamples); the last axis of `label_*` is labels."""

    label_precision: Floats  # (..., labels)
    label_recall: Floats  # (..., labels)
    label_f1: Floats  # (..., labels)
    support: Floats  # (..., labels)
    averages: dict[str, tuple[Floats, Floats, Floats]]
    """Precision, recall and F1 by the name of the average, each (...)."""
    extra: dict[str, Floats]
    """`label_accuracy` (share of right row-label cells) and `subset_accuracy` (rows with every
    label right; plain accuracy for a multiclass task), each (...)."""


def row_figures(predicted: Bools, truth: Bools) -> Floats:
    """Figures of each row, (rows, 3 x labels + 6), whose sums are what `measure` takes.

    Columns: true positives, false positives and false negatives of each label; the row's own
    precision, recall and F1; its share of right cells; whether all are right; and 1, which
    counts rows.
    """
    true_positive = predicted & truth
    hits, chosen, meant = (a.sum(axis=1) for a in (true_positive, predicted, truth))
    tail = (
        _ratio(hits, chosen),
        _ratio(hits, meant),
        _ratio(2 * hits, chosen + meant),
        (predicted == truth).mean(axis=1),
        (predicted == truth).all(axis=1),
        np.ones(len(truth)),
    )
    return np.column_stack(
        [true_positive, predicted & ~truth, ~predicted & truth, *tail],
    ).astype(np.float64)


def measure(sums: Floats) -> DecisionMetrics:
    """All metrics from sums of `row_figures`, shape (..., 3 x labels + 6), possibly weighted."""
    labels = (sums.shape[-1] - _TAIL) // 3
    tp, fp, fn = (sums[..., i * labels : (i + 1) * labels] for i in range(3))
    *tail, rows = np.moveaxis(sums[..., 3 * labels :], -1, 0)
    precision, recall, f1 = (
        _ratio(tp, tp + fp),
        _ratio(tp, tp + fn),
        _ratio(2 * tp, 2 * tp + fp + fn),
    )
    support = tp + fn
    tp_all, fp_all, fn_all = tp.sum(-1), fp.sum(-1), fn.sum(-1)
    share = _ratio(support, support.sum(-1, keepdims=True))
    samples = [_ratio(part, rows) for part in tail]
    return DecisionMetrics(
        label_precision=precision,
        label_recall=recall,
        label_f1=f1,
        support=support,
        averages={
            "micro": (
                _ratio(tp_all, tp_all + fp_all),
                _ratio(tp_all, tp_all + fn_all),
                _ratio(2 * tp_all, 2 * tp_all + fp_all + fn_all),
            ),
            "macro": (precision.mean(-1), recall.mean(-1), f1.mean(-1)),
            "weighted": (
                (precision * share).sum(-1),
                (recall * share).sum(-1),
                (f1 * share).sum(-1),
            ),
            "samples": (samples[0], samples[1], samples[2]),
        },
        extra={"label_accuracy": samples[3], "subset_accuracy": samples[4]},
    )


def ranking_scores(scores: Floats, truth: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Average precision and area under the ROC curve, each (resamples,), of one label.

    Threshold-free: how well `scores` (rows,) rank the rows where `truth` (rows,) is true before
    the others. `weights` is (resamples, rows), how often each row was drawn. As in scikit-learn,
    rows of equal score are passed at once. NaN where a resample has no such row or no other.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, drawn = scores[order], weights.T[order]  # (rows, resamples)
    true = np.flatnonzero(truth[order])
    if not len(true):
        return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    # Both figures change only where rows with the label are passed, which are mostly few.
    begins = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    passes, first = np.unique(np.searchsorted(begins, true, side="right") - 1, return_index=True)
    ends = np.append(begins[1:], len(order))
    edges = np.append(0, np.stack([begins[passes], ends[passes]], axis=1))
    passed = np.cumsum(_sums_between(drawn, edges), axis=0)
    before, after = passed[0::2], passed[1::2]
    new_hits = _sums_between(drawn[true], np.append(first, len(true)))
    hits = np.cumsum(new_hits, axis=0)
    found, wrong = hits[-1], drawn.sum(axis=0) - hits[-1]
    beaten = wrong - (after - hits) + (after - before - new_hits) / 2  # ties count half
    precision = _ratio((new_hits * _ratio(hits, after)).sum(axis=0), found)
    area = _ratio((new_hits * beaten).sum(axis=0), found * wrong)
    alone = (found == 0) | (wrong == 0)
    return np.where(alone, np.nan, precision), np.where(alone, np.nan, area)


def _sums_between(rows: Floats, edges: NDArray[np.intp]) -> Floats:
    """Sums of the rows from each edge to the next, (edges - 1, columns); the last are not none."""
    sums = np.add.reduceat(rows[: edges[-1]], edges[:-1], axis=0)
    sums[np.diff(edges) == 0] = 0.0
    return np.asarray(sums)


def rank_systems(
    comparison: Comparison, settings: VerdictSettings
) -> dict[str, dict[str, Interval]]:
    """Average precision and AUROC of each system: means over labels, folds of a seed pooled.

    A label that no or every text has is left out; so is a figure that no label has.
    """
    clusters = sorted({cluster for each in comparison.rounds for cluster in each.clusters})
    place = {name: number for number, name in enumerate(clusters)}
    drawn = np.random.default_rng([settings.seed, 4]).multinomial(
        len(clusters), np.full(len(clusters), 1 / len(clusters)), settings.resamples
    )
    counts = np.vstack([np.ones(len(clusters)), drawn])  # first as measured, then the resamples
    found: dict[str, dict[str, Interval]] = {}
    of_seed = {
        seed: [each for each in comparison.rounds if each.seed == seed] for seed in comparison.seeds
    }
    weights_of = {
        seed: counts[:, [place[name] for each in rounds for name in each.clusters]]
        for seed, rounds in of_seed.items()
    }
    for system in comparison.systems:
        by_seed = []
        for seed, rounds in of_seed.items():
            weights = weights_of[seed]
            scores = np.concatenate([each.test[system].scores for each in rounds])
            truth = np.concatenate([each.truth for each in rounds])
            held = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
            pairs = [ranking_scores(scores[:, n], truth[:, n], weights) for n in held]
            told = np.array(pairs).reshape(len(held), 2, len(counts))
            known = (~np.isnan(told)).sum(axis=0)
            total = np.nansum(told, axis=0)
            by_seed.append(np.where(known > 0, total / np.maximum(known, 1), np.nan))
        both = np.mean(by_seed, axis=0)  # (2, 1 + resamples)
        found[system] = {
            # A resample of a few texts may hold one label alone, where nothing can be ranked.
            name: interval(
                values[0], values[1:][~np.isnan(values[1:])], confidence=settings.confidence
            )
            for name, values in zip(("average_precision", "auroc"), both, strict=True)
            if not np.isnan(values[0]) and not np.isnan(values[1:]).all()
        }
    return found


def pseudo_counts(labels: int) -> Floats:
    """What a label's counts are short of certainty: (3 x labels + 6,), to be added to the sums.

    A third of a true positive, and a third of an error, half of it a false positive and half a
    false negative. F1 is 2q / (1 + q) of q = tp / (tp + fp + fn), the share of the texts with the
    label, given or true, on which both agree; Beta(1/3, 1/3) is the prior of a share whose
    posterior median lies closest to what was observed (Kerman 2011). As the shape of a gamma
    variable in every resample it gives an interval to a label that is never, or always, right.
    """
    return np.repeat([1 / 3, 1 / 6, 1 / 6, 0.0], [labels, labels, labels, _TAIL])


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """numerator / denominator, and 0 where the denominator is 0."""
    top, bottom = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    out = np.zeros(top.shape)
    np.divide(top, bottom, out=out, where=bottom != 0)
    return out
