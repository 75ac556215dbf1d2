from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trialese.records import Difference, Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.judge import judge
from trialese.verdict.significance import count_discordant, holm
from trialese.verdict.systems import line_up

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=200)


def pair(differences: tuple[Difference, ...], rival: str) -> list[Difference]:
    return [d for d in differences if (d.system, d.rival) == ("adapted", rival)]


def test_pairs_share_their_resamples(made: Callable[..., Runs]) -> None:
    """A system against its own copy: each interval is wide, the difference is exactly 0."""
    runs = made(systems=("adapted", "tfidf"))
    runs["base"] = list(runs["adapted"])
    verdict = judge(runs, QUICK)
    own = verdict.scores[0].averages["macro"].f1
    assert own.high - own.low > 0.02
    found = pair(verdict.differences, "base")
    assert len(found) == 4 + 17
    for each in found:
        assert (each.interval.low, each.interval.point, each.interval.high) == (0, 0, 0)
        assert each.conclusion == "cannot tell"
        assert each.p_value == 1.0


def test_clear_gain_is_called_better_and_its_mirror_worse(made: Callable[..., Runs]) -> None:
    runs = made(systems=("adapted", "base", "prior"), skill={"base": 1.0})
    mirrored = {"adapted": runs["base"], "base": runs["adapted"], "prior": runs["prior"]}
    for given, expected in ((runs, "better"), (mirrored, "worse")):
        found = next(
            d for d in pair(judge(given, QUICK).differences, "base") if "macro" in d.metric
        )
        assert found.conclusion == expected
        assert found.p_value < 0.05


def test_better_and_worse_need_interval_and_p_value(runs: Runs) -> None:
    for found in judge(runs, QUICK).differences:
        excludes = found.interval.low > 0 or found.interval.high < 0
        expected = "better" if found.interval.point > 0 else "worse"
        decided = excludes and found.p_value < 0.05
        assert found.conclusion == (expected if decided else "cannot tell")


def test_labels_are_adjusted_for_their_number(made: Callable[..., Runs]) -> None:
    """With one label the p-value is plain; the same label among 17 can only have a larger one."""
    runs = made(systems=("adapted", "base", "tfidf"), rows=300)
    p_values = [
        d.p_value for d in pair(judge(runs, QUICK).differences, "base") if "f1:" in d.metric
    ]
    assert len(p_values) == 17
    smallest = min(p_values)
    assert smallest >= 17 / 201 - 1e-9  # 200 rounds allow no less than 1/201 each
    assert holm([1 / 201] * 17)[0] == pytest.approx(17 / 201)


def test_the_rival_is_the_baseline_that_is_strongest_on_that_figure(runs: Runs) -> None:
    verdict = judge(runs, QUICK)
    for metric in ("micro", "macro", "weighted", "samples"):
        f1 = {s.system: s.averages[metric].f1.point for s in verdict.scores}
        best = max(("tfidf", "keywords", "prior"), key=f1.__getitem__)
        rivals = {d.rival for d in verdict.differences if d.metric == f"{metric}-f1"}
        assert rivals == {"base", best}


def test_baselines_alone_are_compared_with_each_other(made: Callable[..., Runs]) -> None:
    verdict = judge(made(systems=("tfidf", "prior")), QUICK)
    pairs = {(d.system, d.rival) for d in verdict.differences}
    assert pairs == {("tfidf", "prior"), ("prior", "tfidf")}


def test_discordant_answers_are_counted(made: Callable[..., Runs]) -> None:
    runs = made(kind="multiclass", labels=("All", "Female", "Male"), seeds=(1, 2))
    found = count_discordant(line_up(runs))
    assert set(found) == {"adapted - base"}
    assert [each["seed"] for each in found["adapted - base"]] == [1, 2]
    right = [
        np.concatenate([r.truth[np.arange(len(r.ids)), r.scores.argmax(1)] for r in runs[s][1:6:2]])
        for s in ("adapted", "base")
    ]
    first = found["adapted - base"][0]
    assert first["only"] == (right[0] & ~right[1]).sum()
    assert first["rival_only"] == (right[1] & ~right[0]).sum()
    assert count_discordant(line_up(made())) == {}
