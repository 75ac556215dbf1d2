"""Words of two periods compared: how far a vocabulary breaks them up, and which ones rose."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from transformers import PreTrainedTokenizerFast

__all__ = ["BrokenTerm", "RisingTerm", "broken_terms", "pieces_per_word", "rising_terms"]

_WORD = re.compile(r"[^\W\d_][\w-]*[^\W_]")
"""Two or more letters or digits, beginning with a letter: "SARS-CoV-2", "pembrolizumab"."""


class RisingTerm(msgspec.Struct, frozen=True):
    """A word that more documents use since than before."""

    word: str
    documents_before: int
    documents_since: int
    z: float
    """Log-odds ratio over its standard error."""
    pieces: int
    """Word pieces that the vocabulary breaks it into."""


class BrokenTerm(msgspec.Struct, frozen=True):
    """A word that only documents of since use, and that the vocabulary breaks up."""

    word: str
    documents_since: int
    pieces: int


def pieces_per_word(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> float:
    """Mean word pieces a word over all words of the texts (fertility); 0.0 without words."""
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    pieces = _count_pieces(list(counts), tokenizer)
    words = counts.total()
    return sum(counts[word] * n for word, n in pieces.items()) / words if words else 0.0


def rising_terms(
    before: Sequence[str],
    since: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    count: int = 20,
    fewest_documents: int = 3,
) -> list[RisingTerm]:
    """The words whose share of documents rose most, by z of the smoothed log-odds ratio.

    Shares of documents, not of words, so that one long document cannot make a term. Half a
    document is added to each cell (Haldane 1956); words in fewer than `fewest_documents` of
    `since` are left out.
    """
    early, late = _document_counts(before), _document_counts(since)
    found = [
        (word, early[word], n, _log_odds_z(early[word], len(before), n, len(since)))
        for word, n in late.items()
        if n >= fewest_documents
    ]
    found = [row for row in found if row[3] > 0]
    found.sort(key=lambda row: (-row[3], row[0]))
    pieces = _count_pieces([row[0] for row in found[:count]], tokenizer)
    return [RisingTerm(*row, pieces[row[0]]) for row in found[:count]]


def broken_terms(
    before: Sequence[str],
    since: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    count: int = 20,
    fewest_documents: int = 3,
) -> list[BrokenTerm]:
    """New words of two pieces or more: most pieces first, then those of most documents.

    New is what no text of `before` holds; words in fewer than `fewest_documents` of `since` are
    left out.
    """
    known = _document_counts(before)
    new = {
        word: n
        for word, n in _document_counts(since).items()
        if n >= fewest_documents and word not in known
    }
    pieces = _count_pieces(list(new), tokenizer)
    found = [BrokenTerm(word, n, pieces[word]) for word, n in new.items() if pieces[word] > 1]
    found.sort(key=lambda term: (-term.pieces, -term.documents_since, term.word))
    return found[:count]


def _log_odds_z(early: int, early_total: int, late: int, late_total: int) -> float:
    cells = [n + 0.5 for n in (late, late_total - late, early, early_total - early)]
    ratio = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    return ratio / math.sqrt(sum(1 / cell for cell in cells))


def _document_counts(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in {w.lower() for w in _WORD.findall(text)})


def _count_pieces(words: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    encoded = tokenizer.backend_tokenizer.encode_batch(list(words), add_special_tokens=False)
    return {word: len(one.ids) for word, one in zip(words, encoded, strict=True)}
