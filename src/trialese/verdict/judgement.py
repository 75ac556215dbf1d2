"""Predictions in, Verdict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialese.artifacts import as_settings
from trialese.records import (
    Average,
    Difference,
    Interval,
    LabelScore,
    Predictions,
    Scores,
    Thresholds,
    Verdict,
)
from trialese.settings import VerdictSettings
from trialese.verdict.bootstrap import cluster_sums, interval, resampled_sums, two_sided_p
from trialese.verdict.leakage import audit
from trialese.verdict.lineup import Lineup, line_up
from trialese.verdict.metrics import AVERAGES, decide, measure, row_figures
from trialese.verdict.thresholds import choose_thresholds

__all__ = ["judge"]

Floats = NDArray[np.float64]

_EXTRA = ("label_accuracy", "subset_accuracy", "brier")


def judge(
    runs: Mapping[str, Sequence[Predictions]],
    settings: VerdictSettings,
    *,
    allow_overlap: bool = False,
) -> Verdict:
    """The verdict on one task: scores with intervals, paired differences, audits, signature.

    `runs` holds each system's tune and test predictions over the same seeds and folds.
    Thresholds are chosen on the tune rows of each seed and fold and applied to its test rows.
    Rows are pooled over the folds of a seed; figures are averaged over seeds. Intervals come from
    resampling clusters of duplicates, the same ones for every system and seed, so they tell how
    far other test texts could move a figure; they do not tell how far other training runs could.

    Raises:
        RecordError: no rival, or systems that were not tested alike (see `line_up`).
        LeakageError: test rows overlap with training or tune rows and `allow_overlap` is False.
            If it is True, the signature carries the brand `OVERLAP=` with the number of rows.
    """
    lineup = line_up(runs)
    thresholds = {
        (system, each.seed, each.fold): choose_thresholds(each.tune[system], settings)
        for system in lineup.systems
        for each in lineup.rounds
    }
    audits, leaked = audit(lineup, thresholds, allow_overlap=allow_overlap)
    names = sorted({cluster for each in lineup.rounds for cluster in each.clusters})
    sums = np.hstack(  # (clusters, systems x seeds x figures)
        [
            sum(
                cluster_sums(
                    row_figures(
                        decide(
                            each.test[system].scores,
                            np.array(thresholds[system, seed, each.fold].values),
                            kind=lineup.kind,
                        ),
                        each.truth,
                        each.test[system].scores,
                    ),
                    each.clusters,
                    names,
                )
                for each in lineup.rounds
                if each.seed == seed
            )
            for system in lineup.systems
            for seed in lineup.seeds
        ]
    )
    table = _tabulate(sums, lineup, settings)
    return Verdict(
        task=lineup.task,
        kind=lineup.kind,
        labels=lineup.labels,
        signature=_signature(lineup, settings, leaked),
        rows=len({text for each in lineup.rounds for text in each.ids}),
        clusters=len(names),
        scores=tuple(_scores(system, table, lineup, settings) for system in lineup.systems),
        differences=_differences(table, lineup, settings),
        audits=audits,
        notes={
            "settings": as_settings(settings),
            "test_digest": lineup.digest(),
            "folds": len({each.fold for each in lineup.rounds}),
            "seeds": list(lineup.seeds),
            "baselines": list(lineup.baselines),
            "f1_by_seed": {
                system: {
                    name: [round(float(f), 10) for f in table.by_seed[place, :, table.at(name)]]
                    for name in _headlines(lineup)
                }
                for place, system in enumerate(lineup.systems)
            },
            "thresholds_median": {
                system: _median_thresholds(system, lineup, thresholds) for system in lineup.systems
            }
            if lineup.kind == "multilabel"
            else "argmax: the highest score is taken, no cut-off is chosen",
        },
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """Every figure of every system: as measured, by seed, and in each resample."""

    names: dict[str, int]
    systems: tuple[str, ...]
    by_seed: Floats  # (systems, seeds, figures)
    draws: Floats  # (resamples, systems, figures)
    support: Floats  # (labels,), mean over seeds

    def at(self, name: str) -> int:
        return self.names[name]

    def point(self, system: str, name: str) -> float:
        return float(self.by_seed[self.systems.index(system), :, self.at(name)].mean())

    def drawn(self, system: str, name: str) -> Floats:
        return np.asarray(self.draws[:, self.systems.index(system), self.at(name)])


def _tabulate(sums: Floats, lineup: Lineup, settings: VerdictSettings) -> _Table:
    shape = (len(lineup.systems), len(lineup.seeds), sums.shape[1] // len(lineup.systems))
    shape = (*shape[:2], shape[2] // shape[1])
    total = sums.sum(axis=0).reshape(shape)
    random = np.random.default_rng(settings.seed)
    draws = [
        _flat(portion.reshape(-1, *shape)).mean(axis=2)
        for portion in resampled_sums(sums, resamples=settings.resamples, random=random)
    ]
    return _Table(
        names={name: place for place, name in enumerate(_names(lineup.labels))},
        systems=lineup.systems,
        by_seed=_flat(total),
        draws=np.concatenate(draws),
        support=measure(total).support[0].mean(axis=0),
    )


def _names(labels: Sequence[str]) -> list[str]:
    """The order of `_flat`'s last axis."""
    per_label = [f"{part}:{label}" for part in ("precision", "recall", "f1") for label in labels]
    averages = [f"{name}-{part}" for name in AVERAGES for part in ("precision", "recall", "f1")]
    return [*per_label, *averages, *_EXTRA]


