from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from trialese.records import Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.judge import judge
from trialese.verdict.text import format_markdown, format_table, summarise

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=50)


def test_summary_answers_first_and_gives_figures_with_intervals(made: Callable[..., Runs]) -> None:
    verdict = judge(made(systems=("adapted", "base", "tfidf"), skill={"base": 0.8}), QUICK)
    text = summarise(verdict)
    assert text.startswith("On 400 stop-reasons texts, adapted is better than base in micro-F1 and")
    f1 = verdict.scores[0].averages["macro"].f1
    assert f"macro-F1 {f1.point:.4f} [{f1.low:.4f}, {f1.high:.4f}]" in text
    assert "the best baseline (" in text


def test_cannot_tell_is_said(made: Callable[..., Runs]) -> None:
    runs = made(systems=("adapted", "prior"))
    runs["base"] = list(runs["adapted"])
    text = summarise(judge(runs, QUICK))
    assert "adapted cannot be told from base in micro-F1 or macro-F1" in text


def test_terminal_table_has_every_label_average_and_the_signature(runs: Runs) -> None:
    verdict = judge(runs, QUICK)
    lines = format_table(verdict).splitlines()
    assert lines[-1] == verdict.signature
    for label in verdict.scores[0].labels:
        (line,) = [x for x in lines if x.startswith(f"{label.label} ")]
        assert line.split()[1] == f"{label.f1.point:.4f}"
        assert line.split()[-1] == str(label.support)
    for average in ("micro", "macro", "weighted", "samples"):
        assert any(line.startswith(f"{average} avg") for line in lines)
    assert max(map(len, lines[:26])) <= 90


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_markdown_is_the_classification_report_of_each_system(
    made: Callable[..., Runs], kind: str
) -> None:
    verdict = judge(made(kind=kind, labels=("All", "Female", "Male")), QUICK)
    text = format_markdown([verdict])
    assert text.count("| | precision | recall | f1-score | 95% interval | support |") == 5
    female = verdict.scores[1].labels[1]
    row = f"| Female | {female.precision:.4f} | {female.recall:.4f} | {female.f1.point:.4f} | "
    assert row in text
    assert ("samples avg" in text) == (kind == "multilabel")
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1
