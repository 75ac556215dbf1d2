"""Packing of documents into token blocks of one length; no token is lost but by a counted rule.

`across` concatenates [CLS] a [SEP] [CLS] b [SEP] ... and cuts, so that only the last block is
padded. `within` lets no document cross a block: long ones are cut into pieces with their own
[CLS] and [SEP], and pieces share blocks by best-fit decreasing (Ding et al. 2024, Fewer
Truncations Improve Language Modeling). `build_blocks` makes the blocks of a corpus: an artifact
with one folder for each era and split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from trialese.artifacts import as_settings, write_artifact
from trialese.corpus.blocks import BlockWriter, open_block_folder, read_facts
from trialese.corpus.store import Era, read_documents
from trialese.corpus.tokenize import DocumentTokenizer
from trialese.errors import RecipeError
from trialese.progress import Progress, silent
from trialese.records import SPLITS, Corpus, Document, Manifest, TokenBlocks
from trialese.settings import BlockSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

__all__ = ["best_fit", "build_blocks", "check_block_settings", "pack_blocks"]


_GROUP_DOCUMENTS = 256
_BLOCKS_AT_ONCE = 20_000


def pack_blocks(
    documents: Iterable[Document], tokenizer: Tokenizer, settings: BlockSettings, folder: Path
) -> TokenBlocks:
    """The documents' blocks, written to `folder` (made here) and memory-mapped.

    Special tokens are those of the tokenizer's own post-processor.

    Raises:
        RecipeError: blocks too short for a token between the special ones, or a setting that
            does not go with the packing.
    """
    encoder = DocumentTokenizer(tokenizer)
    check_block_settings(settings, special_tokens=encoder.wrapping.tokens)
    folder.mkdir(parents=True, exist_ok=True)
    tally = _Tally()
    encoded = _encode(encoder, documents, settings, tally)
    within = settings.packing == "within"
    pack = _pack_within if within else _pack_across
    with BlockWriter(folder, settings.block_tokens, encoder.id_type) as writer:
        owners = pack(encoded, encoder, settings, writer, tally)
        pad_id = encoder.wrapping.pad_id
        writer.finish(tally.nct_ids, owners, pad_id, tally.counts, isolated=within)
    return open_block_folder(folder)


def check_block_settings(settings: BlockSettings, *, special_tokens: int = 2) -> None:
    """Refuse lengths that leave no room for text, and rules of the other packing (RecipeError)."""
    for name in ("block_tokens", "truncate_tokens"):
        value = getattr(settings, name)
        if value is not None and value <= special_tokens:
            raise RecipeError(
                f"corpus.blocks.{name}: {value} leaves no room beside {special_tokens} special "
                "tokens; raise it"
            )
    group = settings.drop_remainder_documents
    if group is not None and (group < 1 or settings.packing != "across"):
        raise RecipeError(
            f"corpus.blocks.drop_remainder_documents: {group} needs packing = 'across' and at "
            "least one document; leave it out"
        )


@dataclass(slots=True)
class _Tally:
    """What a packing learns on its way."""

    nct_ids: list[str] = field(default_factory=list)
    tokens: int = 0
    """In blocks, special tokens included, padding not."""
    content_tokens: int = 0
    truncated_tokens: int = 0
    dropped_tokens: int = 0
    empty_documents: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """For the manifest."""
        return {
            "documents": len(self.nct_ids),
            "empty_documents": self.empty_documents,
            "tokens": self.tokens,
            "content_tokens": self.content_tokens,
            "truncated_tokens": self.truncated_tokens,
            "dropped_tokens": self.dropped_tokens,
        }


_Ids = Iterator["NDArray[Any]"]


def _encode(
    encoder: DocumentTokenizer,
    documents: Iterable[Document],
    settings: BlockSettings,
    tally: _Tally,
) -> _Ids:
    """Ids of each document, cut to `truncate_tokens`. One without any token is only counted."""
    most = settings.truncate_tokens
    most = None if most is None else most - encoder.wrapping.tokens
    for nct_id, ids in encoder.encode(documents):
        cut = ids[:most]
        tally.truncated_tokens += len(ids) - len(cut)
        if len(cut):
            tally.nct_ids.append(nct_id)
            yield cut
        else:
            tally.empty_documents += 1


def _pack_across(
    encoded: _Ids,
    encoder: DocumentTokenizer,
    settings: BlockSettings,
    writer: BlockWriter,
    tally: _Tally,
) -> NDArray[np.int64]:
    """The first document of each block; concatenates a group of documents at a time."""
    block, drops = settings.block_tokens, settings.drop_remainder_documents is not None
    starts: list[NDArray[np.int64]] = []
    while group := list(islice(encoded, settings.drop_remainder_documents or _GROUP_DOCUMENTS)):
        ids, special, lengths = _concatenate(group, encoder)
        kept = len(ids) // block * block if drops else len(ids)
        # A document that starts in the dropped remainder owns nothing: its start coincides with
        # that of the next group.
        starts.append(tally.tokens + np.minimum(np.cumsum(lengths) - lengths, kept))
        writer.append(ids[:kept], special[:kept])
        tally.tokens += kept
        tally.content_tokens += kept - int(np.count_nonzero(special[:kept]))
        tally.dropped_tokens += len(ids) - kept
    writer.pad(encoder.wrapping.pad_id)
    places = np.concatenate(starts) if starts else np.empty(0, np.int64)
    return np.searchsorted(places, np.arange(0, tally.tokens, block), side="right") - 1


def _concatenate(
    group: list[NDArray[Any]], encoder: DocumentTokenizer
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64]]:
    """[CLS] a [SEP] [CLS] b [SEP] ..., where it is special, and the tokens of each document."""
    before = np.array(encoder.wrapping.before, encoder.id_type)
    after = np.array(encoder.wrapping.after, encoder.id_type)
    ids = np.concatenate([part for body in group for part in (before, body, after)])
    bodies = np.array([len(body) for body in group], np.int64)
    lengths = bodies + encoder.wrapping.tokens
    runs = np.stack([np.full_like(bodies, len(before)), bodies, np.full_like(bodies, len(after))])
    special = np.repeat(np.tile([True, False, True], len(group)), runs.T.ravel())
    return ids, special, lengths


def _pack_within(
    encoded: _Ids,
    encoder: DocumentTokenizer,
    settings: BlockSettings,
    writer: BlockWriter,
    tally: _Tally,
) -> NDArray[np.int64]:
    """The first document of each block; token ids wait in an unnamed file beside the blocks."""
    around = encoder.wrapping
    with tempfile.TemporaryFile(dir=writer.folder) as spill:
        lengths = []
        for ids in encoded:
            lengths.append(len(ids))
            spill.write(ids.tobytes())
        spill.flush()
        pieces = _pieces(np.array(lengths, np.int64), settings.block_tokens - around.tokens)
        block = best_fit(pieces.length + around.tokens, settings.block_tokens)
        # Blocks stand in the order of their first pieces, pieces in the order of the documents.
        order = np.argsort(block, kind="stable")
        block, pieces = block[order], pieces.take(order)
        first = np.flatnonzero(np.diff(block, prepend=-1))
        tally.content_tokens = int(pieces.length.sum())
        tally.tokens = tally.content_tokens + len(block) * around.tokens
        edges = np.r_[first, len(block)]
        for start in range(0, len(first), _BLOCKS_AT_ONCE):
            ends = edges[start : start + _BLOCKS_AT_ONCE + 1]
            chosen = slice(int(ends[0]), int(ends[-1]))
            _lay_out(pieces.take(chosen), block[chosen] - start, spill, encoder, writer)
    return pieces.document[first]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Parts of documents, each no longer than a block has room for."""

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    """Place of the first token among the tokens of all documents."""
    length: NDArray[np.int64]

    def take(self, which: NDArray[np.int64] | slice) -> _Pieces:
        return _Pieces(self.document[which], self.start[which], self.length[which])


