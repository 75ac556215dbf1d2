"""Positions of the marks of each chart, in per cent of its width and height, for the templates.

In per cent, so that an inline SVG without a viewBox stretches with the page while its text keeps
its size: readable on a phone and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trialese.records import BASELINES, Difference, Interval, Verdict
from trialese.thresholds import PUBLISHED_CUT
from trialese.verdict.text import METRICS, in_brackets, short_word, signed

__all__ = [
    "Axis",
    "Curve",
    "Mark",
    "Panel",
    "Strip",
    "Timeline",
    "coverage_panel",
    "difference_strips",
    "label_strips",
    "learning_panels",
    "looks_of",
    "make_axis",
    "part_strips",
    "part_timelines",
    "reliability_panel",
    "system_look",
]

LEAST_FORECASTS = 10
"""Bins with fewer are left out of the reliability diagram."""

_LOOKS = ("adapted", "base", "other", "fourth")


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from `low` to `high` with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    decimals: int

    def share(self, value: float) -> float:
        """Where the value lies, in per cent of the axis; kept inside it."""
        inside = min(max(value, self.low), self.high)
        return round(100 * (inside - self.low) / (self.high - self.low), 3)

    def text(self, tick: float, *, sign: bool = False) -> str:
        """The tick as printed."""
        return f"{tick:{'+' if sign and tick else ''}.{self.decimals}f}"

    def is_minor(self, place: int) -> bool:
        """Whether the tick may go unlabelled where room is short: every other one, never 0."""
        keep = self.ticks.index(0.0) if 0.0 in self.ticks else 0
        return len(self.ticks) > 4 and (place - keep) % 2 == 1


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with its interval, in per cent; `look` names its colour and shape."""

    look: str
    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Strip:
    """One line of a chart: a name, a figure in words, the marks, and all of it as a sentence."""

    name: str
    figure: str
    marks: tuple[Mark, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel: its points in per cent from the left and the top."""

    name: str
    look: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of learning curves."""

    title: str
    sentence: str
    across: Axis
    up: Axis
    unit: str
    curves: tuple[Curve, ...]


def make_axis(values: Iterable[float], *, least_ticks: int = 4) -> Axis:
    """The axis that holds the values, with ticks at round numbers (1, 2 or 5 times a power of ten).

    Without values, or where all are equal, it is one unit wide.
    """
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / least_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(m * power for m in (1, 2, 5) if m * power <= rough * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple(round(n * step, 10) + 0.0 for n in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, decimals)


def label_strips(verdict: Verdict) -> tuple[Axis, list[Strip]]:
    """F1 of each label, most frequent first, of the models and the strongest baseline."""
    shown = [scores for scores in verdict.scores if scores.system not in BASELINES]
    rivals = [scores for scores in verdict.scores if scores.system in BASELINES]
    shown += [max(rivals, key=lambda s: s.averages["macro"].f1.point)] if rivals else []
    axis = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), 1)
    strips = []
    for place in sorted(range(len(verdict.labels)), key=lambda i: -shown[0].labels[i].support):
        found = [(scores.system, scores.labels[place].f1) for scores in shown]
        said = [f"{system} F1 {f1.point:.4f} {in_brackets(f1)}" for system, f1 in found]
        label = shown[0].labels[place]
        strips.append(
            Strip(
                name=label.label,
                figure=f"n = {label.support:,}",
                marks=tuple(_mark(axis, system_look(system, shown), f1) for system, f1 in found),
                sentence=f"{label.label}: {'; '.join(said)}",
            )
        )
    return axis, strips


def system_look(system: str, shown: Sequence[Any]) -> str:
    """The look of a system: "adapted", "base" or "baseline" by name, or else a free one."""
    return looks_of([scores.system for scores in shown] + [system])[system]


def looks_of(systems: Sequence[str]) -> dict[str, str]:
    """System -> its look in a chart of them all; see `system_look`."""
    free = [look for look in _LOOKS if look not in systems]
    others = [name for name in systems if name not in (*_LOOKS[:2], *BASELINES)]
    found = {name: "baseline" for name in systems if name in BASELINES}
    found |= {name: name for name in systems if name in _LOOKS[:2]}
    found |= {name: free[min(others.index(name), len(free) - 1)] for name in others}
    return {name: found[name] for name in systems}


def difference_strips(differences: Sequence[Difference]) -> tuple[Axis, list[Strip]]:
    """One strip a difference, with 0 always on the axis."""
    ends = [end for d in differences for end in (d.interval.low, d.interval.high)]
    axis = make_axis([*ends, 0.0, 0.01, -0.01])
    strips = []
    for found in differences:
        name = METRICS.get(found.metric, found.metric.removeprefix("f1:"))
        name = f"minus {found.rival}" if found.primary else name
        known = found.conclusion in ("better", "worse")
        strips.append(
            Strip(
                name=name,
                figure=f"{signed(found.interval)} {short_word(found.conclusion)}",
                marks=(_mark(axis, found.conclusion if known else "cannot-tell", found.interval),),
                sentence=f"{found.metric.removeprefix('f1:')}, {found.system} minus {found.rival}: "
                f"{signed(found.interval)}, {found.conclusion}",
            )
        )
    return axis, strips


