"""Frozen linear layers with LoRA on top, as few and as large matrix products as can be.

Numerically the same as peft's own modules (see the tests); faster because layers that read the
same input become one product, the adapter's branch is added in place, and no gradient is made
for frozen weights. On CPU the frozen weight may be packed once for oneDNN.


BERT's encoder and masked-LM head, written for training on masked positions only.

The same function of the same parameters as transformers' `BertForMaskedLM` (held to it by the
tests). What it leaves out: the head on positions that are not asked for, and in the last layer
everything but keys and values for them; neither can change the loss. A classifier asks for the
first token alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

__all__ = [
    "Encoder",
    "FrozenWeight",
    "LinearGroup",
    "MaskedEncoder",
    "apply_frozen",
    "no_dropout",
    "seeded_dropout",
]


Drop = Callable[[Tensor, float], Tensor]


class FrozenWeight:
    """A frozen weight (outputs, inputs) with its bias, in the dtype of computation."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype, packed_rows: int | None
    ) -> None:
        weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self._weight: Tensor | None = None
        if packed_rows is None:
            self._weight = weight
        else:
            pack: Any = torch.ops.mkldnn._reorder_linear_weight
            self._forward = pack(weight.contiguous(), packed_rows)
            self._backward = pack(weight.t().contiguous(), packed_rows)

    def apply(self, x: Tensor) -> Tensor:
        """x W^T + b, as (rows, outputs)."""
        if self._weight is not None:
            return F.linear(x, self._weight, self.bias)
        return _pointwise(x, self._forward, self.bias)

    def apply_transposed(self, gradient: Tensor) -> Tensor:
        """g W, as (rows, inputs)."""
        if self._weight is not None:
            return gradient @ self._weight
        return _pointwise(gradient.contiguous(), self._backward, None)


