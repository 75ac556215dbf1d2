from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from trialese.verdict.calibration import (
    BINS,
    calibration_figures,
    cool,
    fit_temperature,
    measure_calibration,
    reliability,
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
        return log_loss(truth.argmax(axis=1), cool(scores, temperature, kind="multiclass"))

    theirs = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6})
    assert fit_temperature(scores, truth, kind="multiclass") == pytest.approx(theirs.x, rel=1e-3)


def test_no_rows_no_change() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros((0, 3), bool), kind="multilabel") == 1.0


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_cooling_keeps_the_order_and_one_is_nothing(kind: str) -> None:
    scores, _ = classes(1.0, rows=50)
    np.testing.assert_allclose(cool(scores, 1.0, kind=kind), scores, atol=1e-6)  # type: ignore[arg-type]
    cooled = cool(scores, 2.5, kind=kind)  # type: ignore[arg-type]
    if kind == "multiclass":
        np.testing.assert_allclose(cooled.sum(axis=1), 1)
        assert (cooled.argmax(axis=1) == scores.argmax(axis=1)).all()
    else:
        assert (np.argsort(cooled.ravel()) == np.argsort(scores.ravel())).all()
    assert np.isfinite(cool(np.array([[0.0, 1.0]]), 0.05, kind=kind)).all()  # type: ignore[arg-type]


def test_diagram_agrees_with_scikit_learn() -> None:
    scores, truth = forecasts(1.7)
    share, forecast = calibration_curve(truth.ravel(), scores.ravel(), n_bins=BINS)
    found = reliability(scores, truth, kind="multilabel")
    filled = found.count > 0
    np.testing.assert_allclose(found.share[filled], share)
    np.testing.assert_allclose(found.forecast[filled], forecast)
    assert found.count.sum() == truth.size


def test_figures_agree_with_the_diagram_and_scikit_learn() -> None:
    scores, truth = forecasts(1.7)
    sums = calibration_figures(scores, truth, kind="multilabel").sum(axis=0)
    brier, error = measure_calibration(sums)
    assert brier == pytest.approx(brier_score_loss(truth.ravel(), scores.ravel()))
    found = reliability(scores, truth, kind="multilabel")
    by_hand = (found.count * np.abs(found.forecast - found.share)).sum() / truth.size
    assert error == pytest.approx(by_hand)


def test_multiclass_error_is_about_the_highest_score() -> None:
    scores, truth = classes(2.0)
    _, error = measure_calibration(
        calibration_figures(scores, truth, kind="multiclass").sum(axis=0)
    )
    best, right = scores.max(axis=1), truth[np.arange(len(truth)), scores.argmax(axis=1)]
    bins = np.minimum((best * BINS).astype(int), BINS - 1)
    by_hand = sum(
        abs((best[bins == b] - right[bins == b]).sum()) for b in range(BINS) if (bins == b).any()
    )
    assert error == pytest.approx(by_hand / len(truth))


def test_calibrated_forecasts_have_a_small_error_and_cooling_repairs_sharp_ones() -> None:
    truthful, truth = forecasts(1.0, rows=20_000)
    sharp, _ = forecasts(3.0, rows=20_000)
    cooled = cool(sharp, fit_temperature(sharp, truth, kind="multilabel"), kind="multilabel")

    def error(scores: np.ndarray) -> float:
        figures = calibration_figures(scores, truth, kind="multilabel")
        return float(measure_calibration(figures.sum(axis=0))[1])

    assert error(truthful) < 0.01
    assert error(sharp) > 0.05
    assert error(cooled) < 0.01
