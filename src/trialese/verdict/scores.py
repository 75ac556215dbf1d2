"""Scores of every system with their intervals: decisions, calibration, label sets, groups.

Sums of per-row figures by cluster are resampled once for all systems and seeds, so that the
differences between systems are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trialese.bootstrap import cluster_sums, interval, resampled_sums
from trialese.errors import RecordError
from trialese.records import Average, Interval, LabelScore, Scores
from trialese.settings import VerdictSettings
from trialese.thresholds import decide
from trialese.verdict.calibration import (
    apply_temperature,
    calibration_figures,
    choose_label_levels,
    choose_level,
    fit_temperature,
    measure_calibration,
    reliability,
    set_figures,
)
from trialese.verdict.metrics import AVERAGES, measure, pseudo_counts, rank_systems, row_figures
from trialese.verdict.systems import Comparison, Round, RoundThresholds

__all__ = [
    "Scoreboard",
    "Smoothing",
    "Table",
    "averages_of",
    "decision_names",
    "draw_figures",
    "flat_decisions",
    "score",
    "score_decisions",
    "score_groups",
    "score_slices",
    "smooth_labels",
    "tabulate",
    "tabulate_decisions",
]


Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Flat = Callable[[Floats], Floats]
"""Sums (..., columns) -> figures (..., figures)."""

_COMMON = 0.75  # of each pseudo-count: the same for all systems, which are asked the same texts


@dataclass(frozen=True, slots=True)
class Smoothing:
    """Pseudo-counts that some of the figures are drawn with; see `pseudo_counts`."""

    pseudo: Floats  # (columns,)
    figures: Bools  # (figures,): which ones


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of all systems over the same rows and the same resamples."""

    places: dict[str, int]
    """Where each figure stands on the last axis."""
    systems: tuple[str, ...]
    flat: Flat
    sums: Floats  # (clusters, systems, seeds, columns)
    by_seed: Floats  # (systems, seeds, figures)
    draws: Floats  # (resamples, systems, figures), mean over the seeds drawn
    confidence: float
    smoothing: Smoothing | None = None

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

        A sum of squares, such as a calibration error, grows with resampling; `centred` takes that
        growth off the interval, which then lies around the figure.
        """
        point, draws = self.point(system, name), self.drawn(system, name)
        if centred:
            draws = draws - (draws.mean() - point)
        return self._with_point(name, interval(point, draws, confidence=self.confidence))

    def difference(self, system: str, rival: str, name: str) -> Interval:
        """The paired difference `system - rival` with its interval."""
        point = self.point(system, name) - self.point(rival, name)
        draws = self.drawn(system, name) - self.drawn(rival, name)
        return self._with_point(name, interval(point, draws, confidence=self.confidence))

    def _with_point(self, name: str, found: Interval) -> Interval:
        """A smoothed interval, stretched to its point: a rare label's may lie outside."""
        if self.smoothing is None or not self.smoothing.figures[self.places[name]]:
            return found
        return Interval(found.point, min(found.low, found.point), max(found.high, found.point))


def tabulate(
    comparison: Comparison,
    figures: Callable[[str, Round], Floats],
    flat: Flat,
    names: Sequence[str],
    settings: VerdictSettings,
    *,
    smoothing: Smoothing | None = None,
) -> Table:
    """The table of what `flat` makes of the sums of `figures`.

    Args:
        comparison: what is judged.
        figures: of a system in a round, the figures of each test row, (rows, columns).
        flat: maps sums of those to the named figures, over any leading axes.
        names: of the figures, in the order of `flat`'s last axis.
        settings: how often to resample, from which seed, and how wide the intervals are.
        smoothing: pseudo-counts for figures of labels, which may be rare.
    """
    clusters = sorted({cluster for each in comparison.rounds for cluster in each.clusters})
    sums = np.stack(
        [
            np.stack(
                [
                    _of_seed(comparison, seed, system, figures, clusters)
                    for seed in comparison.seeds
                ],
                1,
            )
            for system in comparison.systems
        ],
        axis=1,
    )
    return Table(
        places={name: place for place, name in enumerate(names)},
        systems=comparison.systems,
        flat=flat,
        sums=sums,
        by_seed=flat(sums.sum(axis=0)),
        draws=draw_figures(sums, flat, settings, smoothing=smoothing),
        confidence=settings.confidence,
        smoothing=smoothing,
    )


