"""The published protocol, re-made to the letter so that its inflation can be measured.

The prior art splits rows at random, 90 to 10 with seed 42, trains 20 epochs at 5e-5 in batches of
32, texts cut after 177 tokens, a fresh head of two layers, keeps the epoch that is best on the
10 %, and reports scores at a cut-off of 0.3 over *all* rows, those trained on included. Nothing
here may be used to say how good a model is; `finetune` and the verdict do that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialese.cutoffs import decide, f1_averages
from trialese.progress import Progress, silent
from trialese.records import Example
from trialese.settings import FinetuneSettings
from trialese.tasks.baselines import BASELINES, fit_baseline
from trialese.tasks.folds import ExampleSet
from trialese.tasks.task import encode_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PUBLISHED_CUT",
    "PUBLISHED_FINETUNE",
    "PUBLISHED_SEX_FINETUNE",
    "PublishedScores",
    "published_sex_rows",
    "run_published",
    "split_published",
]

PUBLISHED_CUT = 0.3
PUBLISHED_FINETUNE = FinetuneSettings(
    epochs=20,
    patience=20,
    batch_texts=32,
    max_tokens=177,
    lr=5e-5,
    head_lr=5e-5,
    warmup_share=0.0,
    pooler="random",  # new pooler + classifier: its head of two layers
    loss="cross-entropy",
)
"""Padding to 177 is left out: padded positions are masked, so it changes time and no score."""

_SEX_TRAIN_ROWS, _SEX_TEST_ROWS = 361_265, 40_141
PUBLISHED_SEX_FINETUNE = FinetuneSettings(
    epochs=3, patience=3, batch_texts=32, max_tokens=256, lr=5e-5, head_lr=5e-5, warmup_share=0.0,
    pooler="random", loss="cross-entropy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublishedScores:
    """What the published way says of one system, beside the same model's held-out rows."""

    system: str
    all_rows: tuple[float, float]
    """(micro-F1, macro-F1) over all rows, as published."""
    held_out: tuple[float, float]
    """The same cut-off on the 10 % only. Still flattered: duplicates, and the best epoch."""
    label_f1: dict[str, tuple[float, float]]
    """Label -> F1 over all rows, F1 on the 10 %."""
    rows: int
    held_out_rows: int
    scored_rows_trained_on: int
    """Of the scored rows, those that the weights were fitted on."""
    held_out_exact: int
    """Of the 10 %, texts whose normalised words stand in the 90 % too."""
    held_out_near: int
    """Of the 10 %, texts that share a duplicate cluster with one in the 90 %."""


def split_published(examples: Sequence[Example], *, seed: int = 42) -> list[Example]:
    """The examples with split train or test: 10 % of the rows at random, whatever they share.

    The permutation is numpy's legacy generator, as scikit-learn's `train_test_split` uses it.
    """
    order = np.random.RandomState(seed).permutation(len(examples))
    held = set(order[: -(-len(examples) // 10)].tolist())
    return [
        replace(example, split="test" if row in held else "train")
        for row, example in enumerate(examples)
    ]


def published_sex_rows(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(training rows, test rows) of the published sex classifier: rows 0-361,264 and 0-40,140.

    The second slice lies within the first, so every test row has been trained on. Shorter tables
    are cut in the same proportion.
    """
    whole = len(examples)
    share = min(1.0, whole / _SEX_TRAIN_ROWS)
    train, test = round(_SEX_TRAIN_ROWS * share), round(_SEX_TEST_ROWS * share)
    return list(examples[:train]), list(examples[:test])


def run_published(
    found: ExampleSet,
    system: str,
    model: Path | None,
    *,
    settings: FinetuneSettings = PUBLISHED_FINETUNE,
    progress: Progress = silent,
) -> PublishedScores:
    """The published figures of one system on `found`, and how far they are flattered."""
    from trialese.corpus import normalise

    divided = split_published(found.examples)
    train = [example for example in divided if example.split == "train"]
    test = [example for example in divided if example.split == "test"]
    predict: Callable[[Sequence[str]], NDArray[np.float64]]
    if model is None and system in BASELINES:
        predict = fit_baseline(system, found.task, train, test)
    else:
        from trialese.tasks.fitting import fit_classifier

        assert model is not None
        classifier, _ = fit_classifier(
            found.task, train, test, model, settings, seed=42, progress=progress
        )
        predict = classifier.predict
    scores = predict([example.text for example in divided])
    given = decide(scores, found.task.kind, PUBLISHED_CUT)
    truth = encode_labels(found.task, divided)
    held = np.array([example.split == "test" for example in divided])
    texts = {normalise(example.text) for example in train}
    clusters = {example.cluster for example in train}
    return PublishedScores(
        system=system,
        all_rows=f1_averages(truth, given),
        held_out=f1_averages(truth[held], given[held]),
        label_f1={
            label: (
                f1_averages(truth[:, [column]], given[:, [column]])[0],
                f1_averages(truth[held][:, [column]], given[held][:, [column]])[0],
            )
            for column, label in enumerate(found.task.labels)
        },
        rows=len(divided),
        held_out_rows=len(test),
        scored_rows_trained_on=len(train),
        held_out_exact=sum(normalise(example.text) in texts for example in test),
        held_out_near=sum(example.cluster in clusters for example in test),
    )