def _pieces(lengths: NDArray[np.int64], room: int) -> _Pieces:
    """Every document cut into pieces of `room` tokens, the last one shorter."""
    number = -(-lengths // room)
    document = np.repeat(np.arange(len(lengths)), number)
    place = np.arange(len(document)) - np.repeat(np.cumsum(number) - number, number)
    starts = np.repeat(np.cumsum(lengths) - lengths, number) + place * room
    return _Pieces(document, starts, np.minimum(room, np.repeat(lengths, number) - place * room))


def best_fit(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The block of each piece, by best-fit decreasing; blocks are numbered by their first piece.

    Longest first (equals in order), each into the fullest block that has room: O(pieces).
    """
    block = np.full(len(sizes), -1, np.int64)
    open_blocks: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room left
    rooms = 0  # bit r is set where open_blocks[r] holds a block
    count = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = rooms >> size << size
        if fitting:
            room = (fitting & -fitting).bit_length() - 1
            home = open_blocks[room].pop()
            if not open_blocks[room]:
                rooms ^= 1 << room
        else:
            home, room, count = count, capacity, count + 1
        block[piece] = home
        left = room - size
        if left:
            open_blocks[left].append(home)
            rooms |= 1 << left
    _, first, inverse = np.unique(block, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _lay_out(
    pieces: _Pieces,
    block: NDArray[np.int64],
    spill: IO[bytes],
    encoder: DocumentTokenizer,
    writer: BlockWriter,
) -> None:
    """Write the blocks (numbered from 0) of these pieces, which are sorted by block."""
    around = encoder.wrapping
    tokens = np.memmap(spill, encoder.id_type, "r")
    shape = (int(block[-1]) + 1, writer.block_tokens)
    ids = np.full(shape[0] * shape[1], around.pad_id, encoder.id_type)
    special = np.ones(len(ids), np.bool_)
    whole = pieces.length + around.tokens
    ahead = np.cumsum(whole) - whole  # tokens of the pieces before this one
    opens = np.flatnonzero(np.diff(block, prepend=-1))
    base = np.repeat(ahead[opens], np.diff(np.r_[opens, len(block)]))
    start = block * writer.block_tokens + ahead - base
    for place, number in enumerate(around.before):
        ids[start + place] = number
    for place, number in enumerate(around.after):
        ids[start + len(around.before) + pieces.length + place] = number
    run = np.arange(int(pieces.length.sum())) - np.repeat(
        np.cumsum(pieces.length) - pieces.length, pieces.length
    )
    target = np.repeat(start + len(around.before), pieces.length) + run
    ids[target] = tokens[np.repeat(pieces.start, pieces.length) + run]
    special[target] = False
    writer.append(ids, special)


_ERAS: tuple[Era, ...] = ("old", "new")
_REPORT_EVERY = 500


def build_blocks(
    corpus: Corpus,
    tokenizer: Tokenizer,
    settings: BlockSettings,
    path: str | Path,
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
    path = Path(path)
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
