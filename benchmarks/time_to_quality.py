"""Seconds of training until ours reaches the quality at which a stock recipe ends.

The headline rival is *tuned*: stock `Trainer` + peft with our own adapter, learning rate, schedule,
masking rate and batch, the new head trained along (`modules_to_save`), no dropout, and bf16 where
the processor has it; it differs from ours in code alone. Beside it, told as what it is, the
published recipe: r=1 on query and value, dropout 0.1, masking 15 %, learning rate 3e-6 falling to
0 over five epochs, fp32, its head frozen; its time to a quality that it hardly moves from measures
its learning rate and not our speed, so no ratio is headlined from it.

All start from the same model, see the same blocks, and are measured on the same stored masks of
new held-out trials, on positions that read [MASK]; measuring is not counted as training time. Ours
is "as good" at the first point from which on it stays at least as good, by top-1 accuracy and by
loss; "surely better" is where the paired 95 % interval over documents stays on our side. Where a
rival's own gain cannot be told from nothing, no ratio is printed. Seconds are those of the wall, or
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers.utils import logging as transformers_logging

from trialese.corpus.blocks import open_blocks
from trialese.pretrain.backbone import load_masked_lm, read_tokenizer
from trialese.pretrain.compute import choose_compute, cpu_has_bf16, keep_freed_memory
from trialese.pretrain.data import Phase, PhasePlan, make_ready
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import (
    HeldoutScore,
    HeldoutSet,
    changed_loss,
    fix_masks,
    gained_top1,
    measure,
    score_row,
    told,
)
from trialese.pretrain.lora import attach_lora, target_pattern
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.train import Step
from trialese.records import TokenBlocks
from trialese.settings import HeldoutSettings, LoraSettings, PretrainSettings

CPU = torch.device("cpu")
MEASURED_AT = {1, 2, 3, 5, 7, 10, 12, 15, 20, 30, 40}
TUNED, PUBLISHED = "tuned stock recipe", "published recipe"
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: seconds and steps of training so far, and what the model then knows."""

    seconds: float
    steps: int
    score: HeldoutScore
    top1: float
    loss: float

    def __str__(self) -> str:
        return (
            f"{self.steps} steps, {self.seconds:.1f} s: top-1 {self.top1:.4f}, loss {self.loss:.4f}"
        )


Curve = list[Point]


def measured(seconds: float, steps: int, model: Any, heldout: HeldoutSet) -> Point:
    """How the model does on the held-out masks after so much training."""
    score = measure(MaskedEncoder(model), heldout, batch_blocks=32, device=CPU)
    row = score_row(score, heldout)
    return Point(seconds, steps, score, told(row, "top1"), told(row, "loss"))


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
    plan = PhasePlan(
        settings.adapt_phase, len(new.ids), len(old.ids) if old else 0,
        settings.replay_share if old else 0.0, settings.seed,
    )  # fmt: skip
    phase = Phase(
        name="adapt", plan=plan, blocks=new, old_blocks=old, vocabulary=vocabulary,
        masking=settings.masking, compute=choose_compute(settings),
    )  # fmt: skip
    named = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    step, curve, spent = Step(wrapped, phase, named), [measured(0.0, 0, model, heldout)], 0.0
    for batch in plan.batches():
        start = now()
        step.take(make_ready(phase, batch))
        spent += now() - start
        if batch.step in MEASURED_AT or batch.step % 25 == 0:
            curve.append(measured(spent, batch.step, wrapped, heldout))
            print("ours", curve[-1], flush=True)
        if batch.step == steps:
            break
    return curve


