"""Which weights learn, and how fast: adapters, frozen layers, AdamW groups, the schedule."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch

from trialese.settings import FinetuneSettings

__all__ = ["freeze_layers", "linear_decay", "make_optimiser", "with_lora"]


def freeze_layers(model: Any, frozen_layers: int | None) -> None:
    """Keep the embeddings and the lowest `frozen_layers` layers from learning."""
    if frozen_layers is None:
        return
    for name, parameter in model.named_parameters():
        layer = re.search(r"layer\.(\d+)\.", name)
        if "embeddings." in name or (layer and int(layer.group(1)) < frozen_layers):
            parameter.requires_grad_(False)


def with_lora(model: Any, settings: FinetuneSettings) -> Any:
    """The model with adapters on the encoder; pooler and head learn whole."""
    import peft

    lora = settings.lora
    targets: str | list[str] = list(lora.targets)
    if lora.targets == ("all-linear",):
        targets = r".*\.encoder\.layer\..*\.(query|key|value|dense)"
    how = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=["pooler", "classifier"],
        use_rslora=lora.rslora,
        use_dora=lora.dora,
    )
    with warnings.catch_warnings():  # peft asks transformers for a property that was renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return peft.get_peft_model(model, how)


def make_optimiser(model: Any, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """AdamW with a rate a layer, a rate for the head, and no decay on biases and norms."""
    layers = model.config.num_hidden_layers
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "classifier" in name or "pooler" in name:
            lr = settings.head_lr
        else:
            layer = re.search(r"layer\.(\d+)\.", name)
            depth = layers - 1 - int(layer.group(1)) if layer else layers
            lr = settings.lr * settings.layer_decay**depth
        plain = parameter.ndim < 2 or "LayerNorm" in name
        groups.setdefault((lr, 0.0 if plain else settings.weight_decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in groups.items()
        ],
        fused=True,
    )


def linear_decay(steps: int, warmup_share: float) -> Callable[[int], float]:
    """The share of the full rate at each step: up in a straight line, then down to 0."""
    warmup = max(1, round(steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (steps - step) / max(1, steps - warmup))

    return factor
