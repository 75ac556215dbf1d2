"""The labelled texts that are nearest to a text, by the pieces of words that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trialese.web.ranking import word_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Labelled", "Neighbour", "Neighbours"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text that somebody labelled, and who or where."""

    id: str
    text: str
    labels: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A labelled text near another."""

    example: Labelled
    likeness: float
    """Cosine of TF-IDF vectors, 0 to 1; 1 only for texts of the same pieces of words."""


class Neighbours:
    """TF-IDF (pieces of 3 to 5 characters within words) over labelled texts."""

    def __init__(self, examples: Sequence[Labelled]) -> None:
        """Texts are learnt here: a second for some thousands."""
        self.examples = tuple(examples)
        self._vectorizer, self._features = _learn(self.examples)

    def nearest(
        self, text: str, most: int = 5, *, also: Sequence[Labelled] = ()
    ) -> list[Neighbour]:
        """At most so many, nearest first, of equals in their order; none that share nothing.

        `also` are further examples, weighed by what is common among the first.
        """
        vectorizer, features = self._vectorizer, self._features
        if vectorizer is None:
            vectorizer, features = _learn(also)
            if vectorizer is None:
                return []
            examples = tuple(also)
            near = _likeness(vectorizer, features, text)
        else:
            examples = (*also, *self.examples)
            near = _likeness(vectorizer, features, text)
            if also:
                more = vectorizer.transform([example.text for example in also])
                near = np.concatenate([_likeness(vectorizer, more, text), near])
        order = np.argsort(-near, kind="stable")[:most]
        return [
            Neighbour(example=examples[row], likeness=round(float(min(near[row], 1.0)), 4))
            for row in order.tolist()
            if near[row] > 0
        ]


def _learn(examples: Sequence[Labelled]) -> tuple[Any, Any]:
    """The vectorizer and the features of the examples; (None, None) if no text has a word."""
    if not any(any(map(str.isalnum, example.text)) for example in examples):
        return None, None
    vectorizer = word_pieces()
    return vectorizer, vectorizer.fit_transform([example.text for example in examples])


def _likeness(vectorizer: Any, features: Any, text: str) -> NDArray[np.float64]:
    found = features @ vectorizer.transform([text]).T
    return np.asarray(found.toarray().ravel(), np.float64)
