"""Texts per second of fitting a classifier, ours and stock `Trainer`; and the time of TF-IDF.

Stock: `Trainer` with `DataCollatorWithPadding` (dynamic padding), as it is and with
`train_sampling_strategy="group_by_length"`, in fp32 and in bf16. Ours: `trialese.fit_classifier`,
in both, with all weights trained. Same model, texts, batch size and dropout. Variants take turns; a
round is an epoch of each after one that warms up. `--clock cpu` counts the process's own processor
seconds over its threads, which is fairer on a machine that others use (with `--threads 1`).

`--tfidf` times a whole `finetune --system tfidf` instead, as it was once (liblinear's primal over
every n-gram) and as it is (its dual over the distinct ones), and says whether both chose the same
C. Leave OMP_NUM_THREADS unset: most of the primal's processor time went into BLAS threads that
wait for one another over short vectors; the dual calls no BLAS.

    python benchmarks/fit_speed.py reasons.tsv --model minilm --clock cpu --threads 1
    python benchmarks/fit_speed.py reasons.tsv --tfidf --clock cpu --threads 1
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from trialese.hub import locate_model
from trialese.pretrain.compute import computes_in_bf16, keep_freed_memory
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings, StopReasonsSettings, TasksSettings
from trialese.tasks import finetune, linear, system
from trialese.tasks.classifier import load_masked_lm
from trialese.tasks.fit import fit_classifier
from trialese.tasks.folds import build_examples
from trialese.tasks.task import encode_labels

Round = Callable[[], float]  # seconds of one epoch by the chosen clock


def now(arguments: argparse.Namespace) -> float:
    """Seconds of the chosen clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    if arguments.clock == "cpu":
        return time.process_time() / torch.get_num_threads()
    return time.perf_counter()


def ours(arguments: argparse.Namespace, task: Task, texts: list[Example], precision: str) -> Round:
    """An epoch of ours: from the end of the first to the end of the second."""
    settings = FinetuneSettings(epochs=2, precision=precision, patience=2)

    def run() -> float:
        ends: list[float] = []
        fit_classifier(
            task, texts, texts[:4], locate_model(arguments.model), settings, seed=1,
            progress=lambda *_: ends.append(now(arguments)),
        )  # fmt: skip
        return ends[-1] - ends[-2]

    return run


def stock(
    arguments: argparse.Namespace, task: Task, texts: list[Example], precision: str, order: str
) -> Round:
    """The same of `Trainer`."""
    settings = FinetuneSettings()
    folder = locate_model(arguments.model)
    truth = encode_labels(task, texts).astype(np.float32)

    class Clock(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(now(arguments))

    def run() -> float:
        model, tokenizer, _ = load_masked_lm(task, folder, dropout=settings.dropout)
        rows = [
            {"labels": row.tolist(), **tokenizer(text.text, truncation=True,
                                                 max_length=settings.max_tokens)}
            for text, row in zip(texts, truth, strict=True)
        ]  # fmt: skip
        clock = Clock()
        with tempfile.TemporaryDirectory() as out:
            trainer = transformers.Trainer(
                model,
                transformers.TrainingArguments(
                    out, num_train_epochs=2, per_device_train_batch_size=settings.batch_texts,
                    use_cpu=not torch.cuda.is_available(), bf16=precision == "bf16",
                    train_sampling_strategy=order, report_to=[], save_strategy="no",
                    logging_strategy="no", disable_tqdm=True, learning_rate=settings.lr,
                ),
                data_collator=transformers.DataCollatorWithPadding(tokenizer),
                train_dataset=rows,
                callbacks=[clock],
            )  # fmt: skip
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return clock.ends[-1] - clock.ends[-2]

    return run


def time_models(arguments: argparse.Namespace) -> None:
    """Print the table of language models."""
    found = build_examples("stop-reasons", settings_of(arguments), None)
    texts = found.examples[: arguments.texts]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precisions = ["fp32", "bf16"] if computes_in_bf16("auto", device) else ["fp32"]
    runners: dict[str, Round] = {}
    for precision in precisions:
        for name, order in (("", "random"), (", group_by_length", "group_by_length")):
            runners[f"stock{name}, {precision}"] = stock(
                arguments, found.task, texts, precision, order
            )
        runners[f"ours, {precision}"] = ours(arguments, found.task, texts, precision)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(arguments.rounds):
        for name, runner in runners.items():
            seconds[name].append(runner())
    print(f"{arguments.model}, {len(texts)} texts, {device}, {torch.get_num_threads()} threads, "
          f"{arguments.clock} clock, {arguments.rounds} rounds")  # fmt: skip
    print("\n| variant | texts/s | ratio | spread |\n|---|--:|--:|--:|")
    first = statistics.median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"| {name} | {len(texts) / middle:,.1f} | {first / middle:.2f} "
              f"| {(max(taken) - min(taken)) / middle:.0%} |")  # fmt: skip


def settings_of(arguments: argparse.Namespace) -> TasksSettings:
    """Stop reasons of the table, in so many folds."""
    section = StopReasonsSettings(labelled=str(arguments.table), run_folds=arguments.folds)
    return TasksSettings(stop_reasons=section)


def time_tfidf(arguments: argparse.Namespace) -> None:
    """Print what a whole `finetune` with TF-IDF took once and takes, and what each chose."""
    ways: dict[str, dict[str, Any]] = {
        "as it is": {},
        "as it was": {"_merge_equal": keep_all, "_logistic": fit_primal},
    }
    chosen: dict[str, list[Any]] = {}
    for way, changes in ways.items():
        found: list[Any] = []

        def remembering(*given: Any, found: list[Any] = found, **more: Any) -> Any:
            fitted = linear.fit_linear(*given, **more)
            found.append(fitted.regularisation)
            return fitted

        kept = {name: getattr(linear, name) for name in changes}
        for name, value in changes.items():
            setattr(linear, name, value)
        system.fit_linear = remembering
        with tempfile.TemporaryDirectory() as folder:
            start = now(arguments)
            finetune.finetune(
                "stop-reasons", "tfidf", path=Path(folder) / "tfidf",
                settings=settings_of(arguments),
            )  # fmt: skip
            took = now(arguments) - start
        for name, value in kept.items():
            setattr(linear, name, value)
        chosen[way] = found
        print(f"{way}: {took:.1f} s, {len(found)} fits", flush=True)
    one, other = chosen.values()
    same = sum(a == b for a, b in zip(one, other, strict=True))
    print(f"the same C and weights in {same} of {len(one)} fits")


def keep_all(matrix: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Every column a group of its own, as before they were merged."""
    return matrix, np.arange(matrix.shape[1]), np.ones(matrix.shape[1])


def fit_primal(matrix: Any, truth: Any, chosen: linear.Regularisation) -> tuple[Any, float]:
    """(weights, constant) of one label by the primal alone, as before."""
    from sklearn.linear_model import LogisticRegression

    if truth.all() or not truth.any():
        return np.zeros(matrix.shape[1]), np.inf if truth.all() else -np.inf
    model = LogisticRegression(
        C=chosen[0], class_weight=chosen[1], solver="liblinear", random_state=0, max_iter=1000
    )
    model.fit(matrix, truth)
    return model.coef_[0], float(model.intercept_[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="Stop reasons with labels, such as gold.tsv.")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folds", type=int, help="of TF-IDF; default: all")
    parser.add_argument("--tfidf", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    (time_tfidf if arguments.tfidf else time_models)(arguments)


if __name__ == "__main__":
    main()
