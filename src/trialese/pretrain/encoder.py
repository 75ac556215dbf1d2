"""The one forward pass of an encoder: for training, measuring, fitting and predicting.

The same function of the same parameters as transformers' own model (held to it by the tests),
written from the description of its family (`backbone.Family`). What it leaves out cannot change
the result: the masked-LM head on positions that are not asked for, and in the last layer
everything but keys and values for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from trialese.pretrain.backbone import Family, family_of, longest_text, part_of, unwrapped
from trialese.pretrain.lora import Drop, FrozenWeight, LinearGroup, apply_frozen, no_dropout

__all__ = ["Encoder", "MaskedEncoder", "PlainMaskedEncoder", "dropping", "masked_encoder"]


@dataclass(frozen=True, slots=True)
class _Reading:
    """What all layers need to know of a batch besides its states."""

    blocks: int
    rows: Tensor  # (blocks * width,): of the positions asked for
    bias: dict[str, Tensor | None]  # kind of layer -> added to the scores of all positions
    last_bias: dict[str, Tensor | None]  # and of those asked for
    turn: dict[str, tuple[Tensor, Tensor]]  # kind -> cosine and sine, heads in dimension 1
    last_turn: dict[str, tuple[Tensor, Tensor]]
    near: Tensor | None  # local attention in pieces: added to each piece's scores of its keys


class Encoder:
    """An encoder (with or without LoRA) as `states(inputs, attended, positions)`.

    `model` is a model of transformers whose family has a description. Its parameters are read as
    they are now: build this after attaching LoRA, and anew after frozen weights have changed.
    `plain` writes the same sums as ordinary operations, for torch.compile to fuse and torch.onnx
    to export. `dropout` is that of hidden states and, if `attention_dropout` is not given, of
    attention weights.

    Raises:
        ValueError: a model whose family has no description.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        packed_rows: int | None = None,
        explicit_attention: bool = True,
        plain: bool = False,
    ) -> None:
        base: Any = unwrapped(model)
        family = family_of(base)
        if family is None:
            raise ValueError(f"{base.config.model_type}: no description of this family")
        self.family, self._config = family, base.config
        self._body = part_of(base, family.body)
        self._heads: int = base.config.num_attention_heads
        self._dtype, self._dropout = dtype, dropout
        self._attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.max_tokens: int = longest_text(base)
        self._explicit, self._plain = explicit_attention, plain
        options: Any = {"dtype": dtype, "packed_rows": packed_rows, "plain": plain}
        layers = list(part_of(self._body, family.layers))
        self._layers = [
            _Layer(layer, family, options, last=layer is layers[-1]) for layer in layers
        ]
        self._final_norm = None
        if family.final_norm is not None:
            self._final_norm = _Norm(part_of(self._body, family.final_norm), dtype)

    def states(
        self, inputs: Tensor, attended: Tensor | None, positions: Tensor, drop: Drop = no_dropout
    ) -> Tensor:
        """What the last layer makes of the positions asked for: (blocks * width, hidden).

        `inputs` (blocks, tokens), `positions` (blocks, width). `attended` (blocks, tokens) is
        bool, or None if all are; or integers that number the texts of a block from 1, 0 being
        padding: then tokens attend to their own text and count their places from its beginning.
        """
        x = drop(self._embed(inputs, attended), self._dropout)  # (blocks * tokens, hidden)
        return self._through(x, inputs.shape, attended, positions, self._layers, drop)

    def lower(self, inputs: Tensor, attended: Tensor | None, layers: int) -> Tensor:
        """Every token's state after the lowest `layers` layers: (blocks, tokens, hidden)."""
        x = self._embed(inputs, attended)
        everything = torch.empty((inputs.shape[0], 0), dtype=torch.long, device=inputs.device)
        reading = self._reading(inputs.shape, attended, everything)
        for layer in self._layers[:layers]:
            x = self._run(layer, x, reading, no_dropout)
        return x.view(*inputs.shape, -1)

    def upper(
        self,
        x: Tensor,
        attended: Tensor | None,
        positions: Tensor,
        layers: int,
        drop: Drop = no_dropout,
    ) -> Tensor:
        """`states` of the positions asked for, from what `lower` made of `layers` layers."""
        flat = x.flatten(0, 1)
        return self._through(flat, x.shape[:2], attended, positions, self._layers[layers:], drop)

    def _through(
        self,
        x: Tensor,
        shape: torch.Size,
        attended: Tensor | None,
        positions: Tensor,
        layers: Sequence[_Layer],
        drop: Drop,
    ) -> Tensor:
        """The states asked for after these layers, the last of which only makes those."""
        reading = self._reading(shape, attended, positions)
        for layer in layers[:-1]:
            x = self._run(layer, x, reading, drop)
        if layers:
            x = self._run(layers[-1], x, reading, drop, last=True)
        else:
            x = x.index_select(0, reading.rows)
        return x if self._final_norm is None else self._final_norm(x, self._dtype)

    def _reading(self, shape: torch.Size, attended: Tensor | None, positions: Tensor) -> _Reading:
        blocks, tokens = shape
        device = positions.device
        bias = last_bias = None
        if attended is not None and attended.dtype == torch.bool:
            bias = last_bias = self._bias(~attended[:, None, None, :])
        elif attended is not None:
            others = attended[:, None, None, :]
            bias = self._bias(attended[:, None, :, None] != others)
            last_bias = self._bias(attended.gather(1, positions)[:, None, :, None] != others)
        rows = torch.arange(blocks, device=device)[:, None] * tokens + positions
        every: dict[str, Tensor | None] = {"": bias}
        last: dict[str, Tensor | None] = {"": last_bias}
        turn: dict[str, tuple[Tensor, Tensor]] = {}
        last_turn: dict[str, tuple[Tensor, Tensor]] = {}
        if self.family.relative_bias is not None:
            relative = self._relative_bias(tokens, device)  # (1, heads, tokens, tokens)
            chosen = relative[0][:, positions].transpose(0, 1)  # (blocks, heads, width, tokens)
            every[""], last[""] = _sum(bias, relative), _sum(last_bias, chosen)
        if self.family.rotary is not None:
            places = torch.arange(tokens, device=device)[None]
            if attended is not None and attended.dtype != torch.bool:
                places = _places(attended)
            for kind in {layer.kind for layer in self._layers}:
                turn[kind] = self._turn(places, kind)
                last_turn[kind] = tuple(_chosen(part, positions) for part in turn[kind])  # type: ignore[assignment]
                every[kind], last[kind] = bias, last_bias
            far = self._far(tokens, device)
            if far is not None and "sliding_attention" in turn:
                every["sliding_attention"] = _sum(bias, self._bias(far[None, None]))
                last["sliding_attention"] = _sum(last_bias, self._bias(far[positions][:, None]))
        near = self._near(tokens, attended, device) if "sliding_attention" in turn else None
        return _Reading(blocks, rows.flatten(), every, last, turn, last_turn, near)

    def _bias(self, hidden: Tensor) -> Tensor:
        """What is added to the scores: the least finite number where `hidden`, else 0."""
        bias = torch.zeros(hidden.shape, dtype=self._dtype, device=hidden.device)
        return bias.masked_fill_(hidden, torch.finfo(self._dtype).min)

    def _relative_bias(self, tokens: int, device: torch.device) -> Tensor:
        """What the distance of two tokens adds to their score: (1, heads, tokens, tokens)."""
        encoder = part_of(self._body, self.family.relative_bias or "")
        shape = torch.empty((1, tokens), device=device)
        bias: Tensor = encoder.compute_position_bias(shape)
        return bias.to(self._dtype)

    def _turn(self, places: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """Cosine and sine by which positions turn queries and keys, fp32, heads in dimension 1."""
        rotary = part_of(self._body, self.family.rotary or "")
        like = torch.empty(0, dtype=torch.float32, device=places.device)
        cosine, sine = rotary(like, places, kind)
        return cosine[:, None], sine[:, None]

    def _far(self, tokens: int, device: torch.device) -> Tensor | None:
        """(tokens, tokens): too far apart for local attention; None: no two are."""
        window = self._config.sliding_window
        # a graph that is exported must hold the mask whatever length it was traced with
        if not self._plain and tokens <= window + 1:
            return None
        place = torch.arange(tokens, device=device)
        far: Tensor = (place[:, None] - place[None]).abs() > window
        return far

    def _near(self, tokens: int, attended: Tensor | None, device: torch.device) -> Tensor | None:
        """What is added to the scores of local attention in pieces of two windows, which know the
        keys of four: (blocks or 1, 1, pieces, 2 windows, 4 windows). None: all keys at once."""
        window = self._config.sliding_window
        if self._plain or not self._explicit or tokens % (2 * window) or tokens <= 4 * window:
            return None
        first = torch.arange(0, tokens, 2 * window, device=device)[:, None, None]  # of each piece
        query = first + torch.arange(2 * window, device=device)[:, None]
        key = first - window + torch.arange(4 * window, device=device)
        hidden = ((query - key).abs() > window) | (key < 0) | (key >= tokens)
        hidden = hidden[None]
        if attended is not None:
            keys = key[:, 0].clamp(0, tokens - 1)  # (pieces, 4 windows)
            theirs = attended[:, keys][:, :, None]
            apart = attended.dtype != torch.bool
            own = attended.view(len(attended), -1, 2 * window)[..., None]
            hidden = hidden | (theirs != own if apart else ~theirs)
        return self._bias(hidden[:, None])

    def _embed(self, inputs: Tensor, attended: Tensor | None) -> Tensor:
        family = self.family
        embeddings = part_of(self._body, family.embeddings)
        x = getattr(embeddings, family.words)(inputs)
        if family.token_types is not None:
            x = x + getattr(embeddings, family.token_types).weight[0]
        if family.places is not None:
            weight = getattr(embeddings, family.places).weight[family.first_place :]
            apart = attended is not None and attended.dtype != torch.bool
            x = x + (weight[_places(attended)] if apart else weight[: inputs.shape[1]])  # type: ignore[arg-type]
        norm = getattr(embeddings, family.embedding_norm)
        x = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
        return x.flatten(0, 1).to(self._dtype)

    def _run(
        self, layer: _Layer, x: Tensor, reading: _Reading, drop: Drop, *, last: bool = False
    ) -> Tensor:
        """One layer; the `last` one for the rows asked for, which attend to all of their block."""
        rows = reading.rows if last else None
        wanted = x if rows is None else x.index_select(0, rows)  # (blocks * width, hidden)
        q, k, v = layer.project(wanted, x, rows, drop)
        split = (reading.blocks, -1, self._heads, q.shape[-1] // self._heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in (q, k, v))
        if layer.kind:
            turn = reading.turn[layer.kind]
            q = _turned(q, reading.last_turn[layer.kind] if last else turn)
            k = _turned(k, turn)
        if reading.near is not None and layer.kind == "sliding_attention" and not last:
            made = self._attend_near(q, k, v, reading.near, drop)
        else:
            bias = (reading.last_bias if last else reading.bias)[layer.kind]
            made = self._attend(q, k, v, bias, drop)
        mixed = made.transpose(1, 2).reshape(wanted.shape[0], -1)
        mixed = drop(layer.attention_out(mixed, drop), self._dropout) + wanted
        if layer.pre_norm:
            inner = layer.activate(layer.intermediate(layer.out_norm(mixed, self._dtype), drop))
            return drop(layer.out(inner, drop), self._dropout) + mixed
        mixed = layer.attention_norm(mixed, self._dtype)
        inner = layer.activate(layer.intermediate(mixed, drop))
        out = drop(layer.out(inner, drop), self._dropout) + mixed
        return layer.out_norm(out, self._dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, drop: Drop) -> Tensor:
        """(blocks, heads, wanted, size): softmax(q k^T / sqrt(size) + bias) v."""
        dropping = drop is not no_dropout and self._attention_dropout > 0
        learns = bias is not None and bias.requires_grad
        if not (self._explicit or dropping or learns):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2))
        if bias is not None:
            scores = scores + bias
        return torch.matmul(drop(scores.softmax(dim=-1), self._attention_dropout), v)

    def _attend_near(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, drop: Drop) -> Tensor:
        """`_attend` of local attention, which looks at no key that is far from the whole piece."""
        blocks, heads, tokens, size = q.shape
        window = bias.shape[-1] // 4
        halves = tokens // window + 2  # of pieces, with one of padding before and behind
        starts = torch.arange(0, halves - 2, 2, device=q.device)[:, None]
        chosen = (starts + torch.arange(4, device=q.device)).flatten()

        def around(x: Tensor) -> Tensor:  # (blocks, heads, pieces, 4 windows, size)
            parts = F.pad(x, (0, 0, window, window)).view(blocks, heads, halves, window, size)
            return parts.index_select(2, chosen).view(blocks, heads, -1, 4 * window, size)

        pieces = (q * (1 / math.sqrt(size))).reshape(blocks, heads, -1, 2 * window, size)
        scores = torch.matmul(pieces, around(k).transpose(-1, -2)) + bias
        mixed = torch.matmul(drop(scores.softmax(dim=-1), self._attention_dropout), around(v))
        return mixed.view(q.shape)


