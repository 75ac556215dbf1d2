"""The labelling queue (active learning), and the labelled texts most similar to a text.

Texts are ranked by uncertainty x novelty x number of duplicates: uncertainty sampling (Lewis &
Gale 1994) weighted by how unlike a text is to those already chosen (maximal marginal relevance,
Carbonell & Goldstein 1998) and by how many texts one answer serves.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trialese.corpus.dedup import cluster_texts
from trialese.settings import DedupSettings
from trialese.web.annotations import Event, Member, key_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.records import Task
    from trialese.web.search_index import ScoredText

__all__ = [
    "MOST_TEXTS",
    "Item",
    "Labelled",
    "Neighbour",
    "Neighbours",
    "Queue",
    "Ranked",
    "rank_texts",
    "similarity",
    "uncertainty",
    "word_pieces",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A text's place in the queue, and why it stands there."""

    row: int
    uncertainty: float
    """Bits that the model lacks: of one label, or summed over labels that may hold together."""
    novelty: float
    """1 less the similarity (cosine, 0 to 1) to the nearest text that comes first."""
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


def similarity(texts: Sequence[str]) -> Any:
    """Sparse matrix (texts, features) of unit rows, whose products are similarities in [0, 1]."""
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
    uncertainties: NDArray[np.float64],
    sizes: NDArray[np.int64],
    features: Any,
    *,
    answered: Sequence[int] = (),
    most: int = 100,
) -> list[Ranked]:
    """At most so many rows, the one worth most first; `answered` rows are not among them.

    Greedy: after each choice, novelty is anew the distance to what is answered or chosen already.
    """
    nearest = np.zeros(len(uncertainties), np.float64)  # similarity to what comes first
    free = np.ones(len(uncertainties), np.bool_)
    for row in answered:
        free[row] = False
        np.maximum(nearest, _similarity_to(features, row), out=nearest)
    value = uncertainties * np.log2(1 + sizes)
    ranked: list[Ranked] = []
    while len(ranked) < most and free.any():
        worth = np.where(free, value * (1 - nearest), -1.0)
        row = int(worth.argmax())  # of equals the first
        ranked.append(
            Ranked(
                row=row,
                uncertainty=float(uncertainties[row]),
                novelty=float(1 - nearest[row]),
                size=int(sizes[row]),
                worth=float(worth[row]),
            )
        )
        free[row] = False
        np.maximum(nearest, _similarity_to(features, row), out=nearest)
    return ranked


def _similarity_to(features: Any, row: int) -> NDArray[np.float64]:
    near = (features @ features[[row]].T).toarray().ravel().astype(np.float64)
    return np.asarray(np.clip(near, 0.0, 1.0))


MOST_TEXTS = 20_000
"""Of a larger snapshot so many texts, evenly spread, are queued."""
_RANKED = 60
_STALE_ANSWERS = 20
_SECOND_EVERY = 4
_COMPARED_CHARACTERS = 1_000

