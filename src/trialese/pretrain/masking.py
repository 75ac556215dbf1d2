"""Masks of training and measurement: a pure function of (seed, epoch, block id), vectorised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

__all__ = ["MaskedBlocks", "Vocabulary", "hash_uniform", "mask_blocks"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HIDE_BELOW, _RANDOM_BELOW = 0.8, 0.9  # BERT: 80 % [MASK], 10 % random, 10 % kept


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What masking must know of a tokenizer."""

    mask_id: int
    pad_id: int
    ordinary: NDArray[np.int64]  # ids that may stand in as random tokens: all but special ones
    continues_word: NDArray[np.bool_]  # (vocabulary,): True for a piece that may go on a word
    cls_id: int | None = None  # begins a text where blocks keep texts apart
    first_kind: NDArray[np.int8] | None = None  # (vocabulary,): letter, digit or sign at its start
    last_kind: NDArray[np.int8] | None = None  # and at its end; None: kinds do not part words

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
        """The vocabulary of a tokenizer."""
        tokens = tokenizer.get_vocab()
        special = set(tokenizer.all_special_ids)
        continues = np.zeros(max(tokens.values()) + 1, dtype=bool)
        kinds = None
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        if parts["model"]["type"] == "WordPiece":
            prefix = parts["model"]["continuing_subword_prefix"]
            inner = [i for token, i in tokens.items() if token.startswith(prefix)]
        else:
            begins = ("\u2581", "\u0120", "\u010a", "\u0109")  # Metaspace, byte-level white space
            inner = [i for token, i in tokens.items() if not token.startswith(begins)]
            if "ByteLevel" in json.dumps(parts["pre_tokenizer"]):
                kinds = _kinds_of_bytes(tokens)
        unknown = {tokenizer.unk_token_id} - {None}  # a piece of a word where vocabularies are cut
        continues[[i for i in inner if i not in special - unknown]] = True
        ordinary = np.array(sorted(i for i in tokens.values() if i not in special))
        return cls(
            mask_id=tokenizer.mask_token_id,
            pad_id=tokenizer.pad_token_id,
            ordinary=ordinary,
            continues_word=continues,
            cls_id=tokenizer.cls_token_id,
            first_kind=None if kinds is None else kinds[0],
            last_kind=None if kinds is None else kinds[1],
        )

    def continues(self, ids: NDArray[Any], special: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where a token goes on the word of the one before it: (blocks, tokens).

        As the tokenizer itself parts words: by its prefix (WordPiece), by white space (Unigram),
        or by white space and where letters, digits and signs meet (byte-level BPE).
        """
        found: NDArray[np.bool_] = self.continues_word[ids] & ~special
        found[:, 0] = False
        found[:, 1:] &= ~special[:, :-1]
        if self.first_kind is not None and self.last_kind is not None:
            last = self.last_kind[ids[:, :-1]]
            found[:, 1:] &= (last == 0) | (self.first_kind[ids[:, 1:]] == last)
        return found


@dataclass(frozen=True, slots=True)
class MaskedBlocks:
    """Blocks as the model reads them, and what stood at the hidden positions.

    `width` is the largest number of hidden tokens in a block; where a block has fewer, `valid`
    is False and `positions` and `targets` are 0.
    """

    inputs: NDArray[np.int64]  # (blocks, block_tokens)
    segments: NDArray[np.int16]  # (blocks, block_tokens): which text, from 1; 0 is padding
    positions: NDArray[np.int64]  # (blocks, width)
    targets: NDArray[np.int64]  # (blocks, width)
    valid: NDArray[np.bool_]  # (blocks, width)

    def take(self, blocks: slice) -> MaskedBlocks:
        """Some of the blocks."""
        return MaskedBlocks(*(getattr(self, each.name)[blocks] for each in fields(self)))

    @property
    def attended(self) -> NDArray[np.bool_] | NDArray[np.int16] | None:
        """What an encoder must know of `segments`: nothing, where padding is, or which text."""
        if self.segments.max(initial=0) > 1:
            return self.segments
        return None if self.segments.all() else self.segments.astype(np.bool_)

    @property
    def masked_tokens(self) -> int:
        """How many tokens are hidden."""
        return int(self.valid.sum())


def mask_blocks(
    ids: NDArray[Any],
    special: NDArray[np.bool_],
    block_ids: NDArray[np.int64],
    vocabulary: Vocabulary,
    *,
    ratio: float,
    seed: int,
    epoch: int,
    whole_word: bool = False,
    isolated: bool = False,
) -> MaskedBlocks:
    """Blocks with `ratio` of their ordinary tokens hidden, 80 / 10 / 10 (Devlin et al. 2019).

    In each block exactly round(ratio x ordinary tokens) are chosen, at least one if there is
    any; by token, or by whole words, of which the last may be left out. Special tokens are never
    chosen. `ids` and `special` are (blocks, block_tokens); `block_ids` is (blocks,). `isolated`
    blocks hold texts that do not see one another (see `TokenBlocks`).
    """
    ids = ids.astype(np.int64)
    length = ids.shape[1]
    draws = _hash_positions(block_ids, length, seed, epoch)  # (blocks, block_tokens), uint64
    if whole_word:
        draws = _draw_of_word(draws, vocabulary.continues(ids, special))
    order = np.where(special, np.iinfo(np.uint64).max, draws).argsort(axis=1, kind="stable")
    ordinary = (~special).sum(axis=1)
    wanted = np.floor(ratio * ordinary + 0.5).astype(np.int64)
    wanted = np.minimum(np.maximum(wanted, 1 if ratio > 0 else 0), ordinary)
    chosen = np.zeros_like(special)
    np.put_along_axis(chosen, order, np.arange(length) < wanted[:, None], axis=1)
    if whole_word:
        chosen = _drop_cut_words(chosen, draws)
        wanted = chosen.sum(axis=1)
    valid = np.arange(int(wanted.max(initial=0))) < wanted[:, None]  # (blocks, width)
    positions = np.zeros(valid.shape, dtype=np.int64)
    positions[valid] = chosen.nonzero()[1]
    targets = np.where(valid, np.take_along_axis(ids, positions, axis=1), 0)
    inputs = ids.copy()
    fresh = _mix(_hash_positions(block_ids, length, seed, epoch)[chosen] ^ _GOLDEN)
    inputs[chosen] = _replacements(ids[chosen], fresh, vocabulary)
    segments = _segments(ids, special, vocabulary, isolated=isolated)
    return MaskedBlocks(inputs, segments, positions, targets, valid)


def _kinds_of_bytes(tokens: Mapping[str, int]) -> NDArray[np.int8]:
    """(2, vocabulary): whether a byte-level token begins and ends as letter, digit or sign.

    GPT-2's alphabet stands for bytes; what is no whole character counts as a letter.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + place): byte for place, byte in enumerate(hidden)}
    kinds = np.zeros((2, max(tokens.values()) + 1), dtype=np.int8)
    for token, number in tokens.items():
        shown = bytes(byte_of.get(c, 63) for c in token).decode("utf-8", "replace").strip()
        for end, character in enumerate((shown[:1], shown[-1:])):
            letter = character.isalpha() or character == "\ufffd"
            kind = 1 if letter else 2 if character.isnumeric() else 3
            kinds[end, number] = kind if character else 0  # white space alone begins any word
    return kinds


def hash_uniform(keys: NDArray[np.int64], *salts: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each key: a pure function of the key and the salts."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for salt in salts:
            state = _mix(state + np.uint64(salt % 2**64) + _GOLDEN)
        bits: NDArray[np.uint64] = _mix(_mix(keys.astype(np.uint64) * _GOLDEN + state))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _segments(
    ids: NDArray[np.int64], special: NDArray[np.bool_], vocabulary: Vocabulary, *, isolated: bool
) -> NDArray[np.int16]:
    """The text of each token in its block, from 1; 0 for padding. One text unless isolated."""
    segments = np.ones(ids.shape, dtype=np.int16)
    if isolated:
        begins = special & (ids == vocabulary.cls_id)
        segments = np.maximum(1, begins.cumsum(axis=1)).astype(np.int16)
    segments[ids == vocabulary.pad_id] = 0
    return segments


def _replacements(
    originals: NDArray[np.int64], draws: NDArray[np.uint64], vocabulary: Vocabulary
) -> NDArray[np.int64]:
    """What stands in for each chosen token: (tokens,)."""
    action = (draws >> np.uint64(11)) * 2.0**-53
    size = np.uint64(len(vocabulary.ordinary))
    random = vocabulary.ordinary[(_mix(draws) % size).astype(np.int64)]
    kept_or_random = np.where(action < _RANDOM_BELOW, random, originals)
    return np.where(action < _HIDE_BELOW, vocabulary.mask_id, kept_or_random)


def _draw_of_word(draws: NDArray[np.uint64], continues: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Each token's draw replaced by that of the first token of its word."""
    columns = np.arange(draws.shape[1])
    first = np.maximum.accumulate(np.where(continues, 0, columns), axis=1)
    return np.take_along_axis(draws, first, axis=1)


def _drop_cut_words(chosen: NDArray[np.bool_], draws: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """`chosen` without words chosen only in part, unless that would leave nothing in the block.

    Tokens of one word share their draw and are adjacent.
    """
    whole = chosen.copy()
    same = draws[:, 1:] == draws[:, :-1]
    for _ in range(draws.shape[1]):  # unchoosing spreads along a word; words are short
        before = whole.copy()
        whole[:, 1:] &= ~(same & ~before[:, :-1])
        whole[:, :-1] &= ~(same & ~before[:, 1:])
        if (whole == before).all():
            break
    return np.where(whole.any(axis=1, keepdims=True), whole, chosen)


def _hash_positions(
    block_ids: NDArray[np.int64], length: int, seed: int, epoch: int
) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.uint64(seed % 2**64) + _GOLDEN) + np.uint64(epoch) + _GOLDEN)
        blocks = _mix(block_ids.astype(np.uint64) * _GOLDEN + key)
        steps = np.arange(1, length + 1, dtype=np.uint64) * _GOLDEN
        draws: NDArray[np.uint64] = _mix(blocks[:, None] + steps)
        return draws


def _mix(value: Any) -> Any:
    """SplitMix64's finaliser; wraps around on purpose."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
