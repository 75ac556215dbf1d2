"""Frozen layers with branches on top, against the sums written out, by autograd's own check."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trialese.pretrain.encoder import FrozenWeight, LinearGroup, apply_frozen, no_dropout


class Branched(nn.Linear):
    """What `LinearGroup` reads of a peft layer."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__(inputs, outputs)
        self.active_adapters, self.scaling = ["default"], {"default": scale}
        self.lora_dropout = {"default": nn.Identity()}
        self.lora_A = {"default": nn.Linear(inputs, rank, bias=False)}
        self.lora_B = {"default": nn.Linear(rank, outputs, bias=False)}
        self.requires_grad_(False)  # a dict holds no submodules: the branches go on training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.lora_B["default"](self.lora_A["default"](x))
        return super().forward(x) + self.scaling["default"] * branch


@pytest.fixture
def layers() -> list[nn.Module]:
    """Three layers of one input: with branches of two ranks, and without one."""
    torch.manual_seed(0)
    plain = nn.Linear(6, 5).requires_grad_(False)
    made = [Branched(6, 4, 2, 0.5), plain, Branched(6, 3, 1, 2.0)]
    for layer in (made[0], made[2]):
        layer.lora_A["default"].double()
        layer.lora_B["default"].double()
    return [layer.double() for layer in made]


def test_a_group_is_its_layers_side_by_side(layers):
    group = LinearGroup(layers, dtype=torch.float64, packed_rows=None)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    torch.testing.assert_close(group(x, no_dropout), expected)
    trained = [
        branch["default"].weight
        for layer in (layers[0], layers[2])
        for branch in (layer.lora_A, layer.lora_B)
    ]
    weight = torch.randn_like(expected)
    mine = torch.autograd.grad((group(x, no_dropout) * weight).sum(), [x, *trained])
    theirs = torch.autograd.grad((expected * weight).sum(), [x, *trained])
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert group.sizes == [4, 5, 3]


def test_a_frozen_weight_packed_or_not():
    weight, bias = torch.randn(5, 8), torch.randn(5)
    x = torch.randn(4, 8, requires_grad=True)
    for rows in (None, 4):
        frozen = FrozenWeight(weight, bias, dtype=torch.float32, packed_rows=rows)
        y = apply_frozen(x, frozen)
        torch.testing.assert_close(y, x @ weight.t() + bias)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(gradient, 2 * y.detach() @ weight, rtol=1e-4, atol=1e-5)