@dataclass(frozen=True, slots=True)
class Timeline:
    """Figures of several systems by year, each with its interval; places in per cent."""

    title: str
    sentence: str
    years: tuple[tuple[float, str, bool], ...]
    """Place, name, and whether it may go unlabelled where room is short."""
    up: Axis
    border: float | None
    """Where the new trials begin."""
    series: tuple[tuple[str, str, tuple[Mark, ...], tuple[float, ...]], ...]
    """System, look, a mark a year with places from the top, and their places from the left."""


_PAIRS = {"adapted - control": "adapted", "adapted - base": "base"}


def part_timelines(rows: Sequence[Mapping[str, Any]], new_from: str | None) -> list[Timeline]:
    """Top-1 accuracy on [MASK] by year of first posting: each model, then the differences.

    `rows` are parts called by their year. Those without figures are left out.
    """
    known = [row for row in rows if "top1" in row]
    if len(known) < 2:
        return []
    years = [int(row["part"]) for row in known]
    first, last = min(years) - 0.5, max(years) + 0.5

    def across(year: float) -> float:
        return round(100 * (year - first) / (last - first), 3)

    border = None
    if (
        new_from
        and first < (began := int(new_from[:4]) - 0.5 + (int(new_from[5:7]) - 1) / 12) < last
    ):
        border = across(began)
    labels = tuple((across(year), str(year), bool((last - 0.5 - year) % 2)) for year in years)
    names = list(known[0]["top1"])
    systems = [name for name in names if name not in _PAIRS and " - " not in name]
    charts = []
    for title, shown in (
        ("Top-1 accuracy on [MASK] by year of first posting", looks_of(systems)),
        ("What it changed, by year of first posting", {n: _PAIRS[n] for n in _PAIRS if n in names}),
    ):
        figures = {
            name: [msgspec.convert(row["top1"][name], Interval) for row in known] for name in shown
        }
        ends = [end for each in figures.values() for f in each for end in (f.low, f.high)]
        up = make_axis([*ends, 0.0] if all(" - " in name for name in shown) else ends)
        said = [
            f"{name} {each[0].point:.3f} in {years[0]}, {each[-1].point:.3f} in {years[-1]}"
            for name, each in figures.items()
        ]
        step = 28 / max(len(years), 10) / max(len(shown), 1)  # beside one another within a year
        series = tuple(
            (
                name,
                look,
                tuple(
                    Mark(look, *(round(100 - up.share(v), 3) for v in (f.point, f.low, f.high)))
                    for f in figures[name]
                ),
                tuple(
                    round(across(year) + (place - (len(shown) - 1) / 2) * step, 3) for year in years
                ),
            )
            for place, (name, look) in enumerate(shown.items())
        )
        if series:
            charts.append(Timeline(title, "; ".join(said), labels, up, border, series))
    return charts


def part_strips(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[Axis, list[Strip], dict[str, str]]]:
    """Top-1 accuracy on [MASK] by part, the largest first: each model, then the differences.

    Each chart as its axis, its strips, and the look of each name.
    """
    known = sorted((r for r in rows if "top1" in r), key=lambda row: -row["documents"])
    if not known:
        return []
    names = list(known[0]["top1"])
    systems = looks_of([name for name in names if " - " not in name])
    charts = []
    for shown in (systems, {name: _PAIRS[name] for name in _PAIRS if name in names}):
        figures = [
            {name: msgspec.convert(row["top1"][name], Interval) for name in shown} for row in known
        ]
        ends = [end for each in figures for f in each.values() for end in (f.low, f.high)]
        axis = make_axis(ends if shown is systems else [*ends, 0.0])
        strips = [
            Strip(
                name=row["part"],
                figure=f"n = {row['documents']:,}",
                marks=tuple(_mark(axis, shown[name], f) for name, f in each.items()),
                sentence=f"{row['part']}: "
                + "; ".join(f"{name} {f.point:+.4f} {in_brackets(f)}" for name, f in each.items()),
            )
            for row, each in zip(known, figures, strict=True)
        ]
        if shown:
            charts.append((axis, strips, shown))
    return charts


_MEASURES = (
    ("top1", "Top-1 accuracy on masked tokens"),
    ("loss", "Loss on masked tokens (nats)"),
)
_ERA_LOOK = {"new": "adapted", "old": "base"}


