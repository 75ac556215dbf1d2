"""Which settings of pretraining learn most from the same tokens: a table over real records.

Every variant goes on from the same base for the same number of steps of 16 x 128 tokens, and is
scored on the *tune* blocks of new and of old trials, 15 % of the tokens hidden by the same masks
whatever the training ratio. Test blocks are not opened. Differences from the default are paired
over the same hidden tokens, intervals over documents; how far training seeds scatter is seen in
the rows "seed 8" and "seed 9". A finished variant is kept in --out and not run again.

    python benchmarks/pretrain_sweep.py --blocks runs/registry/blocks --base runs/registry/base
    python benchmarks/pretrain_sweep.py ... --only "default;lr 3e-4"     # some of them
    python benchmarks/pretrain_sweep.py ... --only ""                    # the table alone
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from trialese.corpus.blocks import open_blocks
from trialese.pretrain.backbone import load_masked_lm, read_tokenizer
from trialese.pretrain.compute import choose_compute
from trialese.pretrain.data import Phase, PhasePlan
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import (
    HeldoutScore,
    HeldoutSet,
    changed_loss,
    fix_masks,
    gained_top1,
    measure,
    score_row,
)
from trialese.pretrain.lora import attach_lora
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.train import train
from trialese.recipe import parse_recipe
from trialese.settings import HeldoutSettings, PretrainSettings

LR = "adapt_phase.lr"
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},  # not trained at all
    "default": {},
    "seed 8": {"seed": 8},
    "seed 9": {"seed": 9},
    "rank 1": {"lora.rank": 1, "lora.alpha": 2},
    "rank 8": {"lora.rank": 8, "lora.alpha": 16},
    "rank 64": {"lora.rank": 64, "lora.alpha": 128},
    "rank 64, rsLoRA": {"lora.rank": 64, "lora.rslora": True},  # scale 32 / sqrt(64), not 2
    "DoRA": {"lora.dora": True},
    "query and value": {"lora.targets": ["query", "value"]},
    "lr 1e-4": {LR: 1e-4},
    "lr 3e-4": {LR: 3e-4},
    "lr 2e-3": {LR: 2e-3},
    "masking 15 %": {"masking.ratio": 0.15},
    "masking 40 %": {"masking.ratio": 0.40},
    "whole words": {"masking.whole_word": True},
    "wsd": {"adapt_phase.schedule": "wsd"},
    "constant": {"adapt_phase.schedule": "constant"},
    "no replay": {"replay_share": 0.0},
    "replay 20 %": {"replay_share": 0.20},
    "dropout 0.1": {"backbone_dropout": 0.1},
    "all weights, lr 1e-4": {"method": "full", LR: 1e-4},
    "all weights, lr 3e-4": {"method": "full", LR: 3e-4},
    "all weights, lr 1e-3": {"method": "full", LR: 1e-3},
    "published": {
        "lora.rank": 1, "lora.alpha": 1, "lora.targets": ["query", "value"], "lora.dropout": 0.1,
        "backbone_dropout": 0.1, "masking.ratio": 0.15, "replay_share": 0.0, LR: 3e-6,
        "adapt_phase.warmup_share": 0.0, "adapt_phase.weight_decay": 0.0,
    },
}  # fmt: skip


def settings_of(changes: dict[str, Any], steps: int) -> PretrainSettings:
    """The defaults with the variant's changes and the sweep's length."""
    changes = {"adapt_phase.steps": steps, **changes}
    overrides = [f"pretrain.{key}={_as_toml(value)}" for key, value in changes.items()]
    return parse_recipe("", overrides=overrides).pretrain


def _as_toml(value: Any) -> str:
    return msgspec.json.encode(value).decode()  # the same for numbers, booleans and lists of text


def run(
    settings: PretrainSettings,
    arguments: argparse.Namespace,
    heldouts: list[HeldoutSet],
    *,
    trains: bool,
) -> tuple[list[HeldoutScore], dict[str, float]]:
    """Scores on the held-out sets after training, and what training took."""
    model, _ = load_masked_lm(arguments.base / "model")
    compute = choose_compute(settings)
    told = {"tokens_per_second": 0.0, "trained_weights": 0.0}
    trained: Any = model
    if trains:
        blocks = open_blocks(arguments.blocks, era="new", split="train")
        old = open_blocks(arguments.blocks, era="old", split="train")
        assert blocks is not None and old is not None
        if settings.method == "full":
            model.requires_grad_(True)
        else:
            model.requires_grad_(False)
            head = settings.train_head and arguments.train_head
            trained = attach_lora(model, settings.lora, train_head=head, seed=settings.seed)
        phase = Phase(
            name="adapt",
            plan=PhasePlan(
                phase=settings.adapt_phase,
                blocks=len(blocks.ids),
                old_blocks=len(old.ids),
                replay_share=settings.replay_share,
                seed=settings.seed,
            ),
            blocks=blocks,
            old_blocks=old,
            vocabulary=Vocabulary.of(read_tokenizer(arguments.base / "model")),
            masking=settings.masking,
            compute=compute,
            dropout=settings.backbone_dropout,
        )
        start = time.process_time()
        rows = train(trained, phase)
        told["tokens_per_second"] = rows[-1]["tokens"] / (
            (time.process_time() - start) / torch.get_num_threads()
        )
        told["trained_weights"] = sum(v.numel() for v in trained.parameters() if v.requires_grad)
    encoder = MaskedEncoder(trained, dtype=compute.dtype)
    scores = [measure(encoder, one, batch_blocks=32, device=compute.device) for one in heldouts]
    return scores, told


def write(
    file: Path, scores: list[HeldoutScore], heldouts: list[HeldoutSet], told: dict[str, float]
) -> None:
    """Keep a variant's scores, block by block."""
    arrays: dict[str, Any] = {}
    for score, heldout in zip(scores, heldouts, strict=True):
        for field in ("loss", "top1", "top5", "tokens"):
            arrays[f"{heldout.era}-{field}"] = getattr(score, field)
    np.savez(file, **arrays, **told)


