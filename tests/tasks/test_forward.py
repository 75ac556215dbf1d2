from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from trialese.settings import FinetuneSettings, LoraSettings
from trialese.tasks.fit import FirstTokenForward, freeze_layers, with_lora

TEXTS = [[2, 7, 9, 11, 3], [2, 8, 3], [2, 5, 6, 7, 8, 9, 10, 12, 3], [2, 3]]


@pytest.fixture
def model(tiny_backbone: Path) -> torch.nn.Module:
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_backbone, num_labels=3
    )
    return model.eval()  # type: ignore[no-any-return]


def stock(model: torch.nn.Module, texts: list[list[int]]) -> torch.Tensor:
    """transformers' own forward pass, over one padded block."""
    width = max(map(len, texts))
    block = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return model(input_ids=block, attention_mask=mask).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_scores_and_gradients_are_those_of_transformers(
    model: torch.nn.Module, frozen: int
) -> None:
    freeze_layers(model, frozen)
    forward = FirstTokenForward(model, frozen)
    ours = forward.logits(forward.states(TEXTS, torch.device("cpu")))
    theirs = stock(model, TEXTS)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert learning
    ours.square().sum().backward()
    found = {name: p.grad.clone() for name, p in learning.items() if p.grad is not None}
    model.zero_grad()
    theirs.square().sum().backward()
    for name, parameter in learning.items():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_adapters_are_called(model: torch.nn.Module) -> None:
    settings = FinetuneSettings(method="lora", lora=LoraSettings(rank=2, alpha=4))
    wrapped = with_lora(model, settings)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # 0 at first, and so without effect
            torch.nn.init.normal_(parameter)
    forward = FirstTokenForward(wrapped.get_base_model(), 0)
    wrapped.eval()
    ours = forward.logits(forward.states(TEXTS, torch.device("cpu")))
    torch.testing.assert_close(ours, stock(wrapped, TEXTS), atol=2e-6, rtol=1e-5)


def test_only_learning_layers_drop(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    forward = FirstTokenForward(model, 1)
    states = [forward.states(TEXTS, torch.device("cpu")) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
    assert not torch.equal(forward.logits(states[0]), forward.logits(states[0]))
