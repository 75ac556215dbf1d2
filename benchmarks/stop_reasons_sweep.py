"""Sweep settings of the stop-reason classifier by inner folds, test texts never read.

    python benchmarks/stop_reasons_sweep.py export gold.tsv examples.tsv
    python benchmarks/stop_reasons_sweep.py fit examples.tsv MODEL grid.json \
        --folds 0 --rounds 1 --seeds 1,2 --shard 0/8 --out out.jsonl --scores SCORES
    python benchmarks/stop_reasons_sweep.py table out.jsonl ...
    python benchmarks/stop_reasons_sweep.py join FOLD_0 FOLD_1 ... -o CLASSIFIER
    python benchmarks/stop_reasons_sweep.py average CLASSIFIER -o AVERAGED
    python benchmarks/stop_reasons_sweep.py several CLASSIFIER

`grid.json`: a list of overrides of FinetuneSettings, such as [{}, {"lr": 2e-4, "epochs": 20}];
`inner_folds`, `sentences` and `model` among them override the recipe's. `examples.tsv`: id, text
(clean), labels joined by `|`, cluster; `export` makes it, so that `fit` needs only torch, pyarrow,
transformers, tokenizers, numpy, scikit-learn, msgspec and safetensors, and uses CUDA where there
is any. Each text outside the test fold is scored by a fit that has not seen it, and the cut-offs
for a fifth of those texts come from the other four: choices are ranked by that, and the test
folds stay unopened. `join` puts folds that several processes fitted (`first_fold`, `run_folds`)
into one classifier, which `trialese evaluate` judges; `average` does so with the mean of its seeds'
log-odds. `several` tells what texts with several labels are worth to it: found at lower cut-offs,
found if the number of each text's labels were told, and how well that there are several is guessed.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.metrics import roc_auc_score

from trialese.artifacts import Manifest, read_manifest, write_artifact
from trialese.predictions import load_predictions, save_predictions
from trialese.records import Example, Predictions
from trialese.settings import FinetuneSettings, StopReasonsSettings
from trialese.tasks.stop_reasons import STOP_REASONS
from trialese.thresholds import f1_averages, log_odds, shrunk_cuts, sigmoid

SHRINKAGES = (1e9, 100.0, 30.0, 10.0, 3.0)
LOWER = (0.0, 0.6, 0.9, 1.2, 1.6, 2.0)


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


def crossfitted_f1(scores: np.ndarray, truth: np.ndarray, shrinkage: float) -> list[float]:
    """(micro, macro) with each fifth's cut-offs from the other four, mean of five divisions."""
    from trialese.thresholds import f1_averages, shrunk_cuts

    found = []
    for division in range(5):
        part = np.random.default_rng(division).integers(0, 5, len(scores))
        given = np.zeros_like(truth)
        for each in range(5):
            cuts = shrunk_cuts(scores[part != each], truth[part != each], shrinkage=shrinkage)
            given[part == each] = scores[part == each] >= cuts
        found.append(f1_averages(truth, given))
    return np.mean(found, axis=0).round(4).tolist()


def recall_at(scores: np.ndarray, truth: np.ndarray, precision: float) -> float:
    """The highest recall of one label at a cut-off with that precision."""
    from sklearn.metrics import precision_recall_curve

    reached, recall, _ = precision_recall_curve(truth, scores)
    return round(float(recall[reached >= precision].max()), 4)


def assess(scores: np.ndarray, truth: np.ndarray) -> dict[str, object]:
    from sklearn.metrics import average_precision_score

    from trialese.thresholds import shrunk_cuts

    held = truth.any(axis=0)
    several = truth.sum(axis=1) > 1
    given = scores >= shrunk_cuts(scores, truth, shrinkage=100.0)
    safety = STOP_REASONS.labels.index("Safety_Sideeffects")
    return {
        "rows": len(scores),
        "mean_average_precision": round(
            float(average_precision_score(truth[:, held], scores[:, held], average="macro")), 4
        ),
        "recall_of_several": round(float(given[several][truth[several]].mean()), 4),
        "safety_recall_at_precision_0.75": recall_at(scores[:, safety], truth[:, safety], 0.75),
        **{
            f"shrinkage {shrinkage:g}": crossfitted_f1(scores, truth, shrinkage)
            for shrinkage in SHRINKAGES
        },
    }


