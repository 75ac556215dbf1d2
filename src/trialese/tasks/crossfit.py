"""Several fits over one fold: each text outside test is scored by a fit that has not seen it.

A tenth of the texts is too few to choose a cut-off a label on. With inner folds every text that
is not test gives a score, nothing is kept back from training in all, and the members' weights
are averaged into one classifier (Wortsman et al. 2022, model soups, arXiv 2203.05482): they
start from the same weights and the same new head, so their mean lies in the same valley.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trialese.corpus import assign_fold
from trialese.errors import RecordError
from trialese.records import Example
from trialese.tasks.folds import ExampleSet, Parts, TaskSection, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.tasks.classifier import Classifier

__all__ = ["Round", "average_weights", "divide", "inner_rounds", "score_held"]

Round = tuple[list[Example], list[Example]]
"""Texts to fit on, and texts that the fit is stopped on and scores."""


def divide(found: ExampleSet, section: TaskSection, fold: int) -> tuple[Parts, list[Round]]:
    """The fold's texts by split, and its rounds of fitting. With inner folds, all but test is tune.

    Raises:
        RecordError: a split or an inner fold without any text.
    """
    parts = parts_of(found, section, fold)
    rounds = inner_rounds(
        parts["train"], parts["tune"], section.inner_folds, fold=fold, seed=section.split_seed
    )
    if section.inner_folds:
        parts = {**parts, "train": [], "tune": [text for _, held in rounds for text in held]}
    return parts, rounds


def inner_rounds(
    train: Sequence[Example], tune: Sequence[Example], folds: int, *, fold: int, seed: int
) -> list[Round]:
    """One round, (train, tune), where `folds` is 0; else one an inner fold of both together.

    A cluster is in one inner fold: which one follows from its name, `fold` and `seed` alone.

    Raises:
        RecordError: an inner fold without any text, or `folds` of 1.
    """
    if not folds:
        return [(list(train), list(tune))]
    texts = [*train, *tune]
    place = [assign_fold(f"inner {fold} {text.cluster}", folds=folds, seed=seed) for text in texts]
    rounds = [
        (
            [text for text, its in zip(texts, place, strict=True) if its != inner],
            [text for text, its in zip(texts, place, strict=True) if its == inner],
        )
        for inner in range(folds)
    ]
    if not all(others and held for others, held in rounds):
        raise RecordError(
            f"fold {fold}: {len(texts)} texts outside test do not fill {folds} inner folds; "
            "set inner_folds to 0, or give more texts"
        )
    return rounds


def score_held(
    rounds: Sequence[Round], predicts: Sequence[Callable[[Sequence[str]], NDArray[np.float64]]]
) -> tuple[list[Example], NDArray[np.float64]]:
    """Every round's held texts, and their scores (texts, labels) by the round's own fit."""
    held = [replace(text, split="tune") for _, texts in rounds for text in texts]
    scores = [
        predict([text.text for text in texts])
        for (_, texts), predict in zip(rounds, predicts, strict=True)
    ]
    return held, np.concatenate(scores)


def average_weights(classifiers: Sequence[Classifier]) -> Classifier:
    """The first classifier with the mean of all their weights; the others are left alone."""
    first, *others = classifiers
    if others:
        states = [each.model.state_dict() for each in classifiers]
        first.model.load_state_dict(
            {
                name: sum(state[name] for state in states) / len(states)
                if value.is_floating_point()
                else value
                for name, value in states[0].items()
            }
        )
    return first
