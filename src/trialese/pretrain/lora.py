"""Attach, merge, save and load LoRA adapters in peft's formats."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BertForMaskedLM

from trialese.errors import ArtifactError, RecipeError
from trialese.settings import LoraSettings

__all__ = ["attach_lora", "load_lora", "merge_lora", "save_lora", "target_pattern"]

ENCODER = "bert.encoder"
HEAD_MODULE = "transform"
"""Of the masked-LM head, what an adapter may carry along: dense and LayerNorm, not the decoder.

The decoder is tied to the input embeddings; naming it in `modules_to_save` would silently make
a second, untied one.
"""


def attach_lora(
    model: BertForMaskedLM, settings: LoraSettings, *, train_head: bool, seed: int
) -> PeftModel:
    """The model with fresh LoRA weights (B = 0, so its outputs are unchanged), drawn from `seed`.

    peft has no masked-LM task type, hence `task_type=None`. With `train_head` the head's
    transform is trained along and saved in the adapter.

    Raises:
        RecipeError: a target names no linear layer of the encoder.
    """
    if settings.dora and settings.dropout > 0:
        raise RecipeError("pretrain.lora: dropout does not go with dora; set one of them to 0")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_pattern(model, settings.targets),
        modules_to_save=[HEAD_MODULE] if train_head else None,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        task_type=None,
    )
    with torch.random.fork_rng(devices=[]), _quiet_peft():
        torch.manual_seed(seed)
        return get_peft_model(model, config).eval()


def target_pattern(model: BertForMaskedLM, targets: tuple[str, ...]) -> str:
    """Regular expression over module names: the targets inside the encoder, never in the head."""
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if name.startswith(f"{ENCODER}.") and isinstance(module, nn.Linear)
    }
    wanted = sorted(linear) if targets == ("all-linear",) else list(targets)
    for name in wanted:
        if name not in linear:
            raise RecipeError(
                f"pretrain.lora.targets: the encoder has no linear layer {name!r}; "
                f"it has {', '.join(sorted(linear))}, or write all-linear"
            )
    return rf"{re.escape(ENCODER)}\..*\.({'|'.join(map(re.escape, wanted))})"


def merge_lora(model: PeftModel) -> BertForMaskedLM:
    """The model with the adapter added into its weights, in fp32; `model` is used up."""
    merged: Any = model.merge_and_unload(safe_merge=True)
    merged.tie_weights()
    return merged


def save_lora(model: PeftModel, folder: Path, *, backbone: str, revision: str | None) -> None:
    """Write the adapter (safetensors and adapter_config.json) under `folder`."""
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = backbone, revision
    # told to look for itself, peft asks the hub whether the vocabulary has grown
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card is a form not filled in


def load_lora(model: BertForMaskedLM, folder: Path) -> PeftModel:
    """The model with the adapter in `folder`, ready to merge; any peft LoRA folder will do.

    Raises:
        ArtifactError: no adapter there, or one that does not fit the model.
    """
    if not (folder / "adapter_config.json").is_file():
        raise ArtifactError(f"{folder}: no adapter_config.json, so this is no adapter folder")
    try:
        with _quiet_peft():
            return PeftModel.from_pretrained(model, folder)
    except Exception as error:  # peft raises whatever its parsers and torch do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{folder}: the adapter does not fit this model ({reason})") from error


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Without the warning that peft asks transformers for a name which version 5 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
