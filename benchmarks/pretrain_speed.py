"""Tokens per second of a masked-LM LoRA training step: ours and two rivals, in one run.

A: the prior art's way, stock `Trainer` + peft + `DataCollatorForLanguageModeling`, fp32,
   dropout 0.1.   B: the same with `bf16=True`.   C: and `torch_compile`.
   Ours: `trialese.pretrain`'s own step.
Same random weights and shape, same blocks, same masking rate, same LoRA. Variants take turns in
one process (so one allocator serves all); a round is a few steps of each. Peak memory is that of
a process of its own for each variant. Useful work counts the products that a step cannot do
without (frozen weights get no gradient, the head sees hidden tokens only), as a share of this
machine's own best matrix rate, measured by the same clock. `--clock cpu` counts the process's own
processor seconds over its threads: on a machine that others use too, the fairer clock (with
`--threads 1`, since threads that wait for one another count as well). B is left out where the
processor has no bf16, for there torch emulates it.

    python benchmarks/pretrain_speed.py --memory                          # BERT-base, 128
    python benchmarks/pretrain_speed.py --clock cpu --threads 1           # on a busy machine
    python benchmarks/pretrain_speed.py --shape minilm --block-tokens 512
    python benchmarks/pretrain_speed.py --device cuda --batch-blocks 256
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM
from transformers.utils import logging as transformers_logging

from trialese.pipeline.training_cost import Shape, flops_per_token
from trialese.pretrain.compute import choose_compute, cpu_has_bf16, keep_freed_memory
from trialese.pretrain.data import Phase, PhasePlan, ready_batches
from trialese.pretrain.lora import attach_lora
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.train import Step
from trialese.records import TokenBlocks
from trialese.settings import LoraSettings, MaskingSettings, PhaseSettings, PretrainSettings

SHAPES = {
    "bert-base": Shape(768, 3072, 12, 28996),
    "minilm": Shape(384, 1536, 6, 30522),
    "roberta-base": Shape(768, 3072, 12, 50265),
    "mpnet-base": Shape(768, 3072, 12, 30527),
    "modernbert-base": Shape(768, 1152, 22, 50368, inner_products=3),  # GeGLU
    "distilbert-base": Shape(768, 3072, 6, 30522),
    "toy": Shape(64, 128, 2, 1000),
    "toy-modernbert": Shape(64, 96, 3, 1000, inner_products=3),
}
QUERY_VALUE = {"mpnet": ("q", "v"), "modernbert": ("Wqkv",), "distilbert": ("q_lin", "v_lin")}
MASK_ID, CLS_ID, SEP_ID = 103, 101, 102
VARIANTS = {
    "A stock fp32": {},
    "B stock bf16": {},
    "C stock bf16 compiled": {},
    "ours": {},
    "ours fp32": {"precision": "fp32"},
    "ours dropout 0.1": {"backbone_dropout": 0.1},
    "ours packed": {"packed_weights": True},
    "ours unpacked": {"packed_weights": False},
    "ours compiled": {"compile": True},
}


COMPILER = ["inductor"]
"""Of the stock step; a dry run takes one that needs no C++ compiler."""
Run = Callable[[int], float]  # so many steps -> seconds by the chosen clock


def now(arguments: argparse.Namespace) -> float:
    """Seconds of the chosen clock, when the device has done everything asked of it."""
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    if arguments.clock == "cpu":
        return time.process_time() / torch.get_num_threads()
    return time.perf_counter()


def family_of_shape(name: str) -> str:
    """transformers' name of the family that the shape is of."""
    family = name.removesuffix("-base").removeprefix("toy-")
    return family if family in CONFIG_MAPPING else "bert"


