"""What a run resumes from: trained weights, optimiser, position and rows, in one safetensors file.

Resuming is exact: the rest of the state (order, masks, dropout, learning rate) is a pure function
of seed and step.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trialese.artifacts import write_bytes
from trialese.errors import ArtifactError

__all__ = [
    "Checkpoint",
    "dump_optimiser",
    "load_optimiser",
    "open_work",
    "read_checkpoint",
    "stable_file",
    "write_checkpoint",
]

logger = logging.getLogger(__name__)

_WORK_NAME = "work.json"


@dataclass(slots=True)
class Checkpoint:
    """The state after `step` optimiser steps."""

    step: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    """`exp_avg`, `exp_avg_sq` and `step` of each trained weight, as "weight name|kind"."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    """Sums since the last row of training loss."""


def stable_file(file: Path) -> Path:
    """Where the weights before the decay of a `wsd` schedule are kept, beside a checkpoint."""
    return file.with_suffix(".stable.safetensors")


def write_checkpoint(file: Path, checkpoint: Checkpoint) -> None:
    """Put the checkpoint at `file` at once: a crash leaves the earlier one whole."""
    tensors = {f"weights|{name}": value for name, value in checkpoint.weights.items()}
    tensors |= {f"optimiser|{name}": value for name, value in checkpoint.optimiser.items()}
    state = {
        "step": checkpoint.step, "rows": checkpoint.rows, "running": checkpoint.running,
    }  # fmt: skip
    metadata = {"state": msgspec.json.encode(state).decode()}
    file.parent.mkdir(parents=True, exist_ok=True)
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(file, save(held, metadata))


def read_checkpoint(file: Path) -> Checkpoint | None:
    """The checkpoint at `file`; None if there is none, or (with a warning) a damaged one."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            state = msgspec.json.decode(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, msgspec.DecodeError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s); starting this phase anew", file, error)
        return None
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimiser": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition("|")
        parts[part][rest] = value
    return Checkpoint(step=state["step"], rows=state["rows"], running=state["running"], **parts)


def open_work(folder: Path, key: str, made_from: Mapping[str, Any]) -> Path:
    """The work folder for `key`, kept if it was begun with it, new if nothing was trained in it.

    `made_from` is what the key digests; a change is shown as a difference of dotted names.

    Raises:
        ArtifactError: it holds a checkpoint of a run with other settings or data.
    """
    file = folder / _WORK_NAME
    if file.is_file():
        try:
            known = msgspec.json.decode(file.read_bytes())
        except msgspec.DecodeError:
            known = {}
        if known.get("key") == key:
            return folder
        if any(folder.glob("*.safetensors")):
            changes = _difference(_flatten(known.get("made_from", {})), _flatten(made_from))
            raise ArtifactError(
                f"{folder} holds an unfinished run with other settings or data "
                f"({'; '.join(changes) or 'unknown'}); go back to those to resume it, or delete "
                "the folder to start anew"
            )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_bytes(file, msgspec.json.encode({"key": key, "made_from": dict(made_from)}))
    return folder


def load_optimiser(
    optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Put saved moments back; a weight without saved ones keeps its fresh state."""
    for name, parameter in named.items():
        kinds = {
            kind: state[f"{name}|{kind}"]
            for kind in ("step", "exp_avg", "exp_avg_sq")
            if f"{name}|{kind}" in state
        }
        if kinds:
            optimiser.state[parameter] = {
                kind: value.to(parameter.device) for kind, value in kinds.items()
            }


def dump_optimiser(
    optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The moments of each weight, by "weight name|kind"."""
    return {
        f"{name}|{kind}": value
        for name, parameter in named.items()
        for kind, value in optimiser.state.get(parameter, {}).items()
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = sorted(set(old) | set(new))
    plain = msgspec.to_builtins
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in names
        if plain(old.get(name)) != msgspec.json.decode(msgspec.json.encode(new.get(name)))
    ]
