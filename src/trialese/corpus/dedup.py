"""Exact and near-duplicate texts: fingerprints of texts, and clusters of those that are alike.

A text is compared by its normalised words and by shingles of them. MinHash bands propose pairs of
near-duplicates; each pair is verified by the Jaccard similarity of its shingles and joined by
union-find. Which pairs are proposed depends on the texts alone, so the clusters do not depend on
the order in which they come.

Shingles are runs of `shingle_words` words, hashed to 32 bits. The MinHash values are those of
datasketch's scheme "affine32", bit for bit (bijections on 32 bits, without the bias of older
schemes on large sets); the library itself would bring scipy into every install, 113 MB. There is no
LSH index either, a Python dict a band: at 600,000 texts it takes gigabytes where sorted arrays of
band hashes take a hundred megabytes.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from trialese.settings import DedupSettings


__all__ = [
    "Fingerprint",
    "FingerprintIndex",
    "Fingerprinter",
    "NgramOverlap",
    "band_shape",
    "cluster_texts",
    "jaccard",
    "near_any",
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
        random = np.random.RandomState(settings.seed)
        count = self._count
        halves = random.randint(0, 1 << 31, count, dtype=np.uint32)
        self._factors = halves * np.uint32(2) + np.uint32(1)  # odd: multiplying is a bijection
        self._shifts = random.randint(0, 1 << 32, count, dtype=np.uint32)
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
        mixed = _hash_ngrams(hashes, self._width)
        return np.unique((mixed >> np.uint64(32)).astype(np.uint32))

    def _bands(self, shingles: NDArray[np.uint32]) -> NDArray[np.uint64]:
        bands, rows = self._shape
        values = self._min_hashes(shingles)[: bands * rows].reshape(bands, rows).astype(np.uint64)
        mixed = np.zeros(bands, np.uint64)
        for row in range(rows):
            mixed = (mixed ^ values[:, row]) * _ODD
            mixed ^= mixed >> np.uint64(29)
        return mixed

    def _min_hashes(self, shingles: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """(permutations,): the least image of the shingles under each; 2^32 - 1 where none is."""
        mixed = shingles ^ (shingles >> np.uint32(16))  # MurmurHash3's finaliser for 32 bits
        mixed = mixed * np.uint32(0x85EBCA6B)
        mixed ^= mixed >> np.uint32(13)
        mixed *= np.uint32(0xC2B2AE35)
        mixed ^= mixed >> np.uint32(16)
        images = mixed[:, None] * self._factors + self._shifts
        least: NDArray[np.uint32] = images.min(axis=0, initial=np.uint32(0xFFFFFFFF))
        return least


def _hash_ngrams(words: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """A hash of each run of `width` words, or of all words where they are fewer; of none, none."""
    width = max(1, min(width, len(words)))
    mixed = np.zeros(max(0, len(words) - width + 1), np.uint64)
    for place in range(width):
        mixed = mixed * _ODD + words[place : place + len(mixed)]
    return (mixed ^ (mixed >> np.uint64(33))) * _MIX


class NgramOverlap:
    """The share of each held-out text's n-grams of words that stand in training texts too.

    First `hold_out` all held-out texts, then `read` the training texts in any order; memory holds
    8 bytes a held-out word and nothing of the training texts. Words are compared as in `normalise`,
    n-grams by hashes of 64 bits. Brown et al. (2020, appendix C) take 13 words for web pages; what
    trials share is shorter, so the default is 8. A text of fewer words is one n-gram.
    """

    def __init__(self, *, words: int = 8, sources: int = 1) -> None:
        self._width = words
        self._hashes = _WordHashes()
        self._names: list[str] = []
        self._held: list[NDArray[np.uint64]] = []
        self._known: NDArray[np.uint64] | None = None  # (distinct n-grams,), ascending
        self._sources = sources
        self._found = np.zeros((sources, 0), np.bool_)

    def hold_out(self, name: str, text: str) -> None:
        """Take in a text whose overlap is asked."""
        if self._known is not None:
            raise ValueError("hold out every text before the first training text is read")
        self._names.append(name)
        self._held.append(self._ngrams(text))

    def read(self, text: str, *, source: int = 0) -> None:
        """Take in a training text of one of the sources, numbered from 0."""
        if self._known is None:
            held = np.concatenate([np.empty(0, np.uint64), *self._held])
            self._known = np.unique(held)
            self._found = np.zeros((self._sources, len(self._known)), np.bool_)
        grams = self._ngrams(text)
        places = np.searchsorted(self._known, grams)
        inside = places < len(self._known)
        places, grams = places[inside], grams[inside]
        self._found[source, places[self._known[places] == grams]] = True

    def shares(self) -> dict[str, NDArray[np.float64]]:
        """Name -> for each source, and last for all together, the share of its n-grams: 0 to 1.

        A text without words has none in common with any: 0.
        """
        table = np.vstack([self._found, self._found.any(axis=0)])
        shares = {}
        for name, grams in zip(self._names, self._held, strict=True):
            if self._known is None or not len(grams):
                shares[name] = np.zeros(self._sources + 1)
            else:
                shares[name] = table[:, np.searchsorted(self._known, grams)].mean(axis=1)
        return shares

    def _ngrams(self, text: str) -> NDArray[np.uint64]:
        words = normalise(text).split()
        hashes = np.fromiter(map(self._hashes.__getitem__, words), np.uint64, len(words))
        return _hash_ngrams(hashes, self._width)


class _WordHashes(dict[str, int]):
    """Hash of each word, computed once; forgets everything when it has grown too large."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        known = self[word] = _hash64(word)
        return known


