"""Language models by parts of the held-out documents, from stored sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trialese.pretrain.heldout import HeldoutScore, save_score
from trialese.pretrain.parts import compare_parts, ratio_interval

TOKENS = 20


def write_scores(folder: Path, era: str, name: str, hits: np.ndarray) -> None:
    """One artifact's sums of the era's test blocks: two blocks a document, `hits` of each."""
    tokens = np.full(len(hits), TOKENS)
    told = HeldoutScore(3.0 * tokens - hits, hits.astype(float), hits.astype(float), tokens)
    # Over all chosen positions the figures are others; parts tell those on [MASK].
    score = HeldoutScore(0 * told.loss, 0 * told.top1, 0 * told.top5, tokens + 2, told)
    owner = np.arange(len(hits)) // 2
    save_score(score, owner, folder / "heldout" / f"{era}-test-{name}.safetensors")


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, dict[str, list[str]]]:
    random = np.random.default_rng(3)
    names = {"old": [f"O{n}" for n in range(12)], "new": [f"N{n}" for n in range(8)]}
    for era, documents in names.items():
        base = random.integers(2, 8, 2 * len(documents))
        write_scores(tmp_path / "adapter", era, "before", base)
        write_scores(tmp_path / "control", era, "after", base + 1)
        write_scores(tmp_path / "adapter", era, "after", base + (6 if era == "new" else 0))
    return tmp_path / "adapter", tmp_path / "control", names


def test_each_part_has_its_own_documents_of_both_eras(models) -> None:
    adapter, control, names = models
    year = dict.fromkeys(names["old"], "2004") | dict.fromkeys(names["new"], "2012")
    year |= {"O0": "2012", "O1": "1999"}
    found = compare_parts(adapter, control, names, {"year": year, "none": {}})
    assert list(found) == ["year"]
    early, old, new = found["year"]
    assert early == {"part": "1999", "documents": 1, "tokens": 2 * TOKENS}  # too few to be told
    assert (old["documents"], new["documents"], new["tokens"]) == (10, 9, 18 * TOKENS)
    assert old["top1"]["adapted - base"] == {"point": 0.0, "low": 0.0, "high": 0.0}
    assert old["top1"]["adapted - control"]["point"] == pytest.approx(-1 / TOKENS)
    gain = new["top1"]["adapted - base"]
    assert gain["point"] == pytest.approx((16 * 6) / (18 * TOKENS))
    assert gain["low"] < gain["point"] < gain["high"]
    for row in (old, new):
        told = {name: each["point"] for name, each in row["top1"].items()}
        assert told["adapted"] - told["base"] == pytest.approx(told["adapted - base"])
        assert row["loss"]["base"]["point"] == pytest.approx(3 - told["base"])


def test_without_a_control_or_the_figures(models, tmp_path: Path) -> None:
    adapter, _, names = models
    year = dict.fromkeys(names["new"], "2012")
    (row,) = compare_parts(adapter, None, names, {"year": year})["year"]
    assert set(row["top1"]) == {"base", "adapted", "adapted - base"}
    assert compare_parts(tmp_path / "nothing", None, names, {"year": year}) == {}


def test_the_interval_holds_the_truth_in_parts_of_few_documents() -> None:
    """Ratios over eight documents of unequal length, 1,000 times."""
    random = np.random.default_rng(5)
    inside = 0
    for _ in range(1000):
        tokens = random.integers(5, 60, 8).astype(float)
        rate = np.clip(random.normal(0.4, 0.1, 8), 0, 1)
        found = ratio_interval(random.binomial(tokens.astype(int), rate).astype(float), tokens)
        inside += found.low <= 0.4 <= found.high
    assert 920 <= inside <= 980
