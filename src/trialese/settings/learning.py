"""Settings of pretrain: the backbone, the adapter and the masked-language loop."""

from __future__ import annotations

from typing import Literal

from trialese.settings.section import Count, Precision, Section, Share

__all__ = [
    "BackboneSettings",
    "HeldoutSettings",
    "LoraSettings",
    "MaskingSettings",
    "PhaseSettings",
    "PretrainSettings",
]


class BackboneSettings(Section, frozen=True, kw_only=True):
    """A pinned checkpoint."""

    name: str = "minilm"
    """`minilm` (weights inside the installed package), a local folder, or a hub id."""
    revision: str | None = None
    """For a hub id: a commit. A branch or tag is resolved to a commit and recorded."""
    tokenizer: str | None = None
    """Where to take the tokenizer from, if the checkpoint has none; default: the checkpoint."""


class LoraSettings(Section, frozen=True, kw_only=True):
    """The adapter (Hu et al. 2021)."""

    rank: Count = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    """Module names, or `all-linear`: every linear layer of the encoder (never the head)."""
    rslora: bool = False
    dora: bool = False


class MaskingSettings(Section, frozen=True, kw_only=True):
    """Which tokens are hidden in training: of the chosen, 80 % [MASK], 10 % random, 10 % kept."""

    ratio: Share = 0.30
    whole_word: bool = False


class HeldoutSettings(Section, frozen=True, kw_only=True):
    """How the masked-language model is measured."""

    masking_ratio: Share = 0.15
    max_blocks: Count = 512
    """Of each era and split, at most so many blocks, chosen by hash."""
    every_steps: Count = 100
    every_epochs: Count | None = None
    """Instead of `every_steps`, if given."""
    batch_blocks: Count = 32
    seed: int = 7
    """Of the fixed masks and the choice of blocks; runs to be compared must share it."""


class PhaseSettings(Section, frozen=True, kw_only=True):
    """One run of the training loop. Lengths: `steps` if given, else `epochs`."""

    epochs: float = 1.0
    steps: Count | None = None
    batch_blocks: Count = 16
    accumulation: Count = 1
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["linear", "constant", "wsd"] = "linear"
    warmup_share: Share = 0.06
    decay_share: Share = 0.2
    """Of a `wsd` (warm-up, stable, decay) schedule, the last part."""
    restart_every_epochs: Count | None = None
    """Begin schedule and optimiser anew (the prior art re-created its Trainer every 5 epochs)."""
    gradient_clip: float = 1.0


class PretrainSettings(Section, frozen=True, kw_only=True):
    """Masked-language modelling: first the base on old trials if it needs one, then the adapter."""

    backbone: BackboneSettings = BackboneSettings()
    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    masking: MaskingSettings = MaskingSettings()
    heldout: HeldoutSettings = HeldoutSettings()
    base: Literal["auto", "always", "never"] = "auto"
    """Adapt the backbone to the *old* trials first; `auto`: if it has no masked-LM head."""
    head_phase: PhaseSettings = PhaseSettings(steps=400, lr=2e-3)
    """For a new head: train it alone, encoder frozen, before anything else."""
    base_phase: PhaseSettings = PhaseSettings(epochs=1.0)
    adapt_phase: PhaseSettings = PhaseSettings(epochs=3.0)
    train_head: bool = True
    """Whether a *new* head goes on learning with the adapter; a pretrained head stays frozen."""
    replay_share: Share = 0.05
    """Share of old blocks mixed into each epoch of new ones."""
    precision: Precision = "auto"
    """bf16 is for products; adapters and optimiser stay fp32. `auto`: where the chip has it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """torch.compile the training step (pays on a GPU; a minute to compile)."""
    packed_weights: bool | None = None
    """Frozen weights packed once for oneDNN (CPU, twice their memory); None: where it is faster."""
    backbone_dropout: float = 0.0
    """The prior art keeps 0.1; LoRA's own dropout is `lora.dropout`."""
    data_workers: Count = 1
    """Threads that mask the next batches while a step runs; the result does not depend on them."""
    checkpoint_every_steps: Count = 200
    seed: int = 7
