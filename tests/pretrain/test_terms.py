"""Terms: pieces a word, and which words rose."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialese.pretrain.backbone import load_tokenizer
from trialese.pretrain.staleness import broken_terms, pieces_per_word, rising_terms
from trialese.settings import BackboneSettings


@pytest.fixture(scope="module")
def tokenizer(tiny_backbone: Path):
    """The toy's tokenizer: its words are whole, others fall into letters."""
    return load_tokenizer(BackboneSettings(name=str(tiny_backbone)))


def test_pieces_per_word_counts_words_as_often_as_they_stand(tokenizer):
    assert pieces_per_word(["study of drug", "placebo dose"], tokenizer) == 1.0
    # "xyz" is three letters; 1 + 1 + 3 + 3 pieces over four words
    assert pieces_per_word(["study xyz", "drug XYZ"], tokenizer) == 2.0
    assert pieces_per_word(["1 2 3 ..."], tokenizer) == 0.0


def test_what_rose_is_found_and_what_fell_or_is_rare_is_not(tokenizer):
    before = ["placebo study of aspirin"] * 30 + ["study of drug"] * 30
    since = ["study of covid vaccine"] * 25 + ["study of aspirin once"] * 5 + ["zzq"] * 2
    rising = rising_terms(before, since, tokenizer)
    assert [term.word for term in rising] == ["covid", "vaccine", "once"]
    assert (rising[0].documents_before, rising[0].documents_since) == (0, 25)
    assert rising[0].z > rising[2].z > 0
    assert rising[0].pieces == 1 and rising[2].pieces == 4


def test_new_words_are_ranked_by_their_pieces(tokenizer):
    before = ["study of abcde"] * 3
    since = ["covid xyz wxyz abcde"] * 4 + ["qqqqqq once"] * 2 + ["lmn"] * 5
    found = [(t.word, t.documents_since, t.pieces) for t in broken_terms(before, since, tokenizer)]
    assert found == [("wxyz", 4, 4), ("lmn", 5, 3), ("xyz", 4, 3)]
    assert len(broken_terms(before, since, tokenizer, count=1)) == 1


def test_the_z_is_that_of_the_two_by_two_table(tokenizer):
    (term,) = rising_terms(["drug"] * 4 + ["study"] * 16, ["drug"] * 9 + ["study"], tokenizer)
    # log((9.5 x 16.5) / (1.5 x 4.5)) over sqrt(1/9.5 + 1/1.5 + 1/4.5 + 1/16.5)
    assert term.word == "drug" and term.z == pytest.approx(3.0624, abs=1e-4)