_REMEMBERED_PAIRS = 5_000_000


def cluster_texts(items: Iterable[tuple[str, str]], settings: DedupSettings) -> dict[str, str]:
    """For each id the name of its cluster: the smallest id among the texts that duplicate it.

    Two texts are duplicates when their normalised words are equal or, with `settings.near`, the
    Jaccard similarity of their shingles is at least `settings.jaccard`; a cluster is a connected
    component of that relation. An id that comes twice joins the clusters of both its texts.
    """
    fingerprint = Fingerprinter(settings)
    with FingerprintIndex(settings) as index:
        for name, text in items:
            index.add(name, fingerprint(text))
        return index.clusters()


def near_any(texts: Sequence[str], others: Iterable[str], settings: DedupSettings) -> list[bool]:
    """Of each text whether it is in one cluster with any of the `others`."""
    named = [(f"text {place}", text) for place, text in enumerate(texts)]
    beside = [(f"other {place}", text) for place, text in enumerate(others)]
    clusters = cluster_texts([*named, *beside], settings)
    taken = {clusters[name] for name, _ in beside}
    return [clusters[name] in taken for name, _ in named]


class FingerprintIndex:
    """Collects fingerprints, then clusters them.

    Shingles go to an unnamed temporary file (in `scratch`, default the system's), which ends with
    the `with` block; memory holds about 250 bytes a text.
    """

    def __init__(self, settings: DedupSettings, *, scratch: Path | None = None) -> None:
        self._settings = settings
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - see __exit__
        self._ids: list[str] = []
        self._groups: dict[int, str] = {}  # of rows whose group is not their name
        self._ends: list[int] = [0]
        self._bands = bytearray()  # of 8 bytes each; objects would take twice the memory
        self._first: dict[bytes, int] = {}
        self._same: list[int] = []

    def __enter__(self) -> FingerprintIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, name: str, fingerprint: Fingerprint, *, group: str | None = None) -> None:
        """Take in the text called `name`; exact copies of an earlier text cost next to nothing.

        Texts of one `group` (default: the name) are of one cluster, alike or not.
        """
        row = len(self._ids)
        self._ids.append(name)
        if group is not None and group != name:
            self._groups[row] = group
        first = self._first.setdefault(fingerprint.exact, row)
        self._same.append(first)
        if first == row and self._settings.near:
            self._file.write(fingerprint.shingles.tobytes())
            self._ends.append(self._ends[-1] + len(fingerprint.shingles))
            self._bands += fingerprint.bands.tobytes()

    def clusters(self) -> dict[str, str]:
        """For each id the smallest id of its cluster."""
        union = _Union(len(self._ids))
        for row, first in enumerate(self._same):
            union.join(row, first)
        distinct = [row for row, first in enumerate(self._same) if row == first]
        if self._settings.near and len(distinct) > 1:
            for one, other in self._near_pairs(_Union(len(distinct))):
                union.join(distinct[one], distinct[other])
        home: dict[str, int] = {}
        for row, name in enumerate(self._ids):  # one id with two texts ties their clusters
            union.join(row, home.setdefault(self._groups.get(row, name), row))
        smallest: dict[int, str] = {}
        for row, name in enumerate(self._ids):
            root = union.find(row)
            smallest[root] = min(name, smallest.get(root, name))
        return {name: smallest[union.find(row)] for row, name in enumerate(self._ids)}

    def _near_pairs(self, union: _Union) -> Iterator[tuple[int, int]]:
        """Verified pairs of distinct texts, enough of them to connect every component."""
        self._file.flush()
        shingles: NDArray[np.uint32] = np.empty(0, np.uint32)
        if self._ends[-1]:  # an empty file cannot be mapped
            shingles = np.memmap(self._file, np.uint32, "r")
        number = len(self._ends) - 1
        bands = np.frombuffer(self._bands, np.uint64).reshape(number, -1)  # (texts, bands)
        refused: set[int] = set()
        for column in bands.T:
            for group in _groups(column):
                for place, one in enumerate(group):
                    for other in group[place + 1 :]:
                        pair = one * number + other
                        if pair in refused or union.find(one) == union.find(other):
                            continue
                        if self._alike(shingles, one, other):
                            union.join(one, other)
                            yield one, other
                        elif len(refused) < _REMEMBERED_PAIRS:
                            refused.add(pair)

    def _alike(self, shingles: NDArray[np.uint32], one: int, other: int) -> bool:
        first = shingles[self._ends[one] : self._ends[one + 1]]
        second = shingles[self._ends[other] : self._ends[other + 1]]
        few, many = sorted((len(first), len(second)))
        least = self._settings.jaccard
        return few >= least * many and jaccard(first, second) >= least


class _Union:
    """Union-find over rows 0 ... n-1, with path halving."""

    def __init__(self, rows: int) -> None:
        self._parent = list(range(rows))

    def find(self, row: int) -> int:
        parent = self._parent
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    def join(self, one: int, other: int) -> None:
        one, other = self.find(one), self.find(other)
        if one != other:
            self._parent[max(one, other)] = min(one, other)


def _groups(column: NDArray[np.uint64]) -> Iterator[list[int]]:
    """Rows with equal values, in ascending order, for every value that stands more than once."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(ordered)]
    for place in np.flatnonzero(ends - starts > 1):
        yield order[starts[place] : ends[place]].tolist()
