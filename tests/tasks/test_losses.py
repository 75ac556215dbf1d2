from __future__ import annotations

import numpy as np
import pytest
import torch

from trialese.settings import FinetuneSettings
from trialese.tasks.fit import loss_function

CPU = torch.device("cpu")
TRUTH = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]], bool)


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return logits, torch.from_numpy(TRUTH.astype(np.float64))


def test_ranking_is_the_formula_of_the_paper() -> None:
    logits, targets = logits_and_targets()
    settings = FinetuneSettings(loss="ranking", positive_weight=0.0)
    loss = loss_function("multilabel", TRUTH, settings, CPU)(logits, targets)
    slow = 0.0
    for scores, truth in zip(logits.tolist(), TRUTH, strict=True):
        slow += np.log(1 + sum(np.exp(s) for s, t in zip(scores, truth, strict=True) if not t))
        slow += np.log(1 + sum(np.exp(-s) for s, t in zip(scores, truth, strict=True) if t))
    assert loss.item() == pytest.approx(slow / 4, rel=1e-6)


def test_cross_entropy_with_positive_weights_is_torchs() -> None:
    logits, targets = logits_and_targets()
    settings = FinetuneSettings(loss="cross-entropy", positive_weight=1.0)
    loss = loss_function("multilabel", TRUTH, settings, CPU)(logits, targets)
    weight = torch.tensor([1.0, 3.0, 3.0])  # negatives / positives
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, targets) * 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_focal_leaves_a_sure_and_right_text_almost_out() -> None:
    sure = torch.tensor([[9.0, -9.0, -9.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    plain = loss_function("multilabel", TRUTH, FinetuneSettings(loss="cross-entropy"), CPU)
    focal = loss_function("multilabel", TRUTH, FinetuneSettings(loss="focal"), CPU)
    assert focal(sure, targets) < 1e-6 * plain(sure, targets)
    assert focal(-sure, targets) > 0.9 * plain(-sure, targets)


def test_one_label_tasks_use_softmax_whatever_the_setting() -> None:
    logits, _ = logits_and_targets()
    truth = np.eye(3, dtype=bool)[[0, 2, 1, 0]]
    targets = torch.from_numpy(truth.astype(np.float64))
    loss = loss_function("multiclass", truth, FinetuneSettings(loss="ranking"), CPU)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1, 0]))
    assert loss(logits.float(), targets.float()).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["ranking", "cross-entropy", "focal"])
def test_gradients_are_finite_at_extreme_logits(name: str) -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0]], requires_grad=True)
    settings = FinetuneSettings(loss=name, positive_weight=0.5)  # type: ignore[arg-type]
    loss = loss_function("multilabel", TRUTH, settings, CPU)
    loss(logits, torch.tensor([[0.0, 1.0, 1.0]])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
