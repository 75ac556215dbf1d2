"""Paragraphs that stand in many trials: counted, and on request kept in a few of them only.

A paragraph is a line of the document with at least `min_words` words; two are the same when their
normalised words are. Counting takes 12 bytes a paragraph (15 million in the whole registry).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trialese.corpus.dedup import paragraph_hash, paragraph_keys
from trialese.settings import BoilerplateSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Boilerplate", "ParagraphLedger", "cut_paragraphs"]


class Boilerplate(msgspec.Struct, frozen=True, kw_only=True):
    """A paragraph that stands in many documents."""

    documents: int
    text: str


@dataclass(frozen=True, slots=True)
class _Census:
    hashes: NDArray[np.uint64]  # (distinct,), ascending
    documents: NDArray[np.int64]  # (distinct,), in how many documents each stands
    first: NDArray[np.int64]  # (distinct,), rank of the first document with it


class ParagraphLedger:
    """Collects paragraph hashes of documents, then tells which ones stand in many."""

    def __init__(self, settings: BoilerplateSettings) -> None:
        self._settings = settings
        self._hashes = array("Q")
        self._rows = array("I")

    def add(self, row: int, hashes: NDArray[np.uint64]) -> None:
        """Take in the paragraphs of the document at `row`."""
        distinct = np.unique(hashes)
        self._hashes.frombytes(distinct.tobytes())
        self._rows.extend([row] * len(distinct))

    def frequent(
        self, order: Sequence[int], text_of: Callable[[int], str]
    ) -> tuple[int, list[Boilerplate], Mapping[int, frozenset[int]]]:
        """(paragraphs in at least `min_documents` documents, the first of them, cuts by row).

        `order` lists the rows that stay, by ascending id; a paragraph is cut from all but the
        first `cap_documents` of them that hold it.
        """
        hashes, ranks = self._kept(order)
        census = _take_census(hashes, ranks)
        often = np.flatnonzero(census.documents >= self._settings.min_documents)
        often = often[np.lexsort((census.hashes[often], -census.documents[often]))]
        found = [
            Boilerplate(
                documents=int(census.documents[place]),
                text=_text_of(text_of(order[census.first[place]]), int(census.hashes[place])),
            )
            for place in often[: self._settings.listed]
        ]
        return len(often), found, self._cuts(hashes, ranks, order)

    def _kept(self, order: Sequence[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Hash and rank of each paragraph of the rows that stay, sorted by hash, then rank."""
        rank_of = np.full(max(order, default=-1) + 1, -1, np.int64)
        rank_of[np.array(order, np.int64)] = np.arange(len(order))
        rows = np.frombuffer(self._rows, np.uint32)
        hashes = np.frombuffer(self._hashes, np.uint64)
        inside = rows < len(rank_of)
        ranks = np.full(len(rows), -1, np.int64)
        ranks[inside] = rank_of[rows[inside]]
        hashes, ranks = hashes[ranks >= 0], ranks[ranks >= 0]
        sequence = np.lexsort((ranks, hashes))
        return hashes[sequence], ranks[sequence]

    def _cuts(
        self, hashes: NDArray[np.uint64], ranks: NDArray[np.int64], order: Sequence[int]
    ) -> dict[int, frozenset[int]]:
        cap = self._settings.cap_documents
        if cap is None or not len(hashes):
            return {}
        opens = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
        place = np.arange(len(hashes)) - np.repeat(opens, np.diff(np.r_[opens, len(hashes)]))
        cuts: dict[int, set[int]] = {}
        for spot in np.flatnonzero(place >= cap):
            cuts.setdefault(order[ranks[spot]], set()).add(int(hashes[spot]))
        return {row: frozenset(these) for row, these in cuts.items()}


def cut_paragraphs(text: str, hashes: frozenset[int]) -> str:
    """The text without the paragraphs of these hashes (a section of one line goes whole)."""
    lines = zip(text.split("\n"), paragraph_keys(text), strict=True)
    kept = [line for line, key in lines if paragraph_hash(key) not in hashes]
    joined = "\n".join(kept)
    while "\n\n\n" in joined:
        joined = joined.replace("\n\n\n", "\n\n")
    return joined.strip()


def _take_census(hashes: NDArray[np.uint64], ranks: NDArray[np.int64]) -> _Census:
    if not len(hashes):
        return _Census(hashes, ranks, ranks)
    opens = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
    return _Census(hashes[opens], np.diff(np.r_[opens, len(hashes)]), ranks[opens])


def _text_of(document: str, wanted: int) -> str:
    lines = zip(document.split("\n"), paragraph_keys(document), strict=True)
    return next(line for line, key in lines if paragraph_hash(key) == wanted)
