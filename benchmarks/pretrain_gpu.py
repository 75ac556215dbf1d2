"""The table of a GPU: ours against stock `Trainer` + peft, LoRA and all weights.

"rank 1" is the prior art's adapter (query and value), "rank 16" ours (all linear layers).
Shapes of BERT-base and ModernBERT-base at 128 and 512 tokens; stock is bf16 with SDPA, as it is and
with `torch.compile`. Each line: tokens/s (median of three rounds), useful work as a share of this
GPU's own best matrix rate, peak memory. Once: a run stopped half-way and resumed ends in the same
bytes. At the end the best of ours against the best of stock, and the hours that two whole corpora
would take. What the minutes do not suffice for is left out by name, the dearest to compile first.

    python benchmarks/pretrain_gpu.py --minutes 9 --json gpu.json
    python benchmarks/pretrain_gpu.py --dry-run     # tiny shapes on the CPU: does it all run?
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pretrain_speed as speed
import torch
from transformers.utils import logging as transformers_logging

from trialese.pretrain.train import train
from trialese.settings import PhaseSettings

TOKENS_A_STEP = 32_768
LINES = (  # shape, block tokens, what is trained; what matters most first
    ("bert-base", 512, "rank 1"),
    ("bert-base", 512, "rank 16"),
    ("bert-base", 512, "full"),
    ("modernbert-base", 512, "rank 16"),
    ("modernbert-base", 512, "full"),
    ("bert-base", 128, "rank 16"),
    ("modernbert-base", 128, "rank 16"),
    ("bert-base", 128, "full"),
    ("modernbert-base", 128, "full"),
)
PASSES = (("ours", "B stock bf16"), ("C stock bf16 compiled", "ours compiled"))
"""Every line of one pass before the next: compiling takes the most time."""
GOALS = {line: (0.45, 3.0) for line in LINES if line[:2] == ("bert-base", 512)}
"""Share of the matrix rate, and times stock."""
CORPORA = {
    "4.2 billion tokens (50 epochs of the prior art)": 4.2e9,
    "2.1 billion (registry)": 2.1e9,
}
Line = tuple[str, int, str]


def arguments_of(line: Line, device: str, tokens_a_step: int) -> argparse.Namespace:
    """What `pretrain_speed` is told of a line."""
    shape, block_tokens, trained = line
    return argparse.Namespace(
        shape=shape, block_tokens=block_tokens, batch_blocks=max(2, tokens_a_step // block_tokens),
        method="full" if trained == "full" else "lora", rank=1 if trained == "rank 1" else 16,
        ratio=0.3, device=device, clock="wall",
    )  # fmt: skip


def measure(
    line: Line, variant: str, arguments: argparse.Namespace, rates: dict[str, float], rounds: int
) -> dict[str, Any]:
    """One row: the variant on the line, alone on the device."""
    cuda = arguments.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    runner = speed.build(variant, arguments)
    runner(2)  # compiled, warm
    steps = (10 if variant.startswith("ours") else 5) if cuda else 1
    seconds = statistics.median(runner(steps) / steps for _ in range(rounds))
    flops = speed.useful_flops(arguments) / seconds / 1e9
    return {
        "shape": line[0], "block_tokens": line[1], "method": line[2], "variant": variant,
        "tokens_per_second": arguments.batch_blocks * arguments.block_tokens / seconds,
        "share_of_matrix_rate": flops / rates["bfloat16" if cuda else "float32"],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }  # fmt: skip


def forget(device: str) -> None:
    """Free what the last model held."""
    gc.collect()
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()


def resumed_exactly(line: Line, device: str, tokens_a_step: int) -> tuple[bool, float]:
    """Whether a run that is killed ends as one that is not, and the largest difference."""

    class KilledError(Exception):
        """Stands for a killed process."""

    def kill(_: str, done: int, __: int | None) -> None:
        if done == 4:
            raise KilledError

    ends = []
    for killed in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            for progress in (kill, None) if killed else (None,):
                arguments = arguments_of(line, device, tokens_a_step)
                phase = PhaseSettings(steps=6, batch_blocks=arguments.batch_blocks, lr=1e-3)
                model, made = speed.our_phase(arguments, phase=phase, backbone_dropout=0.1)
                file = Path(folder) / "run.safetensors"
                made = dataclasses.replace(made, checkpoint=file, checkpoint_every_steps=3)
                try:
                    train(model, made, **({} if progress is None else {"progress": progress}))
                except KilledError:
                    continue
                named = model.named_parameters()
                ends.append({n: v.detach().cpu() for n, v in named if v.requires_grad})
    one, other = ends
    difference = max(float((one[name] - other[name]).abs().max()) for name in one)
    return all(torch.equal(one[name], other[name]) for name in one), difference


def tell(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
    print(
        f"| {row['shape']} | {row['block_tokens']} | {row['method']} | {row['variant']} "
        f"| {row['tokens_per_second']:,.0f} | {row['share_of_matrix_rate']:.0%} | {peak} |",
        flush=True,
    )


def conclude(rows: list[dict[str, Any]]) -> list[str]:
    """For each line the best of ours against the best of stock, and whether the goal is reached."""
    told = []
    for line in dict.fromkeys((r["shape"], r["block_tokens"], r["method"]) for r in rows):
        mine = [r for r in rows if (r["shape"], r["block_tokens"], r["method"]) == line]
        sides = [
            [r for r in mine if r["variant"].startswith("ours") is own] for own in (True, False)
        ]
        if not all(sides):
            continue
        best, stock = (max(side, key=lambda r: r["tokens_per_second"]) for side in sides)
        ratio = best["tokens_per_second"] / stock["tokens_per_second"]
        share = best["share_of_matrix_rate"]
        goal = ""
        if line in GOALS:
            reached = share >= GOALS[line][0] and ratio >= GOALS[line][1]
            goal = f"; goal {GOALS[line][0]:.0%} and {GOALS[line][1]:g} times: "
            goal += "reached" if reached else "missed"
        hours = ", ".join(
            f"{name}: {tokens / best['tokens_per_second'] / 3600:.2f} h"
            for name, tokens in CORPORA.items()
        )
        told.append(
            f"{line[0]} {line[1]} {line[2]}: {best['variant']} {ratio:.2f} times "
            f"{stock['variant']}, {share:.0%} of the matrix rate{goal}\n  {hours}"
        )
    return told


def main() -> None:
    """Measure as many rows as the minutes allow; a row that fails is told, and the rest go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no row after these")
    parser.add_argument("--lines", type=int, default=len(LINES), help="so many of them only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    start = time.perf_counter()
    device, tokens_a_step, rounds, lines = "cuda", TOKENS_A_STEP, 3, LINES[: arguments.lines]
    if arguments.dry_run:
        device, tokens_a_step, rounds, speed.COMPILER[0] = "cpu", 64, 1, "eager"
        tiny = {"bert-base": "toy", "modernbert-base": "toy-modernbert"}
        lines = tuple((tiny[shape], tokens // 16, method) for shape, tokens, method in lines)
    elif not torch.cuda.is_available():
        parser.error("no GPU here; --dry-run tries everything on the CPU")
    rates = speed.matrix_rate(arguments_of(lines[0], device, tokens_a_step))
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    told_rates = ", ".join(f"{kind} {rate / 1e3:,.2f} TFLOP/s" for kind, rate in rates.items())
    print(f"{name}, torch {torch.__version__}; best matrix rate {told_rates}")
    exact, difference = resumed_exactly(lines[0], device, tokens_a_step // 8)
    print(f"stopped after 4 of 6 steps and resumed from 3: "
          f"{'the same bytes' if exact else f'differs by at most {difference:.2e}'}")  # fmt: skip
    print("\n| shape | block | trained | variant | tokens/s | of the matrix rate | peak GiB |")
    print("|---|--:|---|---|--:|--:|--:|", flush=True)
    rows: list[dict[str, Any]] = []
    left_out, failed = [], []
    for variant, line in ((v, each) for names in PASSES for each in lines for v in names):
        if variant == "ours compiled" and arguments.dry_run:
            continue  # compiled by inductor alone, which needs a C++ compiler
        what = " ".join(map(str, (*line, variant)))
        if time.perf_counter() - start > arguments.minutes * 60:
            left_out.append(what)
            continue
        try:
            told = arguments_of(line, device, tokens_a_step)
            rows.append(measure(line, variant, told, rates, rounds))
            tell(rows[-1])
        except Exception as error:  # one that does not fit the memory must not cost the rest
            failed.append(f"{what}: {str(error).strip().splitlines()[0]:.120}")
        forget(device)
    print()
    for sentence in conclude(rows):
        print(sentence)
    for title, names in (("failed", failed), ("left out for want of time", left_out)):
        for each in names:
            print(f"{title}: {each}")
    print(f"{time.perf_counter() - start:.0f} s")
    if arguments.json:
        about = {
            "device": name, "matrix_rates": rates, "rows": rows, "resumed_exactly": exact,
            "failed": failed, "left_out": left_out,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(about, indent=2) + "\n")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
