from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.errors import ArtifactError
from trialese.tasks.predict import load_scorer
from trialese.tasks.scorer import score_ids
from trialese.thresholds import probabilities


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=40))
def test_equal_ids_are_scored_once_and_rows_keep_their_order(ids: list[list[int]]) -> None:
    asked: list[tuple[int, ...]] = []

    def logits(batch: list[Sequence[int]]) -> np.ndarray:
        asked.extend(map(tuple, batch))
        return np.array([[len(text), sum(text)] for text in batch], np.float32)

    found = score_ids(ids, logits, 2, batch_texts=4)
    assert found.tolist() == [[len(text), sum(text)] for text in ids]
    assert sorted(asked) == sorted(set(map(tuple, ids)))


@given(st.lists(st.floats(-800, 800), min_size=3, max_size=3))
def test_probabilities(logits: list[float]) -> None:
    rows = np.array([logits])
    several, one = probabilities(rows, "multilabel"), probabilities(rows, "multiclass")
    assert ((several >= 0) & (several <= 1)).all()
    assert one.sum() == pytest.approx(1)
    small = np.clip(rows, -30, 30)
    np.testing.assert_allclose(
        probabilities(small, "multilabel"), 1 / (1 + np.exp(-small)), atol=1e-15
    )


def test_a_folder_without_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no classifier here"):
        load_scorer(tmp_path)
