from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest

from trialese.records import Difference, Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.card import format_model_card
from trialese.verdict.judge import judge
from trialese.verdict.report import render_page
from trialese.verdict.text import (
    format_markdown,
    format_table,
    headline_rows,
    search_budget,
    summarise,
)

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=100)


def test_summary_answers_first_and_gives_figures_with_intervals(made: Callable[..., Runs]) -> None:
    verdict = judge(made(systems=("adapted", "base", "tfidf"), skill={"base": 0.8}), QUICK)
    text = summarise(verdict)
    assert text.startswith("On 400 stop-reasons texts, adapted is better than base (+0.")
    assert "One training run each; a difference of 0.04 may come from the run." in text
    f1 = verdict.scores[0].averages["macro"].f1
    assert f"macro-F1 {f1.point:.4f} [{f1.low:.4f}, {f1.high:.4f}]" in text
    assert " and tfidf (+0." in text


def test_no_significant_difference_is_said(made: Callable[..., Runs]) -> None:
    runs = made(systems=("adapted", "prior"))
    runs["base"] = list(runs["adapted"])
    text = summarise(judge(runs, QUICK))
    assert "adapted is better than prior (+0." in text
    assert "shows no significant difference from base (+0.00 [+0.00, +0.00]; " in text
    assert "would be found four times in five" in text


def test_the_first_table_has_two_decimals_and_one_word(made: Callable[..., Runs]) -> None:
    """The same words in the terminal and in Markdown."""
    runs = made(systems=("adapted", "base", "tfidf"), rows=800, skill={"base": 0.8})
    verdict = judge(runs, VerdictSettings(resamples=200))
    rows = headline_rows(verdict)
    assert [row.system for row in rows] == ["adapted", "base", "tfidf"]
    assert [row.word for row in rows][:2] == ["", "worse"]
    macro = verdict.scores[1].averages["macro"].f1
    assert rows[1].figure == macro
    terminal = format_table(verdict)
    assert re.search(r"system +macro-F1 +95% interval +against adapted\n", terminal)
    bounds = f"{macro.low:.2f} to {macro.high:.2f}"
    assert re.search(rf"\nbase +{macro.point:.2f} +{bounds} +worse\n", terminal)
    markdown = format_markdown([verdict])
    line = f"| stop-reasons | base | macro-F1 {macro.point:.2f} | {bounds} | worse |"
    assert markdown.index(line) < markdown.index("precision")
    assert summarise(verdict) in markdown
    assert " ".join(summarise(verdict).split()) in " ".join(terminal.split())


def test_a_verdict_of_an_earlier_version_is_told_too(runs: Runs) -> None:
    """It marks no difference as primary, and says "cannot tell"."""
    now = judge(runs, QUICK)
    earlier = msgspec.structs.replace(
        now,
        differences=tuple(
            Difference(
                system=d.system,
                rival=d.rival,
                metric=d.metric,
                interval=d.interval,
                p_value=d.p_value,
                conclusion="cannot tell",
            )
            for d in now.differences
        ),
    )
    del earlier.notes["settings"]["primary"]
    assert "no significant difference from base" in summarise(earlier)
    assert {row.word for row in headline_rows(earlier)} == {"", "no difference"}
    assert "no difference" in format_table(earlier)


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
    assert max(map(len, lines[:26])) <= 80


def test_a_terminal_table_of_many_systems_fits_80_columns(made: Callable[..., Runs]) -> None:
    """Every label of every system is there, though not all beside one another."""
    systems = ("adapted", "base", "control", "a-blend-of-two", "tfidf", "keywords", "prior")
    runs = made(systems=systems, rows=300, skill=dict.fromkeys(systems, 0.7))
    verdict = judge(runs, VerdictSettings(resamples=200))
    lines = format_table(verdict).splitlines()
    table = lines[next(n for n, line in enumerate(lines) if line.startswith("f1-score")) :]
    headers = [line.split()[1:-1] for line in table if line.startswith("f1-score")]
    assert len(headers) > 1
    assert [name for header in headers for name in header] == [
        each.system for each in verdict.scores
    ]
    for place, label in enumerate(verdict.scores[0].labels):
        cells = [line.split()[1:] for line in table if line.startswith(f"{label.label} ")]
        assert all(row[-1] == str(label.support) for row in cells)
        expected = [f"{scores.labels[place].f1.point:.4f}" for scores in verdict.scores]
        assert [cell for row in cells for cell in row[:-1]] == expected
    assert max(len(line) for line in table if "  " in line.strip()) <= 80


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


def test_the_search_budget_stands_in_report_markdown_and_card(made: Callable[..., Runs]) -> None:
    """How many settings each system was given to try, and which were taken."""
    grid = {
        "settings": 4, "inner_folds": 3, "fits": 60,
        "chosen": {"0": {"C": 10, "word_ngrams": 2}, "1": {"C": 1, "word_ngrams": 2},
                   "2": {"C": 10, "word_ngrams": 2}},
    }  # fmt: skip
    about = {
        "search": {"adapted": {"settings": 1, "epochs": 12, "inner_folds": 0}, "tfidf": grid},
    }
    verdict = judge(made(systems=("adapted", "tfidf", "prior")), QUICK, about=about)
    taken = "4 settings on 3 inner folds of each fold, 60 fits; "
    taken += "taken: C 10, word_ngrams 2 (2 folds); C 1, word_ngrams 2 (1 fold)"
    assert search_budget(verdict) == {
        "adapted": "1 setting, the best of up to 12 epochs on tune",
        "tfidf": taken,
        "prior": "nothing to choose",
    }
    for shown in (format_markdown([verdict]), format_model_card(verdict, "adapted")):
        assert f"- tfidf: {taken}" in shown
    assert f"<dt>tfidf</dt><dd>{taken}</dd>" in render_page([verdict])
    assert "Search budget" not in format_markdown([judge(made(), QUICK)])  # nothing is known of it
