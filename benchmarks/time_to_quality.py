"""Seconds of training until ours reaches the accuracy at which the published recipe ends.

The rival is the prior art's way on the same backbone, data and machine, in the same run: stock
`Trainer` + peft, r=1 on query and value, dropout 0.1, batches of 16, masking 15 %, learning rate
3e-6 falling to 0 over five epochs, for a fixed number of steps. Ours: the defaults of
`PretrainSettings`. Both start from the same model and are measured on the same stored masks of
new held-out trials; measuring is not counted as training time.

    python benchmarks/time_to_quality.py --blocks runs/registry/blocks --base runs/registry/base
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers.utils import logging as transformers_logging

from trialese.corpus import open_blocks
from trialese.pretrain.backbone import load_masked_lm, read_tokenizer
from trialese.pretrain.batches import Phase, make_ready
from trialese.pretrain.device import choose_compute
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import HeldoutSet, fix_masks, measure, score_row
from trialese.pretrain.lora import attach_lora
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.schedule import Plan
from trialese.pretrain.step import Step
from trialese.records import TokenBlocks
from trialese.settings import HeldoutSettings, LoraSettings, PretrainSettings

CPU = torch.device("cpu")
Curve = list[tuple[float, int, float]]  # (seconds of training, steps, top-1)


def top1(model: Any, heldout: HeldoutSet) -> float:
    """Held-out top-1 accuracy of the model as it is now."""
    encoder = MaskedEncoder(model)
    score = measure(encoder, heldout, batch_blocks=32, device=CPU)
    return float(score_row(score, heldout)["top1"])


def train_ours(
    base: Path, blocks: TokenBlocks, heldout: HeldoutSet, vocabulary: Vocabulary, steps: int
) -> Curve:
    """Our defaults, measured every few steps at first and more seldom later."""
    settings = PretrainSettings(device="cpu")
    model, _ = load_masked_lm(base / "model")
    model.requires_grad_(False)
    wrapped = attach_lora(model, settings.lora, train_head=True, seed=settings.seed)
    plan = Plan(settings.adapt_phase, len(blocks.ids), 0, 0.0, settings.seed)
    phase = Phase(
        name="adapt", plan=plan, blocks=blocks, old_blocks=None, vocabulary=vocabulary,
        masking=settings.masking, heldouts=[], heldout_every_steps=10**9, heldout_batch_blocks=32,
        checkpoint_every_steps=10**9, checkpoint=None, compute=choose_compute(settings),
    )  # fmt: skip
    named = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    step, curve, spent = Step(wrapped, phase, named), [(0.0, 0, top1(model, heldout))], 0.0
    for batch in plan.batches():
        start = time.perf_counter()
        step.take(make_ready(phase, batch))
        spent += time.perf_counter() - start
        if batch.step in {1, 2, 3, 5, 7, 10, 15} or batch.step % 25 == 0:
            curve.append((spent, batch.step, top1(wrapped, heldout)))
            print("ours", curve[-1], flush=True)
        if batch.step == steps:
            break
    return curve


def train_rival(
    base: Path, blocks: TokenBlocks, heldout: HeldoutSet, tokenizer: Any, steps: int
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
            clock["since"] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock["spent"] += time.perf_counter() - clock["since"]
            if state.global_step % max(1, steps // 6) == 0 or state.global_step == steps:
                curve.append((clock["spent"], state.global_step, top1(wrapped, heldout)))
                print("rival", curve[-1], flush=True)
                wrapped.train()
            control.should_training_stop = state.global_step >= steps
            clock["since"] = time.perf_counter()

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
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-quality"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    tokenizer = read_tokenizer(arguments.base / "model")
    vocabulary = Vocabulary.of(tokenizer)
    blocks = open_blocks(arguments.blocks, era="new", split="train")
    tune = open_blocks(arguments.blocks, era="new", split="tune")
    assert blocks is not None and tune is not None
    options = HeldoutSettings(max_blocks=arguments.heldout_blocks)
    heldout = fix_masks(tune, "new", "tune", vocabulary, options)
    rival = train_rival(arguments.base, blocks, heldout, tokenizer, arguments.rival_steps)
    ours = train_ours(arguments.base, blocks, heldout, vocabulary, arguments.our_steps)
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
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("top-1 accuracy on hidden tokens, new trials")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
