"""Baselines: the prior, keywords, and TF-IDF with logistic regression. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialese.errors import RecipeError, suggest
from trialese.records import BASELINES, Example, Task
from trialese.tasks.linear import fit_linear
from trialese.tasks.task import encode_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Baseline",
    "check_system",
    "fit_baseline",
]


Baseline = Callable[[Sequence[str]], "NDArray[np.float64]"]
"""Texts in, probabilities (texts, labels) out."""


def check_system(task: str, system: str, model: str | Path | None) -> None:
    """Refuse a baseline with a model, and any other system without one.

    Raises:
        RecipeError: a model missing or one too many.
    """
    if re.fullmatch(r"\w[\w.+-]*", system) is None:
        raise RecipeError(
            f"{task}: system {system!r} cannot be a name; take letters, digits, and . _ + -"
        )
    if system in BASELINES and model is not None:
        raise RecipeError(
            f"{task}: system {system!r} takes no model; leave it out, or give the system another "
            "name, such as adapted"
        )
    if system not in BASELINES and model is None:
        raise RecipeError(
            f"{task}: system {system!r} needs the folder of a masked-LM (--model), or to be a "
            f"baseline; {suggest(system, BASELINES)}"
        )


def fit_baseline(
    name: str,
    task: Task,
    train: Sequence[Example],
    tune: Sequence[Example],
    *,
    keywords: Mapping[str, Sequence[str]] | None = None,
) -> Baseline:
    """The baseline called `name`, fitted on `train`; `tfidf` chooses its C on `tune`.

    `keywords` are lower-case words of each label; without any, those of the label's name.

    Raises:
        RecipeError: no such baseline.
    """
    if name == "prior":
        return _prior(task, train)
    if name == "keywords":
        return _keywords(task, keywords or _words_of_names(task), train)
    if name == "tfidf":
        return fit_linear(task, train, tune).scores_of
    raise RecipeError(f"baseline {name!r} is unknown; use one of {', '.join(BASELINES)}")


def _prior(task: Task, train: Sequence[Example]) -> Baseline:
    """Each label's share of the training texts, whatever the text."""
    shares = encode_labels(task, train).mean(axis=0)
    return lambda texts: np.tile(shares, (len(texts), 1))


def _words_of_names(task: Task) -> dict[str, tuple[str, ...]]:
    return {label: (label.replace("_", " ").casefold(),) for label in task.labels}


def _keywords(task: Task, words: Mapping[str, Sequence[str]], train: Sequence[Example]) -> Baseline:
    """Each label's share of the training texts with the same keywords (Laplace's rule).

    Several labels: a label is looked up by whether one of its own words stands in the text. One
    label: texts are looked up by the label whose words stand most often.
    """
    truth = encode_labels(task, train)  # (texts, labels)
    hits = _count_words(task, words, [example.text for example in train])
    if task.kind == "multilabel":
        share = np.stack(
            [
                ((truth & ((hits > 0) == found)).sum(axis=0) + 1)
                / (((hits > 0) == found).sum(axis=0) + 2)
                for found in (False, True)
            ]
        )  # (2, labels)

        def several(texts: Sequence[str]) -> NDArray[np.float64]:
            found = (_count_words(task, words, texts) > 0).astype(np.intp)
            return np.asarray(np.take_along_axis(share, found, axis=0))

        return several
    cells = hits.argmax(axis=1)
    table = np.stack(
        [truth[cells == cell].sum(axis=0) + 1.0 for cell in range(len(task.labels))]
    )  # (cells, labels)
    table /= table.sum(axis=1, keepdims=True)
    return lambda texts: table[_count_words(task, words, texts).argmax(axis=1)]


def _count_words(
    task: Task, words: Mapping[str, Sequence[str]], texts: Sequence[str]
) -> NDArray[np.int64]:
    """How often each label's words stand in each text: (texts, labels)."""
    counts = np.zeros((len(texts), len(task.labels)), np.int64)
    for column, label in enumerate(task.labels):
        if label in words:
            pattern = re.compile("|".join(map(re.escape, words[label])))
            counts[:, column] = [len(pattern.findall(f" {text.casefold()} ")) for text in texts]
    return counts
