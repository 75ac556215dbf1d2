"""Masks: their ratio, their purity, and a slow plain version as oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.pretrain.backbone import load_tokenizer
from trialese.pretrain.masking import Vocabulary, hash_uniform, mask_blocks
from trialese.settings import BackboneSettings

MASK, PAD, SIZE = 4, 0, 60
WORDS = np.zeros(SIZE, dtype=bool)
WORDS[40:] = True
VOCABULARY = Vocabulary(MASK, PAD, np.arange(5, SIZE), WORDS)


def blocks(count: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ids, with [CLS] first, a [SEP] somewhere and padding at the end of some."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(5, SIZE, (count, length)).astype(np.uint16)
    ids[:, 0] = 2
    ids[np.arange(count), generator.integers(1, length, count)] = 3
    ids[::3, length - 2 :] = PAD
    return ids, ids < 5


@given(
    st.integers(1, 9),
    st.integers(4, 40),
    st.integers(0, 2**31),
    st.sampled_from([0.15, 0.3, 0.4]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_masks_spare_special_tokens_and_keep_their_ratio(count, length, seed, ratio, whole):
    ids, special = blocks(count, length, seed)
    masked = mask_blocks(
        ids,
        special,
        np.arange(count),
        VOCABULARY,
        ratio=ratio,
        seed=seed,
        epoch=1,
        whole_word=whole,
    )
    hidden = np.zeros_like(special)
    rows = np.broadcast_to(np.arange(count)[:, None], masked.valid.shape)
    hidden[rows[masked.valid], masked.positions[masked.valid]] = True
    assert not (hidden & special).any()
    assert (masked.inputs[~hidden] == ids[~hidden]).all()
    assert (
        masked.targets[masked.valid] == ids[rows[masked.valid], masked.positions[masked.valid]]
    ).all()
    assert (masked.segments == (ids != PAD)).all()
    ordinary = (~special).sum(axis=1)
    wanted = np.where(ordinary > 0, np.maximum(1, np.floor(ratio * ordinary + 0.5)), 0)
    found = hidden.sum(axis=1)
    assert (found <= wanted).all() if whole else (found == wanted).all()
    assert masked.masked_tokens == hidden.sum()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_segments_are_the_texts_of_an_isolated_block(lengths, padding):
    cls_id = 2
    texts = [[cls_id, *range(5, 5 + length), 3] for length in lengths]
    texts[0][1] = cls_id  # the same id as an ordinary token begins nothing
    ids = np.array([[i for text in texts for i in text] + [PAD] * padding], dtype=np.uint16)
    special = ids < 5
    special[0, 1] = False
    vocabulary = Vocabulary(MASK, PAD, np.arange(5, SIZE), WORDS, cls_id)
    options = {"ratio": 0.3, "seed": 1, "epoch": 0}
    apart = mask_blocks(ids, special, np.array([4]), vocabulary, isolated=True, **options)
    expected = [n for n, text in enumerate(texts, 1) for _ in text] + [0] * padding
    assert apart.segments[0].tolist() == expected
    joined = mask_blocks(ids, special, np.array([4]), vocabulary, **options)
    assert joined.segments[0].tolist() == [min(n, 1) for n in expected]
    assert (joined.inputs == apart.inputs).all()


@given(st.integers(0, 10**6), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_a_mask_depends_on_seed_epoch_and_block_id_only(seed, epoch):
    ids, special = blocks(8, 24, 5)
    names = np.array([3, 99, 7, 12, 1 << 40, 0, 8, 41])
    options = {"ratio": 0.3, "seed": seed, "epoch": epoch}
    together = mask_blocks(ids, special, names, VOCABULARY, **options)
    order = np.array([6, 1, 4])
    apart = mask_blocks(ids[order], special[order], names[order], VOCABULARY, **options)
    assert (apart.inputs == together.inputs[order]).all()
    other = mask_blocks(ids, special, names, VOCABULARY, ratio=0.3, seed=seed, epoch=epoch + 1)
    assert (other.inputs != together.inputs).any()


def plain_mix(value: int) -> int:
    """SplitMix64's finaliser in Python's own integers."""
    limit = 2**64 - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & limit
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & limit
    return value ^ (value >> 31)


def plain_draw(seed: int, epoch: int, block: int, position: int) -> int:
    """The draw of one position, without numpy."""
    golden, limit = 0x9E3779B97F4A7C15, 2**64 - 1
    key = plain_mix((plain_mix((seed + golden) & limit) + epoch + golden) & limit)
    state = plain_mix((block * golden + key) & limit)
    return plain_mix((state + (position + 1) * golden) & limit)


def test_a_slow_plain_version_hides_the_same_tokens():
    ids, special = blocks(5, 20, 11)
    names = np.array([0, 1, 2, 77, (1 << 40) + 3])
    masked = mask_blocks(ids, special, names, VOCABULARY, ratio=0.3, seed=7, epoch=2)
    for row, name in enumerate(names.tolist()):
        ordinary = [p for p in range(20) if not special[row, p]]
        draws = {p: plain_draw(7, 2, name, p) for p in ordinary}
        wanted = max(1, int(0.3 * len(ordinary) + 0.5))
        chosen = sorted(sorted(ordinary, key=draws.__getitem__)[:wanted])
        assert masked.positions[row][masked.valid[row]].tolist() == chosen
        for p in chosen:
            fresh = plain_mix(draws[p] ^ 0x9E3779B97F4A7C15)
            action = (fresh >> 11) / 2**53
            expected = MASK if action < 0.8 else int(ids[row, p])
            if 0.8 <= action < 0.9:
                expected = 5 + plain_mix(fresh) % (SIZE - 5)
            assert masked.inputs[row, p] == expected


def test_of_the_hidden_80_percent_are_masks_10_random_10_kept():
    ids, special = blocks(4000, 64, 3)
    masked = mask_blocks(ids, special, np.arange(4000), VOCABULARY, ratio=0.3, seed=1, epoch=0)
    shown = np.take_along_axis(masked.inputs, masked.positions, axis=1)[masked.valid]
    targets = masked.targets[masked.valid]
    total = len(targets)
    assert (shown == MASK).sum() / total == pytest.approx(0.8, abs=0.005)
    by_chance = 0.1 / (SIZE - 5)
    assert (shown == targets).sum() / total == pytest.approx(0.1 + by_chance, abs=0.005)
    assert ((shown >= 5) | (shown == MASK)).all()  # never a special token as the random one


def test_whole_words_are_hidden_whole():
    generator = np.random.default_rng(2)
    ids = np.where(generator.random((200, 48)) < 0.5, 50, 10).astype(np.uint16)
    special = np.zeros_like(ids, dtype=bool)
    masked = mask_blocks(
        ids, special, np.arange(200), VOCABULARY, ratio=0.3, seed=4, epoch=0, whole_word=True
    )
    hidden = np.zeros_like(special)
    rows = np.broadcast_to(np.arange(200)[:, None], masked.valid.shape)
    hidden[rows[masked.valid], masked.positions[masked.valid]] = True
    continues = ids[:, 1:] >= 40
    cut = continues & (hidden[:, 1:] != hidden[:, :-1])
    assert cut.sum() == 0
    assert 0.22 < hidden.mean() <= 0.3


def test_hash_uniform_is_uniform_and_salted():
    values = hash_uniform(np.arange(20_000), 7)
    assert values.min() >= 0 and values.max() < 1
    assert np.histogram(values, bins=10)[0].std() < 100
    assert abs(np.corrcoef(values, hash_uniform(np.arange(20_000), 8))[0, 1]) < 0.03


def test_vocabulary_of_a_tokenizer(tiny_backbone: Path):
    tokenizer = load_tokenizer(BackboneSettings(name=str(tiny_backbone)))
    vocabulary = Vocabulary.of(tokenizer)
    pieces = tokenizer.get_vocab()
    assert not set(vocabulary.ordinary.tolist()) & set(tokenizer.all_special_ids)
    assert vocabulary.continues_word[pieces["##a"]] and not vocabulary.continues_word[pieces["a"]]
    assert len(vocabulary.ordinary) == len(pieces) - 5
