"""Does a 95 % interval hold the truth 95 times in 100? Simulated, with clusters of duplicates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from trialese.bootstrap import cluster_sums, resampled_sums
from trialese.errors import RecipeError
from trialese.records import Difference, Predictions, Verdict
from trialese.settings import VerdictSettings
from trialese.verdict.judge import judge
from trialese.verdict.metrics import measure, row_figures
from trialese.verdict.scores import tabulate_decisions
from trialese.verdict.significance import (
    NO_DIFFERENCE,
    TOO_FEW,
    compare,
    count_discordant,
    holm,
    mcnemar,
    randomisation_p,
)
from trialese.verdict.systems import Round, align_systems


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    theirs = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), theirs, atol=1e-12)


def test_holm_of_nothing() -> None:
    assert holm([]) == []


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 400))
def test_mcnemar_agrees_with_statsmodels(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    right, rival = random.random(rows) < 0.7, random.random(rows) < 0.6
    table = [
        [(right & rival).sum(), (right & ~rival).sum()],
        [(~right & rival).sum(), (~right & ~rival).sum()],
    ]
    only, rival_only, p_value = mcnemar(right, rival)
    assert (only, rival_only) == (table[0][1], table[1][0])
    assert p_value == pytest.approx(their_mcnemar(table, exact=True).pvalue, abs=1e-9)


def test_mcnemar_of_many_rows_does_not_overflow() -> None:
    right = np.arange(5000) % 2 == 0
    assert mcnemar(right, ~right) == (2500, 2500, 1.0)


def means(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[:, :1] / one[:, 1:] - other[:, :1] / other[:, 1:]


def test_on_single_rows_randomisation_is_mcnemar() -> None:
    random = np.random.default_rng(0)
    right, rival = random.random(300) < 0.75, random.random(300) < 0.67
    sums = [np.column_stack([each, np.ones(300)]).astype(float) for each in (right, rival)]
    p_value = randomisation_p(
        *sums, means, rounds=20_000, random=np.random.default_rng(1)
    )  # the exact test counts ties as this one does
    assert p_value[0] == pytest.approx(mcnemar(right, rival)[2], abs=0.01)


def f1(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return measure(one).label_f1 - measure(other).label_f1


def systems(seed: int, clusters: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random((clusters, 2)) < 0.4
    figures = []
    for flip in (0.2, 0.2 + gain):
        predicted = truth ^ (random.random(truth.shape) < flip)
        figures.append(row_figures(predicted, truth))
    return figures[0], figures[1]


def test_same_as_swapping_clusters_one_by_one() -> None:
    one, other = systems(3, 40, 0.1)
    fast = randomisation_p(one, other, f1, rounds=2000, random=np.random.default_rng(0))
    random = np.random.default_rng(1)
    found = np.abs(f1(one.sum(axis=0)[None], other.sum(axis=0)[None]))[0]
    as_large = np.zeros(2)
    for _ in range(2000):
        swap = (random.random(40) < 0.5)[:, None]
        a, b = np.where(swap, other, one).sum(axis=0), np.where(swap, one, other).sum(axis=0)
        as_large += np.abs(f1(a[None], b[None])[0]) >= found - 1e-12
    np.testing.assert_allclose(fast, (as_large + 1) / 2001, atol=0.05)


def test_equal_systems_have_p_of_one_and_a_clear_gain_a_small_one() -> None:
    one, other = systems(1, 400, 0.2)
    random = np.random.default_rng(0)
    assert (randomisation_p(one, one, f1, rounds=99, random=random) == 1).all()
    assert (randomisation_p(one, other, f1, rounds=999, random=random) == 1 / 1000).all()


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Equally good systems, 400 times: p below 5 % in about 5 % of them."""
    p_values = [
        randomisation_p(*systems(n, 60, 0.0), f1, rounds=199, random=np.random.default_rng(n))
        for n in range(400)
    ]
    share = (np.array(p_values) <= 0.05).mean()
    assert 0.02 < share < 0.08


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
        assert each.conclusion in (NO_DIFFERENCE, TOO_FEW)
        assert each.p_value == 1.0


def test_clear_gain_is_called_better_and_its_mirror_worse(made: Callable[..., Runs]) -> None:
    runs = made(systems=("adapted", "base", "prior"), skill={"base": 1.0})
    mirrored = {"adapted": runs["base"], "base": runs["adapted"], "prior": runs["prior"]}
    for shown, expected in ((runs, "better"), (mirrored, "worse")):
        found = next(
            d for d in pair(judge(shown, QUICK).differences, "base") if "macro" in d.metric
        )
        assert found.conclusion == expected
        assert found.p_value < 0.05