def draw_figures(
    sums: Floats, flat: Flat, settings: VerdictSettings, *, smoothing: Smoothing | None = None
) -> Floats:
    """The figures in each resample, (resamples, systems, figures).

    `sums` is (clusters, systems, seeds, columns). A resample draws clusters, and seeds too: of
    several it draws one fewer than there are, with replacement, and averages over them, which
    makes the spread that of a mean over so many seeds (Rao & Wu 1988). With one seed the spread
    over training runs is not in it.

    Figures that are smoothed are taken from the sums plus a gamma variable for each pseudo-count,
    three quarters of it common to all systems (all of it, if two systems always answer alike).
    Then they are moved so that their mean is the figure of the sums plus the pseudo-counts
    themselves: F1 is concave in the counts, so that its mean over resamples lies too low.
    `benchmarks/interval_coverage.py` measures how often such intervals hold the truth.
    """
    clusters, systems, seeds, columns = sums.shape
    cluster_random, noise, seed_random = (
        np.random.default_rng(key)
        for key in (settings.seed, [settings.seed, 2], [settings.seed, 3])
    )
    drawn: list[Floats] = []
    by_system = np.moveaxis(sums, 1, 0).reshape(systems, -1)
    # Of each system the first that answers alike: between the two there is no difference to find.
    twins = [int((by_system == each).all(axis=1).argmax()) for each in by_system]
    for portion in resampled_sums(
        sums.reshape(clusters, -1), resamples=settings.resamples, random=cluster_random
    ):
        each = portion.reshape(-1, systems, seeds, columns)
        found = flat(each)
        if smoothing is not None:
            shape, pseudo = (len(each), systems, 1, columns), smoothing.pseudo
            common = noise.standard_gamma(_COMMON * pseudo, (len(each), 1, 1, columns))
            own = noise.standard_gamma((1 - _COMMON) * pseudo, shape)[:, twins]
            smooth = flat(each + common + own)
            found[..., smoothing.figures] = smooth[..., smoothing.figures]
        if seeds > 1:
            weights = seed_random.multinomial(seeds - 1, np.full(seeds, 1 / seeds), len(each))
            drawn.append(np.einsum("rsqf,rq->rsf", found, weights / (seeds - 1)))
        else:
            drawn.append(found[:, :, 0])
    draws = np.concatenate(drawn)
    if smoothing is not None:
        centre = flat(sums.sum(axis=0) + smoothing.pseudo).mean(axis=1)  # (systems, figures)
        moved = np.clip(draws + (centre - draws.mean(axis=0)), 0.0, 1.0)
        draws[..., smoothing.figures] = moved[..., smoothing.figures]
    return draws


def _of_seed(
    comparison: Comparison,
    seed: int,
    system: str,
    figures: Callable[[str, Round], Floats],
    clusters: Sequence[str],
) -> Floats:
    """Sums by cluster, (clusters, columns), over the folds of one seed."""
    parts = [
        cluster_sums(figures(system, each), each.clusters, clusters)
        for each in comparison.rounds
        if each.seed == seed
    ]
    return np.asarray(sum(parts))


