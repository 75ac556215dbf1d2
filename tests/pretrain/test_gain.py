"""The gain and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from trialese.pretrain.heldout import HeldoutScore, gained_top1


def score(hits: np.ndarray, tokens: np.ndarray) -> HeldoutScore:
    """A score with these hits."""
    return HeldoutScore(np.zeros(len(hits)), hits, hits, tokens)


def test_the_point_is_the_pooled_difference_and_lies_within():
    generator = np.random.default_rng(0)
    tokens = np.full(300, 19)
    before, after = generator.binomial(19, 0.3, 300), generator.binomial(19, 0.36, 300)
    gain = gained_top1(score(before, tokens), score(after, tokens), np.arange(300) // 3)
    assert gain.point == pytest.approx((after - before).sum() / tokens.sum())
    assert gain.low < gain.point < gain.high
    # blocks are independent here: the interval is about that of 300 independent differences
    spread = 1.96 * np.sqrt(19 * (0.3 * 0.7 + 0.36 * 0.64) / 300) / 19
    assert (gain.high - gain.low) / 2 == pytest.approx(spread, rel=0.25)


def test_blocks_of_one_document_count_as_one():
    before, after = np.tile([3, 3], 50), np.tile([9, 3], 50)
    tokens = np.full(100, 19)
    owner = np.repeat([0, 1], 50)
    order = np.argsort(np.tile([0, 1], 50), kind="stable")
    gain = gained_top1(score(before[order], tokens), score(after[order], tokens), owner)
    assert (gain.low, gain.high) == pytest.approx((0.0, 6 / 19))


def test_no_change_is_nothing():
    hits = np.arange(10)
    gain = gained_top1(score(hits, hits + 5), score(hits, hits + 5), np.arange(10))
    assert (gain.point, gain.low, gain.high) == (0, 0, 0)
