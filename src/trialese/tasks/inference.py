"""A BERT classifier's logits with the least work: for use, not for training.

The same function of the same parameters as transformers' `BertForSequenceClassification` (held to
it by the tests), over `pretrain.encoder`: one product for query, key and value, no dropout, and
in the last layer queries, output and feed-forward for the first token only, which is all that
the head reads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from trialese.pretrain.device import choose_compute
from trialese.pretrain.encoder import Encoder
from trialese.settings import Precision, PretrainSettings

__all__ = ["FirstTokenLogits", "fast_forward"]

_PACKED_ROWS = 512
"""Rows that weights are packed for; other numbers of rows work as well, if less fast."""


class FirstTokenLogits:
    """`logits(inputs, attended)` of a BERT sequence classifier that no longer learns."""

    def __init__(
        self,
        model: Any,
        *,
        dtype: torch.dtype = torch.float32,
        packed_rows: int | None = None,
        plain: bool = False,
    ) -> None:
        self._encoder = Encoder(
            model.requires_grad_(False),
            dtype=dtype,
            packed_rows=packed_rows,
            explicit_attention=plain,
            plain=plain,
        )
        self.precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        self._pooler, self._head = model.bert.pooler.dense, model.classifier

    def __call__(self, inputs: Tensor, attended: Tensor | None) -> Tensor:
        """(texts, labels) in fp32; `inputs` (texts, tokens), `attended` bool, or None if all are.

        From the pooler on it is fp32 in any case: that is a thousandth of the work.
        """
        first = torch.zeros((inputs.shape[0], 1), dtype=torch.long, device=inputs.device)
        states = self._encoder.states(inputs, attended, first).float()  # (texts, hidden)
        pooled = torch.tanh(F.linear(states, self._pooler.weight, self._pooler.bias))
        return F.linear(pooled, self._head.weight, self._head.bias)


def fast_forward(model: Any, precision: Precision) -> FirstTokenLogits | None:
    """The model's fast forward pass on the device that suits; None if it is no BERT.

    Raises:
        RecipeError: a precision that the device does not have.
    """
    if model.config.model_type != "bert" or model.config.is_decoder:
        return None
    compute = choose_compute(PretrainSettings(precision=precision))
    model.to(compute.device)
    return FirstTokenLogits(
        model, dtype=compute.dtype, packed_rows=_PACKED_ROWS if compute.packed else None
    )
