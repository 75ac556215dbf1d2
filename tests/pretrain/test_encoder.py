"""Frozen layers with branches on top, against the sums written out, by autograd's own check.

Our forward pass against transformers' and peft's: scores and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trialese.pretrain.backbone import load_masked_lm
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.lora import (
    FrozenWeight,
    LinearGroup,
    apply_frozen,
    attach_lora,
    no_dropout,
    seeded_dropout,
)
from trialese.settings import LoraSettings


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


BLOCKS, TOKENS = 3, 20


@pytest.fixture
def case() -> dict[str, torch.Tensor]:
    """Ids with some padding, positions, targets."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(5, 140, (BLOCKS, TOKENS), generator=generator)
    inputs[1, 15:] = 0
    positions = torch.tensor([[1, 3, 9], [0, 7, 14], [2, 18, 19]])
    targets = torch.randint(5, 140, (9,), generator=generator)
    return {"inputs": inputs, "attended": inputs != 0, "positions": positions, "targets": targets}


def adapted(folder: Path, **lora: Any) -> torch.nn.Module:
    """The toy with LoRA whose B is not 0, head trained along."""
    model, _ = load_masked_lm(folder)
    model.requires_grad_(False)
    settings = LoraSettings(**{"rank": 4, "alpha": 8, **lora})
    wrapped = attach_lora(model, settings, train_head=True, seed=3)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1, generator=generator)
    return wrapped


def stock_logits(model: torch.nn.Module, case: dict[str, torch.Tensor]) -> torch.Tensor:
    """transformers' scores at the positions asked for."""
    model.eval()
    scores = model(input_ids=case["inputs"], attention_mask=case["attended"].long()).logits
    return scores[torch.arange(BLOCKS)[:, None], case["positions"]].flatten(0, 1)


def our_logits(encoder: MaskedEncoder, case: dict[str, torch.Tensor], **more: Any) -> torch.Tensor:
    """Our scores at the positions asked for."""
    return encoder.logits(case["inputs"], case["attended"], case["positions"], **more)


@pytest.mark.parametrize("packed_rows", [None, 60])
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"targets": ("query", "value")},
        {"rslora": True},
        {"dora": True},
        {"targets": ("dense",)},
    ],
)
def test_scores_and_gradients_equal_the_stock_model(
    tiny_backbone, case, packed_rows, explicit, lora
):
    model = adapted(tiny_backbone, **lora)
    trained = [value for value in model.parameters() if value.requires_grad]
    encoder = MaskedEncoder(model, packed_rows=packed_rows, explicit_attention=explicit)
    stock, ours = stock_logits(model, case), our_logits(encoder, case)
    torch.testing.assert_close(ours, stock, atol=2e-6, rtol=1e-5)
    expected = torch.autograd.grad(functional.cross_entropy(stock, case["targets"]), trained)
    found = torch.autograd.grad(functional.cross_entropy(ours, case["targets"]), trained)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-7, rtol=1e-4)


def test_the_plain_form_for_compiling_is_the_same(tiny_backbone, case):
    model = adapted(tiny_backbone)
    trained = [value for value in model.parameters() if value.requires_grad]
    stock, ours = stock_logits(model, case), our_logits(MaskedEncoder(model, plain=True), case)
    torch.testing.assert_close(ours, stock, atol=2e-6, rtol=1e-5)
    expected = torch.autograd.grad(functional.cross_entropy(stock, case["targets"]), trained)
    found = torch.autograd.grad(functional.cross_entropy(ours, case["targets"]), trained)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-7, rtol=1e-4)


@pytest.mark.parametrize("method", ["full", "dora"])
def test_weights_applied_one_by_one_go_with_bf16(tiny_backbone, case, method):
    if method == "full":
        model: Any = load_masked_lm(tiny_backbone)[0].requires_grad_(True)
    else:
        model = adapted(tiny_backbone, dora=True)
    half = our_logits(MaskedEncoder(model, dtype=torch.bfloat16), case)
    torch.testing.assert_close(half, stock_logits(model, case), atol=0.05, rtol=0.05)
    half.sum().backward()


