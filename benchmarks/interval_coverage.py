"""How often do 95 % intervals hold the truth where labels are rare? A table, by simulation.

    python benchmarks/interval_coverage.py [--labels gold.tsv] [--rounds 400]

Texts are drawn with the label sets of a file of labelled texts (columns `text` and `labels`, joined
by `|`), or with rates written below. Two systems label them with errors of known rates, so that
their true F1 is known. Each round judges one test set as the verdict does, and counts whether the
intervals of macro-F1, of its paired difference, and of each label hold the truth; beside it the
plain bootstrap.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialese.settings import VerdictSettings
from trialese.verdict.metrics import row_figures
from trialese.verdict.scores import (
    Smoothing,
    decision_names,
    draw_figures,
    flat_decisions,
    smooth_labels,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rates = tuple[Floats, Floats]
"""Of a system: the share of true labels that it finds, and how often it gives a label wrongly."""

RATES = np.geomspace(0.29, 0.004, 17)
SIZES = (300, 600, 1500, 3015)
SYSTEMS = ("medium", "strong", "weak on rare labels", "alike on all")


def read_truth(path: Path | None, random: np.random.Generator) -> Bools:
    """Label sets to draw from, (texts, labels)."""
    if path is None:
        return random.random((50_000, len(RATES))) < RATES
    with path.open(encoding="utf-8", newline="") as file:
        sets = [set(row["labels"].split("|")) for row in csv.DictReader(file, delimiter="\t")]
    labels = sorted(set().union(*sets) - {""})
    return np.array([[label in held for label in labels] for held in sets])


def system_rates(kind: str, rates: Floats) -> Rates:
    """Error rates of a made-up system by the rates of the labels."""
    rarity = np.log(rates / rates.max())
    recall, precision = {
        "medium": (0.85 + 0.07 * rarity, 0.88 + 0.05 * rarity),
        "strong": (0.95 + 0.02 * rarity, 0.95 + 0.02 * rarity),
        "weak on rare labels": (0.75 + 0.14 * rarity, 0.85 + 0.05 * rarity),
        "alike on all": (0.7 + 0 * rarity, 0.7 + 0 * rarity),
    }[kind]
    recall, precision = np.clip(recall, 0.05, 0.97), np.clip(precision, 0.3, 0.97)
    return recall, rates * recall * (1 - precision) / precision / (1 - rates)


def true_f1(found: Rates, rates: Floats) -> Floats:
    """F1 of each label over endlessly many texts."""
    recall, wrong = found
    hits = rates * recall
    return np.asarray(2 * hits / (hits + rates + (1 - rates) * wrong))


def simulate(
    truths: Bools,
    kind: str,
    texts: int,
    *,
    rounds: int,
    resamples: int,
    random: np.random.Generator,
    smoothed: bool = True,
) -> dict[str, Floats]:
    """Of each round whether the interval holds the truth, and which intervals have no width.

    `macro` and `difference` are (rounds,), `labels`, `label_differences` and `zero_width`
    (rounds, labels). The rival finds nine tenths of what the system finds, and answers as it does
    on most texts.
    """
    rates = truths.mean(axis=0)
    names = [str(place) for place in range(len(rates))]
    one = system_rates(kind, rates)
    other = (one[0] * 0.9, one[1])
    targets = [true_f1(each, rates) for each in (one, other)]
    places = [decision_names(names).index(f"f1:{name}") for name in names]
    macro = decision_names(names).index("macro-f1")
    smoothing: Smoothing | None = smooth_labels(names) if smoothed else None
    found: dict[str, list[Bools]] = {}
    for number in range(rounds):
        truth = truths[random.integers(0, len(truths), texts)]
        first = random.random(truth.shape)
        second = np.where(random.random(truth.shape) < 0.7, first, random.random(truth.shape))
        sums = np.stack(
            [
                row_figures(np.where(truth, dice < recall, dice < wrong), truth)
                for dice, (recall, wrong) in ((first, one), (second, other))
            ],
            axis=1,
        )[:, :, None]
        settings = VerdictSettings(resamples=resamples, seed=number)
        draws = draw_figures(sums, flat_decisions, settings, smoothing=smoothing)
        points = flat_decisions(sums.sum(axis=0))[:, 0]

        def holds(drawn: Floats, point: Floats, target: Floats) -> tuple[Bools, Bools]:
            low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
            low, high = np.minimum(low, point), np.maximum(high, point)
            return (low <= target) & (target <= high), high - low <= 0

        gap = targets[0] - targets[1]
        labels, flat = holds(draws[:, 0, places], points[0, places], targets[0])
        results = {
            "macro": holds(draws[:, 0, macro], points[0, macro], targets[0].mean())[0],
            "difference": holds(
                draws[:, 0, macro] - draws[:, 1, macro],
                points[0, macro] - points[1, macro],
                gap.mean(),
            )[0],
            "labels": labels,
            "label_differences": holds(
                draws[:, 0, places] - draws[:, 1, places],
                points[0, places] - points[1, places],
                gap,
            )[0],
            "zero_width": flat,
        }
        for name, value in results.items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values, np.float64) for name, values in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, help="labelled texts; without it, written rates")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=600)
    parser.add_argument("--plain", action="store_true", help="the plain bootstrap, for comparison")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    asked = parser.parse_args(arguments)
    random = np.random.default_rng(0)
    truths = read_truth(asked.labels, random)
    print(
        "| system | clusters | macro | difference | labels, by expected texts | label differences |"
    )
    print("|---|--:|--:|--:|---|---|")
    for kind in asked.systems:
        for texts in asked.sizes:
            held = simulate(
                truths,
                kind,
                texts,
                rounds=asked.rounds,
                resamples=asked.resamples,
                random=random,
                smoothed=not asked.plain,
            )
            support = truths.mean(axis=0) * texts
            cells = []
            for name in ("labels", "label_differences"):
                shares = held[name].mean(axis=0)
                parts = []
                for low, high in ((0, 2), (2, 5), (5, 20), (20, 100), (100, 10**9)):
                    inside = (low <= support) & (support < high)
                    if inside.any():
                        lowest, highest = shares[inside].min(), shares[inside].max()
                        parts.append(f"{low}+: {lowest:.2f}–{highest:.2f}")
                cells.append(", ".join(parts))
            print(
                f"| {kind} | {texts:,} | {held['macro'].mean():.3f} "
                f"| {held['difference'].mean():.3f} | {cells[0]} | {cells[1]} |",
                flush=True,
            )
            if held["zero_width"].any():
                print(f"<!-- {held['zero_width'].mean():.1%} of label intervals have no width -->")


if __name__ == "__main__":
    main()