def _pointwise(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product


@dataclass(frozen=True, slots=True)
class _Branch:
    """Where one layer's adapter adds: its columns of the output, and its scale."""

    start: int
    stop: int
    scale: float


class _FrozenWithLora(torch.autograd.Function):
    """x W^T + b + scale (x A^T) B^T for every branch; gradients for x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: FrozenWeight, branches: tuple[_Branch, ...], *ab: Tensor
    ) -> Tensor:
        y = frozen.apply(x)  # (rows, outputs)
        down = [a.to(x.dtype) for a in ab[0::2]]
        up = [b.to(x.dtype) for b in ab[1::2]]
        ctx.frozen, ctx.branches = frozen, branches
        if not branches:
            return y
        ctx.dtype = ab[0].dtype  # of the adapter: its gradients must have it
        stacked = down[0] if len(down) == 1 else torch.cat(down)  # (sum of ranks, inputs)
        t = x @ stacked.t()  # (rows, sum of ranks)
        first = 0
        for branch, a, b in zip(branches, down, up, strict=True):
            part = t[:, first : first + len(a)]
            y[:, branch.start : branch.stop].addmm_(part, b.t(), alpha=branch.scale)
            first += len(a)
        ctx.save_for_backward(x, t, stacked, *up)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gy,) = gradients
        gx = ctx.frozen.apply_transposed(gy) if ctx.needs_input_grad[0] else None
        if not ctx.branches:
            return gx, None, None
        x, t, stacked, *up = ctx.saved_tensors
        gt = torch.empty_like(t)
        ab: list[Tensor] = []
        first = 0
        for branch, b in zip(ctx.branches, up, strict=True):
            rank = slice(first, first + b.shape[1])
            part = gy[:, branch.start : branch.stop]
            torch.mul(part @ b, branch.scale, out=gt[:, rank])
            ab += [torch.empty(0), (part.t() @ t[:, rank]).mul_(branch.scale).to(ctx.dtype)]
            first = rank.stop
        ga = (gt.t() @ x).to(ctx.dtype)  # (sum of ranks, inputs)
        first = 0
        for index, b in enumerate(up):
            ab[2 * index] = ga[first : first + b.shape[1]]
            first += b.shape[1]
        if gx is not None:
            gx.addmm_(gt, stacked)
        return gx, None, None, *ab


class _Frozen(torch.autograd.Function):
    """x W^T for a frozen W: a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: FrozenWeight) -> Tensor:
        ctx.frozen = frozen
        return frozen.apply(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.frozen.apply_transposed(gradients[0]), None


def apply_frozen(x: Tensor, frozen: FrozenWeight) -> Tensor:
    """x W^T + b for a frozen W, with a gradient for x."""
    y: Tensor = _Frozen.apply(x, frozen)  # type: ignore[no-untyped-call]
    return y


class LinearGroup:
    """Linear layers (plain or with LoRA) that read the same input, applied together.

    Layers whose own weights train, and DoRA, are applied one by one as peft does it.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        dtype: torch.dtype,
        packed_rows: int | None,
        plain: bool = False,
    ) -> None:
        self._layers: list[Any] = list(layers)
        self._dtype, self._plain = dtype, plain
        self.sizes = [layer.weight.shape[0] for layer in self._layers]
        self._frozen: FrozenWeight | None = None
        if all(_is_plain(layer) for layer in self._layers):
            weights = [layer.weight for layer in self._layers]
            biases = [layer.bias for layer in self._layers]
            alone = len(weights) == 1  # then nothing is copied, unless dtype or packing asks for it
            self._frozen = FrozenWeight(
                weights[0] if alone else torch.cat(weights),
                biases[0] if alone else torch.cat(biases),
                dtype=dtype,
                packed_rows=packed_rows,
            )
            self._branches, self._ab = self._find_branches()

    def __call__(self, x: Tensor, drop: Drop) -> Tensor:
        """(rows, inputs) -> (rows, outputs of all layers side by side)."""
        if self._frozen is None:
            with torch.autocast(x.device.type, self._dtype, enabled=x.dtype != torch.float32):
                return torch.cat([layer(x) for layer in self._layers], dim=-1).to(self._dtype)
        rate = self._lora_dropout if self._branches else 0.0
        if rate == 0.0 and not self._plain:
            y: Tensor = _FrozenWithLora.apply(x, self._frozen, self._branches, *self._ab)  # type: ignore[no-untyped-call]
            return y
        y = self._frozen.apply(x) if self._plain else apply_frozen(x, self._frozen)
        if not self._branches:
            return y
        parts = list(torch.split(y, self.sizes, dim=-1))
        starts = [sum(self.sizes[:index]) for index in range(len(self.sizes))]
        for index, branch in enumerate(self._branches):
            a, b = self._ab[2 * index : 2 * index + 2]
            branch_y = F.linear(F.linear(drop(x, rate), a.to(x.dtype)), b.to(x.dtype))
            position = starts.index(branch.start)
            parts[position] = parts[position] + branch_y * branch.scale
        return torch.cat(parts, dim=-1)

    def _find_branches(self) -> tuple[tuple[_Branch, ...], list[Tensor]]:
        branches: list[_Branch] = []
        ab: list[Tensor] = []
        start = 0
        self._lora_dropout = 0.0
        for layer, size in zip(self._layers, self.sizes, strict=True):
            for name in getattr(layer, "active_adapters", ()):
                branches.append(_Branch(start, start + size, float(layer.scaling[name])))
                ab += [layer.lora_A[name].weight, layer.lora_B[name].weight]
                self._lora_dropout = float(getattr(layer.lora_dropout[name], "p", 0.0))
            start += size
        return tuple(branches), ab


def _is_plain(layer: Any) -> bool:
    """Whether the layer's own weight is frozen and its adapter, if any, is LoRA and not DoRA."""
    if layer.weight.requires_grad or layer.bias is None:
        return False
    return not any(getattr(layer, "use_dora", {}).values())


def no_dropout(x: Tensor, rate: float) -> Tensor:
    """`x` itself."""
    return x


def seeded_dropout(generator: torch.Generator) -> Drop:
    """A dropout function that draws from `generator`, one byte an element.

    The rate is rounded to 1/256 and the scale follows the rounded rate, so that the expectation
    is exact. Bytes cost a quarter of what torch's own dropout does on CPU.
    """

    def drop(x: Tensor, rate: float) -> Tensor:
        cut = round(rate * 256)
        if cut == 0:
            return x
        noise = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
        noise.random_(generator=generator)
        return x * (noise >= cut).to(x.dtype).mul_(256 / (256 - cut))

    return drop


class Encoder:
    """BERT's encoder (with or without LoRA) as `states(inputs, attended, positions)`.

    `model` is any of transformers' BERT models. Its parameters are read as they are now: build
    this after attaching LoRA, and anew after frozen weights have changed. `plain` writes the same
    sums as ordinary operations, for torch.compile to fuse and torch.onnx to export.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
        packed_rows: int | None = None,
        explicit_attention: bool = True,
        plain: bool = False,
    ) -> None:
        base: Any = _unwrapped(model)
        self._bert = base.bert
        self._heads: int = base.config.num_attention_heads
        self._dtype, self._dropout = dtype, dropout
        self.max_tokens: int = base.config.max_position_embeddings
        self._explicit, self._plain = explicit_attention, plain
        options: Any = {"dtype": dtype, "packed_rows": packed_rows, "plain": plain}
        layers = list(self._bert.encoder.layer)
        self._layers = [_Layer(layer, options, last=layer is layers[-1]) for layer in layers]

    def states(
        self, inputs: Tensor, attended: Tensor | None, positions: Tensor, drop: Drop = no_dropout
    ) -> Tensor:
        """What the last layer makes of the positions asked for: (blocks * width, hidden).

        `inputs` (blocks, tokens), `positions` (blocks, width). `attended` (blocks, tokens) is
        bool, or None if all are; or integers that number the texts of a block from 1, 0 being
        padding: then tokens attend to their own text and count their places from its beginning.
        """
        blocks, tokens = inputs.shape
        bias = last_bias = places = None
        if attended is not None and attended.dtype == torch.bool:
            bias = last_bias = self._bias(~attended[:, None, None, :])
        elif attended is not None:
            places = _places(attended)
            others = attended[:, None, None, :]
            bias = self._bias(attended[:, None, :, None] != others)
            last_bias = self._bias(attended.gather(1, positions)[:, None, :, None] != others)
        x = drop(self._embed(inputs, places), self._dropout)  # (blocks * tokens, hidden)
        rows = torch.arange(blocks, device=inputs.device)[:, None] * tokens + positions
        for layer in self._layers[:-1]:
            x = self._run(layer, x, x, blocks=blocks, bias=bias, drop=drop)
        wanted = x.index_select(0, rows.flatten())  # (blocks * width, hidden)
        return self._run(self._layers[-1], wanted, x, blocks=blocks, bias=last_bias, drop=drop)

    def _bias(self, hidden: Tensor) -> Tensor:
        """What is added to the scores: the least finite number where `hidden`, else 0."""
        bias = torch.zeros(hidden.shape, dtype=self._dtype, device=hidden.device)
        return bias.masked_fill_(hidden, torch.finfo(self._dtype).min)

    def _embed(self, inputs: Tensor, places: Tensor | None) -> Tensor:
        embeddings = self._bert.embeddings
        x = embeddings.word_embeddings(inputs) + embeddings.token_type_embeddings.weight[0]
        weight = embeddings.position_embeddings.weight
        x = x + (weight[: inputs.shape[1]] if places is None else weight[places])
        x = F.layer_norm(
            x,
            x.shape[-1:],
            embeddings.LayerNorm.weight,
            embeddings.LayerNorm.bias,
            embeddings.LayerNorm.eps,
        )
        return x.flatten(0, 1).to(self._dtype)

    def _run(
        self,
        layer: _Layer,
        wanted: Tensor,
        x: Tensor,
        *,
        blocks: int,
        bias: Tensor | None,
        drop: Drop,
    ) -> Tensor:
        """One layer for the rows `wanted` of `x`, which attend to all of their block."""
        q, k, v = layer.project(wanted, x, drop)
        split = (blocks, -1, self._heads, q.shape[-1] // self._heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in (q, k, v))
        mixed = self._attend(q, k, v, bias, drop).transpose(1, 2).reshape(wanted.shape[0], -1)
        attention = drop(layer.attention_out(mixed, drop), self._dropout) + wanted
        attention = layer.attention_norm(attention, self._dtype)
        inner: Tensor = layer.activation(layer.intermediate(attention, drop))
        out = drop(layer.out(inner, drop), self._dropout) + attention
        return layer.out_norm(out, self._dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, drop: Drop) -> Tensor:
        """(blocks, heads, wanted, size): softmax(q k^T / sqrt(size) + bias) v."""
        if not self._explicit and drop is no_dropout:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2))
        if bias is not None:
            scores = scores + bias
        return torch.matmul(drop(scores.softmax(dim=-1), self._dropout), v)


class MaskedEncoder(Encoder):
    """A masked-LM (with or without LoRA) as `logits(inputs, attended, positions)`."""

    def __init__(self, model: nn.Module, *, packed_rows: int | None = None, **options: Any) -> None:
        super().__init__(model, packed_rows=packed_rows, **options)
        self._head = _unwrapped(model).cls.predictions
        decoder = self._head.decoder
        self._decoder = None
        if not decoder.weight.requires_grad:
            self._decoder = FrozenWeight(
                decoder.weight, None, dtype=self._dtype, packed_rows=packed_rows
            )

    def logits(
        self,
        inputs: Tensor,
        attended: Tensor | None,
        positions: Tensor,
        drop: Drop = no_dropout,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Scores at the positions asked for (see `states`): (blocks * width, vocabulary), fp32.

        With `kept`, only these rows of the result.
        """
        x = self.states(inputs, attended, positions, drop)
        return self._score(x if kept is None else x.index_select(0, kept))

    def _score(self, x: Tensor) -> Tensor:
        head = self._head
        with torch.autocast(x.device.type, self._dtype, enabled=self._dtype != torch.float32):
            x = head.transform(x)
        if self._decoder is None:
            return F.linear(x.float(), head.decoder.weight, head.decoder.bias)
        if self._plain:
            scores = self._decoder.apply(x.to(self._dtype)).float()
        else:
            scores = apply_frozen(x.to(self._dtype), self._decoder).float()
        return torch.add(scores, head.decoder.bias)


def _unwrapped(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _places(texts: Tensor) -> Tensor:
    """Each token's distance from the beginning of its text: (blocks, tokens)."""
    columns = torch.arange(texts.shape[1], device=texts.device).expand(texts.shape)
    begins = torch.ones_like(texts, dtype=torch.bool)
    begins[:, 1:] = texts[:, 1:] != texts[:, :-1]
    return columns - torch.where(begins, columns, 0).cummax(dim=1).values


class _Norm:
    """LayerNorm over the last dimension, from and to the dtype of computation."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        self._norm = norm
        self._frozen: tuple[Tensor, Tensor] | None = None
        if not norm.weight.requires_grad:
            self._frozen = (norm.weight.detach().to(dtype), norm.bias.detach().to(dtype))

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        norm = self._norm
        if self._frozen is not None:
            return F.layer_norm(x, x.shape[-1:], *self._frozen, norm.eps)
        return F.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, norm.eps).to(dtype)


class _Layer:
    """One encoder layer's products, norms and activation."""

    def __init__(self, layer: Any, options: dict[str, Any], *, last: bool) -> None:
        attention = layer.attention
        projections = [getattr(attention.self, name) for name in ("query", "key", "value")]
        self._hidden = projections[0].weight.shape[0]
        groups = [projections[:1], projections[1:]] if last else [projections]
        self._projections = [LinearGroup(group, **options) for group in groups]
        self.attention_out = LinearGroup([attention.output.dense], **options)
        self.intermediate = LinearGroup([layer.intermediate.dense], **options)
        self.out = LinearGroup([layer.output.dense], **options)
        self.attention_norm = _Norm(attention.output.LayerNorm, options["dtype"])
        self.out_norm = _Norm(layer.output.LayerNorm, options["dtype"])
        self.activation = layer.intermediate.intermediate_act_fn

    def project(self, wanted: Tensor, x: Tensor, drop: Drop) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the wanted rows; keys and values of all rows."""
        if len(self._projections) == 1:
            q, k, v = torch.split(self._projections[0](x, drop), self._hidden, dim=-1)
        else:
            q = self._projections[0](wanted, drop)
            k, v = torch.split(self._projections[1](x, drop), self._hidden, dim=-1)
        return q, k, v
