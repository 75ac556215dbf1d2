"""Whether explanations are faithful: is the span they name the one that carried the label?

Of each text the run of words with the most weight is deleted and the change of the label's
probability measured, against the mean over all other runs of the same length (what a random span
does). Beside it, the run that a cheap rival names (one gradient, half-way between the masked text
and the text), and the largest change that any run of that length makes: no method can exceed it.

    python benchmarks/explain_deletion.py CLASSIFIER silver.tsv [--without gold.tsv] [--texts 400]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from trialese.tasks.classifier import Classifier
from trialese.tasks.explain import Explanation, explain
from trialese.tasks.formats import read_texts

RUNS = (1, 2, 3)
RESAMPLES = 2000


def main() -> None:
    """Parse, measure, print one JSON object."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("classifier", type=Path)
    arguments.add_argument("file", type=Path, help="texts")
    arguments.add_argument("--without", type=Path, help="texts that the classifier has learnt from")
    arguments.add_argument("--texts", type=int, default=400)
    given = arguments.parse_args()
    classifier = Classifier.from_pretrained(given.classifier)
    learnt = read_texts(given.without, given.classifier, most=10**9) if given.without else []
    known = {text.lower() for text in learnt}
    found: dict[str, dict[str, list[float]]] = {}
    explained = 0
    for text in read_texts(given.file, given.classifier, most=50 * given.texts):
        if explained == given.texts:
            break
        if text.lower() not in known and len(text.split()) >= 4:
            explained += measure(classifier, text, found)
    print(json.dumps({"texts": explained, "runs": {k: summary(v) for k, v in found.items()}}))


def measure(classifier: Classifier, text: str, found: dict[str, dict[str, list[float]]]) -> bool:
    """Add one text's changes to `found`; whether it has a label at all (half or more)."""
    explanation = explain(classifier, text)
    words = explanation.spans
    if explanation.probability < 0.5 or len(words) < 4:
        return False
    column = classifier.task.labels.index(explanation.label)
    rival = explain(classifier, text, explanation.label, steps=1)
    for length in RUNS:
        starts = range(len(words) - length + 1)
        shortened = [without(explanation, start, length) for start in starts]
        drops = explanation.probability - classifier.predict_proba(shortened)[:, column]
        ours, theirs = (best_run(each, length) for each in (explanation, rival))
        others = np.delete(drops, ours)
        row = found.setdefault(str(length), {})
        for name, value in (
            ("named", drops[ours]), ("random", others.mean()),
            ("one_gradient", drops[theirs]), ("largest", drops.max()),
            ("beats_random", float(drops[ours] > others.mean())),
        ):  # fmt: skip
            row.setdefault(name, []).append(float(value))
    return True


def best_run(explanation: Explanation, length: int) -> int:
    """Where the run of so many words with the largest sum of weights begins."""
    weights = np.array([span.weight for span in explanation.spans])
    return int(np.convolve(weights, np.ones(length), "valid").argmax())


def without(explanation: Explanation, start: int, length: int) -> str:
    """The text without these words."""
    first, last = explanation.spans[start], explanation.spans[start + length - 1]
    return f"{explanation.text[: first.start]} {explanation.text[last.end :]}".strip()


def summary(columns: dict[str, list[float]]) -> dict[str, Any]:
    """Means, and a 95 % interval of named minus random over resampled texts."""
    figures: dict[str, Any] = {name: round(float(np.mean(v)), 4) for name, v in columns.items()}
    gap = np.array(columns["named"]) - np.array(columns["random"])
    draws = np.random.default_rng(7).integers(0, len(gap), (RESAMPLES, len(gap)))
    low, high = np.quantile(gap[draws].mean(axis=1), [0.025, 0.975])
    figures["named_minus_random"] = [round(float(x), 4) for x in (gap.mean(), low, high)]
    return figures


if __name__ == "__main__":
    main()