Standing = Mapping[str, Mapping[str, Event]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A text to be labelled, and why it comes now."""

    key: str
    text: str
    members: tuple[Member, ...]
    """The text itself first, then its duplicates."""
    scores: tuple[float, ...]
    second: bool
    """Somebody else has labelled it: this answer measures agreement."""
    uncertainty: float = 0.0
    novelty: float = 0.0
    worth: float = 0.0


class Queue:
    """The queue of one model: clusters of duplicates, made from the texts that it has scored."""

    def __init__(
        self,
        task: Task,
        scored: Iterable[ScoredText],
        cuts: Iterable[float] | None,
        known: Iterable[Event] = (),
    ) -> None:
        """`known` are events whose keys clusters keep, should other texts have joined them."""
        held = list(scored)
        keys = {key_of(m.text): event.key for event in known for m in event.members}
        clusters = cluster_texts(((r.nct_id, r.text) for r in held), DedupSettings())
        groups: dict[str, list[ScoredText]] = {}
        for each in held:
            groups.setdefault(clusters[each.nct_id], []).append(each)
        self.texts = len(held)
        self._items = [_item(group, keys) for _, group in sorted(groups.items())]
        self._row = {item.key: row for row, item in enumerate(self._items)}
        scores = np.array([item.scores for item in self._items]).reshape(len(groups), -1)
        self._uncertainties = uncertainty(scores, task.kind, None if cuts is None else list(cuts))
        self._sizes = np.array([len(item.members) for item in self._items], np.int64)
        self._features = similarity([item.text[:_COMPARED_CHARACTERS] for item in self._items])
        self._lock = threading.Lock()
        self._ranked: list[Ranked] = []
        self._ranked_with: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._items)

    def item(self, key: str) -> Item | None:
        """The item of that key, ranked or not."""
        row = self._row.get(key)
        return None if row is None else self._items[row]

    def next(self, standing: Standing, annotator: str, most: int) -> list[Item]:
        """What the annotator should label next. Every fourth is one that somebody else has.

        Which texts come first is the same for everybody and is worked out anew after some
        answers, so that novelty counts what has been labelled since.
        """
        own = standing.get(annotator, {})
        others = {
            key
            for name, answers in standing.items()
            if name != annotator
            for key, event in answers.items()
            if event.kind == "answer" and key in self._row and key not in own
        }
        second = (replace(self._items[self._row[key]], second=True) for key in sorted(others))
        fresh = (self._placed(ranked) for ranked in self._fresh(standing, own, most))
        chosen: list[Item] = []
        for place in range(most):
            turn = (len(own) + place) % _SECOND_EVERY == _SECOND_EVERY - 1
            found = next(chain(second, fresh) if turn else chain(fresh, second), None)
            if found is None:
                break
            chosen.append(found)
        return chosen

    def _placed(self, ranked: Ranked) -> Item:
        return replace(
            self._items[ranked.row],
            uncertainty=ranked.uncertainty,
            novelty=ranked.novelty,
            worth=ranked.worth,
        )

    def _fresh(self, standing: Standing, own: Mapping[str, Event], most: int) -> list[Ranked]:
        """Ranked texts that nobody has answered and the annotator has not skipped."""
        answered = frozenset(
            self._row[key]
            for answers in standing.values()
            for key, event in answers.items()
            if event.kind == "answer" and key in self._row
        )
        skipped = {self._row[key] for key in own if key in self._row} - answered
        with self._lock:
            left = [r for r in self._ranked if r.row not in answered and r.row not in skipped]
            changed = len(answered ^ self._ranked_with)
            some_left_out = len(self._ranked) + len(self._ranked_with) < len(self._items)
            if changed >= _STALE_ANSWERS or (len(left) < most and some_left_out):
                self._ranked = rank_texts(
                    self._uncertainties,
                    self._sizes,
                    self._features,
                    answered=sorted(answered),
                    most=_RANKED + len(skipped),
                )
                self._ranked_with = answered
                left = [r for r in self._ranked if r.row not in skipped]
        return left


def _item(group: list[ScoredText], keys: Mapping[str, str]) -> Item:
    """The commonest wording speaks for its cluster; of equally common ones the smallest id's."""
    wordings = Counter(each.text for each in group)
    shown = max(group, key=lambda each: wordings[each.text])  # max keeps the first
    ordered = [shown, *(each for each in group if each is not shown)]
    members = tuple(Member(each.nct_id, each.text) for each in ordered)
    own = key_of(shown.text)
    return Item(
        key=next((keys[k] for m in members if (k := key_of(m.text)) in keys), own),
        text=shown.text,
        members=members,
        scores=shown.scores,
        second=False,
    )


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
    similarity: float
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
            near = _similarities(vectorizer, features, text)
        else:
            examples = (*also, *self.examples)
            near = _similarities(vectorizer, features, text)
            if also:
                more = vectorizer.transform([example.text for example in also])
                near = np.concatenate([_similarities(vectorizer, more, text), near])
        order = np.argsort(-near, kind="stable")[:most]
        return [
            Neighbour(example=examples[row], similarity=round(float(min(near[row], 1.0)), 4))
            for row in order.tolist()
            if near[row] > 0
        ]


def _learn(examples: Sequence[Labelled]) -> tuple[Any, Any]:
    """The vectorizer and the features of the examples; (None, None) if no text has a word."""
    if not any(any(map(str.isalnum, example.text)) for example in examples):
        return None, None
    vectorizer = word_pieces()
    return vectorizer, vectorizer.fit_transform([example.text for example in examples])


def _similarities(vectorizer: Any, features: Any, text: str) -> NDArray[np.float64]:
    found = features @ vectorizer.transform([text]).T
    return np.asarray(found.toarray().ravel(), np.float64)
