"""Texts of the user's own to be labelled: a table or file of texts, and what models give them.

Read whole at the start, so that a file that cannot be used is told at once. Scores are kept in
memory: unlike a snapshot's trials, the texts are scored anew at each start.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trialese.errors import RecordError
from trialese.tasks.formats import KNOWN_COLUMNS, AskedColumns, read_records, texts_of
from trialese.web.search_index import ScoredText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trialese.tasks.scorer import Preprocessing

__all__ = ["OwnTexts", "read_own_texts"]


class OwnTexts:
    """The texts of one file as one task reads them, with the scores of its models."""

    def __init__(
        self, name: str, texts: Sequence[tuple[str, str]], left_out: dict[str, int]
    ) -> None:
        """`texts` are (id, text), ids distinct; `left_out` counts records without one by reason."""
        self.name = name
        self.texts = tuple(texts)
        self.left_out = left_out
        self._lock = threading.Lock()
        self._scored: dict[str, list[ScoredText]] = {}

    def add_scores(self, model: str, scores: NDArray[np.float64]) -> None:
        """Keep the scores (texts, labels) of the next texts that the model had not scored."""
        with self._lock:
            held = self._scored.setdefault(model, [])
            following = self.texts[len(held) : len(held) + len(scores)]
            held += [
                ScoredText(nct_id=name, text=text, scores=tuple(row))
                for (name, text), row in zip(following, scores.tolist(), strict=True)
            ]

    def count_scored(self, model: str) -> int:
        """Texts that the model has scored."""
        with self._lock:
            return len(self._scored.get(model, ()))

    def scored_texts(self, model: str, *, most: int) -> Iterator[ScoredText]:
        """The texts that the model has scored, in their order; of more than `most`, so many."""
        with self._lock:
            held = tuple(self._scored.get(model, ()))
        return iter(held[:: max(1, -(-len(held) // most))])


def read_own_texts(
    path: Path, how: Preprocessing, *, most: int, columns: AskedColumns = KNOWN_COLUMNS
) -> OwnTexts:
    """The texts of a table, a text file, registry records or a snapshot; of more, `most` of them.

    `columns` are those of a table, unless their names are known. What has no name is called by its
    row. A name that stands twice gets its row beside it.

    Raises:
        RecordError: no such file, one that cannot be understood, or not one text in it.
        ArtifactError: an artifact that is no snapshot.
    """
    left_out: dict[str, int] = {}
    found = texts_of(list(read_records(path, columns)), 1, how, left_out)
    if not found:
        why = (
            ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "it is empty"
        )
        raise RecordError(f"{path}: no text to label ({why}); give --queue a file of texts")
    kept = found[:: max(1, -(-len(found) // most))]
    if len(kept) < len(found):
        left_out["beyond_the_most_queued"] = len(found) - len(kept)
    times = Counter(each.name for each in kept)
    names = [
        (each.name if times[each.name] == 1 else f"{each.name} row {each.row}")
        if each.name
        else f"row {each.row}"
        for each in kept
    ]
    texts = list(zip(names, (each.text for each in kept), strict=True))
    return OwnTexts(path.name, texts, left_out)
