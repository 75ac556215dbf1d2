from __future__ import annotations

from collections.abc import Callable

import pytest

from trialese.errors import LeakageError
from trialese.records import Audit, Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.judge import judge

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=20)


def finding(audits: tuple[Audit, ...], words: str) -> Audit:
    (found,) = [audit for audit in audits if words in audit.name]
    return found


def test_honest_folds_pass_what_can_leak(runs: Runs) -> None:
    audits = judge(runs, QUICK).audits
    for words in ("training texts and", "against training", "thresholds", "divided", "declared"):
        for audit in audits:
            if words in audit.name:
                assert audit.passed, audit


def test_trained_on_a_test_text(runs: Runs, changed: Callable[..., Predictions]) -> None:
    tune, test, *others = runs["base"]
    cluster = test.clusters[0]
    count = test.clusters.count(cluster)
    leaky = changed(test, trained_on=test.trained_on | {cluster})
    with pytest.raises(LeakageError, match=f"^stop-reasons: {count} of 400 .* base was trained on"):
        judge({**runs, "base": [tune, leaky, *others]}, QUICK)
    verdict = judge({**runs, "base": [tune, leaky, *others]}, QUICK, allow_overlap=True)
    assert f"|OVERLAP={count}|" in verdict.signature
    found = finding(verdict.audits, "against training")
    assert not found.passed
    assert repr(cluster) in found.finding


def test_thresholds_from_test_texts(runs: Runs, changed: Callable[..., Predictions]) -> None:
    _, test, *others = runs["base"]
    leaky = changed(test, split="tune", trained_on=frozenset())
    with pytest.raises(LeakageError, match="base took thresholds from"):
        judge({**runs, "base": [leaky, test, *others]}, QUICK)
    verdict = judge({**runs, "base": [leaky, test, *others]}, QUICK, allow_overlap=True)
    assert f"|OVERLAP={len(test.ids)}|" in verdict.signature


def test_cluster_divided_between_folds(
    made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    runs = made(systems=("base", "tfidf"), folds=2)
    for given in runs.values():
        for place in (1, 3):
            clusters = ("shared", *given[place].clusters[1:])
            given[place] = changed(given[place], clusters=clusters, trained_on=frozenset())
    with pytest.raises(LeakageError, match="1 clusters of duplicates are divided"):
        judge(runs, QUICK)
    verdict = judge(runs, QUICK, allow_overlap=True)
    assert "|OVERLAP=2|" in verdict.signature
    assert not finding(verdict.audits, "divided").passed


def test_undeclared_training_texts(runs: Runs, changed: Callable[..., Predictions]) -> None:
    silent = [changed(run, trained_on=frozenset()) for run in runs["base"]]
    found = finding(judge({**runs, "base": silent}, QUICK).audits, "declared")
    assert not found.passed
    assert found.finding == "base declared none"
    words = [changed(run, trained_on=frozenset()) for run in runs["keywords"]]
    found = finding(judge({**runs, "keywords": words}, QUICK).audits, "declared")
    assert found.passed
    assert found.finding == "keywords declared none"
