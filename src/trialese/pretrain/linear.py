"""Frozen linear layers with LoRA on top, as few and as large matrix products as can be.

Numerically the same as peft's own modules (see the tests); faster because layers that read the
same input become one product, the adapter's branch is added in place, and no gradient is made
for frozen weights. On CPU the frozen weight may be packed once for oneDNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

__all__ = ["FrozenWeight", "LinearGroup", "apply_frozen"]

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
