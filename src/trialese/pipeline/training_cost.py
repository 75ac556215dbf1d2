"""The cost of masked-LM training: tokens, seconds and memory of a phase, from a config alone.

No torch is needed: the operations follow from the encoder's shape, and their speed from a
calibration of this machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from trialese.errors import ArtifactError
from trialese.hub import locate_backbone
from trialese.pipeline.machine import machine_speed
from trialese.settings import LoraSettings, PhaseSettings, Precision, PretrainSettings

__all__ = [
    "STEP_EFFICIENCY",
    "Estimate",
    "Shape",
    "estimate",
    "flops_per_token",
    "products_rate",
    "read_shape",
]

STEP_EFFICIENCY = 0.75
"""Share of the products' rate that a whole step reaches (2 cores, MiniLM, 16 x 128, fp32)."""


class Shape(msgspec.Struct, frozen=True):
    """What of config.json decides the cost; names are transformers' own."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    vocab_size: int
    inner_products: int = 2
    """Of the feed-forward, each hidden x intermediate: 3 where it is gated (GeGLU, SwiGLU)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one stage: tokens seen in training, wall-clock seconds, peak memory."""

    tokens: int
    seconds: float
    peak_bytes: int


def estimate(
    settings: PretrainSettings,
    phase: PhaseSettings,
    *,
    tokens: int,
    block_tokens: int = 128,
    gflops_per_second: float | None = None,
) -> Estimate:
    """Tokens, seconds and peak bytes of one phase over `tokens` training tokens an epoch.

    The rate is that of matrix products on this machine, measured once, if none is given. A rough
    figure, within a factor of two on a quiet machine; held-out measurements are left out.
    """
    shape = read_shape(settings)
    per_step = phase.batch_blocks * phase.accumulation * block_tokens
    steps = phase.steps or max(1, math.ceil(phase.epochs * tokens / per_step))
    seen = steps * per_step
    forward, backward = flops_per_token(shape, settings, block_tokens)
    rate = gflops_per_second or products_rate(settings.precision) * STEP_EFFICIENCY
    seconds = seen * (forward + backward) / (rate * 1e9)
    return Estimate(seen, seconds, _peak_bytes(shape, settings, phase, block_tokens))


_OTHER_NAMES = {
    "dim": "hidden_size",
    "emb_dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
}
"""DistilBERT's, and XLM's."""
_GATED = {"modernbert", "nomic_bert", "gte", "eurobert", "esmc"}
"""transformers' model types with a gated feed-forward."""


def read_shape(settings: PretrainSettings) -> Shape:
    """The backbone's shape, from its config.json.

    Raises:
        ArtifactError: no backbone, or its config lacks a size.
    """
    file = locate_backbone(settings.backbone).folder / "config.json"
    try:
        described = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        told = {_OTHER_NAMES.get(name, name): size for name, size in described.items()}
        told["inner_products"] = 3 if described.get("model_type") in _GATED else 2
        return msgspec.convert(told, Shape)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: not the config of an encoder ({error})") from error


def flops_per_token(
    shape: Shape, settings: PretrainSettings, block_tokens: int
) -> tuple[float, float]:
    """Floating-point operations a token in training, forward and backward, as this loop does it.

    Products only; the last layer's queries and everything behind them, and the head, for hidden
    tokens alone; twice the forward cost backward when all weights train, once for LoRA.
    """
    ratio, hidden = settings.masking.ratio, shape.hidden_size
    keys_values = 2 * 2 * hidden * hidden
    inner = shape.inner_products * hidden * shape.intermediate_size
    queries_on = 2 * 2 * hidden * hidden + 2 * inner
    attention = 2 * 2 * block_tokens * hidden
    layers = (shape.num_hidden_layers - 1.0) * (keys_values + queries_on + attention)
    layers += keys_values + ratio * (queries_on + attention)
    head = ratio * 2 * hidden * (shape.vocab_size + hidden)
    branch = 0.0
    if settings.method == "lora":
        branch = _lora_weights(shape, settings.lora) * 2
    forward = layers + head + branch
    backward = (layers + head) * (2 if settings.method == "full" else 1) + 2 * branch
    return forward, backward


def _lora_weights(shape: Shape, lora: LoraSettings) -> int:
    """Weights of the adapter."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    square = lora.rank * 2 * hidden
    if lora.targets == ("all-linear",):
        return shape.num_hidden_layers * (
            4 * square + shape.inner_products * lora.rank * (hidden + inner)
        )
    return shape.num_hidden_layers * len(lora.targets) * square


def _peak_bytes(
    shape: Shape, settings: PretrainSettings, phase: PhaseSettings, block_tokens: int
) -> int:
    """Weights, optimiser, activations kept for the backward pass, and scores of hidden tokens."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    products = 4 * hidden + shape.inner_products * inner
    encoder = shape.num_hidden_layers * hidden * products
    weights = encoder + shape.vocab_size * hidden
    trained = weights if settings.method == "full" else _lora_weights(shape, settings.lora)
    packed = 2 * weights if settings.method == "lora" else 0
    rows = phase.batch_blocks * block_tokens
    kept = 11 * hidden + 2 * (shape.inner_products - 1) * inner
    activations = rows * shape.num_hidden_layers * kept
    scores = 3 * rows * settings.masking.ratio * shape.vocab_size
    interpreter = 600_000_000
    return interpreter + int(4 * (weights + packed + 3 * trained + activations + scores))


def products_rate(precision: Precision) -> float:
    """GFLOP/s of matrix products in that precision on this machine."""
    speed = machine_speed()
    if precision == "fp32" or speed.bf16_gflops is None:
        return speed.fp32_gflops
    return speed.bf16_gflops
