"""The labelling queue of one model: clusters of duplicates, the one worth most first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from trialese.corpus import cluster_texts
from trialese.settings import DedupSettings
from trialese.web.answers import Event, Member, key_of
from trialese.web.ranking import Ranked, likeness, rank_texts, uncertainty

if TYPE_CHECKING:
    from trialese.records import Task
    from trialese.web.shelf import Reading

__all__ = ["MOST_TEXTS", "Item", "Queue"]

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
    """Made from what a model has read; asked with the answers that stand."""

    def __init__(
        self,
        task: Task,
        readings: Iterable[Reading],
        cuts: Iterable[float] | None,
        known: Iterable[Event] = (),
    ) -> None:
        """`known` are events whose keys clusters keep, should other texts have joined them."""
        held = list(readings)
        keys = {key_of(m.text): event.key for event in known for m in event.members}
        clusters = cluster_texts(((r.nct_id, r.text) for r in held), DedupSettings())
        groups: dict[str, list[Reading]] = {}
        for reading in held:
            groups.setdefault(clusters[reading.nct_id], []).append(reading)
        self.texts = len(held)
        self._items = [_item(group, keys) for _, group in sorted(groups.items())]
        self._row = {item.key: row for row, item in enumerate(self._items)}
        scores = np.array([item.scores for item in self._items]).reshape(len(groups), -1)
        self._doubts = uncertainty(scores, task.kind, None if cuts is None else list(cuts))
        self._sizes = np.array([len(item.members) for item in self._items], np.int64)
        self._features = likeness([item.text[:_COMPARED_CHARACTERS] for item in self._items])
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
                    self._doubts,
                    self._sizes,
                    self._features,
                    answered=sorted(answered),
                    most=_RANKED + len(skipped),
                )
                self._ranked_with = answered
                left = [r for r in self._ranked if r.row not in skipped]
        return left


def _item(group: list[Reading], keys: Mapping[str, str]) -> Item:
    """The commonest wording speaks for its cluster; of equally common ones the smallest id's."""
    wordings = Counter(reading.text for reading in group)
    shown = max(group, key=lambda reading: wordings[reading.text])  # max keeps the first
    ordered = [shown, *(reading for reading in group if reading is not shown)]
    members = tuple(Member(reading.nct_id, reading.text) for reading in ordered)
    own = key_of(shown.text)
    return Item(
        key=next((keys[k] for m in members if (k := key_of(m.text)) in keys), own),
        text=shown.text,
        members=members,
        scores=shown.scores,
        second=False,
    )
