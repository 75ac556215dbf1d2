from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from trialese.settings import FinetuneSettings
from trialese.tasks.fit import freeze_layers, linear_decay, make_optimiser


@pytest.fixture
def model(tiny_backbone: Path) -> torch.nn.Module:
    transformers.utils.logging.set_verbosity_error()
    return transformers.AutoModelForSequenceClassification.from_pretrained(tiny_backbone)  # type: ignore[no-any-return]


def rate_and_decay(
    model: torch.nn.Module, settings: FinetuneSettings
) -> dict[str, tuple[float, float]]:
    optimiser = make_optimiser(model, settings)
    of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


def test_rates_fall_from_layer_to_layer(model: torch.nn.Module) -> None:
    found = rate_and_decay(
        model, FinetuneSettings(lr=1.0, head_lr=3.0, layer_decay=0.5, weight_decay=0.1)
    )
    assert found["classifier.weight"] == (3.0, 0.1)
    assert found["bert.pooler.dense.bias"] == (3.0, 0.0)
    assert found["bert.encoder.layer.1.output.dense.weight"] == (1.0, 0.1)
    assert found["bert.encoder.layer.0.output.dense.weight"] == (0.5, 0.1)
    assert found["bert.encoder.layer.0.output.LayerNorm.weight"] == (0.5, 0.0)
    assert found["bert.embeddings.word_embeddings.weight"] == (0.25, 0.1)
    assert len(found) == len(list(model.parameters()))


def test_frozen_layers_are_not_optimised(model: torch.nn.Module) -> None:
    freeze_layers(model, 1)
    names = set(rate_and_decay(model, FinetuneSettings()))
    assert not any("embeddings" in name or "layer.0." in name for name in names)
    assert any("layer.1." in name for name in names)


def test_schedule_rises_then_falls_to_nothing() -> None:
    factor = linear_decay(100, 0.1)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == 0.0
    assert [factor(s) for s in range(10, 100)] == sorted(
        (factor(s) for s in range(10, 100)), reverse=True
    )
