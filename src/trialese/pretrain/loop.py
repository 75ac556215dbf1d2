"""The only masked-language training loop: one CPU, one GPU or several processes.

Each step is a pure function of the weights, the optimiser's state and (seed, step), so that a
run that was killed and resumed ends in the same bits (on CPU, with the same number of threads).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trialese.errors import RecipeError
from trialese.pretrain import workers
from trialese.pretrain.batches import Phase, ready_batches
from trialese.pretrain.checkpoint import (
    Checkpoint,
    dump_optimiser,
    load_optimiser,
    read_checkpoint,
    stable_file,
    write_checkpoint,
)
from trialese.pretrain.interrupt import note_interrupts
from trialese.pretrain.step import Step
from trialese.progress import Progress, silent

__all__ = ["train"]

logger = logging.getLogger(__name__)

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
            asks = workers.world_size() == 1 or number % TRAIN_ROW_STEPS == 0
            stop = asks and workers.any_of(interrupted(), compute.device)
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
    if phase.checkpoint is None or workers.rank() != 0:
        return
    state.weights, state.optimiser = dict(named), dump_optimiser(optimiser, named)
    write_checkpoint(phase.checkpoint, state)


def _save_stable(phase: Phase, state: Checkpoint, named: Mapping[str, Tensor]) -> None:
    """Keep the weights from which a newer corpus may go on: the learning rate falls from here."""
    if phase.checkpoint is not None and workers.rank() == 0:
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