def train_rival(
    base: Path,
    blocks: TokenBlocks,
    heldout: HeldoutSet,
    tokenizer: Any,
    steps: int,
    now: Clock,
    *,
    tuned: bool,
) -> Curve:
    """Stock `Trainer` + peft for so many steps: with our settings, or the published recipe."""
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    model, _ = load_masked_lm(base / "model")
    ours = PretrainSettings()
    if tuned:
        lora, rate, masking = ours.lora, ours.adapt_phase.lr, ours.masking.ratio
        targets: Any = target_pattern(model, lora.targets)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    else:
        lora = LoraSettings(rank=1, alpha=1, dropout=0.1, targets=("query", "value"))
        rate, masking, targets = 3e-6, 0.15, list(lora.targets)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets,
        modules_to_save=["transform"] if tuned else None,
    )  # fmt: skip
    wrapped = get_peft_model(model.train(), config)
    curve = [measured(0.0, 0, wrapped, heldout)]
    clock = {"spent": 0.0, "since": 0.0}

    class Measure(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock["since"] = now()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock["spent"] += now() - clock["since"]
            if state.global_step % max(1, steps // 6) == 0 or state.global_step == steps:
                curve.append(measured(clock["spent"], state.global_step, wrapped, heldout))
                print("tuned" if tuned else "published", curve[-1], flush=True)
                wrapped.train()
            control.should_training_stop = state.global_step >= steps
            clock["since"] = now()

    with tempfile.TemporaryDirectory() as folder:
        phase = ours.adapt_phase
        options = TrainingArguments(
            folder, num_train_epochs=phase.epochs if tuned else 5,
            per_device_train_batch_size=phase.batch_blocks if tuned else 16, learning_rate=rate,
            warmup_steps=phase.warmup_share if tuned else 0,
            weight_decay=phase.weight_decay if tuned else 0.0,
            bf16=tuned and cpu_has_bf16(), use_cpu=True, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, seed=ours.seed,
        )  # fmt: skip
        rows = [{"input_ids": row.tolist()} for row in blocks.ids]
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=masking)
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
    parser.add_argument("--published", action="store_true", help="the published recipe as well")
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
    rivals = {
        name: train_rival(
            arguments.base, blocks, heldout, tokenizer, arguments.rival_steps, now,
            tuned=name == TUNED,
        )
        for name in ((TUNED, PUBLISHED) if arguments.published else (TUNED,))
    }  # fmt: skip
    print(f"bf16: {'ours and the tuned rival' if cpu_has_bf16() else 'none, this processor'}")
    for name, rival in rivals.items():
        report(name, ours, rival, heldout)
    print(f"ours at the end: {ours[-1]}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    curves = {**rivals, "trialese": ours}
    figures = {
        name: [[point.seconds, point.steps, point.top1, point.loss] for point in curve]
        for name, curve in curves.items()
    }
    (arguments.out / "curves.json").write_text(json.dumps(figures))
    draw(curves, arguments.out / "curves.png")
    print(arguments.out / "curves.png")


def report(name: str, ours: Curve, rival: Curve, heldout: HeldoutSet) -> None:
    """Print what the rival gained, and when ours was as good for good, and surely better."""
    start, end = rival[0], rival[-1]
    hidden = int(end.score.told.tokens.sum())
    print(f"{hidden:,} [MASK] tokens of {len(set(heldout.owner.tolist())):,} documents")
    print(f"{name}: {start}\n{'':{len(name)}}  -> {end}")
    for figure, compare, sign in (("top-1", gained_top1, 1), ("loss", changed_loss, -1)):
        gain = compare(start.score, end.score, heldout.owner)
        print(f"{figure}: {name} changed it by {gain.point:+.4f} "
              f"[{gain.low:+.4f}, {gain.high:+.4f}]")  # fmt: skip
        moved = min(sign * gain.low, sign * gain.high) > 0
        if not moved:
            print(f"{figure}: no ratio, for the rival's own gain cannot be told from nothing")
        ahead = [compare(end.score, point.score, heldout.owner) for point in ours]
        good = [sign * change.point >= 0 for change in ahead]
        sure = [min(sign * change.low, sign * change.high) > 0 for change in ahead]
        for word, held in (("as good", good), ("surely better", sure)):
            place = next((k for k in range(1, len(ours)) if all(held[k:])), None)
            if place is None:
                print(f"{figure}: ours did not stay {word}")
                continue
            ratio = f"; ratio of times {end.seconds / ours[place].seconds:.1f}" if moved else ""
            print(f"{figure}: ours is {word} after {ours[place]}{ratio}")


COLOURS = {"trialese": "#0b6e99", TUNED: "#b5651d", PUBLISHED: "#777777"}


def draw(curves: dict[str, Curve], path: Path) -> None:
    """All curves in one picture, by accuracy and by loss; the axis of time is logarithmic."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, curve in curves.items():
        seconds, colour = [p.seconds for p in curve[1:]], COLOURS[label]
        left.plot(seconds, [p.top1 for p in curve[1:]], "o-", color=colour, label=label, ms=4)
        right.plot(seconds, [p.loss for p in curve[1:]], "o-", color=colour, label=label, ms=4)
    first = curves["trialese"][0]
    for axes, what, start in (
        (left, "top-1 accuracy", first.top1), (right, "loss, nats a token", first.loss)
    ):  # fmt: skip
        axes.axhline(start, color="#777777", linewidth=1, linestyle=":", label="before training")
        axes.set_xscale("log")
        axes.set_xlabel("seconds of training (measuring not counted)")
        axes.set_title(f"{what}, [MASK] tokens of new trials", fontsize=10)
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
