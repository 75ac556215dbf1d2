"""How long and how large a run will be, from arithmetic and one short probe; no torch needed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from trialese.errors import ArtifactError
from trialese.pretrain.source import locate_backbone
from trialese.settings import LoraSettings, PhaseSettings, PretrainSettings

__all__ = ["Estimate", "Shape", "estimate", "flops_per_token", "read_shape"]

_STEP_EFFICIENCY = 0.75
"""Share of the probe's rate that a whole fp32 step reached (2 cores, MiniLM, 16 x 128)."""
_PROBE_SIZE = 1024


class Shape(msgspec.Struct, frozen=True):
    """What of config.json decides the cost; names are transformers' own."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    vocab_size: int


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

    The rate is that of a short matrix product on this machine's CPU if none is given. A rough
    figure, within a factor of two on a quiet machine; held-out measurements are left out.
    """
    shape = read_shape(settings)
    per_step = phase.batch_blocks * phase.accumulation * block_tokens
    steps = phase.steps or max(1, math.ceil(phase.epochs * tokens / per_step))
    seen = steps * per_step
    forward, backward = flops_per_token(shape, settings, block_tokens)
    rate = gflops_per_second or _probe() * _STEP_EFFICIENCY
    seconds = seen * (forward + backward) / (rate * 1e9)
    return Estimate(seen, seconds, _peak_bytes(shape, settings, phase, block_tokens))


def read_shape(settings: PretrainSettings) -> Shape:
    """The backbone's shape, from its config.json.

    Raises:
        ArtifactError: no backbone, or its config lacks a size.
    """
    file = locate_backbone(settings.backbone).folder / "config.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Shape)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{file}: not the config of a BERT model ({error})") from error


def flops_per_token(
    shape: Shape, settings: PretrainSettings, block_tokens: int
) -> tuple[float, float]:
    """Floating-point operations a token in training, forward and backward, as this loop does it.

    Products only; the last layer's queries and everything behind them, and the head, for hidden
    tokens alone; twice the forward cost backward when all weights train, once for LoRA.
    """
    ratio, hidden = settings.masking.ratio, shape.hidden_size
    keys_values = 2 * 2 * hidden * hidden
    queries_on = 2 * 2 * hidden * hidden + 2 * 2 * hidden * shape.intermediate_size
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
        return shape.num_hidden_layers * (4 * square + 2 * lora.rank * (hidden + inner))
    return shape.num_hidden_layers * len(lora.targets) * square


def _peak_bytes(
    shape: Shape, settings: PretrainSettings, phase: PhaseSettings, block_tokens: int
) -> int:
    """Weights, optimiser, activations kept for the backward pass, and scores of hidden tokens."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    encoder = shape.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner)
    weights = encoder + shape.vocab_size * hidden
    trained = weights if settings.method == "full" else _lora_weights(shape, settings.lora)
    packed = 2 * weights if settings.method == "lora" else 0
    rows = phase.batch_blocks * block_tokens
    activations = rows * shape.num_hidden_layers * (11 * hidden + 2 * inner)
    scores = 3 * rows * settings.masking.ratio * shape.vocab_size
    interpreter = 600_000_000
    return interpreter + int(4 * (weights + packed + 3 * trained + activations + scores))


def _probe() -> float:
    """GFLOP/s of a square fp32 product: the best of three, a fifth of a second in all."""
    a = np.ones((_PROBE_SIZE, _PROBE_SIZE), dtype=np.float32)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * _PROBE_SIZE**3 / best / 1e9
