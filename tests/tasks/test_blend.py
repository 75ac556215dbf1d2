from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trialese.errors import RecordError
from trialese.predictions import check_predictions
from trialese.records import Predictions
from trialese.tasks.baselines import blend_predictions


def run(scores: list[list[float]], **changes: object) -> Predictions:
    rows = len(scores)
    made = Predictions(
        task="toy", kind="multilabel", labels=("A", "B"), system="one",
        split="test", seed=1, fold=0,
        ids=tuple(f"e{row}" for row in range(rows)), clusters=tuple("c" for _ in range(rows)),
        scores=np.array(scores), truth=np.ones((rows, 2), bool),
        trained_on=frozenset({"x"}), model_digest="d",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_blend_is_the_mean_of_the_log_odds() -> None:
    one = run([[0.8, 0.5], [0.0, 1.0]])
    other = run([[0.2, 0.9], [0.0, 0.5]], trained_on=frozenset({"y"}))
    (blend,) = blend_predictions([one], [other], system="hybrid")
    assert blend.system == "hybrid" and blend.trained_on == {"x", "y"}
    np.testing.assert_allclose(blend.scores[0], [0.5, 0.75])  # odds sqrt(1 * 9) = 3
    assert blend.scores[1, 0] < 1e-5 and 0.99 < blend.scores[1, 1] < 1
    check_predictions(blend)


def test_only_the_same_rows_are_blended() -> None:
    one = run([[0.8, 0.5]])
    for other in ([], [run([[0.8, 0.5]], fold=1)], [one, run([[0.8, 0.5]], fold=1)]):
        with pytest.raises(RecordError, match="not in both systems"):
            blend_predictions([one], other, system="hybrid")
    with pytest.raises(RecordError, match="different rows"):
        blend_predictions([one], [run([[0.8, 0.5]], ids=("e9",))], system="hybrid")