def read(file: Path, era: str) -> HeldoutScore:
    """A variant's scores on one era."""
    with np.load(file) as stored:
        return HeldoutScore(*(stored[f"{era}-{f}"] for f in ("loss", "top1", "top5", "tokens")))


def table(out: Path, heldouts: list[HeldoutSet]) -> str:
    """The variants that are finished, against the default."""
    if not file_of(out, "default").is_file():
        return "run the variant default first: the others are compared with it"
    lines = [
        "| variant | new top-1 | against the default | new loss | against the default | old top-1 "
        "| old loss | weights | tokens a processor second |",
        "|---|--:|---|--:|---|--:|--:|--:|--:|",
    ]
    for name in VARIANTS:
        file = file_of(out, name)
        if not file.is_file():
            continue
        cells = [name]
        for heldout in heldouts:
            score = read(file, heldout.era)
            row = score_row(score, heldout)
            default = read(file_of(out, "default"), heldout.era)
            gain = gained_top1(default, score, heldout.owner)
            change = changed_loss(default, score, heldout.owner)
            differs = heldout.era == "new" and name != "default"
            cells.append(f"{row['top1']:.3f}")
            if heldout.era == "new":
                cells.append(f"{gain.point:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" * differs)
            cells.append(f"{row['loss']:.3f}")
            if heldout.era == "new":
                cells.append(
                    f"{change.point:+.3f} [{change.low:+.3f}, {change.high:+.3f}]" * differs
                )
        with np.load(file) as stored:
            weights, speed = float(stored["trained_weights"]), float(stored["tokens_per_second"])
        cells += [f"{weights / 1e6:.2f} M", f"{speed:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def file_of(out: Path, name: str) -> Path:
    """Where a variant's scores are kept."""
    return out / f"{name.replace('%', 'percent').replace(',', '').replace(' ', '-')}.npz"


def main() -> None:
    """Run what is not finished, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="a folder of kind model")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", help="names of variants, separated by semicolons")
    parser.add_argument("--heldout-blocks", type=int, default=512)
    parser.add_argument("--frozen-head", dest="train_head", action="store_false",
                        help="for a base whose head came with the checkpoint")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain-sweep"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.WARNING)
    vocabulary = Vocabulary.of(read_tokenizer(arguments.base / "model"))
    heldouts = []
    for era in ("new", "old"):
        blocks = open_blocks(arguments.blocks, era=era, split="tune")
        assert blocks is not None, f"{arguments.blocks}: no {era} tune blocks"
        limits = HeldoutSettings(max_blocks=arguments.heldout_blocks)
        heldouts.append(fix_masks(blocks, era, "tune", vocabulary, limits))
    names = list(VARIANTS) if arguments.only is None else arguments.only.split(";")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in filter(None, map(str.strip, names)):
        file = file_of(arguments.out, name)
        if file.is_file():
            continue
        settings = settings_of(VARIANTS[name], arguments.steps)
        scores, told = run(settings, arguments, heldouts, trains=name != "base")
        write(file, scores, heldouts, told)
        print(name, [round(float(score.loss.sum() / score.tokens.sum()), 4) for score in scores],
              {key: round(value) for key, value in told.items()}, flush=True)  # fmt: skip
    hidden = ", ".join(f"{int(h.masked.masked_tokens):,} {h.era}" for h in heldouts)
    print(f"{arguments.steps} steps; {hidden} hidden tokens; {torch.get_num_threads()} threads\n")
    print(table(arguments.out, heldouts))


if __name__ == "__main__":
    main()
