"""Which texts are worth a human's label first: uncertainty x novelty x number of duplicates.

Uncertainty sampling (Lewis & Gale 1994) weighted by how unlike a text is to those already chosen
(maximal marginal relevance, Carbonell & Goldstein 1998) and by how many texts one answer serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Ranked", "likeness", "rank_texts", "uncertainty", "word_pieces"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A text's place in the queue, and why it stands there."""

    row: int
    uncertainty: float
    """Bits that the model lacks: of one label, or summed over labels that may hold together."""
    novelty: float
    """1 less the likeness (cosine, 0 to 1) to the nearest text that comes first."""
    size: int
    """Texts that one answer serves."""
    worth: float
    """uncertainty x novelty x log2 (1 + size)."""


def uncertainty(
    scores: NDArray[np.float64],
    kind: Literal["multilabel", "multiclass"],
    cuts: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """(texts,): entropy in bits. A label's chance counts as even at its cut-off, not at 0.5."""
    chances = np.clip(scores, 1e-9, 1 - 1e-9)
    if kind == "multiclass":
        shares = chances / chances.sum(axis=1, keepdims=True)
        return np.asarray(-(shares * np.log2(shares)).sum(axis=1))
    even = np.clip(np.asarray(0.5 if cuts is None else cuts, np.float64), 1e-6, 1 - 1e-6)
    odds = chances / (1 - chances) * (1 - even) / even
    moved = np.clip(odds / (1 + odds), 1e-12, 1 - 1e-12)
    bits = -(moved * np.log2(moved) + (1 - moved) * np.log2(1 - moved))
    return np.asarray(bits.sum(axis=1))


def likeness(texts: Sequence[str]) -> Any:
    """Sparse matrix (texts, features) of unit rows, whose products are likenesses in [0, 1]."""
    from scipy.sparse import csr_matrix

    try:
        return word_pieces().fit_transform(texts)
    except ValueError:  # no text has a single feature: nothing is like anything
        return csr_matrix((len(texts), 1), dtype=np.float32)


def word_pieces() -> Any:
    """A TF-IDF vectorizer of pieces of words, so that "accrual" is near "accruals"."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32
    )


def rank_texts(
    doubts: NDArray[np.float64],
    sizes: NDArray[np.int64],
    features: Any,
    *,
    answered: Sequence[int] = (),
    most: int = 100,
) -> list[Ranked]:
    """At most so many rows, the one worth most first; `answered` rows are not among them.

    Greedy: after each choice, novelty is anew the distance to what is answered or chosen already.
    """
    nearest = np.zeros(len(doubts), np.float64)  # likeness to what comes first
    free = np.ones(len(doubts), np.bool_)
    for row in answered:
        free[row] = False
        np.maximum(nearest, _likeness_to(features, row), out=nearest)
    value = doubts * np.log2(1 + sizes)
    ranked: list[Ranked] = []
    while len(ranked) < most and free.any():
        worth = np.where(free, value * (1 - nearest), -1.0)
        row = int(worth.argmax())  # of equals the first
        ranked.append(
            Ranked(
                row=row,
                uncertainty=float(doubts[row]),
                novelty=float(1 - nearest[row]),
                size=int(sizes[row]),
                worth=float(worth[row]),
            )
        )
        free[row] = False
        np.maximum(nearest, _likeness_to(features, row), out=nearest)
    return ranked


def _likeness_to(features: Any, row: int) -> NDArray[np.float64]:
    near = (features @ features[[row]].T).toarray().ravel().astype(np.float64)
    return np.asarray(np.clip(near, 0.0, 1.0))