_CALIBRATION = ("brier", "ece", "brier_cooled", "ece_cooled")
_SECONDARY = (
    500  # resamples at most of figures that nothing is decided by, and that have many parts
)
_RANKINGS = 200  # of those that must be sorted
_SETS = ("set_recall", "set_labels", "abstained", "answered_f1")


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """The tables of all figures, and what they were made from."""

    comparison: Comparison
    decided: dict[tuple[str, int, int], Bools]
    """Predicted labels, (rows, labels), by system, seed and fold."""
    temperatures: dict[tuple[str, int, int], float]
    decisions: Table
    calibration: Table
    sets: Table
    coverage: Table
    ranking: dict[str, dict[str, Interval]]

    def scores(self, system: str) -> Scores:
        """All figures of one system with their intervals."""
        figure = partial(self.decisions.interval, system)
        accuracy = ("label_accuracy", "subset_accuracy")
        if self.comparison.kind == "multilabel":
            extra = {name: figure(name) for name in accuracy}
        else:
            extra = {"accuracy": figure("subset_accuracy")}
        extra |= self.ranking[system]
        for name in ("brier", "brier_cooled"):
            extra[name] = self.calibration.interval(system, name)
        for name in ("ece", "ece_cooled"):
            extra[name] = _root(self.calibration.interval(system, name, centred=True))
        extra |= {name: self.sets.interval(system, name) for name in _SETS}
        labels, averages = score_decisions(
            self.decisions, system, self.comparison.labels, averages_of(self.comparison)
        )
        return Scores(
            system=system,
            seeds=self.comparison.seeds,
            labels=labels,
            averages=averages,
            extra=extra,
        )

    def reliability_notes(self, system: str) -> dict[str, Any]:
        """The points of the reliability diagram over all rounds, as given and cooled."""
        kind = self.comparison.kind
        truth = np.concatenate([each.truth for each in self.comparison.rounds])
        given = np.concatenate([each.test[system].scores for each in self.comparison.rounds])
        cooled = np.concatenate([self._cooled(system, each) for each in self.comparison.rounds])
        notes: dict[str, Any] = {
            "temperature_median": round(
                float(np.median([t for key, t in self.temperatures.items() if key[0] == system])), 6
            )
        }
        for name, scores in (("as_given", given), ("cooled", cooled)):
            found = reliability(scores, truth, kind=kind)
            notes[name] = {
                "count": found.count.tolist(),
                "forecast": [round(x, 6) for x in found.forecast.tolist()],
                "share": [round(x, 6) for x in found.share.tolist()],
            }
        return notes

    def confusions(self, system: str) -> list[list[float]]:
        """Texts by true label (row) and wrongly predicted label (column), mean over seeds.

        Multilabel: the true label was missed and the other predicted without being true.
        Multiclass: the usual confusion matrix, with the right answers on the diagonal.
        """
        labels = len(self.comparison.labels)
        total = np.zeros((labels, labels))
        for each in self.comparison.rounds:
            predicted = self.decided[system, each.seed, each.fold]
            true, wrong = each.truth, predicted
            if self.comparison.kind == "multilabel":
                true, wrong = each.truth & ~predicted, predicted & ~each.truth
            total += true.T.astype(np.float64) @ wrong.astype(np.float64)
        return [[round(x, 6) for x in row] for row in (total / len(self.comparison.seeds)).tolist()]

    def _cooled(self, system: str, each: Round) -> Floats:
        temperature = self.temperatures[system, each.seed, each.fold]
        return apply_temperature(each.test[system].scores, temperature, kind=self.comparison.kind)


def score(
    comparison: Comparison, thresholds: RoundThresholds, settings: VerdictSettings
) -> Scoreboard:
    """The scoreboard. Cut-offs, temperatures and set levels all come from the round's tune rows."""
    kind = comparison.kind
    fewer = msgspec.structs.replace(settings, resamples=min(settings.resamples, _SECONDARY))
    decided, temperatures, sets = {}, {}, {}
    for system in comparison.systems:
        for each in comparison.rounds:
            key, tune, test = (system, each.seed, each.fold), each.tune[system], each.test[system]
            decided[key] = decide(test.scores, kind, np.array(thresholds[key].values))
            temperatures[key] = fit_temperature(tune.scores, tune.truth, kind=kind)
            choose = choose_label_levels if settings.label_sets == "by_label" else choose_level
            level = choose(tune.scores, tune.truth, tune.clusters, miss_rate=settings.miss_rate)
            sets[key] = test.scores >= level

    def decision_figures(system: str, each: Round) -> Floats:
        return row_figures(decided[system, each.seed, each.fold], each.truth)

    def forecast_figures(system: str, each: Round) -> Floats:
        given = each.test[system].scores
        cooled = apply_temperature(given, temperatures[system, each.seed, each.fold], kind=kind)
        return np.hstack([calibration_figures(s, each.truth) for s in (given, cooled)])

    def coverage_figures(system: str, each: Round) -> Floats:
        inside = sets[system, each.seed, each.fold]
        return np.hstack([each.truth & inside, each.truth & ~inside]).astype(np.float64)

    def label_set_figures(system: str, each: Round) -> Floats:
        key = (system, each.seed, each.fold)
        most = settings.most_labels if kind == "multilabel" else 1
        return set_figures(sets[key], decided[key], each.truth, each.clusters, most_labels=most)

    return Scoreboard(
        comparison=comparison,
        decided=decided,
        temperatures=temperatures,
        decisions=tabulate_decisions(comparison, decision_figures, comparison.labels, settings),
        calibration=tabulate(
            comparison,
            forecast_figures,
            partial(_flat_forecasts, len(comparison.labels)),
            _CALIBRATION,
            fewer,
        ),
        sets=tabulate(comparison, label_set_figures, _flat_sets, _SETS, settings),
        coverage=tabulate(
            comparison,
            coverage_figures,
            _flat_coverage,
            comparison.labels,
            settings,
            smoothing=Smoothing(
                np.full(2 * len(comparison.labels), 1 / 3),
                np.ones(len(comparison.labels), np.bool_),
            ),
        ),
        ranking=rank_systems(comparison, msgspec.structs.replace(fewer, resamples=_RANKINGS)),
    )


