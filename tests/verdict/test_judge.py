from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from trialese import __version__
from trialese.records import Predictions
from trialese.settings import VerdictSettings
from trialese.thresholds import choose_thresholds
from trialese.verdict.judge import judge

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=200)


def test_points_are_scikit_learns_over_rows_pooled_from_all_folds(runs: Runs) -> None:
    verdict = judge(runs, QUICK)
    for system, given in runs.items():
        truth, predicted = [], []
        for tune, test in zip(given[::2], given[1::2], strict=True):
            truth.append(test.truth)
            predicted.append(test.scores >= choose_thresholds(tune, QUICK).values)
        theirs = precision_recall_fscore_support(
            np.vstack(truth), np.vstack(predicted), average=None, zero_division=0
        )
        scores = next(s for s in verdict.scores if s.system == system)
        ours = [(s.precision, s.recall, s.f1.point, s.support) for s in scores.labels]
        np.testing.assert_allclose(np.array(ours).T, theirs, atol=1e-9)
        for name, average in scores.averages.items():
            theirs = precision_recall_fscore_support(
                np.vstack(truth), np.vstack(predicted), average=name, zero_division=0
            )
            found = (average.precision.point, average.recall.point, average.f1.point)
            np.testing.assert_allclose(found, theirs[:3], atol=1e-9)


def test_figures_are_averaged_over_seeds(made: Callable[..., Runs]) -> None:
    both = made(seeds=(1, 2), systems=("base", "tfidf"), random_seed=4)
    alone = [
        judge({s: [r for r in given if r.seed == seed] for s, given in both.items()}, QUICK)
        for seed in (1, 2)
    ]
    together = judge(both, QUICK)
    expected = np.mean([v.scores[0].averages["macro"].f1.point for v in alone])
    assert together.scores[0].averages["macro"].f1.point == pytest.approx(expected, abs=1e-9)
    assert together.scores[0].seeds == (1, 2)
    assert together.rows == alone[0].rows == 400


def test_intervals_hold_their_points_and_widen_with_confidence(runs: Runs) -> None:
    narrow = judge(runs, VerdictSettings(resamples=400, confidence=0.8))
    wide = judge(runs, VerdictSettings(resamples=400, confidence=0.99))
    for one, other in zip(narrow.scores, wide.scores, strict=True):
        inner, outer = one.averages["micro"].f1, other.averages["micro"].f1
        assert outer.low <= inner.low <= inner.point <= inner.high <= outer.high


def test_same_bytes_whatever_the_order_of_systems_runs_and_rows(
    runs: Runs, changed: Callable[..., Predictions]
) -> None:
    def shuffled(run: Predictions) -> Predictions:
        order = np.random.default_rng(1).permutation(len(run.ids))
        return changed(
            run,
            ids=tuple(run.ids[i] for i in order),
            clusters=tuple(run.clusters[i] for i in order),
            scores=run.scores[order],
            truth=run.truth[order],
        )

    other = {s: [shuffled(r) for r in reversed(runs[s])] for s in reversed(list(runs))}
    assert msgspec.json.encode(judge(runs, QUICK)) == msgspec.json.encode(judge(other, QUICK))


def test_signature_names_what_the_scores_depend_on(runs: Runs) -> None:
    plain = judge(runs, VerdictSettings(resamples=100))
    assert plain.signature.startswith("stop-reasons|test:")
    assert plain.signature.endswith(f"|thr=tune|boot=100|seed=7|v{__version__}")
    odd = judge(runs, VerdictSettings(resamples=100, confidence=0.9, threshold_shrinkage=3.0))
    assert odd.signature.endswith(f"|seed=7|ci=0.9|shrink=3|v{__version__}")
    fixed = judge(runs, VerdictSettings(resamples=100, threshold=0.3))
    assert "|thr=0.3|" in fixed.signature
    fewer = {s: given[:-2] for s, given in runs.items()}
    assert judge(fewer, QUICK).signature.split("|")[1] != plain.signature.split("|")[1]


def test_multiclass(made: Callable[..., Runs]) -> None:
    runs = made(task="sex", kind="multiclass", labels=("All", "Female", "Male"), run_folds=1)
    verdict = judge(runs, QUICK)
    assert "|thr=argmax|" in verdict.signature
    test = runs["base"][1]
    accuracy = (test.scores.argmax(axis=1) == test.truth.argmax(axis=1)).mean()
    base = next(s for s in verdict.scores if s.system == "base")
    assert base.extra["accuracy"].point == pytest.approx(accuracy, abs=1e-9)
    assert base.averages["micro"].f1.point == pytest.approx(accuracy, abs=1e-9)
    assert "label_accuracy" not in base.extra


def test_models_come_first_and_baselines_last(runs: Runs) -> None:
    runs["teacher"] = list(runs["base"])
    order = [s.system for s in judge(runs, VerdictSettings(resamples=100)).scores]
    assert order == ["adapted", "base", "teacher", "tfidf", "keywords", "prior"]


def test_verdict_survives_json(runs: Runs) -> None:
    verdict = judge(runs, VerdictSettings(resamples=100))
    data: Any = msgspec.json.encode(verdict)
    assert msgspec.json.decode(data, type=type(verdict)) == verdict


def test_labels_learnt_from_a_model_are_named_in_the_signature(runs: Runs) -> None:
    verdict = judge(runs, VerdictSettings(resamples=100), about={"silver": {"base": 1200}})
    assert "|SILVER=base:1200|" in verdict.signature