class MaskedEncoder(Encoder):
    """A masked-LM (with or without LoRA) as `logits(inputs, attended, positions)`."""

    def __init__(self, model: nn.Module, *, packed_rows: int | None = None, **options: Any) -> None:
        super().__init__(model, packed_rows=packed_rows, **options)
        base = unwrapped(model)
        self._transform: list[Callable[[Tensor], Tensor]] = [
            F.gelu if name == "gelu" else part_of(base, name) for name in self.family.transform
        ]
        self._scores = part_of(base, self.family.decoder)
        weight, bias = self._scores.weight, self._scores.bias
        trains = bias is not None and bias.requires_grad
        self._bias_apart = bias if trains or weight.requires_grad else None
        self._decoder = None
        if not weight.requires_grad:
            frozen = None if bias is None or trains else _aligned(bias)
            self._decoder = FrozenWeight(
                _aligned(weight), frozen, dtype=self._dtype, packed_rows=packed_rows
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
        with torch.autocast(x.device.type, self._dtype, enabled=self._dtype != torch.float32):
            for step in self._transform:
                x = step(x)
        x = x.to(self._dtype)
        if self._decoder is None:
            scores = F.linear(x, _aligned(self._scores.weight.to(self._dtype)))
        elif self._plain:
            scores = self._decoder.apply(x)
        else:
            scores = apply_frozen(x, self._decoder)
        scores = scores[:, : len(self._scores.weight)].float()
        return scores if self._bias_apart is None else torch.add(scores, self._bias_apart)


class PlainMaskedEncoder:
    """The same for a family without a description, through transformers' own forward pass.

    The head still scores the positions asked for alone: what the encoder hands to it is cut down
    to them. Texts that share a block are read in rows of their own.
    """

    def __init__(
        self, model: nn.Module, *, dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        self._model, self._dtype = model, dtype
        base: Any = unwrapped(model)
        self._body = part_of(base, base.base_model_prefix)
        self._padding = int(base.config.pad_token_id or 0)
        self.max_tokens: int = longest_text(base)
        own = [module for module in base.modules() if isinstance(module, nn.Dropout)]
        lora = {
            id(inner)
            for name, module in base.named_modules()
            if name.endswith("lora_dropout")
            for inner in module.modules()
        }
        for module in own:
            if id(module) not in lora:
                module.p = dropout

    def logits(
        self,
        inputs: Tensor,
        attended: Tensor | None,
        positions: Tensor,
        drop: Drop = no_dropout,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Scores at the positions asked for, as `MaskedEncoder.logits` gives them."""
        rows, columns = torch.arange(len(inputs), device=inputs.device)[:, None], positions
        rows = rows.expand_as(positions)
        if attended is not None and attended.dtype != torch.bool:
            inputs, attended, rows, columns = _text_a_row(
                inputs, attended, positions, self._padding
            )
        chosen = (rows.flatten(), columns.flatten())
        if kept is not None:
            chosen = chosen[0][kept], chosen[1][kept]

        def narrow(module: Any, arguments: Any, found: Any) -> Any:
            states = found[0][chosen][None]  # (1, positions, hidden)
            if isinstance(found, tuple):
                return (states, *found[1:])
            found["last_hidden_state"] = states
            return found

        mask = torch.ones_like(inputs) if attended is None else attended.long()
        hook = self._body.register_forward_hook(narrow)
        try:
            with (
                dropping(self._model, drop, inputs.device),
                torch.autocast(
                    inputs.device.type, self._dtype, enabled=self._dtype != torch.float32
                ),
            ):
                scores: Tensor = self._model(input_ids=inputs, attention_mask=mask).logits
        finally:
            hook.remove()
        return scores[0].float()


@contextmanager
def dropping(model: nn.Module, drop: Drop, device: torch.device) -> Iterator[None]:
    """Within, the model's own dropout is on and follows from the generator of `drop`."""
    generator = getattr(drop, "generator", None)
    if generator is None:
        yield
        return
    model.train()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(generator.initial_seed())
            yield
    finally:
        model.eval()


def _text_a_row(
    inputs: Tensor, texts: Tensor, positions: Tensor, padding: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texts that share blocks in rows of their own: ids, attended, rows and columns of positions.

    `texts` (blocks, tokens) numbers them from 1, 0 being padding. A position on padding becomes the
    first token of some text: nobody counts it.
    """
    most = int(texts.max())
    key = torch.arange(len(inputs), device=inputs.device)[:, None] * (most + 1) + texts
    known, row = torch.unique(torch.where(texts > 0, key, -1), return_inverse=True)
    row = row - int(known[0] == -1)  # (blocks, tokens); -1 on padding
    place = _places(texts)
    width = int(place[texts > 0].max()) + 1
    ids = inputs.new_full((int(row.max()) + 1, width), padding)
    attended = torch.zeros_like(ids, dtype=torch.bool)
    real = texts > 0
    ids[row[real], place[real]] = inputs[real]
    attended[row[real], place[real]] = True
    rows, columns = row.gather(1, positions), place.gather(1, positions)
    columns = torch.where(rows >= 0, columns, 0)
    return ids, attended, rows.clamp_min(0), columns


def _aligned(x: Tensor) -> Tensor:
    """On a GPU with rows of zeros up to a multiple of 64: odd numbers multiply at half the rate."""
    missing = -len(x) % 64 if x.is_cuda else 0
    return F.pad(x, (0,) * (2 * x.ndim - 1) + (missing,)) if missing else x


def masked_encoder(
    model: nn.Module,
    *,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    **levers: Any,
) -> MaskedEncoder | PlainMaskedEncoder:
    """The fast encoder where the model's family has a description, else the plain one."""
    if family_of(model) is None:
        return PlainMaskedEncoder(model, dtype=dtype, dropout=dropout)
    return MaskedEncoder(model, dtype=dtype, dropout=dropout, **levers)


def _places(texts: Tensor) -> Tensor:
    """Each token's distance from the beginning of its text: (blocks, tokens)."""
    columns = torch.arange(texts.shape[1], device=texts.device).expand(texts.shape)
    begins = torch.ones_like(texts, dtype=torch.bool)
    begins[:, 1:] = texts[:, 1:] != texts[:, :-1]
    return columns - torch.where(begins, columns, 0).cummax(dim=1).values


def _sum(one: Tensor | None, other: Tensor) -> Tensor:
    """Two biases added; two of the least number are kept finite."""
    if one is None:
        return other
    return (one + other).clamp_(min=torch.finfo(other.dtype).min)


def _chosen(table: Tensor, positions: Tensor) -> Tensor:
    """Of a table (blocks or 1, 1, tokens, size), the rows of the positions (blocks, width)."""
    size = table.shape[-1]
    table = table[:, 0].expand(positions.shape[0], -1, -1)
    return table.gather(1, positions[..., None].expand(-1, -1, size))[:, None]


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021) on (blocks, heads, tokens, size), computed in fp32."""
    cosine, sine = turn
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cosine + torch.cat((-second, first), dim=-1) * sine).to(x.dtype)


class _Norm:
    """LayerNorm over the last dimension, from and to the dtype of computation; or nothing."""

    def __init__(self, norm: Any, dtype: torch.dtype) -> None:
        self._norm = norm if isinstance(norm, nn.LayerNorm) else None
        self._frozen: tuple[Tensor, Tensor | None] | None = None
        if self._norm is not None and not norm.weight.requires_grad:
            bias = None if norm.bias is None else norm.bias.detach().to(dtype)
            self._frozen = (norm.weight.detach().to(dtype), bias)

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        norm = self._norm
        if norm is None:
            return x
        if self._frozen is not None:
            return F.layer_norm(x, x.shape[-1:], *self._frozen, norm.eps)
        return F.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, norm.eps).to(dtype)


class _Layer:
    """One encoder layer's products, norms and activation."""

    def __init__(self, layer: Any, family: Family, options: dict[str, Any], *, last: bool) -> None:
        projections = [part_of(layer, name) for name in family.projections]
        self._one = len(projections) == 1
        self._hidden = projections[0].weight.shape[0] // (3 if self._one else 1)
        apart = last and not self._one
        groups = [projections[:1], projections[1:]] if apart else [projections]
        self._projections = [LinearGroup(group, **options) for group in groups]
        self.attention_out = LinearGroup([part_of(layer, family.attention_out)], **options)
        self.intermediate = LinearGroup([part_of(layer, family.intermediate)], **options)
        self.out = LinearGroup([part_of(layer, family.out)], **options)
        self._dtype = options["dtype"]
        self.attention_norm = _Norm(part_of(layer, family.attention_norm), self._dtype)
        self.out_norm = _Norm(part_of(layer, family.out_norm), self._dtype)
        self.pre_norm = family.pre_norm
        self.kind: str = layer.attention_type if family.rotary else ""
        self._activation, self._gated = part_of(layer, family.activation), family.gated

    def activate(self, x: Tensor) -> Tensor:
        """What the feed-forward's first product becomes before the second."""
        if not self._gated:
            activated: Tensor = self._activation(x)
            return activated
        first, second = x.chunk(2, dim=-1)
        gated: Tensor = self._activation(first) * second
        return gated

    def project(
        self, wanted: Tensor, x: Tensor, rows: Tensor | None, drop: Drop
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the wanted rows; keys and values of all rows."""
        if self.pre_norm:
            x = self.attention_norm(x, self._dtype)
        if len(self._projections) == 1:
            q, k, v = torch.split(self._projections[0](x, drop), self._hidden, dim=-1)
            return (q if rows is None else q.index_select(0, rows)), k, v
        if self.pre_norm:
            wanted = self.attention_norm(wanted, self._dtype)
        q = self._projections[0](wanted, drop)
        k, v = torch.split(self._projections[1](x, drop), self._hidden, dim=-1)
        return q, k, v
