"""Snapshot in, Corpus out: clean text, duplicates in one cluster, one split a cluster, blocks.

Names are loaded on first use: what only wants folds need not load pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trialese.lazy import load_lazily

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
    from trialese.corpus.store import open_corpus, read_documents, read_stored

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
    "read_stored",
    "render_document",
]

_HOME_OF = {
    "assemble_corpus": "trialese.corpus.assemble",
    "assign_fold": "trialese.corpus.split",
    "assign_split": "trialese.corpus.split",
    "build_blocks": "trialese.corpus.blocks",
    "build_corpus": "trialese.corpus.assemble",
    "clean_text": "trialese.corpus.clean",
    "cluster_texts": "trialese.corpus.dedup",
    "leakage_table": "trialese.corpus.leakage",
    "normalise": "trialese.corpus.fingerprint",
    "open_blocks": "trialese.corpus.blocks",
    "open_corpus": "trialese.corpus.store",
    "pack_blocks": "trialese.corpus.packing",
    "read_documents": "trialese.corpus.store",
    "read_stored": "trialese.corpus.store",
    "render_document": "trialese.corpus.render",
}

__getattr__, __dir__ = load_lazily(__name__, _HOME_OF)