def behaviour_passed(members: list[np.ndarray], scores: np.ndarray, truth: np.ndarray) -> str:
    """Of the shipped tests, by the members' mean chances and cut-offs from the held texts."""
    from trialese.tasks.behaviour import shipped_tests
    from trialese.tasks.task import encode_labels
    from trialese.thresholds import shrunk_cuts

    tests = shipped_tests(STOP_REASONS)
    given = np.mean(members, axis=0) >= shrunk_cuts(scores, truth, shrinkage=100.0)
    must, must_not = (
        encode_labels(STOP_REASONS, [Example("", t.text, getattr(t, name)) for t in tests])
        for name in ("must", "must_not")
    )
    passed = ~(must & ~given).any(axis=1) & ~(must_not & given).any(axis=1)
    return f"{passed.sum()} of {len(tests)}"


def fit(args: argparse.Namespace) -> None:
    from trialese.hub import locate_model
    from trialese.tasks.behaviour import shipped_tests, without_near
    from trialese.tasks.classifier import Preprocessing
    from trialese.tasks.fit import fit_classifier
    from trialese.tasks.folds import inner_rounds, split_fold
    from trialese.tasks.stop_reasons import written_sentences
    from trialese.tasks.system import score_held
    from trialese.tasks.task import encode_labels, sentence_examples

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
        inner_folds = overrides.pop("inner_folds", 3)
        times = overrides.pop("sentences", defaults.sentences)
        model = locate_model(overrides.pop("model", args.model))
        settings = msgspec.convert(overrides, FinetuneSettings)
        divided = split_fold(
            examples,
            folds=defaults.folds,
            fold=fold,
            tune_share=defaults.tune_share,
            seed=defaults.split_seed,
        )
        train, tune = ([e for e in divided if e.split == split] for split in ("train", "tune"))
        extra = sentence_examples(written_sentences(), examples, defaults.dedup, times=times)
        tests = shipped_tests(STOP_REASONS)
        extra, _ = without_near(extra, tests, defaults.dedup)
        rounds = inner_rounds(train, tune, inner_folds, fold=fold, seed=defaults.split_seed)
        rounds = rounds[: args.rounds]
        clean = Preprocessing(max_tokens=settings.max_tokens, cleaning="none")
        started = time.process_time()
        fits = [
            fit_classifier(
                STOP_REASONS, [*others, *extra], held, model, settings, seed=seed,
                preprocessing=clean,
            )
            for others, held in rounds
        ]  # fmt: skip
        seconds = time.process_time() - started
        held, scores = score_held(rounds, [classifier.predict_proba for classifier, _ in fits])
        truth = encode_labels(STOP_REASONS, held)
        line = {
            "config": grid[number],
            "fold": fold,
            "seed": seed,
            "model": model.name,
            "cpu_seconds": round(seconds, 1),
            "losses": [round(log.losses[-1], 4) for _, log in fits],
            **assess(scores, truth),
        }
        texts = [test.text for test in tests]
        members = [classifier.predict_proba(texts) for classifier, _ in fits]
        line["behaviour"] = behaviour_passed(members, scores, truth)
        print(json.dumps(line), file=out, flush=True)
        if args.scores:
            args.scores.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(
                args.scores / f"{number}-{fold}-{seed}.npz",
                ids=[example.example_id for example in held],
                scores=scores.astype(np.float32),
                truth=truth,
            )


def table(paths: list[Path]) -> None:
    """Each setting's means over folds and seeds, the best one last."""
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines() if line]
    groups = defaultdict(list)
    for row in rows:
        groups[json.dumps(row["config"])].append(row)
    names = [f"shrinkage {shrinkage:g}" for shrinkage in SHRINKAGES]
    lines = []
    for config, members in groups.items():
        means = {name: np.mean([row[name] for row in members], axis=0) for name in names}
        cells = "  ".join(f"{name} {v[0]:.4f}/{v[1]:.4f}" for name, v in means.items())
        precision = np.mean([row["mean_average_precision"] for row in members])
        seconds = np.mean([row["cpu_seconds"] for row in members])
        best = max(value.sum() for value in means.values())
        tail = f"mAP {precision:.4f}  {len(members)} lines, {seconds:.0f} CPU s each  {config}"
        lines.append((best, f"{cells}  {tail}"))
    for _, line in sorted(lines):
        print(line)


def join(folders: list[Path], out: Path) -> None:
    """One classifier of the folds in several, which must differ in their folds alone."""
    manifests = [read_manifest(folder, kind="classifier") for folder in folders]
    sections = [dict(manifest.settings["section"]) for manifest in manifests]
    for section in sections:
        section.pop("first_fold"), section.pop("run_folds")
    if any(
        (section, manifest.inputs) != (sections[0], manifests[0].inputs)
        for section, manifest in zip(sections, manifests, strict=True)
    ):
        raise SystemExit("the folders were fitted with other settings or on other texts")
    runs = [run for folder in folders for run in load_predictions(folder / "predictions.parquet")]
    fits = [each for manifest in manifests for each in manifest.notes.get("fits", [])]
    model = folders[0] / "model"
    save_runs(out, manifests[0], sections[0], runs, {"fits": fits}, model)