def _root(found: Interval) -> Interval:
    """The root of a squared figure; 0 where chance alone took it below 0."""
    parts = (found.point, found.low, found.high)
    return Interval(*(round(max(each, 0.0) ** 0.5, 10) for each in parts))


def tabulate_decisions(
    comparison: Comparison,
    figures: Callable[[str, Round], Floats],
    labels: Sequence[str],
    settings: VerdictSettings,
) -> Table:
    """The table of precision, recall and F1 of `labels`, from each row's `row_figures`."""
    return tabulate(
        comparison,
        figures,
        flat_decisions,
        decision_names(labels),
        settings,
        smoothing=smooth_labels(labels),
    )


def smooth_labels(labels: Sequence[str]) -> Smoothing:
    """Pseudo-counts for the figures of single labels and their plain mean, macro."""
    figures = [":" in name or name.startswith("macro") for name in decision_names(labels)]
    return Smoothing(pseudo_counts(len(labels)), np.array(figures))


def score_decisions(
    table: Table, system: str, labels: Sequence[str], averages: Sequence[str]
) -> tuple[tuple[LabelScore, ...], dict[str, Average]]:
    """One system's figures of each label, and their averages, from `tabulate_decisions`."""
    figure = partial(table.interval, system)
    support = measure(table.sums.sum(axis=0)).support[0].mean(axis=0)
    return tuple(
        LabelScore(
            label=label,
            precision=figure(f"precision:{label}").point,
            recall=figure(f"recall:{label}").point,
            f1=figure(f"f1:{label}"),
            support=round(float(support[place])),
        )
        for place, label in enumerate(labels)
    ), {
        name: Average(
            precision=figure(f"{name}-precision"),
            recall=figure(f"{name}-recall"),
            f1=figure(f"{name}-f1"),
        )
        for name in averages
    }


def averages_of(comparison: Comparison) -> tuple[str, ...]:
    """The averages shown. With one label a row, that over samples is micro again; left out."""
    return AVERAGES if comparison.kind == "multilabel" else AVERAGES[:3]


def decision_names(labels: Sequence[str]) -> list[str]:
    """Names of the figures on the last axis of `flat_decisions`, such as "f1:Success"."""
    per_label = [f"{part}:{label}" for part in ("precision", "recall", "f1") for label in labels]
    averages = [f"{name}-{part}" for name in AVERAGES for part in ("precision", "recall", "f1")]
    return [*per_label, *averages, "label_accuracy", "subset_accuracy"]


def flat_decisions(sums: Floats) -> Floats:
    """All decision figures, (..., figures), from sums of `row_figures`, (..., columns)."""
    found = measure(sums)
    single = [*(part for name in AVERAGES for part in found.averages[name]), *found.extra.values()]
    parts = [found.label_precision, found.label_recall, found.label_f1, np.stack(single, axis=-1)]
    return np.concatenate(parts, axis=-1)


def _flat_forecasts(labels: int, sums: Floats) -> Floats:
    halves = np.split(sums, 2, axis=-1)
    return np.stack([x for half in halves for x in measure_calibration(half, labels)], axis=-1)


def _flat_coverage(sums: Floats) -> Floats:
    inside, outside = np.split(sums, 2, axis=-1)
    return np.divide(inside, inside + outside, out=np.zeros_like(inside), where=inside > 0)