def _averages(lineup: Lineup) -> tuple[str, ...]:
    """With one label a row, the mean over samples is the micro average again; it is left out."""
    return AVERAGES if lineup.kind == "multilabel" else AVERAGES[:3]


def _headlines(lineup: Lineup) -> tuple[str, ...]:
    return tuple(f"{name}-f1" for name in _averages(lineup))


def _flat(sums: Floats) -> Floats:
    found = measure(sums)
    single = [*(part for name in AVERAGES for part in found.averages[name]), *found.extra.values()]
    parts = [found.label_precision, found.label_recall, found.label_f1, np.stack(single, axis=-1)]
    return np.concatenate(parts, axis=-1)


def _scores(system: str, table: _Table, lineup: Lineup, settings: VerdictSettings) -> Scores:
    def figure(name: str) -> Interval:
        draws = table.drawn(system, name)
        return interval(table.point(system, name), draws, confidence=settings.confidence)

    return Scores(
        system=system,
        seeds=lineup.seeds,
        labels=tuple(
            LabelScore(
                label=label,
                precision=round(table.point(system, f"precision:{label}"), 10),
                recall=round(table.point(system, f"recall:{label}"), 10),
                f1=figure(f"f1:{label}"),
                support=round(float(table.support[place])),
            )
            for place, label in enumerate(lineup.labels)
        ),
        averages={
            name: Average(
                precision=figure(f"{name}-precision"),
                recall=figure(f"{name}-recall"),
                f1=figure(f"{name}-f1"),
            )
            for name in _averages(lineup)
        },
        extra={name: figure(name) for name in _EXTRA}
        if lineup.kind == "multilabel"
        else {"accuracy": figure("subset_accuracy"), "brier": figure("brier")},
    )


def _differences(
    table: _Table, lineup: Lineup, settings: VerdictSettings
) -> tuple[Difference, ...]:
    per_label = [f"f1:{label}" for label in lineup.labels]
    pairs = [
        (model, rival, name)
        for place, model in enumerate(lineup.models)
        for rival in lineup.models[place + 1 :]
        for name in (*_headlines(lineup), *per_label)
    ]
    contenders = lineup.models or lineup.baselines
    for model in contenders:
        for name in _headlines(lineup):
            others = [system for system in lineup.baselines if system != model]
            if others:  # the strongest on this very figure, so the choice is against the model
                pairs.append((model, max(others, key=lambda s: table.point(s, name)), name))
    return tuple(_difference(*pair, table, settings) for pair in pairs)


def _difference(
    system: str, rival: str, name: str, table: _Table, settings: VerdictSettings
) -> Difference:
    point = table.point(system, name) - table.point(rival, name)
    draws = table.drawn(system, name) - table.drawn(rival, name)
    found = interval(point, draws, confidence=settings.confidence)
    conclusion = "better" if found.low > 0 else "worse" if found.high < 0 else "cannot tell"
    return Difference(
        system=system,
        rival=rival,
        metric=name,
        interval=found,
        p_value=round(two_sided_p(draws), 10),
        conclusion=conclusion,
    )


def _median_thresholds(
    system: str, lineup: Lineup, thresholds: Mapping[tuple[str, int, int], Thresholds]
) -> list[float]:
    values = [thresholds[system, each.seed, each.fold].values for each in lineup.rounds]
    return [round(float(value), 10) for value in np.median(values, axis=0)]


def _signature(lineup: Lineup, settings: VerdictSettings, leaked: int) -> str:
    """What the scores depend on, in one line; parts after the seed only if not the default."""
    from trialese import __version__

    cut_offs = "tune" if lineup.kind == "multilabel" else "argmax"
    parts = [
        lineup.task,
        f"test:{lineup.digest()[:6]}",
        f"thr={cut_offs}",
        f"boot={settings.resamples}",
        f"seed={settings.seed}",
    ]
    default = VerdictSettings()
    if settings.confidence != default.confidence:
        parts.append(f"ci={settings.confidence:g}")
    if settings.threshold_shrinkage != default.threshold_shrinkage and cut_offs == "tune":
        parts.append(f"shrink={settings.threshold_shrinkage:g}")
    if leaked:
        parts.append(f"OVERLAP={leaked}")
    return "|".join([*parts, f"v{__version__}"])
