"""Every figure of every system at once: as measured, by seed, and in each resample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialese.records import Interval
from trialese.settings import VerdictSettings
from trialese.verdict.bootstrap import cluster_sums, interval, resampled_sums
from trialese.verdict.lineup import Lineup, Round

__all__ = ["Table", "tabulate"]

Floats = NDArray[np.float64]
Flat = Callable[[Floats], Floats]
"""Sums (..., columns) -> figures (..., figures)."""


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of all systems over the same rows and the same resamples."""

    places: dict[str, int]
    """Where each figure stands on the last axis."""
    systems: tuple[str, ...]
    flat: Flat
    sums: Floats  # (clusters, systems, seeds, columns)
    by_seed: Floats  # (systems, seeds, figures)
    draws: Floats  # (resamples, systems, figures), mean over seeds
    confidence: float

    def point(self, system: str, name: str) -> float:
        """The figure as measured: the mean over seeds."""
        return float(self.seeds_of(system, name).mean())

    def seeds_of(self, system: str, name: str) -> Floats:
        """The figure of each seed, (seeds,)."""
        return np.asarray(self.by_seed[self.systems.index(system), :, self.places[name]])

    def drawn(self, system: str, name: str) -> Floats:
        """The figure in each resample, (resamples,)."""
        return np.asarray(self.draws[:, self.systems.index(system), self.places[name]])

    def interval(self, system: str, name: str, *, centred: bool = False) -> Interval:
        """The figure with its percentile interval.

        A sum of absolute values, such as a calibration error, grows with resampling; `centred`
        takes that growth off the interval, which then lies around the figure, never below 0.
        """
        point, draws = self.point(system, name), self.drawn(system, name)
        if centred:
            draws = np.maximum(draws - (draws.mean() - point), 0.0)
        return interval(point, draws, confidence=self.confidence)


def tabulate(
    lineup: Lineup,
    figures: Callable[[str, Round], Floats],
    flat: Flat,
    names: Sequence[str],
    settings: VerdictSettings,
) -> Table:
    """The table of what `flat` makes of the sums of `figures`.

    Args:
        lineup: what is judged.
        figures: of a system in a round, the figures of each test row, (rows, columns).
        flat: maps sums of those to the named figures, over any leading axes.
        names: of the figures, in the order of `flat`'s last axis.
        settings: how often to resample, from which seed, and how wide the intervals are.
    """
    clusters = sorted({cluster for each in lineup.rounds for cluster in each.clusters})
    sums = np.stack(
        [
            np.stack(
                [_of_seed(lineup, seed, system, figures, clusters) for seed in lineup.seeds], 1
            )
            for system in lineup.systems
        ],
        axis=1,
    )
    wide = sums.reshape(len(clusters), -1)
    draws = [
        flat(portion.reshape(-1, *sums.shape[1:])).mean(axis=2)
        for portion in resampled_sums(
            wide, resamples=settings.resamples, random=np.random.default_rng(settings.seed)
        )
    ]
    return Table(
        places={name: place for place, name in enumerate(names)},
        systems=lineup.systems,
        flat=flat,
        sums=sums,
        by_seed=flat(sums.sum(axis=0)),
        draws=np.concatenate(draws),
        confidence=settings.confidence,
    )


def _of_seed(
    lineup: Lineup,
    seed: int,
    system: str,
    figures: Callable[[str, Round], Floats],
    clusters: Sequence[str],
) -> Floats:
    """Sums by cluster, (clusters, columns), over the folds of one seed."""
    parts = [
        cluster_sums(figures(system, each), each.clusters, clusters)
        for each in lineup.rounds
        if each.seed == seed
    ]
    return np.asarray(sum(parts))