def _flat_sets(sums: Floats) -> Floats:
    missed, clusters, labels, left, tp, fp, fn, rows = np.moveaxis(sums, -1, 0)
    answered = np.divide(2 * tp, 2 * tp + fp + fn, out=np.zeros_like(tp), where=tp > 0)
    return np.stack([1 - missed / clusters, labels / rows, left / rows, answered], axis=-1)


def score_slices(
    comparison: Comparison,
    decided: Mapping[tuple[str, int, int], Bools],
    slices: Mapping[str, Mapping[str, str]],
    settings: VerdictSettings,
) -> dict[str, list[dict[str, Any]]]:
    """Of each slice its parts: name, texts, and by system micro-F1, recall and "all labels found".

    `slices` gives, by the slice's name, the part of each text, such as "phase" -> id -> "PHASE2";
    texts without a part are left out. `decided` holds the labels by system, seed and fold. "All
    labels found" is the share of texts none of whose true labels is missed.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    tested = {text for each in comparison.rounds for text in each.ids}
    for name, part_of in slices.items():
        parts = sorted({part_of[text] for text in tested if text in part_of})
        if not parts:
            continue
        table = tabulate(
            comparison,
            partial(_slice_figures, decided, part_of, parts),
            _flat_slices,
            [f"{figure}:{part}" for part in parts for figure in _SLICED],
            msgspec.structs.replace(settings, resamples=min(settings.resamples, _SECONDARY)),
        )
        found[name] = [
            {
                "part": part,
                "texts": sum(part_of.get(text) == part for text in tested),
                "scores": {
                    system: {
                        figure: msgspec.to_builtins(table.interval(system, f"{figure}:{part}"))
                        for figure in _SLICED
                    }
                    for system in comparison.systems
                },
            }
            for part in parts
        ]
    return found


_SLICED = ("micro-f1", "recall", "all_found")


def _slice_figures(
    decided: Mapping[tuple[str, int, int], Bools],
    part_of: Mapping[str, str],
    parts: Sequence[str],
    system: str,
    each: Round,
) -> Floats:
    given = decided[system, each.seed, each.fold]
    hits, wrong, missed = (
        (cells).sum(axis=1)
        for cells in (given & each.truth, given & ~each.truth, ~given & each.truth)
    )
    figures = np.column_stack([hits, wrong, missed, missed == 0, np.ones(len(hits))])
    member = np.array([[part_of.get(text) == part for part in parts] for text in each.ids])
    return np.asarray(figures[:, None, :] * member[:, :, None]).reshape(len(hits), -1)


def _flat_slices(sums: Floats) -> Floats:
    hits, wrong, missed, found, rows = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 5), -1, 0)
    pairs = ((2 * hits, 2 * hits + wrong + missed), (hits, hits + missed), (found, rows))
    shares = [np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in pairs]
    return np.stack(shares, axis=-1).reshape(*sums.shape[:-1], -1)


def score_groups(
    comparison: Comparison,
    decided: Mapping[tuple[str, int, int], Bools],
    groups: Mapping[str, str],
    settings: VerdictSettings,
) -> dict[str, Any]:
    """`members` (group -> its labels) and `scores` (system -> labels and averages), for the notes.

    A group is true, or given, where at least one of its labels is: what is taken for another label
    of the same group counts as right. `decided` holds the labels by system, seed and fold.

    Raises:
        RecordError: a label without a group.
    """
    lacking = [label for label in comparison.labels if label not in groups]
    if lacking:
        raise RecordError(
            f"{comparison.task}: no group for {', '.join(lacking)}; give every label one"
        )
    names = list(dict.fromkeys(groups[label] for label in comparison.labels))
    columns = [[groups[label] == name for label in comparison.labels] for name in names]

    def merged(labels: Bools) -> Bools:
        return np.stack([labels[:, column].any(axis=1) for column in columns], axis=1)

    def figures(system: str, each: Round) -> NDArray[np.float64]:
        given = decided[system, each.seed, each.fold]
        return row_figures(merged(given), merged(each.truth))

    table = tabulate_decisions(comparison, figures, names, settings)
    found = {}
    for system in comparison.systems:
        labels, averages = score_decisions(table, system, names, averages_of(comparison))
        found[system] = msgspec.to_builtins({"labels": labels, "averages": averages})
    members = {name: [x for x in comparison.labels if groups[x] == name] for name in names}
    return {"members": members, "scores": found}
