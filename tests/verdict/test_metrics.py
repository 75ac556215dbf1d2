from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    hamming_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from trialese.verdict.metrics import AVERAGES, measure, ranking_scores, row_figures

Floats = NDArray[np.float64]


def matrices(rows: int, labels: int, seed: int, rate: float) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    return random.random((rows, labels)) < rate, random.random((rows, labels)) < rate


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 30),
    labels=st.integers(2, 6),
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
)
def test_agrees_with_scikit_learn(rows: int, labels: int, seed: int, rate: float) -> None:
    predicted, truth = matrices(rows, labels, seed, rate)
    ours = measure(row_figures(predicted, truth).sum(axis=0))
    p, r, f, support = precision_recall_fscore_support(
        truth, predicted, average=None, zero_division=0
    )
    np.testing.assert_allclose(ours.label_precision, p, atol=1e-12)
    np.testing.assert_allclose(ours.label_recall, r, atol=1e-12)
    np.testing.assert_allclose(ours.label_f1, f, atol=1e-12)
    np.testing.assert_array_equal(ours.support, support)
    for average in AVERAGES:
        theirs = precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
        np.testing.assert_allclose(ours.averages[average], theirs[:3], atol=1e-12, err_msg=average)
    assert ours.extra["label_accuracy"] == pytest.approx(1 - hamming_loss(truth, predicted))
    assert ours.extra["subset_accuracy"] == pytest.approx(accuracy_score(truth, predicted))


def test_weights_are_repeated_rows() -> None:
    predicted, truth = matrices(20, 4, 3, 0.4)
    weights = np.random.default_rng(0).integers(0, 4, 20)
    figures = row_figures(predicted, truth)
    repeated = measure(np.repeat(figures, weights, axis=0).sum(axis=0))
    weighted = measure(weights @ figures)
    np.testing.assert_allclose(weighted.label_f1, repeated.label_f1)
    for average in AVERAGES:
        np.testing.assert_allclose(weighted.averages[average], repeated.averages[average])


def test_many_resamples_at_once_are_the_same_as_one_by_one() -> None:
    predicted, truth = matrices(12, 3, 5, 0.4)
    figures = row_figures(predicted, truth)
    weights = np.random.default_rng(1).integers(0, 3, (7, 12))
    together = measure(weights @ figures)
    for place, one in enumerate(weights):
        alone = measure(one @ figures)
        np.testing.assert_allclose(together.label_f1[place], alone.label_f1)
        np.testing.assert_allclose(
            together.averages["samples"][2][place], alone.averages["samples"][2]
        )


def ranked_by_definition(
    scores: Floats, truth: NDArray[np.bool_], weights: Floats
) -> tuple[Floats, Floats]:
    """Passing rank after rank, with every row counted at each."""
    order = np.argsort(-scores, kind="stable")
    ranked, weighted = scores[order], np.asfortranarray(weights[:, order])
    last = np.append(ranked[1:] != ranked[:-1], True)
    hits = np.cumsum(weighted * truth[order], axis=1)[:, last]
    misses = np.cumsum(weighted * ~truth[order], axis=1)[:, last]
    found, wrong = hits[:, -1], misses[:, -1]
    new_hits = np.diff(hits, axis=1, prepend=0.0)
    new_misses = np.diff(misses, axis=1, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(hits / (hits + misses))
        precision = (new_hits * share).sum(axis=1) / found
        area = (new_misses * (hits - new_hits / 2)).sum(axis=1) / (found * wrong)
    alone = (found == 0) | (wrong == 0)
    return np.where(alone, np.nan, precision), np.where(alone, np.nan, area)


@given(st.integers(1, 60), st.integers(0, 3), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_ranking_scores_are_those_of_the_definition_to_the_last_bit(
    rows: int, digits: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    truth, scores = random.random(rows) < share, np.round(random.random(rows), digits)
    weights = random.multinomial(rows, np.full(rows, 1 / rows), 7).astype(float)
    for found, wanted in zip(
        ranking_scores(scores, truth, weights),
        ranked_by_definition(scores, truth, weights),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)


def test_ranking_scores_are_scikit_learns() -> None:
    """With ties, and with rows drawn several times or not at all."""
    random = np.random.default_rng(0)
    truth = random.random(200) < 0.2
    scores = np.round(np.clip(0.3 * truth + random.random(200), 0, 1), 1)
    weights = random.multinomial(200, np.full(200, 1 / 200), 5).astype(float)
    precision, area = ranking_scores(scores, truth, weights)
    for row, weight in enumerate(weights):
        assert precision[row] == pytest.approx(
            average_precision_score(truth, scores, sample_weight=weight)
        )
        assert area[row] == pytest.approx(roc_auc_score(truth, scores, sample_weight=weight))
    nothing = ranking_scores(scores, np.zeros(200, bool), weights)
    assert np.isnan(nothing).all()