def test_all_weights_trained_equal_the_stock_model(tiny_backbone, case):
    model, _ = load_masked_lm(tiny_backbone)
    model.requires_grad_(True)
    trained = list(model.parameters())
    stock, ours = stock_logits(model, case), our_logits(MaskedEncoder(model), case)
    torch.testing.assert_close(ours, stock, atol=2e-6, rtol=1e-5)
    expected = torch.autograd.grad(functional.cross_entropy(stock, case["targets"]), trained)
    found = torch.autograd.grad(functional.cross_entropy(ours, case["targets"]), trained)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_kept_rows_and_unpadded_blocks(tiny_backbone, case):
    encoder = MaskedEncoder(load_masked_lm(tiny_backbone)[0])
    every = our_logits(encoder, case)
    kept = torch.tensor([0, 4, 8])
    torch.testing.assert_close(our_logits(encoder, case, kept=kept), every[kept])
    case["inputs"][1, 15:] = 7
    case["attended"] = case["inputs"] != 0
    with_mask = our_logits(encoder, case)
    case["attended"] = None
    torch.testing.assert_close(our_logits(encoder, case), with_mask)


@pytest.mark.parametrize("explicit", [True, False])
def test_texts_that_share_a_block_read_as_if_alone(tiny_backbone, case, explicit):
    """Scores and gradients of three texts in one padded block against each in its own."""
    model = adapted(tiny_backbone)
    trained = [value for value in model.parameters() if value.requires_grad]
    encoder = MaskedEncoder(model, explicit_attention=explicit)
    texts = [case["inputs"][0, :9], case["inputs"][0, 9:13], case["inputs"][0, 13:18]]
    together = torch.cat([*texts, torch.zeros(2, dtype=torch.long)])[None]
    segments = torch.tensor([1] * 9 + [2] * 4 + [3] * 5 + [0] * 2, dtype=torch.int16)[None]
    shared = encoder.logits(together, segments, torch.tensor([[1, 8, 10, 13, 17]]))
    places = [torch.tensor([[1, 8]]), torch.tensor([[1]]), torch.tensor([[0, 4]])]
    pairs = zip(texts, places, strict=True)
    alone = torch.cat([encoder.logits(text[None], None, place) for text, place in pairs])
    torch.testing.assert_close(shared, alone, atol=2e-6, rtol=1e-5)
    targets = case["targets"][:5]
    found = torch.autograd.grad(functional.cross_entropy(shared, targets), trained)
    expected = torch.autograd.grad(functional.cross_entropy(alone, targets), trained)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-7, rtol=1e-4)
    changed = together.clone()
    changed[0, 9:13] = 7
    after = encoder.logits(changed, segments, torch.tensor([[1, 8, 10, 13, 17]]))
    assert torch.equal(after[[0, 1, 3, 4]], shared[[0, 1, 3, 4]])
    assert not torch.equal(after[2], shared[2])


def test_bf16_is_close_and_its_gradients_point_the_same_way(tiny_backbone, case):
    model = adapted(tiny_backbone)
    trained = [value for value in model.parameters() if value.requires_grad]
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        scores = our_logits(MaskedEncoder(model, dtype=dtype), case)
        assert scores.dtype == torch.float32
        loss = functional.cross_entropy(scores, case["targets"])
        flat = [g.flatten() for g in torch.autograd.grad(loss, trained)]
        grads.append((loss.item(), torch.cat(flat)))
    assert grads[0][0] == pytest.approx(grads[1][0], abs=5e-3)
    assert all(g.dtype == torch.float32 for _, g in grads)
    assert functional.cosine_similarity(grads[0][1], grads[1][1], dim=0) > 0.995


def test_dropout_is_a_function_of_its_generator_and_right_on_average(tiny_backbone, case):
    model = adapted(tiny_backbone, dropout=0.25)
    encoder = MaskedEncoder(model, dropout=0.1)
    generator = torch.Generator()

    def scores(seed: int) -> torch.Tensor:
        return our_logits(encoder, case, drop=seeded_dropout(generator.manual_seed(seed))).detach()

    assert torch.equal(scores(5), scores(5))
    assert not torch.equal(scores(5), scores(6))
    state = torch.random.get_rng_state()
    scores(7)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = torch.ones(400, 1000)
    dropped = seeded_dropout(generator)(x, 0.1)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.005)
    assert (dropped == 0).float().mean().item() == pytest.approx(26 / 256, abs=0.003)
    assert no_dropout(x, 0.5) is x


def test_with_lora_dropout_the_measured_model_is_the_undropped_one(tiny_backbone, case):
    model = adapted(tiny_backbone, dropout=0.25)
    encoder = MaskedEncoder(model)
    torch.testing.assert_close(our_logits(encoder, case), stock_logits(model, case))
    dropped = our_logits(encoder, case, drop=seeded_dropout(torch.Generator().manual_seed(0)))
    assert (dropped - stock_logits(model, case)).abs().max() > 1e-3
