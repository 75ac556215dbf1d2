from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trialese.records import Audit, Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.audits import audit_giveaways
from trialese.verdict.judge import judge

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=20)


def finding(audits: tuple[Audit, ...], words: str) -> Audit:
    (found,) = [audit for audit in audits if words in audit.name]
    return found


def test_constant_scores(runs: Runs, changed: Callable[..., Predictions]) -> None:
    assert finding(judge(runs, QUICK).audits, "vary").finding == "constant: prior"
    flat = [changed(run, scores=np.full(run.scores.shape, 0.3)) for run in runs["base"]]
    found = finding(judge({**runs, "base": flat}, QUICK).audits, "vary")
    assert not found.passed
    assert "base" in found.finding


def test_empty_label_is_named(runs: Runs, changed: Callable[..., Predictions]) -> None:
    def without(run: Predictions) -> Predictions:
        truth = run.truth.copy()
        truth[:, 3] = False
        return changed(run, truth=truth)

    verdict = judge({s: [without(r) for r in given] for s, given in runs.items()}, QUICK)
    found = finding(verdict.audits, "occurs in test")
    assert not found.passed
    assert found.finding.startswith("no test text has Endpoint_Met")
    assert verdict.scores[0].labels[3].support == 0
    found = finding(verdict.audits, "occurs in tune")
    assert found.finding.startswith("absent: ")
    assert "Endpoint_Met in 3 of 3 folds" in found.finding


def test_contradictory_labels_are_counted(runs: Runs) -> None:
    clusters: dict[str, set[bytes]] = {}
    for run in runs["base"][1::2]:
        for cluster, row in zip(run.clusters, run.truth, strict=True):
            clusters.setdefault(cluster, set()).add(row.tobytes())
    torn = sum(len(rows) > 1 for rows in clusters.values())
    assert torn > 0
    found = finding(judge(runs, QUICK).audits, "same labels")
    assert found.finding.startswith(f"{torn} of {len(clusters)} clusters")


def test_perfect_label_asks_for_an_explanation(
    runs: Runs, changed: Callable[..., Predictions]
) -> None:
    def perfect(run: Predictions) -> Predictions:
        scores = run.scores.copy()
        scores[:, 0] = run.truth[:, 0]
        return changed(run, scores=scores)

    assert finding(judge(runs, QUICK).audits, "too good").passed
    given = {**runs, "base": [perfect(run) for run in runs["base"]]}
    found = finding(judge(given, QUICK).audits, "too good")
    assert not found.passed
    assert "base on Another_Study (1.0000)" in found.finding


def test_word_that_gives_a_label_away() -> None:
    texts = [(f"Sex: Female trial number {n}", ("Female",)) for n in range(30)]
    texts += [(f"a trial for all, number {n}", ("All",)) for n in range(60)]
    found = audit_giveaways(texts, ("All", "Female"))
    assert not found.passed
    assert "'female' tells Female in 30 of 30 texts" in found.finding
    assert "'trial'" not in found.finding
    assert "'number'" not in found.finding


def test_rare_word_and_a_label_that_all_have_are_no_giveaway() -> None:
    texts = [(f"word{n % 10} common", ("All",)) for n in range(100)]
    assert audit_giveaways(texts, ("All",)).passed
    texts = [("odd", ("X",))] * 19 + [("plain", ())] * 50
    assert audit_giveaways(texts, ("X",)).passed
    assert not audit_giveaways([*texts, ("odd", ("X",))], ("X",)).passed


def test_audits_of_earlier_stages_are_shown(runs: Runs) -> None:
    earlier = Audit(name="sex words", passed=False, finding="seen")
    assert judge(runs, QUICK, audits=[earlier]).audits[-1] == earlier
