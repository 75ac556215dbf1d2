"""What stands in two splits at once, and what a split at random would have let through.

The search here is its own: other permutations than those that made the clusters, so that a pair
which clustering missed can show. Neighbours count through chains: a document leaks if a chain of
near-duplicates leads from it to another split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from trialese.corpus.dedup import FingerprintIndex
from trialese.corpus.fingerprint import Fingerprinter
from trialese.corpus.split import assign_split
from trialese.corpus.store import read_stored
from trialese.records import Corpus, Split
from trialese.settings import CorpusSettings, SplitSettings

__all__ = ["LeakageRow", "find_leaks", "leakage_table"]

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
