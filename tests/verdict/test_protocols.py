from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trialese.artifacts import read_manifest
from trialese.errors import RecordError
from trialese.records import Interval, Predictions, Verdict
from trialese.settings import VerdictSettings
from trialese.verdict.judge import judge
from trialese.verdict.protocols import compare_protocols, subtract, write_protocols
from trialese.verdict.report import load_verdicts

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=100)


@pytest.fixture
def twins(
    made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> tuple[Verdict, Verdict]:
    """An honest verdict, and one over a single fold with test texts trained on."""
    honest = judge(made(systems=("base", "tfidf")), QUICK)
    flattered = made(systems=("base", "tfidf"), run_folds=1, skill={"base": 8.0, "tfidf": 8.0})
    for given in flattered.values():
        given[1] = changed(given[1], trained_on=frozenset(given[1].clusters))
    settings = VerdictSettings(resamples=100, threshold=0.3)
    return judge(flattered, settings, allow_overlap=True), honest


def test_inflation_label_by_label(twins: tuple[Verdict, Verdict]) -> None:
    published, honest = twins
    rows = compare_protocols(published, honest)
    assert len(rows) == 2 * (4 + 17)
    assert [row.metric for row in rows[:2]] == ["micro-f1", "macro-f1"]
    for row in rows:
        expected = row.published.point - row.honest.point
        assert row.inflation.point == pytest.approx(expected, abs=1e-9)
        assert row.inflation.low <= row.inflation.point <= row.inflation.high
    assert rows[0].inflation.low > 0


def test_interval_of_a_difference_covers_when_estimates_are_independent() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        one, other = random.normal(0.8, 0.02), random.normal(0.6, 0.05)
        found = subtract(
            Interval(one, one - 1.96 * 0.02, one + 1.96 * 0.02),
            Interval(other, other - 1.96 * 0.05, other + 1.96 * 0.05),
        )
        held += found.low <= 0.2 <= found.high
    assert 0.93 < held / 2000 < 0.97


def test_folder_has_page_table_and_numbers(tmp_path: Path, twins: tuple[Verdict, Verdict]) -> None:
    overlap = {"stop-reasons": {"scored_texts": 3372, "of_those_trained_on": 3034}}
    path = write_protocols(tmp_path / "twin", [twins], overlap=overlap, context={"source": "files"})
    assert set(read_manifest(path, kind="verdict").files) == {
        "twin.json", "twin.md", "report.html", "verdict.json"
    }  # fmt: skip
    assert load_verdicts(path) == list(twins)
    page = (path / "report.html").read_text(encoding="utf-8")
    text = (path / "twin.md").read_text(encoding="utf-8")
    rows = compare_protocols(*twins)
    for verdict in twins:
        assert verdict.signature in page
        assert verdict.signature in text
    assert "|OVERLAP=" in page
    assert "3,034" in page
    assert f"{rows[0].inflation.point:+.4f}" in page
    assert f"| base | Success | {rows[20].published.point:.4f} |" in text
    assert not re.search(r"https?://|<script|<link", page)
    data = json.loads((path / "twin.json").read_text(encoding="utf-8"))
    assert data["tasks"][0]["inflation"][0]["inflation"]["point"] == rows[0].inflation.point
    assert data["tasks"][0]["overlap"] == overlap["stop-reasons"]


def test_only_like_can_be_compared(
    twins: tuple[Verdict, Verdict], made: Callable[..., Runs]
) -> None:
    published, honest = twins
    other = judge(made(labels=("a", "b"), systems=("base", "tfidf")), QUICK)
    with pytest.raises(RecordError, match="two verdicts on one task with the same labels"):
        compare_protocols(published, other)
    strangers = judge(made(systems=("adapted", "prior")), QUICK)
    with pytest.raises(RecordError, match="no system in common"):
        compare_protocols(published, strangers)
    assert compare_protocols(honest, honest)[0].inflation.point == 0
