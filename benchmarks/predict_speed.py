"""Prediction: trialese against the Hugging Face pipeline and the prior art's padding to 177 tokens.

Texts a second in bulk and milliseconds for one text, on real stop reasons and on whole trial texts
cut after 256 tokens, for MiniLM and BERT-base shapes with random weights (seeded; speed does not
depend on them). Each engine is a process of its own, because onnxruntime and torch fight over
cores in one; they take turns within the run, and the medians of the turns count.

    python benchmarks/predict_speed.py --reasons silver.tsv --trials records.zip \\
        [--shapes minilm base] [--repeats 5] [--texts 512]

Needs the `export` extra and a file of trials for the second kind of text.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trialese.parallel import count_cores

SHAPES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MAX_TOKENS = 256
PRIOR_ART_TOKENS = 177
ENGINES = ("pipeline", "padded to 177", "torch", "onnx", "onnx-int8")


def main() -> None:
    """Parse, make the models, let the engines take turns, print a JSON line a shape and kind."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--reasons", type=Path, required=True, help="table, column stop_reason")
    arguments.add_argument("--trials", type=Path, required=True, help="file of registry records")
    arguments.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    arguments.add_argument("--kinds", nargs="+", default=["reasons", "trials"])
    arguments.add_argument("--engines", nargs="+", default=list(ENGINES))
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--texts", type=int, default=512, help="stop reasons in bulk")
    arguments.add_argument("--documents", type=int, default=32, help="trial texts in bulk")
    arguments.add_argument("--singles", type=int, default=15, help="single texts a turn")
    arguments.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine, with one thread"
    )
    arguments.add_argument("--work", type=Path, help="keep models here from run to run")
    arguments.add_argument("--prepare", action="store_true", help="only make models and texts")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        texts = prepare(given, work)
        if not given.prepare:
            for shape, kind in itertools.product(given.shapes, given.kinds):
                print(json.dumps(measure(given, work, shape, kind, texts[kind])), flush=True)


def prepare(given: argparse.Namespace, work: Path) -> dict[str, list[str]]:
    """The texts of each kind; models and exports are made in `work` where they are not there."""
    file = work / "texts.json"
    if not file.exists():
        with given.reasons.open(encoding="utf-8", newline="") as table:
            rows = csv.DictReader(table, delimiter="\t")
            reasons = [row["stop_reason"] for row in rows if row["stop_reason"]]
        from trialese.collect.files import read_trials_from_file
        from trialese.corpus.render import render_document
        from trialese.settings import RenderSettings

        trials = itertools.islice(read_trials_from_file(given.trials), given.documents)
        documents = [render_document(trial, RenderSettings()).text for trial in trials]
        step = len(reasons) // given.texts  # spread over the table, so repeats are as they are
        file.write_text(
            json.dumps({"reasons": reasons[::step][: given.texts], "trials": documents})
        )
    for shape in given.shapes:
        make_models(work / shape, shape)
    found: dict[str, list[str]] = json.loads(file.read_text())
    return {
        "reasons": found["reasons"][: given.texts], "trials": found["trials"][: given.documents]
    }  # fmt: skip


def make_models(folder: Path, shape: str) -> None:
    """A classifier with random weights and its two exports."""
    if (folder / "done").exists():
        return
    import torch
    import transformers

    from trialese.pretrain.backbone import load_tokenizer
    from trialese.settings import BackboneSettings
    from trialese.tasks.classifier import Classifier, Preprocessing
    from trialese.tasks.export import quantise, write_graph
    from trialese.tasks.stop_reasons import STOP_REASONS

    torch.manual_seed(1)
    tokenizer = load_tokenizer(BackboneSettings())
    sizes = SHAPES[shape]
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        intermediate_size=4 * sizes["hidden_size"],
        id2label=dict(enumerate(STOP_REASONS.labels)),
        problem_type="multi_label_classification",
        **sizes,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    classifier = Classifier(STOP_REASONS, model, tokenizer, Preprocessing(max_tokens=MAX_TOKENS))
    classifier.save_pretrained(folder / "torch")
    for engine in ("onnx", "onnx-int8"):
        out = folder / engine
        out.mkdir()
        for name in ("tokenizer.json", "preprocessing.json"):
            (out / name).write_bytes((folder / "torch" / name).read_bytes())
        # not `export_classifier`: int8 labels of a random head may well be refused
        write_graph(Classifier.from_pretrained(folder / "torch"), out / "model.onnx")
        if engine == "onnx-int8":
            quantise(out / "model.onnx")
    (folder / "done").touch()


