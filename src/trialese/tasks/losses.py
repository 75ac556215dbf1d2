"""Losses over logits (texts, labels): one number a batch, the mean over its texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from trialese.settings import FinetuneSettings

__all__ = ["loss_function"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_FOCAL_GAMMA = 2.0


def loss_function(
    kind: Literal["multilabel", "multiclass"],
    truth: NDArray[np.bool_],
    settings: FinetuneSettings,
    device: torch.device,
) -> Loss:
    """A function of (logits, targets), both (texts, labels), for the task's kind.

    The weight of a label is (negatives / positives in `truth`) ** `positive_weight`.
    """
    positives = np.maximum(1, truth.sum(axis=0))
    ratio = (len(truth) - truth.sum(axis=0)) / positives
    weight = torch.tensor(ratio**settings.positive_weight, dtype=torch.float32, device=device)
    smoothing = settings.label_smoothing
    if kind == "multiclass":
        share = weight / weight.mean()

        def single(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(
                logits, targets.argmax(dim=1), weight=share, label_smoothing=smoothing
            )

        return single

    def binary(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        soft = targets * (1 - smoothing) + smoothing / 2
        each = functional.binary_cross_entropy_with_logits(
            logits, soft, pos_weight=weight, reduction="none"
        )
        if settings.loss == "focal":
            probabilities = torch.sigmoid(logits)
            wrong = torch.where(targets > 0, 1 - probabilities, probabilities)
            each = each * wrong**_FOCAL_GAMMA
        return each.sum(dim=1).mean()

    def ranking(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Each true label's logit is pushed above 0 and each other's below it, by two
        # log-sum-exps, so that 2 positives of 17 weigh as much as 15 negatives.
        zero = logits.new_zeros(len(logits), 1)
        hidden = torch.finfo(logits.dtype).min
        others = logits.masked_fill(targets > 0, hidden)
        theirs = (weight.log() - logits).masked_fill(targets == 0, hidden)
        above = torch.logsumexp(torch.cat([zero, others], dim=1), dim=1)
        below = torch.logsumexp(torch.cat([zero, theirs], dim=1), dim=1)
        return (above + below).mean()

    return ranking if settings.loss == "ranking" else binary