def average(folder: Path, out: Path) -> None:
    """The classifier whose only seed says the mean of all seeds' log-odds."""
    manifest = read_manifest(folder, kind="classifier")
    groups = defaultdict(list)
    for run in load_predictions(folder / "predictions.parquet"):
        groups[run.fold, run.split].append(run)
    runs = [
        replace(
            members[0],
            scores=sigmoid(np.mean([log_odds(run.scores) for run in members], axis=0)),
            model_digest="+".join(run.model_digest for run in members),
        )
        for members in groups.values()
    ]
    section = {**manifest.settings["section"], "seeds": [runs[0].seed]}
    save_runs(out, manifest, section, runs, {"averaged": manifest.settings["section"]["seeds"]})


def save_runs(
    out: Path,
    first: Manifest,
    section: dict[str, Any],
    runs: list[Predictions],
    notes: dict[str, Any],
    model: Path | None = None,
) -> None:
    settings = {**first.settings, "section": section}
    with write_artifact(out, kind="classifier", settings=settings, inputs=first.inputs) as draft:
        draft.counts.update(first.counts)
        draft.notes |= first.notes | notes
        save_predictions(draft.folder / "predictions.parquet", runs)
        if model is not None and model.is_dir():
            shutil.copytree(model, draft.folder / "model")


def several(folder: Path) -> None:
    """What a classifier finds of texts with several labels, seeds together."""
    groups = defaultdict(dict)
    for run in load_predictions(folder / "predictions.parquet"):
        groups[run.fold, run.seed][run.split] = run
    pairs = [(each["tune"], each["test"]) for each in groups.values()]
    truth = np.concatenate([test.truth for _, test in pairs]).astype(bool)
    odds = np.concatenate([log_odds(test.scores) for _, test in pairs])
    cuts = np.concatenate(
        [
            np.tile(
                log_odds(shrunk_cuts(tune.scores, tune.truth.astype(bool), shrinkage=100.0)),
                (len(test.ids), 1),
            )
            for tune, test in pairs
        ]
    )
    many = truth.sum(axis=1) > 1
    known = np.argsort(np.argsort(-odds, axis=1), axis=1) < truth.sum(axis=1)[:, None]
    ways = {f"cut-offs lower by {low:g}": odds >= cuts - low for low in LOWER}
    for name, given in {**ways, "the number of labels told": known}.items():
        micro, macro = f1_averages(truth, given)
        found = (given & truth)[many].sum() / truth[many].sum()
        print(f"{name}: micro {micro:.4f}  macro {macro:.4f}  found of several {found:.3f}")
    second = np.sort(odds, axis=1)[:, -2]
    print(f"texts with several, by their second score: AUC {roc_auc_score(many, second):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("export")
    one.add_argument("labelled", type=Path)
    one.add_argument("examples", type=Path)
    two = verbs.add_parser("fit")
    two.add_argument("examples", type=Path)
    two.add_argument("model", help="folder of a masked-LM, or minilm or mpnet")
    two.add_argument("grid", type=Path)
    two.add_argument("--folds", default="0")
    two.add_argument("--rounds", type=int, help="so many of the inner folds; all without it")
    two.add_argument("--seeds", default="1")
    two.add_argument("--shard", default="0/1")
    two.add_argument("--out", type=Path)
    two.add_argument("--scores", type=Path)
    three = verbs.add_parser("table")
    three.add_argument("lines", type=Path, nargs="+")
    four = verbs.add_parser("join")
    four.add_argument("folders", type=Path, nargs="+")
    four.add_argument("-o", "--out", type=Path, required=True)
    five = verbs.add_parser("average")
    five.add_argument("folder", type=Path)
    five.add_argument("-o", "--out", type=Path, required=True)
    six = verbs.add_parser("several")
    six.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.verb == "export":
        export(args.labelled, args.examples)
    elif args.verb == "fit":
        fit(args)
    elif args.verb == "join":
        join(args.folders, args.out)
    elif args.verb == "average":
        average(args.folder, args.out)
    elif args.verb == "several":
        several(args.folder)
    else:
        table(args.lines)


if __name__ == "__main__":
    main()
