from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trialese.errors import RecordError
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings
from trialese.tasks.finetune import average_weights, inner_rounds, score_held
from trialese.tasks.fit import fit_classifier


def in_pairs(rows: list[Example]) -> list[Example]:
    """The rows with two of them a cluster."""
    return [
        Example(row.example_id, row.text, row.labels, cluster=f"c{place // 2}")
        for place, row in enumerate(rows)
    ]


def test_without_inner_folds_the_round_is_train_and_tune(toy_rows: list[Example]) -> None:
    train, tune = toy_rows[:40], toy_rows[40:]
    assert inner_rounds(train, tune, 0, fold=0, seed=7) == [(train, tune)]


def test_every_text_is_held_once_and_no_cluster_is_divided(toy_rows: list[Example]) -> None:
    rows = in_pairs(toy_rows)
    rounds = inner_rounds(rows[:40], rows[40:], 3, fold=1, seed=7)
    held = [text for _, texts in rounds for text in texts]
    assert sorted(text.example_id for text in held) == sorted(e.example_id for e in rows)
    for others, texts in rounds:
        assert len(others) + len(texts) == len(rows)
        assert not {e.cluster for e in others} & {e.cluster for e in texts}
    backwards = inner_rounds(rows[::-1], [], 3, fold=1, seed=7)
    assert [{e.example_id for e in texts} for _, texts in backwards] == [
        {e.example_id for e in texts} for _, texts in rounds
    ]
    assert inner_rounds(rows, [], 3, fold=2, seed=7) != inner_rounds(rows, [], 3, fold=1, seed=7)


def test_too_few_texts_are_refused(toy_rows: list[Example]) -> None:
    for folds in (1, 50):
        with pytest.raises(RecordError, match=f"do not fill {folds} inner folds"):
            inner_rounds(toy_rows[:5], [], folds, fold=0, seed=7)


def test_held_texts_are_scored_by_the_fit_that_has_not_seen_them(toy_rows: list[Example]) -> None:
    rounds = inner_rounds(toy_rows, [], 3, fold=0, seed=7)
    predicts = [
        lambda texts, number=number: np.full((len(texts), 3), number / 10) for number in range(3)
    ]
    held, scores = score_held(rounds, predicts)
    seen = [{text.example_id for text in others} for others, _ in rounds]
    for text, row in zip(held, scores, strict=True):
        assert text.example_id not in seen[round(row[0] * 10)]
        assert text.split == "tune"


def test_the_average_has_the_mean_weights(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    settings = FinetuneSettings(
        epochs=1, average_last=1, lr=1e-3, max_tokens=32, precision="fp32", frozen_layers=1
    )
    fits = [
        fit_classifier(toy_task, rows, toy_rows[40:], tiny_backbone, settings, seed=1)[0]
        for rows in (toy_rows[:20], toy_rows[20:40])
    ]
    states = [
        {name: value.clone() for name, value in fit.model.state_dict().items()} for fit in fits
    ]
    average = average_weights(fits).model.state_dict()
    for name, value in average.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
    assert not torch.equal(average["classifier.weight"], states[0]["classifier.weight"])
    assert torch.equal(
        fits[1].model.state_dict()["classifier.weight"], states[1]["classifier.weight"]
    )
