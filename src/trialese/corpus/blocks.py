"""Corpus in, token blocks out: an artifact with one folder for each era and split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialese.artifacts import as_settings, read_manifest, write_artifact
from trialese.corpus.blockfile import open_block_folder, read_facts
from trialese.corpus.packing import check_block_settings, pack_blocks
from trialese.corpus.store import Era, read_documents
from trialese.progress import Progress, silent
from trialese.records import SPLITS, Corpus, Document, Manifest, Split, TokenBlocks
from trialese.settings import BlockSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["build_blocks", "open_blocks"]

_ERAS: tuple[Era, ...] = ("old", "new")
_REPORT_EVERY = 500


def build_blocks(
    corpus: Corpus,
    tokenizer: Tokenizer,
    settings: BlockSettings,
    path: Path,
    *,
    tokenizer_digest: str,
    progress: Progress = silent,
) -> Manifest:
    """The manifest of the blocks made from every era and split of `corpus` that has documents.

    Its counts hold, for each folder and in total: documents, blocks, tokens (special ones
    included), content, padding, truncated and dropped tokens, and the share of padding.

    Raises:
        ArtifactError: the corpus is damaged or `path` cannot be written.
        RecipeError: settings that do not go together, or a tokenizer without padding.
    """
    check_block_settings(settings)
    inputs = {"corpus": corpus.manifest.digest, "tokenizer": tokenizer_digest}
    total = corpus.manifest.counts.get("documents")
    with write_artifact(
        path, kind="blocks", settings=as_settings(settings), inputs=inputs
    ) as draft:
        draft.notes.update(corpus.manifest.notes)
        sums: dict[str, int] = {}
        folders: dict[str, dict[str, Any]] = {}
        for era in _ERAS:
            for split in SPLITS:
                name = f"{era}-{split}"
                if not corpus.manifest.counts["documents_by_split"].get(name):
                    continue
                documents = _reported(
                    read_documents(corpus, split=split, era=era),
                    sums.get("documents", 0),
                    total,
                    progress,
                )
                pack_blocks(documents, tokenizer, settings, draft.folder / name)
                facts = read_facts(draft.folder / name)
                counted = facts.counts | {
                    "blocks": facts.blocks,
                    "padding_tokens": facts.padding_tokens,
                }
                folders[name] = _with_share(counted)
                for key, value in counted.items():
                    sums[key] = sums.get(key, 0) + value
        draft.counts.update(_with_share(sums), folders=folders)
    assert draft.manifest is not None
    return draft.manifest


def open_blocks(path: Path, *, era: Era, split: Split) -> TokenBlocks | None:
    """The memory-mapped blocks of one era and split, or None where the corpus has no such trials.

    Raises:
        ArtifactError: nothing at `path`, something else than blocks, or damaged.
    """
    manifest = read_manifest(path, kind="blocks")
    name = f"{era}-{split}"
    return open_block_folder(path / name) if name in manifest.counts["folders"] else None


def _with_share(counts: dict[str, int]) -> dict[str, Any]:
    places = counts.get("tokens", 0) + counts.get("padding_tokens", 0)
    share = counts.get("padding_tokens", 0) / places if places else 0.0
    return {**counts, "padding_share": round(share, 6)}


def _reported(
    documents: Iterator[Document], before: int, total: int | None, progress: Progress
) -> Iterator[Document]:
    for number, document in enumerate(documents, before + 1):
        yield document
        if number % _REPORT_EVERY == 0:
            progress("blocks: documents packed", number, total)
