"""Splits and folds of clusters, fixed before anything learns, and the leaks between splits.

A split is a hash of the cluster's name and the seed and of nothing else, so trials that come
later never move those that are there, as long as the cluster keeps its smallest id.

The search for leaks is its own: other permutations than those that made the clusters, so that a
pair which clustering missed can show. Neighbours count through chains: a document leaks if a
chain of near-duplicates leads from it to another split.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from trialese.corpus.dedup import Fingerprinter, FingerprintIndex, NgramOverlap
from trialese.corpus.store import OverlapRow, read_stored
from trialese.errors import RecipeError
from trialese.progress import Progress, silent
from trialese.records import Corpus, Split
from trialese.settings import CorpusSettings, SplitSettings

__all__ = [
    "LeakageRow",
    "assign_fold",
    "assign_split",
    "check_split",
    "find_leaks",
    "leakage_table",
    "overlap_table",
]


def assign_split(
    cluster: str, settings: SplitSettings, *, first_posted: str | None = None
) -> Split:
    """The split of every member of `cluster`, in the shares or by the dates of `settings`.

    With `settings.by == "date"`, `first_posted` is the earliest date among the cluster's trials
    (ISO 8601): a cluster that began before the hold-out is no unseen text. Without a date it is
    train.
    """
    if settings.by == "date":
        test_from = settings.test_from or "9999"
        tune_from = settings.tune_from or test_from
        held_out: Split = "test" if (first_posted or "") >= test_from else "tune"
        return held_out if (first_posted or "") >= tune_from else "train"
    place = _hash(f"split|{settings.seed}|{cluster}") / 2**64
    if place < settings.test_share:
        return "test"
    return "tune" if place < settings.test_share + settings.tune_share else "train"


def check_split(settings: SplitSettings) -> None:
    """Refuse shares or dates that make no split (RecipeError)."""
    if min(settings.tune_share, settings.test_share) < 0 or (
        settings.tune_share + settings.test_share >= 1
    ):
        raise RecipeError(
            f"corpus.split: tune_share {settings.tune_share} and test_share {settings.test_share} "
            "leave nothing to train on; they must not be negative and add up to less than 1"
        )
    if settings.by == "date" and settings.test_from is None:
        raise RecipeError("corpus.split: by = 'date' needs test_from, such as '2024-01-01'")
    if settings.by == "hash" and (settings.tune_from or settings.test_from):
        raise RecipeError("corpus.split: tune_from and test_from need by = 'date'")
    if settings.tune_from and settings.test_from and settings.tune_from > settings.test_from:
        raise RecipeError("corpus.split: tune_from is after test_from; swap them")


def assign_fold(cluster: str, *, folds: int, seed: int) -> int:
    """The fold, 0 ... folds - 1, of every member of `cluster`; equal shares in expectation.

    Raises:
        ValueError: fewer than one fold.
    """
    if folds < 1:
        raise ValueError(f"folds must be at least 1, not {folds}")
    return _hash(f"fold|{seed}|{cluster}") % folds


def _hash(key: str) -> int:
    """64 bits of sha256: the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


_OTHER_SEED = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageRow:
    """Held-out documents with a copy in a split that is learnt from, or in the other hold-out."""

    held_out: Split
    kind: Literal["exact", "near"]
    """`near` includes `exact`."""
    documents: int
    leaked: int
    random_documents: int
    """In this split, had documents (not clusters) been assigned by hash in the same shares."""
    random_leaked: int


def leakage_table(corpus: Corpus) -> list[LeakageRow]:
    """A row each for tune and test, exact and near. `leaked` must be 0.

    Raises:
        ArtifactError: the corpus is damaged.
    """
    settings = msgspec.convert(corpus.manifest.settings, CorpusSettings)
    dedup = msgspec.structs.replace(
        settings.dedup, near=True, seed=settings.dedup.seed + _OTHER_SEED
    )
    fingerprint = Fingerprinter(dedup)
    splits: dict[str, Split] = {}
    at_random: dict[str, Split] = {}
    shares = _as_shares(settings.split)
    with (
        FingerprintIndex(dedup) as near,
        FingerprintIndex(msgspec.structs.replace(dedup, near=False)) as exact,
    ):
        for row in read_stored(corpus):
            found = fingerprint(row.text)
            near.add(row.nct_id, found)
            exact.add(row.nct_id, found)
            splits[row.nct_id] = row.split
            at_random[row.nct_id] = assign_split(f"at random|{row.nct_id}", shares)
        groups: dict[Literal["exact", "near"], dict[str, str]] = {
            "exact": exact.clusters(),
            "near": near.clusters(),
        }
    held_out: tuple[Split, ...] = ("tune", "test")
    return [
        LeakageRow(
            held_out=split,
            kind=kind,
            documents=_count(splits.values(), split),
            leaked=len(find_leaks(clusters, splits, split)),
            random_documents=_count(at_random.values(), split),
            random_leaked=len(find_leaks(clusters, at_random, split)),
        )
        for split in held_out
        for kind, clusters in groups.items()
    ]


def overlap_table(
    corpus: Corpus | Path,
    *,
    words: int = 8,
    nct_ids: Collection[str] | None = None,
    most_documents: int | None = None,
    progress: Progress = silent,
) -> list[OverlapRow]:
    """A row for each tune and test document (of `nct_ids`, if given), by NCT id.

    Near-duplicates are in one split, so what is found are passages: a sponsor's standard criteria,
    an arm told as in a sister study. The whole corpus is read twice; of more than `most_documents`
    held-out documents those are measured whose hashes are lowest. A corpus that is being written
    may be given by its folder.

    Raises:
        ArtifactError: the corpus is damaged.
    """
    held = [
        row
        for row in read_stored(corpus, text=False)
        if row.split != "train" and (nct_ids is None or row.nct_id in nct_ids)
    ]
    if most_documents is not None and len(held) > most_documents:
        held = heapq.nsmallest(most_documents, held, key=lambda row: _hash(f"overlap|{row.nct_id}"))
        held.sort(key=lambda row: row.nct_id)
    wanted = {row.nct_id for row in held}
    overlap = NgramOverlap(words=words, sources=2)
    for row in read_stored(corpus) if held else ():
        if row.nct_id in wanted:
            overlap.hold_out(row.nct_id, row.text)
    for number, row in enumerate(read_stored(corpus) if held else ()):
        if row.split == "train":
            overlap.read(row.text, source=int(row.era == "new"))
        if number % 1000 == 0:
            progress("corpus: passages looked for in training documents", number, None)
    shares = overlap.shares()
    return [
        OverlapRow(
            nct_id=row.nct_id,
            split=row.split,
            era=row.era,
            old=float(shares[row.nct_id][0]),
            new=float(shares[row.nct_id][1]),
            train=float(shares[row.nct_id][2]),
        )
        for row in held
    ]


def find_leaks(
    clusters: Mapping[str, str], splits: Mapping[str, Split], held_out: Split
) -> list[str]:
    """Ids in `held_out` whose cluster has a member in another split, ascending."""
    present: dict[str, set[Split]] = {}
    for name, cluster in clusters.items():
        present.setdefault(cluster, set()).add(splits[name])
    return sorted(
        name
        for name, cluster in clusters.items()
        if splits[name] == held_out and len(present[cluster]) > 1
    )


def _as_shares(settings: SplitSettings) -> SplitSettings:
    """The same shares by hash, whatever the corpus was split by."""
    return msgspec.structs.replace(settings, by="hash", tune_from=None, test_from=None)


def _count(splits: Iterable[Split], wanted: Split) -> int:
    return sum(split == wanted for split in splits)
