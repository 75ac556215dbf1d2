"""LoRA adapters in peft's formats, and their linear layers as few and large products.

The layers are numerically the same as peft's own modules (see the tests); faster because layers
that read the same input become one product, the adapter's branch is added in place, and no
gradient is made for frozen weights. On CPU the frozen weight may be packed once for oneDNN.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from safetensors import safe_open
from torch import Tensor, nn

from trialese.errors import ArtifactError, RecipeError
from trialese.pretrain.backbone import family_of, first_line, head_modules, refuse_pickle, unwrapped
from trialese.settings import LoraSettings

if TYPE_CHECKING:  # a second to import, which who only predicts need not wait
    from peft import PeftModel

__all__ = [
    "Drop",
    "FrozenWeight",
    "LinearGroup",
    "apply_frozen",
    "attach_lora",
    "load_lora",
    "merge_lora",
    "no_dropout",
    "save_lora",
    "seeded_dropout",
    "target_pattern",
]


logger = logging.getLogger(__name__)


def attach_lora(
    model: Any,
    settings: LoraSettings,
    *,
    train_head: bool = False,
    saved: Sequence[str] = (),
    seed: int | None = None,
) -> PeftModel:
    """The model with fresh LoRA weights (B = 0, so its outputs are unchanged), drawn from `seed`.

    Without a seed they are drawn from torch's own generator. With `train_head` the masked-LM
    head is trained along and saved in the adapter, except for its decoder: that is tied to the
    input embeddings, and naming it would silently make a second, untied one. `saved` are further
    modules to train whole. peft has no masked-LM task type, hence `task_type=None`.

    Raises:
        RecipeError: a target names no linear layer of the encoder.
    """
    from peft import LoraConfig, get_peft_model

    if settings.dora and settings.dropout > 0:
        raise RecipeError("pretrain.lora: dropout does not go with dora; set one of them to 0")
    head = head_modules(model) if train_head else []
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_pattern(model, settings.targets),
        modules_to_save=[*head, *saved] or None,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        task_type=None,
    )
    with _quiet_peft():
        if seed is None:
            return get_peft_model(model, config).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(model, config).eval()


def target_pattern(model: Any, targets: tuple[str, ...]) -> str:
    """Regular expression over module names: the targets inside the encoder, never in the head."""
    encoder = _encoder_path(model)
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if name.startswith(f"{encoder}.")
        and isinstance(module, nn.Linear)
        and ".pooler" not in name
    }
    wanted = sorted(linear) if targets == ("all-linear",) else list(targets)
    for name in wanted:
        if name not in linear:
            raise RecipeError(
                f"pretrain.lora.targets: the encoder has no linear layer {name!r}; "
                f"it has {', '.join(sorted(linear))}, or write all-linear"
            )
    return rf"{re.escape(encoder)}\..*\.({'|'.join(map(re.escape, wanted))})"


def _encoder_path(model: Any) -> str:
    """The dotted path of what holds the encoder's layers, such as "bert.encoder"."""
    family = family_of(model)
    if family is None:
        return str(model.base_model_prefix)
    return f"{family.body}.{family.layers}".removesuffix(".layer")


def merge_lora(model: PeftModel) -> Any:
    """The model with the adapter added into its weights, in fp32; `model` is used up."""
    merged: Any = model.merge_and_unload(safe_merge=True)
    merged.tie_weights()
    return merged


def save_lora(model: PeftModel, folder: Path, *, backbone: str, revision: str | None) -> None:
    """Write the adapter (safetensors and adapter_config.json) under `folder`."""
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = backbone, revision
    # told to look for itself, peft asks the hub whether the vocabulary has grown
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card is a form not filled in


def load_lora(model: Any, folder: Path) -> PeftModel:
    """The model with the adapter in `folder`, ready to merge; any peft LoRA folder will do.

    Raises:
        ArtifactError: no adapter there, or one that does not fit the model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    if not (folder / "adapter_config.json").is_file():
        inside = folder / "adapter"
        cure = "give the folder that holds it"
        if (inside / "adapter_config.json").is_file():
            cure = f"give {inside}"
        raise ArtifactError(f"{folder}: no adapter_config.json, so this is no adapter; {cure}")
    refuse_pickle(folder, stem="adapter_model", pickled="adapter_model")
    try:
        held = _shapes_in(folder / "adapter_model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing or misshapen is told below
            fitted = PeftModel.from_pretrained(model, folder, ignore_mismatched_sizes=True)
        own = get_peft_model_state_dict(fitted, save_embedding_layers=False)
    except ValueError as error:
        reason = first_line(error)
        if "target" in reason.casefold():
            reason = f"it adapts layers that a {unwrapped(model).config.model_type} model has not"
        raise _unfit(folder, reason) from error
    except Exception as error:  # peft raises whatever its parsers and torch do
        raise _unfit(folder, first_line(error)) from error
    needed = {name: tuple(value.shape) for name, value in own.items()}
    heads = {name for name in held.keys() - needed.keys() if "lora_" not in name}
    for name in sorted((held.keys() | needed.keys()) - heads):  # peft passes over what is unfit
        if held.get(name) != needed.get(name):
            found, wanted = (_size(shapes.get(name)) for shapes in (held, needed))
            raise _unfit(folder, f"{name} is {found}; the model needs {wanted}")
    if heads:  # such as the classifier of an adapter that was fitted for one
        logger.info("%s: left aside, of no part of the model: %s", folder, ", ".join(sorted(heads)))
    return fitted


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, "pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _size(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape))


def _unfit(folder: Path, reason: str) -> ArtifactError:
    """The error of an adapter that was made for another model."""
    made_for = ""
    with suppress(OSError, ValueError):
        made_for = json.loads((folder / "adapter_config.json").read_bytes()).get(
            "base_model_name_or_path", ""
        )
    cure = f"give {made_for}, for which it was made" if made_for else "give its own model"
    return ArtifactError(f"{folder}: the adapter does not fit this model ({reason}); {cure}")


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Without the warning that peft asks transformers for a name which version 5 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


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
        same = len({layer.bias is None for layer in self._layers}) == 1
        self._joins = same and all(type(layer) is nn.Linear for layer in self._layers)
        if same and all(_is_plain(layer) for layer in self._layers):
            self._frozen = FrozenWeight(
                self._joined("weight"), self._joined("bias"), dtype=dtype, packed_rows=packed_rows
            )
            self._branches, self._ab = self._find_branches()

    def __call__(self, x: Tensor, drop: Drop) -> Tensor:
        """(rows, inputs) -> (rows, outputs of all layers side by side)."""
        if self._frozen is None:
            if self._joins:
                weight, bias = self._joined("weight"), self._joined("bias")
                bias = None if bias is None else bias.to(self._dtype)
                return F.linear(x, weight.to(self._dtype), bias)
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

    def _joined(self, name: str) -> Any:
        """The layers' weights or biases as one tensor, of a single layer its own; None: none."""
        parts = [getattr(layer, name) for layer in self._layers]
        return parts[0] if len(parts) == 1 or parts[0] is None else torch.cat(parts)

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
    if layer.weight.requires_grad:
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

    drop.generator = generator  # type: ignore[attr-defined]
    return drop