def test_better_and_worse_need_interval_and_p_value(runs: Runs) -> None:
    settings = VerdictSettings(resamples=200, seed_spread=0.0)
    support = align_systems(runs).support()
    for found in judge(runs, settings).differences:
        excludes = found.interval.low > 0 or found.interval.high < 0
        expected = "better" if found.interval.point > 0 else "worse"
        decided = excludes and found.p_value < 0.05
        enough = support.get(found.metric.removeprefix("f1:"), 20) >= 20
        if decided and enough:
            assert found.conclusion == expected
        else:
            assert found.conclusion in (NO_DIFFERENCE, TOO_FEW)
            assert enough or found.conclusion == TOO_FEW


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
        found = [d for d in verdict.differences if d.metric == f"{metric}-f1"]
        assert {d.rival for d in found if not d.primary} <= {"base", best}
        assert {"base", best} <= {d.rival for d in found}


def test_the_verdict_rests_on_one_figure_against_every_other_system(runs: Runs) -> None:
    """Its p-values are adjusted together, Holm: none is smaller than the plain one."""
    verdict = judge(runs, VerdictSettings(resamples=200, primary="micro-f1"))
    primary = [d for d in verdict.differences if d.primary]
    assert [(d.system, d.rival) for d in primary] == [
        ("adapted", rival) for rival in ("base", "tfidf", "keywords", "prior")
    ]
    assert {d.metric for d in primary} == {"micro-f1"}
    assert min(d.p_value for d in primary) == pytest.approx(4 / 201)
    assert all((d.detectable or 0) > 0 for d in primary)


def test_too_few_resamples_for_the_comparisons_are_refused(runs: Runs) -> None:
    with pytest.raises(RecipeError, match=r"60 resamples are too few for 4 .* at least 80"):
        judge(runs, VerdictSettings(resamples=60))
    assert judge(runs, VerdictSettings(resamples=80)).differences


def test_one_training_run_each_withholds_what_another_run_could_undo(
    made: Callable[..., Runs],
) -> None:
    """A clear but small gain is called better with three seeds, not with one."""
    few = judge(made(rows=2000, skill={"base": 2.45, "adapted": 2.6}), QUICK)
    sure = judge(made(rows=2000, skill={"base": 2.45, "adapted": 2.6}, seeds=(1, 2, 3)), QUICK)
    plain = VerdictSettings(resamples=200, seed_spread=0.0)
    bold = judge(made(rows=2000, skill={"base": 2.45, "adapted": 2.6}), plain)

    def conclusion(verdict: Verdict) -> str:
        (found,) = [d for d in verdict.differences if d.primary and d.rival == "base"]
        return found.conclusion

    assert conclusion(few) == NO_DIFFERENCE
    assert conclusion(bold) == conclusion(sure) == "better"
    against_words = [d for d in few.differences if d.primary and d.rival == "keywords"]
    assert against_words[0].conclusion == "better"  # far beyond what a run could change


