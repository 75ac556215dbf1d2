from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trialese.records import Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.scores import Table, tabulate
from trialese.verdict.systems import Round, line_up

Runs = dict[str, list[Predictions]]


def right(system: str, each: Round) -> np.ndarray:
    best = each.test[system].scores.argmax(axis=1)
    return np.column_stack([each.truth[np.arange(len(best)), best], np.ones(len(best))])


def share(sums: np.ndarray) -> np.ndarray:
    return sums[..., :1] / sums[..., 1:]


def table_of(runs: Runs) -> Table:
    settings = VerdictSettings(resamples=300)
    return tabulate(line_up(runs), right, share, ["accuracy"], settings)


def test_points_and_spread_are_those_of_plain_resampling(made: Callable[..., Runs]) -> None:
    runs = made(kind="multiclass", labels=("a", "b", "c"), systems=("base", "tfidf"), rows=300)
    table = table_of(runs)
    tests = runs["base"][1::2]
    hits = np.concatenate([right("base", r)[:, 0] for r in line_up(runs).rounds])
    clusters = np.concatenate([r.clusters for r in line_up(runs).rounds])
    assert table.point("base", "accuracy") == hits.mean()
    assert sum(len(run.ids) for run in tests) == len(hits)
    names = sorted(set(clusters.tolist()))
    members = [hits[clusters == name] for name in names]
    random = np.random.default_rng(0)
    plain = [
        np.concatenate([members[i] for i in random.integers(0, len(names), len(names))]).mean()
        for _ in range(300)
    ]
    found = table.interval("base", "accuracy")
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.015
    )


def test_seeds_share_their_resamples(
    made: Callable[..., Runs], changed: Callable[..., Predictions]
) -> None:
    """Two seeds with the same answers are no more certain than one."""
    runs = made(systems=("base", "tfidf"), kind="multiclass", labels=("a", "b"))
    twice = {
        system: [changed(run, seed=seed) for seed in (1, 2) for run in given]
        for system, given in runs.items()
    }
    assert table_of(runs).interval("base", "accuracy") == table_of(twice).interval(
        "base", "accuracy"
    )
    assert table_of(twice).seeds_of("base", "accuracy").shape == (2,)


def test_centred_interval_lies_around_the_figure(made: Callable[..., Runs]) -> None:
    table = table_of(made(systems=("base", "tfidf")))
    table.draws[:] += 0.5  # a figure that resampling inflates
    plain, centred = table.interval("base", "accuracy"), table.interval(
        "base", "accuracy", centred=True
    )  # fmt: skip
    assert plain.low > plain.point
    assert centred.low < centred.point < centred.high
