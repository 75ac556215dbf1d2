"""A BERT classifier's logits with the least work: what cannot change them is left out.

The same function of the same parameters as transformers' `BertForSequenceClassification` (held to
it by the tests). Frozen lower layers never learn, so their states are computed once a text, not
once an epoch; and since the head reads the first token alone, the last layer computes queries,
output and feed-forward for that token only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trialese.tasks.scorer import length_sorted_batches

__all__ = ["FirstTokenForward"]


class FirstTokenForward:
    """`logits(states(ids))` of a classifier whose embeddings and lowest layers do not learn.

    It calls the model's own modules, LoRA's included: build it after attaching adapters. Frozen
    layers run without dropout; between the others `dropout` is the module's own.
    """

    def __init__(self, model: Any, frozen_layers: int) -> None:
        self._bert, self._classifier, self._drop = model.bert, model.classifier, model.dropout
        layers = list(model.bert.encoder.layer)
        self._frozen, self._learning = layers[:frozen_layers], layers[frozen_layers:]
        self._heads: int = model.config.num_attention_heads

    def states(self, ids: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
        """What the frozen part makes of each text: (tokens, hidden) each, in the order of `ids`."""
        found: list[Tensor] = [torch.empty(0)] * len(ids)
        embeddings = self._bert.embeddings
        with torch.inference_mode(False), torch.no_grad():
            for rows in length_sorted_batches([len(text) for text in ids], 64):
                texts = [torch.tensor(ids[row], device=device) for row in rows]
                block = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
                bias = _bias(texts, block.shape[1])
                x = embeddings.word_embeddings(block) + embeddings.token_type_embeddings.weight[0]
                x = x + embeddings.position_embeddings.weight[: block.shape[1]]
                x = embeddings.LayerNorm(x)
                for layer in self._frozen:
                    x = self._run(layer, x, x, bias, frozen=True)
                for place, row in enumerate(rows):
                    found[row] = x[place, : len(ids[row])].clone()
        return found

    def logits(self, states: Sequence[Tensor]) -> Tensor:
        """Scores (texts, labels) of texts given as `states` made them."""
        x = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        bias = _bias(states, x.shape[1])
        for place, layer in enumerate(self._learning):
            last = place == len(self._learning) - 1
            x = self._run(layer, x[:, :1] if last else x, x, bias)
        return self._classifier(self._drop(self._bert.pooler(x)))  # type: ignore[no-any-return]

    def _run(
        self, layer: Any, wanted: Tensor, x: Tensor, bias: Tensor, *, frozen: bool = False
    ) -> Tensor:
        """One layer for the positions `wanted` of `x`, which attend to their whole text."""
        attention, own = layer.attention.output, layer.attention.self
        q, k, v = (
            part.unflatten(-1, (self._heads, -1)).transpose(1, 2)  # (texts, heads, tokens, size)
            for part in (own.query(wanted), own.key(x), own.value(x))
        )
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=0.0 if frozen or not own.training else own.dropout.p
        )
        mixed = attention.dense(mixed.transpose(1, 2).flatten(2))
        y = attention.LayerNorm((mixed if frozen else attention.dropout(mixed)) + wanted)
        inner = layer.output.dense(layer.intermediate(y))
        return layer.output.LayerNorm(  # type: ignore[no-any-return]
            (inner if frozen else layer.output.dropout(inner)) + y
        )


def _bias(texts: Sequence[Tensor], width: int) -> Tensor:
    """(texts, 1, 1, tokens): 0 on tokens of the text, the lowest number on padding."""
    lengths = torch.tensor([len(text) for text in texts], device=texts[0].device)
    padding = torch.arange(width, device=lengths.device) >= lengths[:, None]
    bias = torch.zeros(padding.shape, device=lengths.device)
    return bias.masked_fill_(padding, torch.finfo(bias.dtype).min)[:, None, None, :]
