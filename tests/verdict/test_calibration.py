""""""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from mapie.risk_control import MultiLabelClassificationController
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from trialese.verdict.calibration import (
    BINS,
    apply_temperature,
    calibration_figures,
    choose_label_levels,
    choose_level,
    fit_temperature,
    measure_calibration,
    missed_share,
    reliability,
    risk_coverage,
    set_figures,
)


def forecasts(sharpness: float, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose log-odds are `sharpness` times the true ones."""
    random = np.random.default_rng(2)
    log_odds = random.normal(-1, 2, (rows, 3))
    truth = random.random((rows, 3)) < 1 / (1 + np.exp(-log_odds))
    return 1 / (1 + np.exp(-sharpness * log_odds)), truth


def classes(sharpness: float, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    logits = random.normal(0, 1.5, (rows, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = (random.random(rows)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    sharp = np.exp(sharpness * logits)
    return sharp / sharp.sum(axis=1, keepdims=True), np.eye(3, dtype=bool)[chosen]


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_known_sharpness(sharpness: float) -> None:
    assert fit_temperature(*forecasts(sharpness), kind="multilabel") == pytest.approx(
        sharpness, rel=0.1
    )
    assert fit_temperature(*classes(sharpness), kind="multiclass") == pytest.approx(
        sharpness, rel=0.1
    )


def test_temperature_is_the_minimum_that_scipy_and_sklearn_find() -> None:
    scores, truth = classes(2.0, rows=500)

    def loss(temperature: float) -> float:
        return log_loss(
            truth.argmax(axis=1), apply_temperature(scores, temperature, kind="multiclass")
        )

    theirs = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6})
    assert fit_temperature(scores, truth, kind="multiclass") == pytest.approx(theirs.x, rel=1e-3)


def test_no_rows_no_change() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros((0, 3), bool), kind="multilabel") == 1.0


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_cooling_keeps_the_order_and_one_is_nothing(kind: str) -> None:
    scores, _ = classes(1.0, rows=50)
    np.testing.assert_allclose(apply_temperature(scores, 1.0, kind=kind), scores, atol=1e-6)  # type: ignore[arg-type]
    cooled = apply_temperature(scores, 2.5, kind=kind)  # type: ignore[arg-type]
    if kind == "multiclass":
        np.testing.assert_allclose(cooled.sum(axis=1), 1)
        assert (cooled.argmax(axis=1) == scores.argmax(axis=1)).all()
    else:
        assert (np.argsort(cooled.ravel()) == np.argsort(scores.ravel())).all()
    assert np.isfinite(apply_temperature(np.array([[0.0, 1.0]]), 0.05, kind=kind)).all()  # type: ignore[arg-type]


def test_diagram_agrees_with_scikit_learn() -> None:
    scores, truth = forecasts(1.7)
    share, forecast = calibration_curve(truth.ravel(), scores.ravel(), n_bins=BINS)
    found = reliability(scores, truth, kind="multilabel")
    filled = found.count > 0
    np.testing.assert_allclose(found.share[filled], share)
    np.testing.assert_allclose(found.forecast[filled], forecast)
    assert found.count.sum() == truth.size


def error_of(scores: np.ndarray, truth: np.ndarray) -> float:
    """The squared calibration error, below 0 where chance explains more than was seen."""
    sums = calibration_figures(scores, truth).sum(axis=0)
    return float(measure_calibration(sums, truth.shape[1])[1])


def test_brier_score_is_scikit_learns() -> None:
    scores, truth = forecasts(1.7)
    brier, _ = measure_calibration(calibration_figures(scores, truth).sum(axis=0), 3)
    assert brier == pytest.approx(brier_score_loss(truth.ravel(), scores.ravel()))


def test_calibration_error_by_hand() -> None:
    """Of each label and bin from 5 % up: squared gap less its variance, over the forecasts."""
    scores, truth = classes(2.0, rows=300)
    edges, by_label = [0.05, 0.2, 0.4, 0.6, 0.8, 1.01], []
    for label in range(3):
        total = count = 0.0
        for low, high in itertools.pairwise(edges):
            inside = (scores[:, label] >= low) & (scores[:, label] < high)
            given, came = scores[inside, label], truth[inside, label]
            if inside.any():
                chance = (given * (1 - given)).sum()
                total += ((given - came).sum() ** 2 - chance) / inside.sum()
                count += inside.sum()
        by_label.append(total / count)
    assert error_of(scores, truth) == pytest.approx(np.mean(by_label))


def test_calibrated_forecasts_have_a_small_error_and_cooling_repairs_sharp_ones() -> None:
    truthful, truth = forecasts(1.0, rows=20_000)
    sharp, _ = forecasts(3.0, rows=20_000)
    temperature = fit_temperature(sharp, truth, kind="multilabel")
    cooled = apply_temperature(sharp, temperature, kind="multilabel")
    assert error_of(truthful, truth) < 0.01**2
    assert error_of(sharp, truth) > 0.05**2
    assert error_of(cooled, truth) < 0.01**2


@pytest.mark.parametrize("rows", [80, 400])
def test_a_perfect_model_has_no_calibration_error_however_few_the_texts(rows: int) -> None:
    """400 small test sets: 0 on average; the plain error would be 0.1 at 80 texts."""
    scores, truth = classes(1.0, rows=400 * rows)
    errors = [
        error_of(scores[start : start + rows], truth[start : start + rows])
        for start in range(0, len(scores), rows)
    ]
    assert abs(np.mean(errors)) < 4 * np.std(errors) / 20 + 1e-4
    assert 0.3 < np.mean(np.array(errors) > 0) < 0.6


def test_forecasts_below_the_floor_play_no_part() -> None:
    scores, truth = forecasts(3.0)
    rare = np.column_stack([scores, np.full(len(scores), 0.01)])
    never = np.column_stack([truth, np.zeros(len(truth), bool)])
    assert error_of(rare, never) == pytest.approx(error_of(scores, truth))


def test_levels_of_labels_keep_the_promise_for_each() -> None:
    """A label that is hard to see has its own level; one common level misses it."""
    random = np.random.default_rng(5)
    answers = random.choice(3, 3000, p=[0.8, 0.15, 0.05])
    truth = np.eye(3, dtype=bool)[answers]
    centre = np.where(truth, [0.9, 0.6, 0.3], 0.1)
    scores = np.clip(random.normal(centre, 0.1), 0, 1)
    clusters = [f"c{n}" for n in range(3000)]
    tune, test = slice(0, 1500), slice(1500, 3000)
    common = choose_level(scores[tune], truth[tune], clusters[tune], miss_rate=0.1)
    levels = choose_label_levels(scores[tune], truth[tune], clusters[tune], miss_rate=0.1)
    shares = [
        [(sets & truth[test])[:, label].sum() / truth[test][:, label].sum() for label in range(3)]
        for sets in (scores[test] >= common, scores[test] >= levels)
    ]
    assert min(shares[0]) < 0.5
    assert min(shares[1]) > 0.8
    assert levels.shape == (3,)
    few = choose_label_levels(scores[:5], truth[:5], clusters[:5], miss_rate=0.1)
    assert few.tolist() == [0.0, 0.0, 0.0]


def made(seed: int, rows: int, labels: int = 4) -> tuple[np.ndarray, np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    truth = random.random((rows, labels)) < 0.3
    scores = np.round(np.clip(0.35 * truth + random.random((rows, labels)) * 0.6, 0, 1), 2)
    clusters = [f"c{n}" for n in random.integers(0, max(1, rows // 2), rows)]
    return scores, truth, clusters


def risk(scores: np.ndarray, truth: np.ndarray, clusters: list[str], level: float) -> float:
    """The slow plain version: (sum of cluster means + 1) / (clusters + 1)."""
    missed = missed_share(scores >= level, truth)
    names = sorted(set(clusters))
    means = [missed[[c == name for c in clusters]].mean() for name in names]
    return (sum(means) + 1) / (len(names) + 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([0.05, 0.1, 0.3, 0.6]))
def test_level_is_the_highest_that_keeps_the_promise(
    seed: int, rows: int, miss_rate: float
) -> None:
    scores, truth, clusters = made(seed, rows)
    level = choose_level(scores, truth, clusters, miss_rate=miss_rate)
    if level > 0:
        assert risk(scores, truth, clusters, level) <= miss_rate + 1e-9
    for higher in np.unique(scores[truth]):
        if higher > level:
            assert risk(scores, truth, clusters, higher) > miss_rate


def test_one_label_a_text_is_split_conformal_prediction() -> None:
    """The level is the quantile of split conformal: rank floor(a (n + 1)) from below."""
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(3), 99)
    truth = np.eye(3, dtype=bool)[random.integers(0, 3, 99)]
    level = choose_level(scores, truth, [f"c{n}" for n in range(99)], miss_rate=0.1)
    assert level == np.sort(scores[truth])[int(0.1 * 100) - 1]


def test_promise_is_kept_on_average() -> None:
    """Tune and test from the same source, 300 times: the mean missed share is at most 10 %."""
    missed, sizes = [], []
    for seed in range(300):
        scores, truth, _ = made(seed, 260)
        clusters = [f"c{n}" for n in range(60)]
        level = choose_level(scores[:60], truth[:60], clusters, miss_rate=0.1)
        sets = scores[60:] >= level
        missed.append(missed_share(sets, truth[60:]).mean())
        sizes.append(sets.sum(axis=1).mean())
    assert 0.07 < np.mean(missed) <= 0.1
    assert np.mean(sizes) < 4  # not bought by taking every label


def test_too_few_clusters_or_no_labels_take_everything() -> None:
    scores, truth, _ = made(1, 8)
    assert choose_level(scores, truth, [f"c{n}" for n in range(8)], miss_rate=0.1) == 0.0
    assert choose_level(scores, np.zeros_like(truth), ["c"] * 8, miss_rate=0.9) == 0.0
    assert choose_level(scores[:0], truth[:0], [], miss_rate=0.9) == 0.0


def test_figures_of_rows() -> None:
    sets = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    truth = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    predicted = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]], bool)
    figures = set_figures(sets, predicted, truth, ["a", "a", "b"], most_labels=2)
    assert figures.tolist() == [
        [0.25, 0.5, 2, 0, 1, 1, 1, 1],  # answered; misses one of two labels; two rows in "a"
        [0.0, 0.5, 0, 1, 0, 0, 0, 1],  # empty set: left to a person
        [0.0, 1.0, 3, 1, 0, 0, 0, 1],  # too many labels: left to a person
    ]


def test_missed_share_of_a_text_without_labels_is_nothing() -> None:
    assert missed_share(np.zeros((1, 2), bool), np.zeros((1, 2), bool)).tolist() == [0.0]
    assert missed_share(np.zeros((1, 2), bool), np.ones((1, 2), bool)) == pytest.approx([1.0])


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose probabilities are its input."""

    def fit(self, given: np.ndarray, truth: np.ndarray) -> Given:
        self.classes_ = np.arange(given.shape[1])
        return self

    def predict_proba(self, given: np.ndarray) -> np.ndarray:
        return given

    def predict(self, given: np.ndarray) -> np.ndarray:
        return given.argmax(axis=1)


@pytest.mark.parametrize("miss_rate", [0.05, 0.1, 0.25])
def test_sets_of_one_label_are_those_of_mapie(miss_rate: float) -> None:
    """MAPIE's "lac" (Sadinle et al. 2019): 1 - probability of the true class as the score."""
    random = np.random.default_rng(1)
    tune, test = random.dirichlet(np.ones(4), 200), random.dirichlet(np.ones(4), 300)
    answers = np.array([random.choice(4, p=row) for row in tune])
    mapie = SplitConformalClassifier(
        Given().fit(tune, answers), confidence_level=1 - miss_rate, conformity_score="lac"
    )
    mapie.conformalize(tune, answers)
    theirs = mapie.predict_set(test)[1][:, :, 0]
    clusters = [f"c{n}" for n in range(200)]
    level = choose_level(tune, np.eye(4, dtype=bool)[answers], clusters, miss_rate=miss_rate)
    assert np.array_equal(test >= level, theirs)


@pytest.mark.parametrize("miss_rate", [0.1, 0.2, 0.4])
def test_level_of_several_labels_is_mapies_to_a_step_of_its_grid(miss_rate: float) -> None:
    """MAPIE's conformal risk control of recall looks at levels in steps of 0.01."""
    random = np.random.default_rng(2)
    truth = random.random((250, 5)) < 0.4
    truth[~truth.any(axis=1), 0] = True
    scores = np.clip(0.4 * truth + 0.6 * random.random((250, 5)), 0, 1)
    mapie = MultiLabelClassificationController(
        lambda given: given, risk="recall", method="crc", target_level=1 - miss_rate
    )
    mapie.calibrate(scores, truth.astype(int))
    level = choose_level(scores, truth, [f"c{n}" for n in range(250)], miss_rate=miss_rate)
    theirs = float(np.ravel(mapie.best_predict_param)[0])
    assert theirs <= level <= theirs + 0.01 + 1e-9


def test_fewer_answers_leave_fewer_wrong_labels() -> None:
    random = np.random.default_rng(0)
    scores = random.random((2000, 3)) ** 3
    truth = random.random(scores.shape) < scores
    found = risk_coverage(scores, scores >= 0.4, truth)
    chosen = scores >= 0.4
    assert found["coverage"][0] == pytest.approx(chosen.any(axis=1).mean(), abs=1e-6)
    assert found["wrong"][0] == pytest.approx((chosen & ~truth).sum() / chosen.sum(), abs=1e-6)
    assert found["coverage"] == sorted(found["coverage"], reverse=True)
    assert found["wrong"][-1] < found["wrong"][0] / 2
    nothing = risk_coverage(scores, np.zeros_like(chosen), truth)
    assert nothing == {"coverage": [], "wrong": []}