def measure(
    given: argparse.Namespace, work: Path, shape: str, kind: str, texts: list[str]
) -> dict[str, Any]:
    """Figures of every engine; each is a process that works when its turn comes."""
    folder = work / shape
    order = {"texts": texts, "singles": texts[:: max(1, len(texts) // given.singles)]}
    workers = {engine: start(engine, folder, order, given.clock) for engine in given.engines}
    turns: dict[str, list[dict[str, Any]]] = {engine: [] for engine in workers}
    for turn in range(given.repeats + 1):
        for engine, worker in workers.items():
            found = ask(worker)
            if turn:  # the first one warms up
                turns[engine].append(found)
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]
        worker.wait()
    figures = {engine: summary(found) for engine, found in turns.items()}
    stock = figures[given.engines[0]]
    labels = {engine: found[0]["labels"] for engine, found in turns.items()}
    for engine, figure in figures.items():
        figure["times_the_first"] = round(figure["texts_a_second"] / stock["texts_a_second"], 2)
        figure["p50_share_of_the_first"] = round(figure["p50_ms"] / stock["p50_ms"], 3)
        equal = [a == b for a, b in zip(labels[engine], labels[given.engines[0]], strict=True)]
        figure["texts_with_equal_labels"] = round(sum(equal) / len(equal), 4)
    return {
        "shape": shape, "kind": kind, "texts": len(texts), "repeats": given.repeats,
        "cores": count_cores(), "clock": given.clock, "figures": figures,
    }  # fmt: skip


def summary(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Median over turns of bulk speed; percentiles over all single texts of all turns."""
    singles = sorted(each for turn in turns for each in turn["singles"])
    return {
        "texts_a_second": round(statistics.median(turn["texts_a_second"] for turn in turns), 2),
        "p50_ms": round(1e3 * statistics.median(singles), 2),
        "p99_ms": round(1e3 * singles[min(len(singles) - 1, int(0.99 * len(singles)))], 2),
    }


def start(
    engine: str, folder: Path, order: dict[str, list[str]], clock: str
) -> subprocess.Popen[str]:
    """The engine's process, loaded and waiting for its turn."""
    worker = subprocess.Popen(
        [sys.executable, __file__, "--worker", engine, str(folder), clock],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps(order) + "\n")
    worker.stdin.flush()
    assert worker.stdout.readline().strip() == "ready"
    return worker


def ask(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """One turn of one engine."""
    assert worker.stdin and worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    found: dict[str, Any] = json.loads(worker.stdout.readline())
    return found


def work(engine: str, folder: Path, clock: str) -> None:
    """Answer each line with one turn's figures until there are none."""
    now = CLOCKS[clock]
    order = json.loads(sys.stdin.readline())
    predict = predictor(engine, folder)
    predict(order["singles"][:2])
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = now()
        labels = predict(order["texts"])
        seconds = now() - begin
        singles = []
        for text in order["singles"]:
            begin = now()
            predict([text])
            singles.append(now() - begin)
        speed = len(order["texts"]) / seconds
        print(
            json.dumps({"texts_a_second": speed, "singles": singles, "labels": labels}), flush=True
        )


def predictor(engine: str, folder: Path) -> Callable[[list[str]], list[list[str]]]:
    """Texts -> labels with probabilities of at least 0.5."""
    if engine in ("pipeline", "padded to 177"):
        return stock_predictor(folder / "torch", padded=engine != "pipeline")
    from trialese.tasks.predict import load_scorer

    scorer = load_scorer(folder / engine)

    def predict(texts: list[str]) -> list[list[str]]:
        rows = scorer.predict_proba(texts) >= 0.5
        return [[scorer.task.labels[i] for i in row.nonzero()[0]] for row in rows]

    return predict


def stock_predictor(folder: Path, *, padded: bool) -> Callable[[list[str]], list[list[str]]]:
    """The pipeline as its documentation has it, in fp32; or the prior art's loop, padded to 177."""
    import torch
    import transformers

    from trialese.corpus.clean import clean_text

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = model.config.id2label
    if not padded:
        pipeline = transformers.pipeline(
            "text-classification", model=model, tokenizer=tokenizer, device="cpu", batch_size=32
        )

        def run(texts: list[str]) -> list[list[str]]:
            cleaned = [clean_text(text) for text in texts]
            rows = pipeline(cleaned, top_k=None, function_to_apply="sigmoid", truncation=True)
            place = {name: column for column, name in names.items()}.__getitem__
            given = [[each["label"] for each in row if each["score"] >= 0.5] for row in rows]
            return [sorted(labels, key=place) for labels in given]

        return run

    def run_padded(texts: list[str]) -> list[list[str]]:
        labels = []
        with torch.inference_mode():
            for first in range(0, len(texts), 32):
                batch = tokenizer(
                    [clean_text(text) for text in texts[first : first + 32]],
                    truncation=True,
                    max_length=PRIOR_ART_TOKENS,
                    padding="max_length",
                    return_tensors="pt",
                )
                for row in torch.sigmoid(model(**batch).logits) >= 0.5:
                    labels.append([names[i] for i in row.nonzero().flatten().tolist()])
        return labels

    return run_padded


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        main()
