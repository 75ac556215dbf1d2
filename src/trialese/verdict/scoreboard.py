"""Everything measured of every system: decisions, calibration and label sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialese.cutoffs import decide
from trialese.records import Average, LabelScore, Scores, Thresholds
from trialese.settings import VerdictSettings
from trialese.verdict.calibration import (
    calibration_figures,
    cool,
    fit_temperature,
    measure_calibration,
    reliability,
)
from trialese.verdict.conformal import choose_level, set_figures
from trialese.verdict.lineup import Lineup, Round
from trialese.verdict.metrics import AVERAGES, measure, row_figures
from trialese.verdict.tabulation import Table, tabulate

__all__ = ["Scoreboard", "averages_of", "score", "score_decisions", "tabulate_decisions"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Chosen = Mapping[tuple[str, int, int], Thresholds]

_CALIBRATION = ("brier", "ece", "brier_cooled", "ece_cooled")
_SETS = ("set_recall", "set_labels", "abstained", "answered_f1")


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """The tables of all figures, and what they were made from."""

    lineup: Lineup
    decided: dict[tuple[str, int, int], Bools]
    """Predicted labels, (rows, labels), by system, seed and fold."""
    temperatures: dict[tuple[str, int, int], float]
    decisions: Table
    calibration: Table
    sets: Table

    def scores(self, system: str) -> Scores:
        """All figures of one system with their intervals."""
        figure = partial(self.decisions.interval, system)
        accuracy = ("label_accuracy", "subset_accuracy")
        if self.lineup.kind == "multilabel":
            extra = {name: figure(name) for name in accuracy}
        else:
            extra = {"accuracy": figure("subset_accuracy")}
        for name in _CALIBRATION:
            extra[name] = self.calibration.interval(system, name, centred=name.startswith("ece"))
        extra |= {name: self.sets.interval(system, name) for name in _SETS}
        labels, averages = score_decisions(
            self.decisions, system, self.lineup.labels, averages_of(self.lineup)
        )
        return Scores(
            system=system,
            seeds=self.lineup.seeds,
            labels=labels,
            averages=averages,
            extra=extra,
        )

    def reliability_notes(self, system: str) -> dict[str, Any]:
        """The points of the reliability diagram over all rounds, as given and cooled."""
        kind = self.lineup.kind
        truth = np.concatenate([each.truth for each in self.lineup.rounds])
        given = np.concatenate([each.test[system].scores for each in self.lineup.rounds])
        cooled = np.concatenate([self._cooled(system, each) for each in self.lineup.rounds])
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
        labels = len(self.lineup.labels)
        total = np.zeros((labels, labels))
        for each in self.lineup.rounds:
            predicted = self.decided[system, each.seed, each.fold]
            true, wrong = each.truth, predicted
            if self.lineup.kind == "multilabel":
                true, wrong = each.truth & ~predicted, predicted & ~each.truth
            total += true.T.astype(np.float64) @ wrong.astype(np.float64)
        return [[round(x, 6) for x in row] for row in (total / len(self.lineup.seeds)).tolist()]

    def _cooled(self, system: str, each: Round) -> Floats:
        temperature = self.temperatures[system, each.seed, each.fold]
        return cool(each.test[system].scores, temperature, kind=self.lineup.kind)


def score(lineup: Lineup, thresholds: Chosen, settings: VerdictSettings) -> Scoreboard:
    """The scoreboard. Cut-offs, temperatures and set levels all come from the round's tune rows."""
    kind = lineup.kind
    decided, temperatures, sets = {}, {}, {}
    for system in lineup.systems:
        for each in lineup.rounds:
            key, tune, test = (system, each.seed, each.fold), each.tune[system], each.test[system]
            decided[key] = decide(test.scores, kind, np.array(thresholds[key].values))
            temperatures[key] = fit_temperature(tune.scores, tune.truth, kind=kind)
            level = choose_level(
                tune.scores, tune.truth, tune.clusters, miss_rate=settings.miss_rate
            )
            sets[key] = test.scores >= level

    def decision_figures(system: str, each: Round) -> Floats:
        return row_figures(decided[system, each.seed, each.fold], each.truth)

    def forecast_figures(system: str, each: Round) -> Floats:
        given = each.test[system].scores
        cooled = cool(given, temperatures[system, each.seed, each.fold], kind=kind)
        parts = [calibration_figures(s, each.truth, kind=kind) for s in (given, cooled)]
        return np.hstack(parts)

    def label_set_figures(system: str, each: Round) -> Floats:
        key = (system, each.seed, each.fold)
        most = settings.most_labels if kind == "multilabel" else 1
        return set_figures(sets[key], decided[key], each.truth, each.clusters, most_labels=most)

    return Scoreboard(
        lineup=lineup,
        decided=decided,
        temperatures=temperatures,
        decisions=tabulate_decisions(lineup, decision_figures, lineup.labels, settings),
        calibration=tabulate(lineup, forecast_figures, _flat_forecasts, _CALIBRATION, settings),
        sets=tabulate(lineup, label_set_figures, _flat_sets, _SETS, settings),
    )


def tabulate_decisions(
    lineup: Lineup,
    figures: Callable[[str, Round], Floats],
    labels: Sequence[str],
    settings: VerdictSettings,
) -> Table:
    """The table of precision, recall and F1 of `labels`, from each row's `row_figures`."""
    return tabulate(lineup, figures, _flat_decisions, _decision_names(labels), settings)


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


def averages_of(lineup: Lineup) -> tuple[str, ...]:
    """The averages shown. With one label a row, that over samples is micro again; left out."""
    return AVERAGES if lineup.kind == "multilabel" else AVERAGES[:3]


def _decision_names(labels: Sequence[str]) -> list[str]:
    """The order of `_flat_decisions`' last axis."""
    per_label = [f"{part}:{label}" for part in ("precision", "recall", "f1") for label in labels]
    averages = [f"{name}-{part}" for name in AVERAGES for part in ("precision", "recall", "f1")]
    return [*per_label, *averages, "label_accuracy", "subset_accuracy"]


def _flat_decisions(sums: Floats) -> Floats:
    found = measure(sums)
    single = [*(part for name in AVERAGES for part in found.averages[name]), *found.extra.values()]
    parts = [found.label_precision, found.label_recall, found.label_f1, np.stack(single, axis=-1)]
    return np.concatenate(parts, axis=-1)


def _flat_forecasts(sums: Floats) -> Floats:
    half = sums.shape[-1] // 2
    parts = [*measure_calibration(sums[..., :half]), *measure_calibration(sums[..., half:])]
    return np.stack(parts, axis=-1)


def _flat_sets(sums: Floats) -> Floats:
    missed, clusters, labels, left, tp, fp, fn, rows = np.moveaxis(sums, -1, 0)
    answered = np.divide(2 * tp, 2 * tp + fp + fn, out=np.zeros_like(tp), where=tp > 0)
    return np.stack([1 - missed / clusters, labels / rows, left / rows, answered], axis=-1)
