"""Seconds of training until ours reaches the accuracy at which the published recipe ends.

The rival is the prior art's way on the same backbone, data and machine, in the same run: stock
`Trainer` + peft, r=1 on query and value, dropout 0.1, batches of 16, masking 15 %, learning rate
3e-6 falling to 0 over five epochs, for a fixed number of steps. Ours: the defaults of
`PretrainSettings`. Both start from the same model and are measured on the same stored masks of
new held-out trials; measuring is not counted as training time. Seconds are those of the wall, or
with `--clock cpu` the process's own processor seconds over its threads (for a machine that others
use too; best with `--threads 1`).

    python benchmarks/time_to_quality.py --blocks runs/registry/blocks --base runs/registry/base
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers.utils import logging as transformers_logging

from trialese.corpus import open_blocks
from trialese.pretrain.backbone import load_masked_lm, read_tokenizer
from trialese.pretrain.batches import Phase, make_ready
from trialese.pretrain.device import choose_compute, keep_freed_memory
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import HeldoutSet, fix_masks, measure, score_row
from trialese.pretrain.lora import attach_lora
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.schedule import Plan
from trialese.pretrain.step import Step
from trialese.records import TokenBlocks
from trialese.settings import HeldoutSettings, LoraSettings, PretrainSettings

CPU = torch.device("cpu")
MEASURED_AT = {1, 2, 3, 5, 7, 10, 15, 20}
Clock = Callable[[], float]
Curve = list[tuple[float, int, float]]  # (seconds of training, steps, top-1)


def top1(model: Any, heldout: HeldoutSet) -> float:
    """Held-out top-1 accuracy of the model as it is now."""
    encoder = MaskedEncoder(model)
    score = measure(encoder, heldout, batch_blocks=32, device=CPU)
    return float(score_row(score, heldout)["top1"])


def train_ours(
    base: Path,
    blocks: tuple[TokenBlocks, TokenBlocks | None],
    heldout: HeldoutSet,
    vocabulary: Vocabulary,
    steps: int,
    now: Clock,
) -> Curve:
    """Our defaults, measured every few steps at first and more seldom later."""
    settings = PretrainSettings(device="cpu")
    model, _ = load_masked_lm(base / "model")
    model.requires_grad_(False)
    wrapped = attach_lora(model, settings.lora, train_head=True, seed=settings.seed)
    new, old = blocks
    plan = Plan(
        settings.adapt_phase, len(new.ids), len(old.ids) if old else 0,
        settings.replay_share if old else 0.0, settings.seed,
    )  # fmt: skip
    phase = Phase(
        name="adapt", plan=plan, blocks=new, old_blocks=old, vocabulary=vocabulary,
        masking=settings.masking, compute=choose_compute(settings),
    )  # fmt: skip
    named = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    step, curve, spent = Step(wrapped, phase, named), [(0.0, 0, top1(model, heldout))], 0.0
    for batch in plan.batches():
        start = now()
        step.take(make_ready(phase, batch))
        spent += now() - start
        if batch.step in MEASURED_AT or batch.step % 25 == 0:
            curve.append((spent, batch.step, top1(wrapped, heldout)))
            print("ours", curve[-1], flush=True)
        if batch.step == steps:
            break
    return curve


def train_rival(
    base: Path, blocks: TokenBlocks, heldout: HeldoutSet, tokenizer: Any, steps: int, now: Clock
) -> Curve:
    """The published recipe for so many steps."""
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    model, _ = load_masked_lm(base / "model")
    lora = LoraSettings(rank=1, alpha=1, dropout=0.1, targets=("query", "value"))
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
    )  # fmt: skip
    wrapped = get_peft_model(model.train(), config)
    curve: Curve = [(0.0, 0, top1(wrapped, heldout))]
    clock = {"spent": 0.0, "since": 0.0}

    class Measure(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock["since"] = now()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock["spent"] += now() - clock["since"]
            if state.global_step % max(1, steps // 6) == 0 or state.global_step == steps:
                curve.append((clock["spent"], state.global_step, top1(wrapped, heldout)))
                print("rival", curve[-1], flush=True)
                wrapped.train()
            control.should_training_stop = state.global_step >= steps
            clock["since"] = now()

    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder, num_train_epochs=5, per_device_train_batch_size=16, learning_rate=3e-6,
            use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        rows = [{"input_ids": row.tolist()} for row in blocks.ids]
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        Trainer(
            wrapped, options, data_collator=collator, train_dataset=rows, callbacks=[Measure()]
        ).train()
    return curve


def main() -> None:
    """Run both, print the ratio, draw both curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="a folder of kind model")
    parser.add_argument("--rival-steps", type=int, default=120)
    parser.add_argument("--our-steps", type=int, default=100)
    parser.add_argument("--heldout-blocks", type=int, default=192)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-quality"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # for both alike

    def now() -> float:
        if arguments.clock == "cpu":
            return time.process_time() / torch.get_num_threads()
        return time.perf_counter()

    tokenizer = read_tokenizer(arguments.base / "model")
    vocabulary = Vocabulary.of(tokenizer)
    blocks = open_blocks(arguments.blocks, era="new", split="train")
    old = open_blocks(arguments.blocks, era="old", split="train")
    tune = open_blocks(arguments.blocks, era="new", split="tune")
    assert blocks is not None and tune is not None
    options = HeldoutSettings(max_blocks=arguments.heldout_blocks)
    heldout = fix_masks(tune, "new", "tune", vocabulary, options)
    ours = train_ours(arguments.base, (blocks, old), heldout, vocabulary, arguments.our_steps, now)
    rival = train_rival(arguments.base, blocks, heldout, tokenizer, arguments.rival_steps, now)
    end_seconds, end_steps, goal = rival[-1]
    reached = next((point for point in ours if point[0] > 0 and point[2] >= goal), None)
    print(f"rival: top-1 {rival[0][2]:.4f} -> {goal:.4f} in {end_steps} steps, {end_seconds:.1f} s")
    if reached is None:
        print(f"ours did not reach {goal:.4f}; best {max(point[2] for point in ours):.4f}")
    else:
        seconds, steps, found = reached
        print(f"ours: top-1 {found:.4f} after {steps} steps, {seconds:.1f} s; "
              f"ratio of times {end_seconds / seconds:.1f}")  # fmt: skip
    print(f"ours at the end: top-1 {ours[-1][2]:.4f}, {ours[-1][1]} steps, {ours[-1][0]:.1f} s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "curves.json").write_text(json.dumps({"rival": rival, "ours": ours}))
    draw(rival, ours, arguments.out / "curves.png")
    print(arguments.out / "curves.png")


def draw(rival: Curve, ours: Curve, path: Path) -> None:
    """Both curves in one picture."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for curve, label, colour in ((ours, "trialese", "#0b6e99"), (rival, "published", "#b5651d")):
        axes.plot([p[0] for p in curve], [p[2] for p in curve], "o-", color=colour, label=label)
    axes.set_xlabel("seconds of training (measuring not counted)")
    axes.set_ylabel("top-1 accuracy on hidden tokens, new trials")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
