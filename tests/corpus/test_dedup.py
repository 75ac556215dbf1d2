"""Fingerprints of texts, and their clusters against a slow plain version, in any order."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.corpus.dedup import (
    Fingerprinter,
    NgramOverlap,
    band_shape,
    cluster_texts,
    jaccard,
    normalise,
    paragraph_keys,
)
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


@settings(deadline=None)
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


WORDS = [f"word{number}" for number in range(3000)]


def make_text(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def edited(words: list[str], edits: int, seed: int) -> list[str]:
    """The words with so many of them replaced."""
    copy = list(words)
    for place in random.Random(seed).sample(range(len(words)), edits):
        copy[place] = "edited"
    return copy


def shingles_of(text: str, width: int) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    width = min(width, len(words))
    return {tuple(words[start : start + width]) for start in range(len(words) - width + 1)}


def plain_clusters(items: dict[str, str], setting: DedupSettings) -> dict[str, str]:
    """Every pair compared, components by relabelling."""
    keys = {key: normalise(text) for key, text in items.items()}
    sets = {key: shingles_of(text, setting.shingle_words) for key, text in items.items()}
    name = {key: key for key in items}
    for one, other in itertools.permutations(items, 2):
        a, b = sets[one], sets[other]
        near = setting.near and len(a & b) >= setting.jaccard * len(a | b)
        if near or keys[one] == keys[other]:
            old, new = sorted((name[one], name[other]), reverse=True)
            name = {key: new if held == old else held for key, held in name.items()}
    return name


def test_exact_copies_share_a_cluster_named_by_the_smallest_id() -> None:
    items = [("NCT3", "Sponsor decision."), ("NCT1", "sponsor   DECISION"), ("NCT2", "No funding")]
    assert cluster_texts(items, DedupSettings()) == {"NCT3": "NCT1", "NCT1": "NCT1", "NCT2": "NCT2"}


@pytest.mark.parametrize("near", [True, False])
def test_agrees_with_comparing_every_pair(near: bool) -> None:
    items = {}
    for seed in range(12):
        words = make_text(seed)
        items[f"{seed:02d}-whole"] = " ".join(words)
        items[f"{seed:02d}-light"] = " ".join(edited(words, 2, seed))  # Jaccard about 0.9
        items[f"{seed:02d}-heavy"] = " ".join(edited(words, 30, seed))  # about 0.3
        items[f"{seed:02d}-cased"] = " ".join(words).upper() + "."
    setting = DedupSettings(near=near)
    found = cluster_texts(items.items(), setting)
    assert found == plain_clusters(items, setting)
    assert len(set(found.values())) == (24 if near else 36)


def test_a_chain_of_edits_is_one_cluster() -> None:
    words = make_text(5)
    chain = {"a": words}
    for step, (before, after) in enumerate([("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]):
        chain[after] = edited(chain[before], 3, step)
    found = cluster_texts(((key, " ".join(text)) for key, text in chain.items()), DedupSettings())
    assert set(found.values()) == {"a"}


def test_one_id_with_two_texts_ties_their_clusters() -> None:
    items = [("b", "one text here"), ("b", "quite another"), ("c", "Quite another")]
    items += [("a", "One text, here")]
    assert set(cluster_texts(items, DedupSettings()).values()) == {"a"}


def test_texts_without_words_are_not_all_alike() -> None:
    found = cluster_texts([("a", "?"), ("b", "-"), ("c", ""), ("d", " "), ("e", "- ")],
                          DedupSettings())  # fmt: skip
    assert found == {"a": "a", "b": "b", "c": "c", "d": "c", "e": "b"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=9).map(" ".join), max_size=14),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter(texts: list[str], rng: random.Random) -> None:
    setting = DedupSettings(shingle_words=2, jaccard=0.5)
    items = [(f"{place:02d}", text) for place, text in enumerate(texts)]
    shuffled = rng.sample(items, len(items))
    assert cluster_texts(items, setting) == cluster_texts(shuffled, setting)


def test_known_edits_are_found_as_their_similarity_says() -> None:
    """Precision and recall over pairs at every similarity, against the true Jaccard."""
    items, pairs = {}, []
    for seed in range(150):
        words = make_text(seed, words=150)
        items[f"{seed:03d}"] = " ".join(words)
        items[f"{seed:03d}-edited"] = " ".join(edited(words, seed % 10, seed))
        pairs.append((f"{seed:03d}", f"{seed:03d}-edited"))
    setting = DedupSettings()
    found = cluster_texts(items.items(), setting)
    sets = {name: shingles_of(text, setting.shingle_words) for name, text in items.items()}
    alike = {
        pair: len(sets[pair[0]] & sets[pair[1]]) / len(sets[pair[0]] | sets[pair[1]])
        for pair in pairs
    }
    true = {pair for pair, similarity in alike.items() if similarity >= setting.jaccard}
    told = {pair for pair in pairs if found[pair[0]] == found[pair[1]]}
    assert 40 < len(true) < 110
    assert told <= true  # precision 1: candidates are verified
    assert len(told) >= 0.98 * len(true)
    assert len(set(found.values())) == len(items) - len(told)  # and nothing else was joined


def plain_overlap(held: str, training: list[list[str]], width: int) -> list[float]:
    """The slow way: n-grams as tuples of words, in sets."""

    def ngrams(text: str) -> list[tuple[str, ...]]:
        words = normalise(text).split()
        size = max(1, min(width, len(words)))
        return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]

    grams = ngrams(held)
    sources = [{gram for text in texts for gram in ngrams(text)} for texts in training]
    sources.append(set().union(*sources))
    return [sum(g in source for g in grams) / len(grams) if grams else 0.0 for source in sources]


sentences = st.lists(
    st.sampled_from(["wool", "sock", "cold", "feet,", "Feet.", "and"]), max_size=14
)
sentences = sentences.map(" ".join)


@settings(deadline=None)
@given(st.lists(sentences, max_size=4), st.lists(st.tuples(sentences, st.booleans()), max_size=6))
def test_the_overlap_of_ngrams_agrees_with_the_slow_way(held, training) -> None:
    overlap = NgramOverlap(words=3, sources=2)
    for number, text in enumerate(held):
        overlap.hold_out(f"{number}", text)
    for text, second in training:
        overlap.read(text, source=int(second))
    sources = [[text for text, second in training if second is which] for which in (False, True)]
    shares = overlap.shares()
    assert list(shares) == [f"{number}" for number in range(len(held))]
    for number, text in enumerate(held):
        assert shares[f"{number}"].tolist() == pytest.approx(plain_overlap(text, sources, 3))


def test_every_text_is_held_out_before_one_is_read() -> None:
    overlap = NgramOverlap()
    overlap.read("wool")
    with pytest.raises(ValueError, match="before the first training text"):
        overlap.hold_out("a", "wool")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=60), st.integers(0, 2**31))
def test_min_hashes_are_those_of_datasketch(shingles: list[int], seed: int) -> None:
    from datasketch import MinHash

    theirs = MinHash(num_perm=64, seed=seed, scheme="affine32", hashfunc=int)
    theirs.update_batch(sorted(shingles))
    ours = Fingerprinter(DedupSettings(permutations=64, seed=seed))
    found = ours._min_hashes(np.array(sorted(shingles), np.uint32))
    assert found.dtype == np.uint32
    assert found.tolist() == theirs.hashvalues.tolist()
