"""What a text is compared by: its normalised words, their shingles, and MinHash bands of these.

Shingles are runs of `shingle_words` words, hashed to 32 bits. MinHash comes from datasketch: the
maintained library with tested permutations (2.x: bijections on 32 bits, without the bias of the
older scheme on large sets). Its LSH index, a Python dict a band, is not used: at 600,000 texts it
takes gigabytes where sorted arrays of band hashes take a hundred megabytes (`dedup.py`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from datasketch import MinHash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.settings import DedupSettings

__all__ = [
    "Fingerprint",
    "Fingerprinter",
    "band_shape",
    "jaccard",
    "normalise",
    "paragraph_hash",
    "paragraph_keys",
]

_WORD = re.compile(r"\w+")
_CACHED_WORDS = 1_000_000
_CANDIDATE_RECALL = 0.99
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the usual multiplicative constant
_MIX = np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finaliser


def normalise(text: str) -> str:
    """The text's words, case-folded (NFKC), joined by single blanks; key text for duplicates.

    Punctuation does not count, unless there is nothing else: "?" stays "?".
    """
    folded = _fold(text)
    return " ".join(_WORD.findall(folded)) or " ".join(folded.split())


def paragraph_keys(text: str) -> list[str]:
    """For each line of `text` its words as in `normalise`; "" for a line without any."""
    return [" ".join(_WORD.findall(line)) for line in _fold(text).split("\n")]


def paragraph_hash(key: str) -> int:
    """64 bits that name a paragraph by its words."""
    return _hash64(key)


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _hash64(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def band_shape(jaccard: float, permutations: int) -> tuple[int, int]:
    """(bands, rows) for LSH: most rows that still propose 99 % of pairs at exactly `jaccard`.

    A pair is proposed with probability 1 - (1 - jaccard^rows)^bands (Leskovec, Rajaraman and
    Ullman, Mining of Massive Datasets, 3.4.2). Candidates are verified, so what a lower
    precision costs is time; what a lower recall costs is leaks.
    """
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - jaccard**rows) ** bands >= _CANDIDATE_RECALL:
            return bands, rows
    return permutations, 1


def jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    """|intersection| / |union| of two sorted arrays without repeats; 1.0 for two empty ones."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - shared
    return shared / union if union else 1.0


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """All that clustering needs to know of a text."""

    exact: bytes
    """First 16 bytes of the sha256 of the normalised text."""
    shingles: NDArray[np.uint32]  # (shingles,), sorted, each once; empty when near is off
    bands: NDArray[np.uint64]  # (bands,); empty when near is off


class Fingerprinter:
    """Makes fingerprints; keeps hashes of words already seen, which is what makes it fast."""

    def __init__(self, settings: DedupSettings) -> None:
        self._near = settings.near
        self._width = settings.shingle_words
        self._count = settings.permutations
        self._shape = band_shape(settings.jaccard, settings.permutations)
        model = MinHash(num_perm=self._count, seed=settings.seed, scheme="affine32")
        self._permutations = model.permutations
        self._words = _WordHashes()

    def __call__(self, text: str) -> Fingerprint:
        """The fingerprint of `text`."""
        return self.of_key(normalise(text))

    def of_key(self, key: str) -> Fingerprint:
        """The fingerprint of a text that is normalised already."""
        exact = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:16]
        if not self._near:
            return Fingerprint(exact, np.empty(0, np.uint32), np.empty(0, np.uint64))
        shingles = self._shingles(key.split())
        return Fingerprint(exact, shingles, self._bands(shingles))

    def _shingles(self, words: list[str]) -> NDArray[np.uint32]:
        """A text shorter than one shingle is a single one, so it only equals its own copies."""
        hashes = np.fromiter(map(self._words.__getitem__, words), np.uint64, len(words))
        width = max(1, min(self._width, len(words)))
        mixed = np.zeros(max(0, len(words) - width + 1), np.uint64)
        for place in range(width):
            mixed = mixed * _ODD + hashes[place : place + len(mixed)]
        mixed = (mixed ^ (mixed >> np.uint64(33))) * _MIX
        return np.unique((mixed >> np.uint64(32)).astype(np.uint32))

    def _bands(self, shingles: NDArray[np.uint32]) -> NDArray[np.uint64]:
        bands, rows = self._shape
        sketch = MinHash(
            num_perm=self._count,
            permutations=self._permutations,
            scheme="affine32",
            hashfunc=int,
        )
        sketch.update_batch(shingles.tolist())
        values = sketch.hashvalues[: bands * rows].reshape(bands, rows).astype(np.uint64)
        mixed = np.zeros(bands, np.uint64)
        for row in range(rows):
            mixed = (mixed ^ values[:, row]) * _ODD
            mixed ^= mixed >> np.uint64(29)
        return mixed


class _WordHashes(dict[str, int]):
    """Hash of each word, computed once; forgets everything when it has grown too large."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        known = self[word] = _hash64(word)
        return known
