"""Snapshot in, Corpus out: clean text, duplicates in one cluster, one split a cluster, blocks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialese.corpus.dedup import cluster_texts
    from trialese.corpus.fingerprint import normalise
    from trialese.corpus.split import assign_fold, assign_split

__all__ = ["assign_fold", "assign_split", "cluster_texts", "normalise"]

_HOME_OF = {
    "assign_fold": "split",
    "assign_split": "split",
    "cluster_texts": "dedup",
    "normalise": "fingerprint",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
