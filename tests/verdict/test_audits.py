""""""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from trialese.errors import LeakageError
from trialese.records import Audit, Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.audits import audit_giveaways, audit_sources, best_of_clusters
from trialese.verdict.judge import judge

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=100)


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
    hits = sizes = 0.0  # of 400 texts in pairs, one's labels as a guess at the other's
    truths: dict[str, list[np.ndarray]] = {}
    for run in runs["base"][1::2]:
        for cluster, row in zip(run.clusters, run.truth, strict=True):
            truths.setdefault(cluster, []).append(row)
    for rows in truths.values():
        if len(rows) == 2:
            hits += (rows[0] & rows[1]).sum()
            sizes += (rows[0].sum() + rows[1].sum()) / 2
    # Not a ceiling: of labels A, A, A and B it is 0.5, and A for all four is right on three.
    assert f"with micro-F1 {hits / sizes:.2f}, which is how far labels agree" in found.finding
    assert found.finding.endswith("a ceiling for answers that do not tell them apart")
    (parts,) = (
        judge(runs, QUICK).notes["slices"][name] for name in ("labels of nearly equal texts",)
    )
    texts = sum(len(rows) for rows in truths.values() if len({r.tobytes() for r in rows}) > 1)
    assert {row["part"]: row["texts"] for row in parts}["other labels too"] == texts
    assert f"at most on the {texts:,} texts with different labels" in found.finding


def test_the_best_of_equal_answers_is_that_of_all_that_could_be_given() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        clusters = [generator.random((int(n), 2)) < 0.5 for n in generator.integers(1, 4, size=3)]
        best = 0.0
        for given in itertools.product((False, True), repeat=6):
            answers = np.array(given).reshape(3, 2)
            pairs = list(zip(clusters, answers, strict=True))
            hits = sum((rows & answer).sum() for rows, answer in pairs)
            sizes = sum(rows.sum() + len(rows) * answer.sum() for rows, answer in pairs)
            best = max(best, 2 * hits / sizes if sizes else 1.0)
        assert best_of_clusters(clusters) == pytest.approx(best)


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


def test_a_label_that_one_file_holds_is_told_with_what_the_file_alone_would_score() -> None:
    texts = [("a.zip", ("All",))] * 80 + [("a.zip", ("Male",))] * 10
    texts += [("urology.zip", ("Male",))] * 10 + [("urology.zip", ("All",))] * 2
    audit = audit_sources(texts, ("All", "Female", "Male"))
    assert not audit.passed
    # All: 80 right of 90 given and 82 true; Male: 10 of 12 and 20; Female: none.
    knowing, blind = (160 / 172 + 20 / 32) / 3, (164 / 184) / 3
    assert f"macro-F1 {knowing:.3f}, without it {blind:.3f}" in audit.finding
    assert "50% of Male come from urology.zip, which holds 12% of the texts" in audit.finding
    even = [(file, (label,)) for file in "ab" for label in ("All", "Male") for _ in range(9)]
    assert audit_sources(even, ("All", "Male")).passed