def test_training_runs_are_drawn_too(
    made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    """Runs that differ make the interval wider than equal ones do."""
    runs = made(systems=("adapted", "base", "tfidf"), rows=800, seeds=(1, 2, 3))
    noisy = dict(runs)
    noisy["adapted"] = [
        changed(run, scores=run.scores * (0.25 if run.seed == 2 else 1.0))
        if run.split == "test"
        else run
        for run in runs["adapted"]
    ]
    widths = []
    for each in (runs, noisy):
        f1 = judge(each, QUICK).scores[0].averages["micro"].f1
        widths.append(f1.high - f1.low)
    assert widths[1] > 2 * widths[0]


def alarms(made: Callable[..., Runs], *, rounds: int, rows: int, labels: int) -> float:
    """Of verdicts on four systems that are equally good, the share that calls one different."""
    names = [f"l{n}" for n in range(labels)]
    settings = VerdictSettings(resamples=300, seed_spread=0.0)
    alike = {"adapted": 2.0, "control": 2.0, "base": 2.0, "tfidf": 2.0}
    found = 0
    for number in range(rounds):
        runs = made(
            systems=("adapted", "control", "base", "tfidf"),
            labels=names,
            rows=rows,
            folds=2,
            skill=alike,
            random_seed=number,
        )
        comparison = align_systems(runs)

        def figures(system: str, each: Round) -> np.ndarray:
            return row_figures(each.test[system].scores >= 0.5, each.truth)

        table = tabulate_decisions(comparison, figures, names, settings)
        found_pairs = compare(table, comparison, settings, headlines=["macro-f1"])
        called = {d.conclusion for d in found_pairs if d.primary}
        found += bool(called & {"better", "worse"})
    return found / rounds


def test_false_alarms_of_a_whole_verdict_are_rare(made: Callable[..., Runs]) -> None:
    assert (
        alarms(made, rounds=60, rows=150, labels=3) <= 7 / 60
    )  # of 5 %, 7 in 60 are not surprising


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_family_wise_error_stays_below_six_per_cent(made: Callable[..., Runs]) -> None:
    assert alarms(made, rounds=1000, rows=300, labels=4) < 0.06


def test_baselines_alone_are_compared_with_each_other(made: Callable[..., Runs]) -> None:
    verdict = judge(made(systems=("tfidf", "prior")), QUICK)
    pairs = {(d.system, d.rival) for d in verdict.differences}
    assert pairs == {("tfidf", "prior")}  # no difference twice


def test_discordant_answers_are_counted(made: Callable[..., Runs]) -> None:
    runs = made(kind="multiclass", labels=("All", "Female", "Male"), seeds=(1, 2))
    found = count_discordant(align_systems(runs))
    assert set(found) == {"adapted - base"}
    assert [each["seed"] for each in found["adapted - base"]] == [1, 2]
    right = [
        np.concatenate([r.truth[np.arange(len(r.ids)), r.scores.argmax(1)] for r in runs[s][1:6:2]])
        for s in ("adapted", "base")
    ]
    first = found["adapted - base"][0]
    assert first["only"] == (right[0] & ~right[1]).sum()
    assert first["rival_only"] == (right[1] & ~right[0]).sum()
    assert count_discordant(align_systems(made())) == {}


CLUSTERS, LABELS = 600, 4
ROUNDS, RESAMPLES = 1500, 1000
RATES = np.array([0.35, 0.2, 0.12, 0.08])


def sample(random: np.random.Generator, clusters: int, flip: float) -> tuple[np.ndarray, ...]:
    """Texts in clusters of one to four copies: one truth, and one answer, for all copies."""
    sizes = random.choice([1, 1, 1, 2, 4], clusters)
    truth = random.random((clusters, LABELS)) < RATES
    hard = random.random((clusters, 1)) < 0.3
    answers = [
        truth ^ (random.random(truth.shape) < np.where(hard, 3 * rate, rate / 3) * RATES * 4)
        for rate in (flip, 1.3 * flip)
    ]
    owner = np.repeat(np.arange(clusters), sizes)
    return owner, truth[owner], answers[0][owner], answers[1][owner]


def figures(sums: np.ndarray) -> np.ndarray:
    found = measure(sums)
    return np.stack([found.averages["micro"][2], found.averages["macro"][2]], axis=-1)


def covers(
    rows: np.ndarray, owner: np.ndarray, targets: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Which of the targets lie in their interval."""
    names = [str(n) for n in range(owner.max() + 1)]
    sums = cluster_sums(rows, [str(n) for n in owner], names)
    draws = np.concatenate(list(resampled_sums(sums, resamples=RESAMPLES, random=random)))
    half = draws.shape[1] // 2
    one, other = figures(draws[:, :half]), figures(draws[:, half:])
    low, high = np.quantile(np.hstack([one, other - one]), [0.025, 0.975], axis=0)
    return (low <= targets) & (targets <= high)


@pytest.mark.slow
def test_intervals_of_scores_and_differences_cover() -> None:
    """1,500 simulated test sets: 93 to 97 % are covered; without regard to clusters, too few."""
    random = np.random.default_rng(0)
    _, truth, *answers = sample(random, 400_000, 0.1)
    true = [figures(row_figures(answer, truth).sum(axis=0)) for answer in answers]
    targets = np.concatenate([true[0], true[1] - true[0]])
    covered, naive = np.zeros(4), np.zeros(4)
    for _ in range(ROUNDS):
        owner, truth, *answers = sample(random, CLUSTERS, 0.1)
        rows = np.hstack([row_figures(answer, truth) for answer in answers])
        covered += covers(rows, owner, targets, random)
        naive += covers(rows, np.arange(len(owner)), targets, random)
    shares = covered / ROUNDS
    assert ((shares >= 0.93) & (shares <= 0.97)).all(), shares
    assert (naive / ROUNDS < shares - 0.02).all(), naive / ROUNDS