def make_model(name: str) -> Any:
    """Random weights of the shape, the same every time."""
    shape, family = SHAPES[name], family_of_shape(name)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": max(2, shape.hidden_size // 64),
        "max_position_embeddings": 514 if family in {"roberta", "mpnet"} else 512,
    }
    if family == "modernbert":
        sizes["max_position_embeddings"] = 8192
    if family == "distilbert":
        sizes = {"dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12}
    special = {"pad_token_id": 0, "bos_token_id": CLS_ID, "eos_token_id": SEP_ID}
    if family == "modernbert":
        special |= {"cls_token_id": CLS_ID, "sep_token_id": SEP_ID}
    config = CONFIG_MAPPING[family](vocab_size=shape.vocab_size, **sizes, **special)
    return AutoModelForMaskedLM.from_config(config)


def make_blocks(shape: Shape, count: int, block_tokens: int) -> TokenBlocks:
    """Random ids in which every block begins with [CLS] and ends with [SEP]."""
    generator = np.random.default_rng(0)
    low = min(1000, shape.vocab_size // 2)
    ids = generator.integers(low, shape.vocab_size, (count, block_tokens)).astype(np.uint16)
    ids[:, 0], ids[:, -1] = CLS_ID, SEP_ID
    special = np.zeros(ids.shape, dtype=bool)
    special[:, [0, -1]] = True
    return TokenBlocks(ids, special, np.zeros(count, np.int64), ("NCT0",), 0, "")


def our_phase(
    arguments: argparse.Namespace, *, phase: PhaseSettings | None = None, **changes: Any
) -> tuple[Any, Phase]:
    """A model of the shape, with LoRA or all of it to be trained, and the phase that trains it."""
    shape = SHAPES[arguments.shape]
    blocks = make_blocks(shape, arguments.batch_blocks * 8, arguments.block_tokens)
    settings = PretrainSettings(device=arguments.device, **changes)
    model = make_model(arguments.shape).eval()
    if arguments.method == "lora":
        model.requires_grad_(False)
        model = attach_lora(model, lora_settings(arguments), train_head=False, seed=0)
    compute = choose_compute(settings)
    model.to(compute.device)
    phase = phase or PhaseSettings(epochs=1000, batch_blocks=arguments.batch_blocks, lr=1e-4)
    ordinary = np.arange(min(1000, shape.vocab_size // 2), shape.vocab_size)
    vocabulary = Vocabulary(MASK_ID, 0, ordinary, np.zeros(shape.vocab_size, bool))
    made = Phase(
        name="adapt", plan=PhasePlan(phase, len(blocks.ids), 0, 0.0, seed=0), blocks=blocks,
        old_blocks=None, vocabulary=vocabulary, masking=MaskingSettings(ratio=arguments.ratio),
        compute=compute,
        dropout=settings.backbone_dropout, compile=settings.compile,
    )  # fmt: skip
    return model, made


def ours(arguments: argparse.Namespace, **changes: Any) -> Run:
    """A function that takes so many steps of ours and returns their seconds."""
    model, made = our_phase(arguments, **changes)
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    step = Step(model, made, named)
    batches = ready_batches(made)  # masked one ahead in a thread, as the loop does it

    def run(count: int) -> float:
        start = now(arguments)
        for _ in range(count):
            step.take(next(batches))
        return now(arguments) - start

    return run


def stock(arguments: argparse.Namespace, *, bf16: bool, compiled: bool = False) -> Run:
    """The same for `Trainer`: seconds from the end of its first step to the end of its last."""
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForLanguageModeling,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    shape = SHAPES[arguments.shape]
    blocks = make_blocks(shape, arguments.batch_blocks * 8, arguments.block_tokens)
    lora = lora_settings(arguments)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0 if arguments.rank > 1 else 0.1,
        target_modules=list(lora.targets) if arguments.rank == 1 else "all-linear",
    )  # fmt: skip
    model = make_model(arguments.shape)
    if arguments.method == "lora":
        model = get_peft_model(model, config)
    rows = [{"input_ids": row.tolist()} for row in blocks.ids]
    collator = DataCollatorForLanguageModeling(
        toy_tokenizer(shape.vocab_size), mlm_probability=arguments.ratio
    )
    device = torch.device(arguments.device)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now(arguments))

    with tempfile.TemporaryDirectory() as folder:  # the Trainer wants one and writes nothing
        options = TrainingArguments(
            folder, max_steps=1, per_device_train_batch_size=arguments.batch_blocks,
            use_cpu=device.type == "cpu", report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, learning_rate=1e-4,
            bf16=bf16 and (device.type != "cpu" or cpu_has_bf16()), torch_compile=compiled,
            torch_compile_backend=COMPILER[0] if compiled else None,
        )  # fmt: skip
        trainer = Trainer(
            model, options, data_collator=collator, train_dataset=rows, callbacks=[Clock()]
        )
    trainer.remove_callback(PrinterCallback)

    def run(count: int) -> float:
        ends.clear()
        options.max_steps = count + 1
        trainer.train()  # the same one each time: a second Trainer would compile anew
        return ends[-1] - ends[0]

    return run


def toy_tokenizer(size: int) -> Any:
    """A tokenizer that knows the special ids; nothing is tokenised here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    names = {0: "[PAD]", 100: "[UNK]", CLS_ID: "[CLS]", SEP_ID: "[SEP]", MASK_ID: "[MASK]"}
    vocabulary = {names.get(i, f"t{i}"): i for i in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def lora_settings(arguments: argparse.Namespace) -> LoraSettings:
    """The prior art's adapter for rank 1, else ours: all linear layers."""
    if arguments.rank == 1:
        targets = QUERY_VALUE.get(family_of_shape(arguments.shape), ("query", "value"))
        return LoraSettings(rank=1, alpha=1, targets=targets)
    return LoraSettings(rank=arguments.rank, alpha=2 * arguments.rank)


def build(name: str, arguments: argparse.Namespace) -> Run:
    """The runner of a variant."""
    if name[0] in "ABC":
        return stock(arguments, bf16=name[0] != "A", compiled=name[0] == "C")
    return ours(arguments, **VARIANTS[name])


def matrix_rate(arguments: argparse.Namespace) -> dict[str, float]:
    """GFLOP/s of this machine's best large product in fp32 and bf16, packed or not."""
    device = torch.device(arguments.device)
    best: dict[str, float] = {}
    pointwise = torch.ops.mkldnn._linear_pointwise
    for dtype in (torch.float32, torch.bfloat16):
        slow = device.type == "cpu" and dtype != torch.float32 and not cpu_has_bf16()
        size = 8192 if device.type == "cuda" else 256 if slow else 1536
        a = torch.randn(size, size, device=device, dtype=dtype)
        products: list[Callable[[], Any]] = [lambda a=a: a @ a]
        can_pack = dtype == torch.float32 or torch.cpu._is_avx512_supported()
        if device.type == "cpu" and torch.backends.mkldnn.is_available() and can_pack:
            packed = torch.ops.mkldnn._reorder_linear_weight(a, size)
            products.append(lambda a=a, p=packed: pointwise(a, p, None, "none", [], ""))
        for product in products:
            for _ in range(4):
                start = now(arguments)
                product()
                rate = 2 * size**3 / (now(arguments) - start) / 1e9
                name = str(dtype).removeprefix("torch.")
                best[name] = max(best.get(name, 0.0), rate)
    return best


def useful_flops(arguments: argparse.Namespace) -> float:
    """Operations that a step cannot do without."""
    settings = PretrainSettings(
        method=arguments.method,
        masking=MaskingSettings(ratio=arguments.ratio),
        lora=lora_settings(arguments),
    )
    a_token = sum(flops_per_token(SHAPES[arguments.shape], settings, arguments.block_tokens))
    return a_token * arguments.batch_blocks * arguments.block_tokens


def number_format(name: str, arguments: argparse.Namespace) -> str:
    """In which format a variant multiplies: float32 or bfloat16."""
    if name[0] in "ABC":
        return "float32" if name[0] == "A" else "bfloat16"
    settings = PretrainSettings(device=arguments.device, **VARIANTS[name])
    return str(choose_compute(settings).dtype).removeprefix("torch.")


def peak_bytes(name: str, argv: list[str]) -> int:
    """Peak resident (CPU) or allocated (CUDA) bytes of a process that runs one variant."""
    command = [sys.executable, __file__, *argv, "--only-memory", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.strip().splitlines()[-1])


def peak_of_this_process() -> int:
    """Peak resident bytes since this program began.

    Linux: VmHWM, since ru_maxrss survives exec and so holds the parent's peak as well.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="bert-base")
    parser.add_argument("--block-tokens", type=int, default=128)
    parser.add_argument("--batch-blocks", type=int, default=16)
    parser.add_argument("--rank", type=int, default=1, help="1: prior art's; more: all linear")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--ratio", type=float, default=0.15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="steps of each variant a round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--variants", default="A stock fp32,B stock bf16,ours,ours fp32,"
                        "ours dropout 0.1")  # fmt: skip
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-memory", help=argparse.SUPPRESS)
    return parser.parse_args()


HEADING = """
| variant | tokens/s | ratio | spread | useful GFLOP/s | of the matrix rate | peak GiB |
|---|--:|--:|--:|--:|--:|--:|"""


def as_line(row: dict[str, Any]) -> str:
    """A row of the table."""
    peak = f"{row['peak_gib']:.2f}" if "peak_gib" in row else ""
    return (
        f"| {row['variant']} | {row['tokens_per_second']:,.0f} | {row['ratio']:.2f} "
        f"| {row['spread']:.0%} | {row['useful_gflops_per_second']:.0f} "
        f"| {row['share_of_matrix_rate']:.0%} | {peak} |"
    )


def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    device = torch.device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.only_memory:
        build(arguments.only_memory, arguments)(2)
        if device.type == "cuda":
            print(torch.cuda.max_memory_allocated())
        else:
            print(peak_of_this_process())
        return
    if device.type == "cpu":
        keep_freed_memory()  # for every variant alike: the allocator is no difference between them
    names = [name.strip() for name in arguments.variants.split(",")]
    if device.type == "cpu" and not cpu_has_bf16():
        print("left out: B stock bf16, ours fp32 (the same as ours): the processor has no bf16")
        names = [name for name in names if name not in {"B stock bf16", "ours fp32"}]
    rates = matrix_rate(arguments)
    runners = {name: build(name, arguments) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for runner in runners.values():
        runner(2)
    for _ in range(arguments.rounds):
        for name, runner in runners.items():
            seconds[name].append(runner(arguments.steps) / arguments.steps)
    tokens = arguments.batch_blocks * arguments.block_tokens
    work = useful_flops(arguments)
    shape_text = f"{arguments.shape}, {arguments.batch_blocks} x {arguments.block_tokens} tokens"
    method = f"rank {arguments.rank}" if arguments.method == "lora" else "all weights"
    rate_text = ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in rates.items())
    print(
        f"{shape_text}, {method}, {device.type}, {torch.get_num_threads()} threads, "
        f"{arguments.clock} clock"
    )
    print(f"best matrix rate {rate_text}; load average {os.getloadavg()[0]:.1f}")
    first = statistics.median(seconds[names[0]])
    result = []
    print(HEADING)
    for name in names:
        middle = statistics.median(seconds[name])
        row = {
            "variant": name,
            "tokens_per_second": tokens / middle,
            "spread": (max(seconds[name]) - min(seconds[name])) / middle,
            "ratio": first / middle,
            "useful_gflops_per_second": work / middle / 1e9,
            "share_of_matrix_rate": work / middle / 1e9 / rates[number_format(name, arguments)],
        }
        if arguments.memory:
            row["peak_gib"] = peak_bytes(name, sys.argv[1:]) / 2**30
        result.append(row)
        print(as_line(row), flush=True)
    if arguments.json:
        about = {"arguments": vars(arguments) | {"json": None}, "matrix_rates": rates}
        arguments.json.write_text(json.dumps({**about, "rows": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
