"""Exact and near-duplicate clusters: texts in, the name of each text's cluster out.

MinHash bands propose pairs of near-duplicates; each pair is verified by the Jaccard similarity
of its shingles and joined by union-find. Which pairs are proposed depends on the texts alone,
so the clusters do not depend on the order in which they come.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from trialese.corpus.fingerprint import Fingerprint, Fingerprinter, jaccard, normalise

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from trialese.settings import DedupSettings

__all__ = ["FingerprintIndex", "cluster_texts", "normalise"]

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


class FingerprintIndex:
    """Collects fingerprints, then clusters them.

    Shingles go to an unnamed temporary file (in `scratch`, default the system's), which ends with
    the `with` block; memory holds about 250 bytes a text.
    """

    def __init__(self, settings: DedupSettings, *, scratch: Path | None = None) -> None:
        self._settings = settings
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - see __exit__
        self._ids: list[str] = []
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

    def add(self, name: str, fingerprint: Fingerprint) -> None:
        """Take in the text called `name`; exact copies of an earlier text cost next to nothing."""
        row = len(self._ids)
        self._ids.append(name)
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
            union.join(row, home.setdefault(name, row))
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
