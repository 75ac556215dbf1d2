"""Snapshot in, Corpus out: clean text, duplicates in one cluster, one split a cluster, blocks.

Names are loaded on first use: what only wants folds need not load pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialese.corpus.assemble import assemble_corpus, build_corpus
    from trialese.corpus.blocks import build_blocks, open_blocks
    from trialese.corpus.clean import clean_text
    from trialese.corpus.dedup import cluster_texts
    from trialese.corpus.fingerprint import normalise
    from trialese.corpus.leakage import leakage_table
    from trialese.corpus.packing import pack_blocks
    from trialese.corpus.render import render_document
    from trialese.corpus.split import assign_fold, assign_split
    from trialese.corpus.store import open_corpus, read_documents

__all__ = [
    "assemble_corpus",
    "assign_fold",
    "assign_split",
    "build_blocks",
    "build_corpus",
    "clean_text",
    "cluster_texts",
    "leakage_table",
    "normalise",
    "open_blocks",
    "open_corpus",
    "pack_blocks",
    "read_documents",
    "render_document",
]

_HOME_OF = {
    "assemble_corpus": "assemble",
    "assign_fold": "split",
    "assign_split": "split",
    "build_blocks": "blocks",
    "build_corpus": "assemble",
    "clean_text": "clean",
    "cluster_texts": "dedup",
    "leakage_table": "leakage",
    "normalise": "fingerprint",
    "open_blocks": "blocks",
    "open_corpus": "store",
    "pack_blocks": "packing",
    "read_documents": "store",
    "render_document": "render",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
