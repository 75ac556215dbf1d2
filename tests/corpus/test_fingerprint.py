"""What texts are compared by: words, shingles, bands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.corpus.dedup import Fingerprinter, band_shape, jaccard, normalise, paragraph_keys
from trialese.settings import DedupSettings


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Sponsor  decision.", "sponsor decision"),
        ("Low-Enrolment (N=5)", "low enrolment n 5"),
        ("STRASSE straße", "strasse strasse"),
        ("ﬁrst １０", "first 10"),
        ("?", "?"),
        (" - ", "-"),
        ("", ""),
    ],
)
def test_normalise(text: str, key: str) -> None:
    assert normalise(text) == key


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_paragraph_keys_together_are_the_key_of_the_text(text: str) -> None:
    keys = paragraph_keys(text)
    assert " ".join(filter(None, keys)) in (normalise(text), "")
    assert len(keys) >= text.count("\n") + 1


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_jaccard_equals_that_of_sets(one: set[int], other: set[int]) -> None:
    expected = len(one & other) / len(one | other) if one | other else 1.0
    arrays = [np.array(sorted(each), np.uint32) for each in (one, other)]
    assert jaccard(*arrays) == pytest.approx(expected)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 6))
def test_as_many_shingles_as_distinct_runs_of_words(words: list[str], width: int) -> None:
    found = Fingerprinter(DedupSettings(shingle_words=width))(" ".join(words)).shingles
    size = max(1, min(width, len(words)))
    runs = {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
    assert len(found) == len(runs)
    assert found.tolist() == sorted(found.tolist())


def test_word_order_counts() -> None:
    make = Fingerprinter(DedupSettings(shingle_words=3))
    assert make("a b c").shingles.tolist() != make("c b a").shingles.tolist()


def test_another_seed_gives_other_bands_of_the_same_shingles() -> None:
    text = " ".join(f"word{number}" for number in range(90))
    one, two = (Fingerprinter(DedupSettings(seed=seed))(text) for seed in (1, 2))
    assert one.exact == two.exact
    assert one.shingles.tolist() == two.shingles.tolist()
    assert not set(one.bands.tolist()) & set(two.bands.tolist())


@pytest.mark.parametrize("jaccard", [0.5, 0.7, 0.8, 0.95])
def test_bands_propose_nearly_all_pairs_at_the_threshold(jaccard: float) -> None:
    bands, rows = band_shape(jaccard, 128)
    assert bands * rows <= 128
    assert 1 - (1 - jaccard**rows) ** bands >= 0.99
    finer = 128 // (rows + 1)
    assert 1 - (1 - jaccard ** (rows + 1)) ** finer < 0.99  # no more selective shape would do
