"""The coarser view against scikit-learn on merged columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import f1_score

from trialese.errors import RecordError
from trialese.records import Predictions
from trialese.settings import VerdictSettings
from trialese.tasks.stop_reasons import STOP_REASON_GROUPS, STOP_REASONS
from trialese.verdict.judge import judge
from trialese.verdict.text import format_markdown, group_rows

Runs = dict[str, list[Predictions]]
FIXED = VerdictSettings(resamples=50, threshold=0.4)


def test_figures_are_those_of_merged_labels(runs: Runs) -> None:
    verdict = judge(runs, FIXED, groups=STOP_REASON_GROUPS)
    rows = group_rows(verdict)
    assert [row.name for row in rows[:6]] == [
        "Neutral", "Suspicious", "Invalid", "Negative", "Safety", "Success"
    ]  # fmt: skip
    test = [run for run in runs["adapted"] if run.split == "test"]
    truth = np.concatenate([run.truth for run in test])
    given = np.concatenate([run.scores for run in test]) >= 0.4
    merged = []
    for labels in (truth, given):
        columns = {
            row.name: labels[:, [x in row.members for x in STOP_REASONS.labels]].any(axis=1)
            for row in rows[:6]
        }
        merged.append(np.stack(list(columns.values()), axis=1))
    expected = f1_score(*merged, average=None, zero_division=0)
    assert [row.cells[0].point for row in rows[:6]] == pytest.approx(expected.tolist())
    by_name = {row.name: row.cells[0].point for row in rows}
    for average in ("micro", "macro", "weighted", "samples"):
        assert by_name[f"{average} avg"] == pytest.approx(
            f1_score(*merged, average=average, zero_division=0)
        )
    assert all(c.low <= c.point <= c.high for row in rows for c in row.cells)
    text = format_markdown([verdict])
    assert "## By coarser groups" in text and "| Suspicious | " in text


def test_without_groups_there_is_no_second_view(runs: Runs) -> None:
    verdict = judge(runs, FIXED)
    assert group_rows(verdict) == []
    assert "coarser" not in format_markdown([verdict])


def test_every_label_needs_a_group(runs: Runs, made: Callable[..., Runs]) -> None:
    with pytest.raises(RecordError, match="no group for Covid19; give every label one"):
        groups = {k: v for k, v in STOP_REASON_GROUPS.items() if k != "Covid19"}
        judge(runs, FIXED, groups=groups)
