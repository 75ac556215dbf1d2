"""Packing against slow plain versions, and the blocks artifact; no token is lost uncounted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from trialese.artifacts import read_manifest
from trialese.corpus.assemble import assemble_corpus
from trialese.corpus.blocks import open_blocks, read_facts
from trialese.corpus.packing import best_fit, build_blocks, pack_blocks
from trialese.corpus.store import read_documents
from trialese.errors import ArtifactError, RecipeError
from trialese.records import SPLITS, Corpus, Document, Trial
from trialese.settings import BlockSettings, CorpusSettings, FilterSettings, SplitSettings

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


def make_tokenizer_blocks() -> Tokenizer:
    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"w{number}" for number in range(50))]
    tokenizer = Tokenizer(
        models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


TOKENIZER = make_tokenizer_blocks()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    trials = [
        Trial(
            nct_id=f"NCT{number:08d}",
            brief_summary=" ".join(f"w{(number * step) % 50}" for step in range(60 + number)),
            first_posted="2024-01-01" if number % 3 else "2020-01-01",
        )
        for number in range(40)
    ]
    settings = CorpusSettings(
        split=SplitSettings(tune_share=0.3, test_share=0.3),
        filters=FilterSettings(min_letters_share=0.0),
    )
    return assemble_corpus(trials, settings, tmp_path_factory.mktemp("run") / "corpus")


@pytest.mark.parametrize("packing", ["across", "within"])
def test_every_token_is_in_the_blocks_of_its_split(
    corpus: Corpus, tmp_path: Path, packing: str
) -> None:
    settings = BlockSettings(block_tokens=32, packing=packing)  # type: ignore[arg-type]
    manifest = build_blocks(corpus, TOKENIZER, settings, tmp_path / "b", tokenizer_digest="d")
    assert manifest.kind == "blocks"
    assert manifest.inputs == {"corpus": corpus.manifest.digest, "tokenizer": "d"}
    expected = {}
    for era in ("old", "new"):
        for split in SPLITS:
            texts = [doc.text for doc in read_documents(corpus, era=era, split=split)]  # type: ignore[arg-type]
            wanted = np.bincount(
                np.concatenate([TOKENIZER.encode(t, add_special_tokens=False).ids for t in texts]),
                minlength=60,
            )
            blocks = open_blocks(tmp_path / "b", era=era, split=split)  # type: ignore[arg-type]
            assert blocks is not None
            found = np.bincount(blocks.ids[~blocks.special], minlength=60)
            assert found.tolist() == wanted.tolist()
            expected[f"{era}-{split}"] = int(wanted.sum())
            assert np.array_equal(blocks.ids == blocks.pad_id, blocks.special & (blocks.ids == 0))
    folders = manifest.counts["folders"]
    assert {name: folder["content_tokens"] for name, folder in folders.items()} == expected
    assert manifest.counts["content_tokens"] == sum(expected.values())
    assert 0 < manifest.counts["padding_share"] < 0.5


def test_equal_corpora_give_equal_bytes(corpus: Corpus, tmp_path: Path) -> None:
    one = build_blocks(corpus, TOKENIZER, BlockSettings(), tmp_path / "1", tokenizer_digest="d")
    two = build_blocks(corpus, TOKENIZER, BlockSettings(), tmp_path / "2", tokenizer_digest="d")
    assert one == two


def test_an_era_without_trials_has_no_blocks(tmp_path: Path) -> None:
    trials = [Trial(nct_id="NCT1", brief_summary="w1 w2 w3 " * 40, first_posted="2024-01-01")]
    settings = CorpusSettings(filters=FilterSettings(min_letters_share=0.0))
    corpus = assemble_corpus(trials, settings, tmp_path / "corpus")
    build_blocks(corpus, TOKENIZER, BlockSettings(), tmp_path / "b", tokenizer_digest="d")
    assert open_blocks(tmp_path / "b", era="old", split="train") is None


def test_senseless_settings_are_refused_before_anything_is_written(
    corpus: Corpus, tmp_path: Path
) -> None:
    settings = BlockSettings(packing="within", drop_remainder_documents=16)
    with pytest.raises(RecipeError, match="drop_remainder_documents"):
        build_blocks(corpus, TOKENIZER, settings, tmp_path / "b", tokenizer_digest="d")
    assert not (tmp_path / "b").exists()


def test_a_corpus_is_no_blocks(corpus: Corpus) -> None:
    with pytest.raises(ArtifactError, match="a blocks is needed"):
        open_blocks(corpus.path, era="new", split="train")
    assert read_manifest(corpus.path).kind == "corpus"
