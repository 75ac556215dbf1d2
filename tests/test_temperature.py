"""Calibration that ships: lines over log-odds, drawn together where texts are few."""

from __future__ import annotations

import numpy as np
import pytest

from trialese.temperature import Calibration, calibrate, fit_calibration, log_loss
from trialese.thresholds import log_odds, probabilities, sigmoid


def drawn(rows: int, shares: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(chances that are right, outcomes), both (rows, labels)."""
    random = np.random.default_rng(seed)
    odds = random.normal(0, 2, (rows, len(shares))) + log_odds(np.array(shares))
    chances = sigmoid(odds)
    return chances, random.random(chances.shape) < chances


def names(rows: int) -> list[str]:
    return [f"c{row // 2}" for row in range(rows)]


def test_lines_of_labels_are_found_again() -> None:
    chances, truth = drawn(6000, [0.3, 0.3, 0.3])
    given = sigmoid(2.5 * log_odds(chances) + np.array([1.0, 0.0, -1.0]))
    found = fit_calibration(given, truth, names(6000), kind="multilabel")
    assert found is not None and found.pull is not None
    assert found.slopes == pytest.approx((0.4,) * 3, abs=0.05)
    assert found.offsets == pytest.approx((-0.4, 0.0, 0.4), abs=0.12)
    right = calibrate(given, found, kind="multilabel")
    np.testing.assert_allclose(right, chances, atol=0.04)
    assert found.loss[1] < found.loss[0]
    order = np.argsort(given[:, 0])
    assert (np.diff(right[order, 0]) >= 0).all(), "order within a label stays"


def test_a_label_with_few_texts_stays_with_the_common_line() -> None:
    chances, truth = drawn(1000, [0.3, 0.3, 0.004])
    given = sigmoid(2.5 * log_odds(chances))
    found = fit_calibration(given, truth, names(1000), kind="multilabel")
    assert found is not None
    assert found.slopes[2] == pytest.approx(1 / found.temperature, abs=0.15)
    common = fit_calibration(given, truth, names(1000), kind="multilabel", how="temperature")
    assert common is not None and len(set(common.slopes)) == 1 and common.pull is None


def test_a_temperature_and_offsets_of_classes_are_found_again() -> None:
    random = np.random.default_rng(1)
    right = probabilities(random.normal(0, 2, (4000, 3)), "multiclass")
    truth = np.eye(3, dtype=bool)[[random.choice(3, p=row) for row in right]]
    given = probabilities(2 * np.log(right) + np.array([0.5, 0.0, -0.5]), "multiclass")
    found = fit_calibration(given, truth, names(4000), kind="multiclass")
    assert found is not None and found.temperature == pytest.approx(2, abs=0.15)
    again = calibrate(given, found, kind="multiclass")
    np.testing.assert_allclose(again.sum(axis=1), 1)
    np.testing.assert_allclose(again, right, atol=0.05)


def test_what_is_right_already_changes_little_and_what_cannot_be_fitted_not_at_all() -> None:
    chances, truth = drawn(3000, [0.2, 0.5])
    found = fit_calibration(chances, truth, names(3000), kind="multilabel")
    np.testing.assert_allclose(calibrate(chances, found, kind="multilabel"), chances, atol=0.05)
    few = slice(0, 20)
    assert fit_calibration(chances[few], truth[few], names(20), kind="multilabel") is None
    none = np.zeros_like(truth)
    assert fit_calibration(chances, none, names(3000), kind="multilabel") is None
    assert fit_calibration(chances, truth, names(3000), kind="multilabel", how="none") is None
    assert calibrate(chances, None, kind="multilabel") is chances


def test_scores_of_0_and_1_and_a_label_that_never_holds_are_no_harm() -> None:
    truth = np.zeros((200, 2), bool)
    truth[::2, 0] = True
    given = np.where(truth, 1.0, 0.0)
    given[:20, 0] = 1 - given[:20, 0]
    found = fit_calibration(given, truth, names(200), kind="multilabel")
    assert found is not None and np.isfinite([*found.slopes, *found.offsets]).all()
    right = calibrate(given, found, kind="multilabel")
    assert right[40:, 0][truth[40:, 0]].mean() == pytest.approx(0.9, abs=0.03)
    assert (right[:, 1] < 0.05).all()


def test_what_the_weights_hold_is_not_done_twice() -> None:
    held = Calibration(
        slopes=(2.0,), offsets=(1.0,), temperature=0.5, pull=None, rows=9, loss=(1.0, 0.5),
        in_weights=True,
    )  # fmt: skip
    scores = np.array([[0.3]])
    assert calibrate(scores, held, kind="multilabel") is scores


def test_log_loss_is_that_of_the_books() -> None:
    scores, truth = np.array([[0.8, 0.1]]), np.array([[True, False]])
    assert log_loss(scores, truth, kind="multilabel") == pytest.approx(-np.log(0.8) - np.log(0.9))
    assert log_loss(scores, truth, kind="multiclass") == pytest.approx(-np.log(0.8))
