"""Does the labelling queue teach more than labelling at random? Simulated on labelled texts.

    python benchmarks/queue_worth.py LABELLED.tsv [--runs 5]

A fifth of the duplicate clusters is held out. Of the rest, 60 random clusters are labelled, then 60
more a round in the order of each strategy; after each round TF-IDF + logistic regression is fitted
on every text that has labels (an answer serves its whole cluster) and judged on the held-out texts
at a cut-off of 0.5. Strategies: the queue of `trialese serve`, its uncertainty alone, at random.
The same classifier gives the scores that the queue ranks by.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trialese.corpus.dedup import cluster_texts
from trialese.settings import DedupSettings
from trialese.tasks.labelled import read_labelled
from trialese.tasks.stop_reasons import STOP_REASONS
from trialese.tasks.task import encode_labels
from trialese.thresholds import f1_averages
from trialese.web.active_learning import rank_texts, similarity, uncertainty

ROUND = 60
ROUNDS = 8
STRATEGIES = ("queue", "uncertainty", "random")


def main() -> None:
    """Print F1 by answers given, a line a strategy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    examples = read_labelled(asked.labelled, STOP_REASONS)
    truth = encode_labels(STOP_REASONS, examples)
    homes = cluster_texts(((e.example_id, e.text) for e in examples), DedupSettings())
    cluster_of = np.unique([homes[e.example_id] for e in examples], return_inverse=True)[1]
    features = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True
    ).fit_transform([e.text for e in examples])
    near = similarity([e.text for e in examples])
    found: dict[str, list[list[tuple[float, float, int]]]] = {name: [] for name in STRATEGIES}
    for run in range(asked.runs):
        order = np.random.default_rng(run).permutation(cluster_of.max() + 1)
        held = np.isin(cluster_of, order[: len(order) // 5])
        for name in STRATEGIES:
            curve = learn(name, order[len(order) // 5 :], held, cluster_of, features, near, truth)
            found[name].append(curve)
            line = "  ".join(f"{micro:.3f}/{macro:.3f}" for micro, macro, _ in curve)
            print(f"run {run} {name:<12} {line}", flush=True)
    print(
        f"\nmean of {asked.runs} runs, micro-F1/macro-F1 (texts with labels) after so many answers"
    )
    print(" " * 13 + "".join(f"{ROUND * (n + 1):>20}" for n in range(ROUNDS)))
    for name in STRATEGIES:
        means = np.mean(found[name], axis=0)
        print(f"{name:<13}" + "".join(f"{a:>9.3f}/{b:.3f} ({c:.0f})" for a, b, c in means))


def learn(name, order, held, cluster_of, features, near, truth):  # type: ignore[no-untyped-def]
    """(micro-F1, macro-F1, texts with labels) after each round."""
    first = {cluster: int(np.flatnonzero(cluster_of == cluster)[0]) for cluster in order}
    rows = np.array([first[cluster] for cluster in order])  # one text speaks for its cluster
    sizes = np.bincount(cluster_of)[order]
    answered = list(range(ROUND))
    curve = []
    for _ in range(ROUNDS):
        known = np.isin(cluster_of, order[answered])
        models = fit(features[known], truth[known])
        scores = predict(models, features[held])
        curve.append((*f1_averages(truth[held], scores >= 0.5), int(known.sum())))
        if name == "random":
            answered = list(range(len(answered) + ROUND))
            continue
        uncertainties = uncertainty(predict(models, features[rows]), "multilabel")
        if name == "uncertainty":
            left = [p for p in np.argsort(-uncertainties, kind="stable") if p not in set(answered)]
            answered += left[:ROUND]
        else:
            ranked = rank_texts(uncertainties, sizes, near[rows], answered=answered, most=ROUND)
            answered += [each.row for each in ranked]
    return curve


def fit(features, truth):  # type: ignore[no-untyped-def]
    """One logistic regression a label; a number where a label has one value only."""
    models = []
    for column in truth.T:
        if column.all() or not column.any():
            models.append(float(column.mean()))
        else:
            model = LogisticRegression(C=10, class_weight="balanced", solver="liblinear")
            models.append(model.fit(features, column))
    return models


def predict(models, features):  # type: ignore[no-untyped-def]
    """Probabilities (texts, labels)."""
    columns = [
        np.full(features.shape[0], model)
        if isinstance(model, float)
        else model.predict_proba(features)[:, 1]
        for model in models
    ]
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    main()
