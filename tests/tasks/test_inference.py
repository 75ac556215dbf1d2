from __future__ import annotations

import numpy as np
import pytest
import torch

from trialese.tasks.classifier import Classifier, FirstTokenLogits, fast_forward

IDS = [[2, 9, 10, 11, 3], [2, 12, 3], [2, 30, 31, 32, 33, 34, 3]]


@pytest.mark.parametrize("plain", [False, True])
def test_it_is_the_stock_model(toy_classifier: Classifier, plain: bool) -> None:
    model = toy_classifier.model
    batch = toy_classifier.pad(IDS, model.device)
    with torch.inference_mode():
        stock = model(**batch).logits
        forward = FirstTokenLogits(model, plain=plain)
        ours = forward(batch["input_ids"], batch["attention_mask"].bool())
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=0)
        alone = forward(torch.tensor(IDS[:1]), None)
        torch.testing.assert_close(alone, stock[:1], atol=1e-5, rtol=0)


def test_bf16_stays_near_fp32(toy_classifier: Classifier) -> None:
    batch = torch.tensor(IDS[:1])
    with torch.inference_mode():
        exact = FirstTokenLogits(toy_classifier.model)(batch, None)
        half = FirstTokenLogits(toy_classifier.model, dtype=torch.bfloat16)(batch, None)
    assert half.dtype == torch.float32
    difference = (half - exact).abs().max() / exact.abs().max()
    assert 0 < difference < 0.05


def test_other_architectures_keep_their_own_forward_pass() -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=2, hidden_dim=16)
    assert fast_forward(DistilBertForSequenceClassification(config), "fp32") is None


def test_loaded_and_fitted_score_alike(toy_classifier: Classifier) -> None:
    fast = toy_classifier.predict(["slow accrual", "lack of funding in women", "x"])
    forward, toy_classifier.forward = toy_classifier.forward, None
    try:
        own = toy_classifier.predict(["slow accrual", "lack of funding in women", "x"])
    finally:
        toy_classifier.forward = forward
    np.testing.assert_allclose(fast, own, atol=1e-6, rtol=0)
