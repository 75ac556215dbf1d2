"""The tokenizer of documents: texts in, arrays of token ids out, each word tokenized once.

A tokenizer that never joins or looks across blanks (BERT's WordPiece) gives a text the ids of its
blank-separated chunks one after the other. Chunks repeat (Zipf), so their ids are looked up and
only new ones are tokenized; the result is the same, several times as fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from trialese.errors import RecipeError
from trialese.records import Document

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

__all__ = ["DocumentTokenizer", "Wrapping", "id_type"]


_BATCH_DOCUMENTS = 512
_CACHED_CHUNKS = 500_000


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What the tokenizer's post-processor puts around one text, and what it pads with."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad_id: int

    @property
    def tokens(self) -> int:
        """Special tokens a text."""
        return len(self.before) + len(self.after)


class DocumentTokenizer:
    """Turns documents into token ids without special tokens; tells which ones belong around."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = _plain_copy(tokenizer)
        self._known: dict[str, bytes] | None = {} if _splits_at_blanks(tokenizer) else None
        self.wrapping = _wrapping_of(tokenizer)
        self.id_type = id_type(tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, documents: Iterable[Document]) -> Iterator[tuple[str, NDArray[Any]]]:
        """(nct_id, ids) of each document, in order. Uses all cores (TOKENIZERS_PARALLELISM)."""
        rest = iter(documents)
        while batch := list(islice(rest, _BATCH_DOCUMENTS)):
            texts = [document.text for document in batch]
            known = self._known
            ids = self._tokenize(texts) if known is None else self._look_up(texts, known)
            yield from zip((document.nct_id for document in batch), ids, strict=True)

    def _tokenize(self, texts: Sequence[str]) -> Iterator[NDArray[Any]]:
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield np.array(encoding.ids, self.id_type)

    def _look_up(self, texts: Sequence[str], known: dict[str, bytes]) -> Iterator[NDArray[Any]]:
        # Only these two blanks: what else Python calls white space, a tokenizer may not.
        parts = [text.replace("\n", " ").split(" ") for text in texts]
        if len(known) > _CACHED_CHUNKS:
            known.clear()
        new = list(set().union(*parts) - known.keys())
        known.update(zip(new, (ids.tobytes() for ids in self._tokenize(new)), strict=True))
        for chunks in parts:
            yield np.frombuffer(b"".join(map(known.__getitem__, chunks)), self.id_type)


def id_type(vocabulary: int) -> np.dtype[Any]:
    """uint16 where every id of such a vocabulary fits, else uint32."""
    return np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)


def _splits_at_blanks(tokenizer: Tokenizer) -> bool:
    """Whether a text's ids are those of its blank-separated chunks, by the tokenizer's parts."""
    parts = json.loads(tokenizer.to_str())

    def kind(name: str) -> str | None:
        return (parts.get(name) or {}).get("type")

    return (
        kind("model") in ("WordPiece", "WordLevel")
        and kind("normalizer") in (None, "BertNormalizer")
        and kind("pre_tokenizer") in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
        and all(token["special"] for token in parts["added_tokens"])  # these are read as text
    )


def _plain_copy(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that neither cuts nor pads, and reads "[MASK]" in a text as plain text."""
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def _wrapping_of(tokenizer: Tokenizer) -> Wrapping:
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    found = copy.encode("a")
    special = found.special_tokens_mask
    inside = [place for place, mark in enumerate(special) if not mark]
    if not inside:
        raise RecipeError("tokenizer: reads even 'a' as nothing; choose another backbone")
    padding = tokenizer.padding or {}
    pad = padding.get("pad_id")
    if pad is None:
        named = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>", "<|padding|>"))
        pad = next((number for number in named if number is not None), None)
    if pad is None:
        raise RecipeError("tokenizer: has no padding token; choose another backbone")
    return Wrapping(tuple(found.ids[: inside[0]]), tuple(found.ids[inside[-1] + 1 :]), pad)
