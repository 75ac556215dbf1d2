"""The masked-language training loop: steps, measurements, checkpoints; one process or several.

Each step is a pure function of the weights, the optimiser's state and (seed, step), so that a
run that was killed and resumed ends in the same bits (on CPU, with the same number of threads).
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from trialese.artifacts import write_bytes
from trialese.errors import ArtifactError, RecipeError
from trialese.pretrain.compute import (
    any_of,
    note_interrupts,
    rank,
    sum_gradients,
    sum_of,
    world_size,
)
from trialese.pretrain.data import Phase, ReadyBatch, ready_batches
from trialese.pretrain.encoder import MaskedEncoder, PlainMaskedEncoder, masked_encoder
from trialese.pretrain.heldout import measure_all, told
from trialese.pretrain.lora import no_dropout, seeded_dropout
from trialese.progress import Progress, silent

__all__ = [
    "Checkpoint",
    "Step",
    "dump_optimiser",
    "load_optimiser",
    "open_work",
    "read_checkpoint",
    "stable_file",
    "train",
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


class Step:
    """One optimiser step, and one measurement, over fixed settings."""

    def __init__(self, model: nn.Module, phase: Phase, named: Mapping[str, Tensor]) -> None:
        self._phase, self._named = phase, named
        compute = phase.compute
        rows = phase.plan.phase.batch_blocks * phase.blocks.ids.shape[1]
        self._encoder = masked_encoder(
            model,
            dtype=compute.dtype,
            dropout=phase.dropout,
            packed_rows=rows if compute.packed else None,
            explicit_attention=compute.explicit_attention,
            plain=phase.compile,
        )
        self._loss = _loss_of(self._encoder)
        if phase.compile:
            self._loss = torch.compile(self._loss)
        self._dropping = _any_dropout(model, phase.dropout)
        self._generator = torch.Generator(device=compute.device)
        self._drop = seeded_dropout(self._generator) if self._dropping else no_dropout
        self.optimiser = _new_optimiser(phase, named)

    def restart_optimiser(self) -> None:
        """Begin AdamW anew, as the prior art does every few epochs."""
        self.optimiser = _new_optimiser(self._phase, self._named)

    def take(self, ready: ReadyBatch) -> Tensor:
        """Sum of the losses over the batch's masked tokens, a scalar on the device; one update.

        Nothing here waits for the device, so that it is never short of work.
        """
        phase, step = self._phase, ready.batch.step
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=phase.compute.device)
        for micro, part in enumerate(ready.parts):
            if self._dropping:
                self._generator.manual_seed(self._dropout_seed(step, micro))
            moved = {name: self._move(value) for name, value in part.items()}
            loss = self._loss(**moved, drop=self._drop)
            (loss / ready.masked_tokens).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        sum_gradients(list(self._named.values()))
        if phase.plan.phase.gradient_clip > 0:
            nn.utils.clip_grad_norm_(self._named.values(), phase.plan.phase.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = phase.plan.learning_rate(step)
        self.optimiser.step()
        return sum_of(total)

    def measure(self, step: int, seen: int) -> list[dict[str, Any]]:
        """Rows of the held-out sets."""
        phase = self._phase
        about = {"phase": phase.name, "step": step, "tokens": seen}
        rows = measure_all(
            self._encoder,
            phase.heldouts,
            batch_blocks=phase.heldout_batch_blocks,
            device=phase.compute.device,
        )
        for row in rows:
            logger.info(
                "%s step %d, %s %s: loss %.4f, top-1 %.4f",
                *(phase.name, step, row["era"], row["split"]),
                *(told(row, "loss"), told(row, "top1")),
            )
        return [about | row for row in rows]

    def _move(self, value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(self._phase.compute.device, non_blocking=True)

    def _dropout_seed(self, step: int, micro: int) -> int:
        sequence = np.random.SeedSequence(
            (self._phase.plan.seed, step, micro, rank(), len(self._phase.name))
        )
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _loss_of(encoder: MaskedEncoder | PlainMaskedEncoder) -> Callable[..., Tensor]:
    def loss(inputs: Tensor, positions: Tensor, targets: Tensor, **options: Any) -> Tensor:
        logits = encoder.logits(inputs, positions=positions, **options)
        return F.cross_entropy(logits, targets, reduction="sum")

    return loss


def _new_optimiser(phase: Phase, named: Mapping[str, Tensor]) -> torch.optim.AdamW:
    """AdamW; biases and norms do not decay."""
    settings = phase.plan.phase
    matrices = [value for value in named.values() if value.ndim > 1]
    vectors = [value for value in named.values() if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = phase.compute.device.type == "cuda"
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.lr, fused=fused
    )


def _any_dropout(model: nn.Module, dropout: float) -> bool:
    config = getattr(model, "peft_config", {}).get("default")
    return dropout > 0 or (config is not None and config.lora_dropout > 0)


TRAIN_ROW_STEPS = 10


def train(model: nn.Module, phase: Phase, *, progress: Progress = silent) -> list[dict[str, Any]]:
    """Train the weights of `model` that require a gradient, in place; the rows of metrics.

    Resumes from `phase.checkpoint` if it is there. Rows carry phase, step and tokens seen; those
    with `split: train` hold the mean training loss since the row before.

    Raises:
        KeyboardInterrupt: on SIGINT, after the step in progress is done and a checkpoint written.
        RecipeError: the loss is no longer finite.
    """
    plan, compute = phase.plan, phase.compute
    model.to(compute.device)
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    state = _resume(phase, named)
    step = Step(model, phase, named)
    if state.step and state.optimiser:
        load_optimiser(step.optimiser, named, state.optimiser)
    if state.step == 0:
        state.rows += step.measure(0, 0)
    loss_sum = torch.tensor(state.running["loss"], dtype=torch.float64, device=compute.device)
    with note_interrupts() as interrupted:
        for ready in ready_batches(phase, after_step=state.step):
            number = state.step = ready.batch.step
            if plan.begins_cycle(number) and number > 1:
                step.restart_optimiser()
            loss_sum += step.take(ready)
            state.running["masked"] += ready.masked_tokens
            state.running["seen"] += ready.tokens
            last = number == plan.steps
            if number % TRAIN_ROW_STEPS == 0 or last:
                state.rows.append(_train_row(phase, state, _checked(loss_sum, phase, number)))
                loss_sum.zero_()
            if number % phase.heldout_every_steps == 0 or last:
                state.rows += step.measure(number, int(state.running["seen"]))
            # Asked once: a step that is stopped after is always saved. Several processes must
            # stop after the same step, and asking one another costs a wait, so they ask seldom.
            asks = world_size() == 1 or number % TRAIN_ROW_STEPS == 0
            stop = asks and any_of(interrupted(), compute.device)
            if number % phase.checkpoint_every_steps == 0 or last or stop:
                state.running["loss"] = _checked(loss_sum, phase, number)
                _save(phase, state, named, step.optimiser)
            if number == plan.stable_steps:
                _save_stable(phase, state, named)
            progress(f"pretrain: {phase.name} steps", number, plan.steps)
            if stop and not last:
                raise KeyboardInterrupt(
                    f"stopped after step {number} of {plan.steps} ({phase.name}); "
                    "run the same command again to go on from there"
                )
    return state.rows


def _resume(phase: Phase, named: Mapping[str, Tensor]) -> Checkpoint:
    found = read_checkpoint(phase.checkpoint) if phase.checkpoint else None
    if found is None or set(found.weights) != set(named):
        return Checkpoint(0, {}, {}, running={"seen": 0.0, "loss": 0.0, "masked": 0.0})
    logger.info("%s: going on after step %d of %d", phase.name, found.step, phase.plan.steps)
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(found.weights[name])
    return found


def _save(
    phase: Phase, state: Checkpoint, named: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    if phase.checkpoint is None or rank() != 0:
        return
    state.weights, state.optimiser = dict(named), dump_optimiser(optimiser, named)
    write_checkpoint(phase.checkpoint, state)


def _save_stable(phase: Phase, state: Checkpoint, named: Mapping[str, Tensor]) -> None:
    """Keep the weights from which a newer corpus may go on: the learning rate falls from here."""
    if phase.checkpoint is not None and rank() == 0:
        write_checkpoint(stable_file(phase.checkpoint), Checkpoint(state.step, dict(named), {}))


def _checked(loss_sum: Tensor, phase: Phase, step: int) -> float:
    """The sum as a number; waits for the device, and refuses one that is not finite."""
    value = float(loss_sum)
    if not math.isfinite(value):
        raise RecipeError(
            f"pretrain, {phase.name} phase: the loss is not finite at step {step}; "
            f"lower its lr ({phase.plan.phase.lr:g}) or set pretrain.precision to fp32"
        )
    return value


def _train_row(phase: Phase, state: Checkpoint, loss_sum: float) -> dict[str, Any]:
    masked = int(state.running["masked"])
    loss = loss_sum / max(1, masked)
    state.running["masked"] = 0.0
    return {
        "phase": phase.name,
        "step": state.step,
        "tokens": int(state.running["seen"]),
        "era": "",
        "split": "train",
        "loss": loss,
        "masked_tokens": masked,
        "lr": phase.plan.learning_rate(state.step),
    }
