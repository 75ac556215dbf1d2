"""Encoding: the special tokens are the post-processor's, text is only text, ids stay small."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from trialese.corpus.tokenize import DocumentTokenizer, Wrapping, id_type
from trialese.errors import RecipeError
from trialese.records import Document


def make_tokenizer(pad: str = "[PAD]") -> Tokenizer:
    names = [pad, "[CLS]", "[SEP]", "[UNK]", "a", "b", "[", "]", "SEP"]
    vocabulary = {name: place for place, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([pad, "[CLS]", "[SEP]", "[UNK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    documents = [Document(str(row), text) for row, text in enumerate(texts)]
    return [ids.tolist() for _, ids in DocumentTokenizer(tokenizer).encode(documents)]


def test_wrapping_is_the_post_processors() -> None:
    assert DocumentTokenizer(make_tokenizer()).wrapping == Wrapping((1,), (2,), 0)


def test_special_tokens_written_out_in_a_text_stay_text() -> None:
    assert encode(make_tokenizer(), "a [SEP] b") == [[4, 6, 8, 7, 5]]


def test_truncation_and_padding_of_the_checkpoint_are_not_heeded() -> None:
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9, pad_id=0)
    assert encode(tokenizer, "a b a b a", "b", "") == [[4, 5, 4, 5, 4], [5], []]


def test_the_tokenizer_itself_is_left_alone() -> None:
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(3)
    before = tokenizer.to_str()
    encode(tokenizer, "a b a b a")
    assert tokenizer.to_str() == before


def test_padding_under_any_name_that_is_in_use() -> None:
    assert DocumentTokenizer(make_tokenizer("<pad>")).wrapping.pad_id == 0
    with pytest.raises(RecipeError, match="no padding token"):
        DocumentTokenizer(make_tokenizer("[EMPTY]"))
    tokenizer = make_tokenizer("[EMPTY]")
    tokenizer.enable_padding(pad_id=3)
    assert DocumentTokenizer(tokenizer).wrapping.pad_id == 3


def test_ids_take_two_bytes_where_the_vocabulary_allows() -> None:
    assert id_type(28_996) == np.uint16
    assert id_type(2**16) == np.uint16
    assert id_type(2**16 + 1) == np.uint32


def test_no_post_processor_means_nothing_around() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1, "b": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert DocumentTokenizer(tokenizer).wrapping == Wrapping((), (), 0)


def make_wordpiece(lowercase: bool) -> Tokenizer:
    """BERT's parts over single characters and a few word pieces."""
    characters = "abcABC019.,()-≥éα東[]MASK"
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *characters,
             *(f"##{sign}" for sign in characters), "ab", "##ca"]  # fmt: skip
    vocabulary = {name: place for place, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    return tokenizer


PIECES = [
    *("a", "b", "c", "ca", "A", "é", "e\u0301", "\u0301", "≥", "東", "(", "-", "0.1", "[MASK]"),
    *(" ", "  ", "\n", "\t", "\u00a0", "\u2003", "\x1c", "\x00", "\u200b", "x" * 120),
]


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.lists(st.sampled_from(PIECES)).map("".join), st.text()), max_size=4))
def test_looking_chunks_up_equals_tokenizing_whole_texts(lowercase: bool, texts: list[str]) -> None:
    tokenizer = make_wordpiece(lowercase)
    plain = type(tokenizer).from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    expected = [found.ids for found in plain.encode_batch(texts, add_special_tokens=False)]
    assert encode(tokenizer, *texts) == expected


def test_a_tokenizer_that_looks_across_blanks_is_asked_for_whole_texts() -> None:
    tokenizer = Tokenizer(models.BPE({"<pad>": 0, "a": 1, "Ġ": 2, "Ġa": 3}, [("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert encode(tokenizer, "a a") == [[1, 3]]


def test_added_words_with_blanks_are_found() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["a b"])
    assert encode(tokenizer, "a b a") == [[tokenizer.token_to_id("a b"), 4]]