def learning_panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Accuracy and loss on held-out tokens over training, one pair of panels a training run.

    `rows` are those of a pretraining run's metrics.jsonl in their order, with the run's name
    under `stage`. Phases of a run, whose tokens start at 0 each, follow one another on the axis.
    Rows of the train split are noisy and left to TensorBoard.
    """
    panels = []
    for stage in dict.fromkeys(str(row.get("stage", "adapter")) for row in rows):
        placed = _place([row for row in rows if str(row.get("stage", "adapter")) == stage])
        held_out = [(x, row) for x, row in placed if row["split"] != "train" and row["era"]]
        for measure, title in _MEASURES:
            known = [
                (x, {**row, measure: _told(row, measure)})
                for x, row in held_out
                if _told(row, measure) is not None
            ]
            if known:
                panels.append(_panel(known, measure, f"{title}: {stage}"))
    return panels


def _told(row: Mapping[str, Any], measure: str) -> float | None:
    """The figure on [MASK], or as older artifacts have it: over every chosen position."""
    found: float | None = row.get(f"mask_{measure}")
    return row.get(measure) if found is None else found


def _place(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, Mapping[str, Any]]]:
    """Each row with the tokens seen before it by all phases of the run."""
    placed: list[tuple[float, Mapping[str, Any]]] = []
    offset = longest = 0
    phase = None
    for row in rows:
        if row.get("phase") != phase:
            phase, offset, longest = row.get("phase"), offset + longest, 0
        longest = max(longest, int(row["tokens"]))
        placed.append((offset + int(row["tokens"]), row))
    return placed


def _panel(placed: Sequence[tuple[float, Mapping[str, Any]]], measure: str, title: str) -> Panel:
    most = max(x for x, _ in placed)
    scale, unit = (1e6, "million tokens") if most >= 1e6 else (1e3, "thousand tokens")
    across = make_axis(x / scale for x, _ in placed)
    up = make_axis(row[measure] for _, row in placed)
    curves, sentences = [], []
    for era, split in dict.fromkeys((str(row["era"]), str(row["split"])) for _, row in placed):
        own = [(x, row[measure]) for x, row in placed if (row["era"], row["split"]) == (era, split)]
        points = tuple(
            (across.share(x / scale), round(100 - up.share(y), 3))
            for x, y in sorted(own, key=lambda point: point[0])
        )
        name = f"{era} trials, {split}"
        curves.append(Curve(name, f"{_ERA_LOOK.get(era, 'other')} {split}", points))
        sentences.append(f"{name}: {own[0][1]:.4f} at the start, {own[-1][1]:.4f} at the end")
    return Panel(title, "; ".join(sentences), across, up, unit, tuple(curves))


def reliability_panel(system: str, notes: Mapping[str, Any]) -> Panel:
    """Share that came true against forecast, as given and after the temperature; see `judge`."""
    axis = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), 1)
    curves = [Curve("perfect calibration", "diagonal", ((0.0, 100.0), (100.0, 0.0)))]
    temperature = f"after temperature {notes['temperature_median']:.2f}"
    sentences = []
    for key, name, look in (("as_given", "as given", "base"), ("cooled", temperature, "adapted")):
        bins = notes[key]
        filled = [n for n, count in enumerate(bins["count"]) if count >= LEAST_FORECASTS]
        points = tuple(
            (axis.share(bins["forecast"][n]), round(100 - axis.share(bins["share"][n]), 3))
            for n in filled
        )
        curves.append(Curve(name, look, points))
        said = [f"{bins['forecast'][n]:.2f} came true {bins['share'][n]:.2f}" for n in filled]
        sentences.append(f"{name}: forecasts of {', '.join(said)}")
    return Panel(
        f"{system}: share that came true",
        "; ".join(sentences),
        axis,
        axis,
        "forecast",
        tuple(curves),
    )


def coverage_panel(system: str, notes: Mapping[str, Mapping[str, Sequence[float]]]) -> Panel:
    """Share of given labels that are wrong against the share of texts answered, surest first."""
    names = {
        "chosen": ("cut-offs chosen on tune", "adapted"),
        "fixed": (f"{PUBLISHED_CUT} for all, else Uncategorised", "base"),
    }
    across = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), 1)
    up = make_axis([0.0, 0.1, *(wrong for each in notes.values() for wrong in each["wrong"])])
    curves, sentences = [], []
    for key, (name, look) in names.items():
        pairs = list(zip(notes[key]["coverage"], notes[key]["wrong"], strict=True))
        if pairs:
            points = ((across.share(x), round(100 - up.share(y), 3)) for x, y in reversed(pairs))
            curves.append(Curve(name, look, tuple(points)))
            said = f"{pairs[0][0]:.0%} of texts answered, {pairs[0][1]:.0%} of their labels wrong"
            sentences.append(f"{name}: {said}")
    title = f"{system}: share of given labels that are wrong"
    return Panel(title, "; ".join(sentences), across, up, "texts answered", tuple(curves))


def _mark(axis: Axis, look: str, interval: Interval) -> Mark:
    low, at, high = (axis.share(v) for v in (interval.low, interval.point, interval.high))
    return Mark(look, at, low, high)
