"""Packing against slow plain versions; no token is lost but by a counted rule."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from trialese.corpus.blocks import read_facts
from trialese.corpus.packing import best_fit, pack_blocks
from trialese.errors import RecipeError
from trialese.records import Document
from trialese.settings import BlockSettings

PAD, CLS, SEP, MASK, UNK = range(5)
WORDS = [f"w{number}" for number in range(40)]


def make_tokenizer() -> Tokenizer:
    vocabulary = {name: place for place, name in enumerate(
        ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *WORDS, "[", "]", "SEP"])}  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.enable_truncation(8)  # as checkpoints come; packing must not heed it
    tokenizer.enable_padding(length=8, pad_id=PAD)
    return tokenizer


TOKENIZER = make_tokenizer()
texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), max_size=12)


def as_documents(words: list[list[str]]) -> list[Document]:
    return [Document(f"NCT{row:08d}", " ".join(text)) for row, text in enumerate(words)]


def ids_of(text: list[str]) -> list[int]:
    return [5 + int(word[1:]) for word in text]


@settings(max_examples=80, deadline=None)
@given(texts, st.integers(3, 17))
def test_across_equals_concatenating_and_cutting(
    tmp_path_factory: pytest.TempPathFactory, words: list[list[str]], length: int
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    blocks = pack_blocks(as_documents(words), TOKENIZER, BlockSettings(block_tokens=length), folder)
    flat, owners = [], []
    for row, text in enumerate(words):
        flat += [CLS, *ids_of(text), SEP]
        owners += [row] * (len(text) + 2)
    padding = -len(flat) % length
    assert blocks.ids.ravel().tolist() == flat + [PAD] * padding
    assert blocks.special.ravel().tolist() == [token < 5 for token in flat + [PAD] * padding]
    assert blocks.owner.tolist() == owners[::length]
    assert read_facts(folder).padding_tokens == padding


@settings(max_examples=80, deadline=None)
@given(texts, st.integers(3, 17))
def test_within_keeps_every_piece_whole(
    tmp_path_factory: pytest.TempPathFactory, words: list[list[str]], length: int
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    setting = BlockSettings(block_tokens=length, packing="within")
    blocks = pack_blocks(as_documents(words), TOKENIZER, setting, folder)
    found = []
    for row, marks in zip(blocks.ids.tolist(), blocks.special.tolist(), strict=True):
        assert row[0] == CLS
        filled = len(row) - row[::-1].index(SEP)
        assert all(token == PAD for token in row[filled:])
        assert marks == [token < 5 for token in row]
        joined = ",".join(map(str, row[:filled]))
        for piece in joined.removesuffix(f",{SEP}").split(f",{SEP},"):
            start, *body = map(int, piece.split(","))
            assert start == CLS
            assert SEP not in body
            found.append(body)
    expected = [
        ids_of(text[start : start + length - 2])
        for text in words
        for start in range(0, len(text), length - 2)
    ]
    assert sorted(found) == sorted(expected)
    counts = read_facts(folder).counts
    assert counts["content_tokens"] == sum(map(len, words))
    assert counts["tokens"] == int(np.count_nonzero(blocks.ids != PAD))
    for row, owner in zip(blocks.ids.tolist(), blocks.owner.tolist(), strict=True):
        assert row[1] in ids_of(words[owner])
    assert blocks.owner.tolist() == sorted(blocks.owner.tolist())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60))
def test_best_fit_equals_the_plain_search(sizes: list[int]) -> None:
    room: list[int] = []
    home = {}
    for piece in sorted(range(len(sizes)), key=lambda piece: -sizes[piece]):
        fitting = [left for left in room if left >= sizes[piece]]
        if not fitting:
            room.append(20)
            fitting = [20]
        best = max(place for place, left in enumerate(room) if left == min(fitting))
        room[best] -= sizes[piece]
        home[piece] = best
    blocks = best_fit(np.array(sizes, np.int64), 20)
    assert len(set(blocks.tolist())) == len(room)
    fill = np.bincount(blocks, np.array(sizes)) if sizes else np.empty(0)
    assert sorted(fill.tolist()) == sorted(20.0 - left for left in room)
    assert all(fill <= 20)


def test_remainders_of_groups_are_dropped_and_counted(tmp_path: Path) -> None:
    words = [["w1"] * 10, ["w2"] * 3, ["w3"] * 1, ["w4"] * 7, ["w5"] * 2]
    setting = BlockSettings(block_tokens=8, truncate_tokens=9, drop_remainder_documents=2)
    blocks = pack_blocks(as_documents(words), TOKENIZER, setting, tmp_path)
    # Groups: 9 + 5 = 14 -> 8 kept, 3 + 9 = 12 -> 8 kept, 4 -> nothing kept.
    assert blocks.ids.tolist() == [
        [CLS, *[6] * 7],
        [CLS, 8, SEP, CLS, 9, 9, 9, 9],
    ]
    assert blocks.owner.tolist() == [0, 2]
    counts = read_facts(tmp_path).counts
    assert (counts["truncated_tokens"], counts["dropped_tokens"]) == (3, 6 + 4 + 4)


def test_documents_without_tokens_are_counted_not_packed(tmp_path: Path) -> None:
    documents = [Document("NCT1", "  "), Document("NCT2", "w1")]
    blocks = pack_blocks(documents, TOKENIZER, BlockSettings(block_tokens=8), tmp_path)
    assert blocks.nct_ids == ("NCT2",)
    assert read_facts(tmp_path).counts["empty_documents"] == 1


@pytest.mark.parametrize(
    "setting",
    [
        BlockSettings(block_tokens=2),
        BlockSettings(truncate_tokens=1),
        BlockSettings(packing="within", drop_remainder_documents=16),
        BlockSettings(drop_remainder_documents=0),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, setting: BlockSettings) -> None:
    with pytest.raises(RecipeError, match=r"corpus\.blocks\."):
        pack_blocks([], TOKENIZER, setting, tmp_path)
