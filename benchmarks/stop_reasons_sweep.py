"""Fit the stop-reason classifier over a grid of settings, folds and seeds; a JSON line a fit.

    python benchmarks/stop_reasons_sweep.py export gold.tsv examples.tsv
    python benchmarks/stop_reasons_sweep.py fit examples.tsv MODEL grid.json \
        --folds 0,1,2,3,4 --seeds 1 --shard 0/8 --out out.jsonl
    python benchmarks/stop_reasons_sweep.py table out.jsonl ...

`grid.json`: a list of overrides of FinetuneSettings, such as [{}, {"lr": 2e-4, "epochs": 20}];
`tune_share` among them overrides the recipe's. `examples.tsv`: id, text (clean), labels joined by
`|`, cluster; `export` makes it, so that `fit` needs only torch, transformers, tokenizers, numpy,
msgspec and safetensors, and uses CUDA where there is any. Thresholds come from tune. Counts (true
positives, given, true) are printed by label, so that `table` pools the folds as the verdict does.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np

from trialese.records import Example
from trialese.settings import FinetuneSettings, StopReasonsSettings
from trialese.tasks.stop_reasons import STOP_REASONS


def export(labelled: Path, out: Path) -> None:
    from trialese.settings import TasksSettings
    from trialese.tasks.folds import build_examples

    settings = TasksSettings(stop_reasons=StopReasonsSettings(labelled=str(labelled)))
    found = build_examples("stop-reasons", settings, None)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["id", "text", "labels", "cluster"])
        for e in found.examples:
            writer.writerow([e.example_id, e.text, "|".join(e.labels), e.cluster])
    print(json.dumps(found.counts), file=sys.stderr)


def read_exported(path: Path) -> list[Example]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Example(
                row["id"],
                row["text"],
                tuple(filter(None, row["labels"].split("|"))),
                row["cluster"],
            )
            for row in csv.DictReader(file, delimiter="\t")
        ]


def cutoffs_of(scores: np.ndarray, truth: np.ndarray, shrinkage: float) -> np.ndarray:
    """Cut-off a label, as the verdict chooses it."""
    from trialese.cutoffs import shrunk_cuts

    return shrunk_cuts(scores.astype(np.float64), truth, shrinkage=shrinkage)


def f1(counts: np.ndarray) -> list[float]:
    hits, given, true = counts
    micro = 2 * hits.sum() / (given.sum() + true.sum())
    return [
        round(float(micro), 4),
        round(float((2 * hits / np.maximum(1, given + true)).mean()), 4),
    ]


def fit(args: argparse.Namespace) -> None:
    from trialese.tasks.classifier import Preprocessing
    from trialese.tasks.fitting import fit_classifier
    from trialese.tasks.folds import split_fold
    from trialese.tasks.task import encode_labels

    examples = read_exported(args.examples)
    grid = json.loads(args.grid.read_text() if args.grid.exists() else str(args.grid))
    defaults = StopReasonsSettings()
    jobs = [
        (number, overrides, fold, seed)
        for number, overrides in enumerate(grid)
        for seed in map(int, args.seeds.split(","))
        for fold in map(int, args.folds.split(","))
    ]
    shard, shards = map(int, args.shard.split("/"))
    out = args.out.open("a") if args.out else sys.stdout
    for number, changes, fold, seed in jobs[shard::shards]:
        overrides = dict(changes)
        tune_share = overrides.pop("tune_share", defaults.tune_share)
        model = Path(overrides.pop("model", args.model))
        settings = msgspec.convert(overrides, FinetuneSettings)
        divided = split_fold(
            examples,
            folds=defaults.folds,
            fold=fold,
            tune_share=tune_share,
            seed=defaults.split_seed,
        )
        train, tune, test = (
            [e for e in divided if e.split == split] for split in ("train", "tune", "test")
        )
        started = time.monotonic()
        clean = Preprocessing(max_tokens=settings.max_tokens, cleaning="none")
        classifier, log = fit_classifier(
            STOP_REASONS, train, tune, model, settings, seed=seed, preprocessing=clean
        )
        seconds = time.monotonic() - started
        tune_scores, test_scores = (
            classifier.predict([e.text for e in rows], batch_texts=64) for rows in (tune, test)
        )
        tune_truth, truth = encode_labels(STOP_REASONS, tune), encode_labels(STOP_REASONS, test)
        line = {
            "config": grid[number],
            "fold": fold,
            "seed": seed,
            "model": str(model),
            "best_epoch": log.best_epoch,
            "epochs": len(log.losses),
            "seconds": round(seconds, 1),
            "loss": round(log.losses[-1], 4),
            "sizes": [len(train), len(tune), len(test)],
        }
        for name, shrinkage in (("common", 1e9), ("shrunk", 10.0), ("own", 0.0)):
            given = test_scores >= cutoffs_of(tune_scores, tune_truth, shrinkage)
            counts = np.array([(given & truth).sum(0), given.sum(0), truth.sum(0)])
            line[name] = f1(counts)
            line[f"{name}_counts"] = counts.tolist()
        print(json.dumps(line), file=out, flush=True)
        if args.scores:
            args.scores.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(
                args.scores / f"{number}-{fold}-{seed}.npz",
                tune=tune_scores.astype(np.float32),
                test=test_scores.astype(np.float32),
                tune_truth=tune_truth,
                truth=truth,
            )


def table(paths: list[Path]) -> None:
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines() if line]
    groups = defaultdict(list)
    for row in rows:
        groups[json.dumps(row["config"])].append(row)
    lines = []
    for config, members in groups.items():
        pooled = {}
        for name in ("common", "shrunk", "own"):
            by_seed = defaultdict(list)
            for row in members:
                by_seed[row["seed"]].append(np.array(row[f"{name}_counts"]))
            pooled[name] = np.mean([f1(sum(counts)) for counts in by_seed.values()], axis=0).round(
                4
            )
        lines.append(
            (
                pooled,
                len(members),
                np.mean([r["seconds"] for r in members]),
                np.mean([r["best_epoch"] for r in members]),
                config,
            )
        )
    for pooled, fits, seconds, epoch, config in sorted(lines, key=lambda x: x[0]["shrunk"].sum()):
        cells = "  ".join(f"{name} {v[0]:.4f}/{v[1]:.4f}" for name, v in pooled.items())
        print(f"{cells}  fits {fits} epoch {epoch:.1f} {seconds:.0f}s  {config}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("export")
    one.add_argument("labelled", type=Path)
    one.add_argument("examples", type=Path)
    two = verbs.add_parser("fit")
    two.add_argument("examples", type=Path)
    two.add_argument("model", type=Path)
    two.add_argument("grid", type=Path)
    two.add_argument("--folds", default="0,1,2,3,4")
    two.add_argument("--seeds", default="1")
    two.add_argument("--shard", default="0/1")
    two.add_argument("--out", type=Path)
    two.add_argument("--scores", type=Path)
    three = verbs.add_parser("table")
    three.add_argument("lines", type=Path, nargs="+")
    args = parser.parse_args()
    if args.verb == "export":
        export(args.labelled, args.examples)
    elif args.verb == "fit":
        fit(args)
    else:
        table(args.lines)


if __name__ == "__main__":
    main()
