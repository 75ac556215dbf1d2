"""The panel of encoders: macro-F1 of each target's linear probe, differences, and how they read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import msgspec

from trialese.errors import ArtifactError
from trialese.records import Difference, Interval
from trialese.verdict.charts import Axis, Mark, Strip, looks_of
from trialese.verdict.significance import holm

__all__ = [
    "EncoderPanel",
    "PanelDifference",
    "PanelRow",
    "as_panel",
    "conclude_pairs",
    "format_panel",
    "panel_lines",
    "panel_sentences",
    "panel_strips",
]

_ALPHA = 0.05


class PanelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One target: its labels, how many texts, and each system's macro-F1 with its interval."""

    target: str
    labels: tuple[str, ...]
    texts: int
    scores: dict[str, Interval]


class PanelDifference(msgspec.Struct, frozen=True, kw_only=True):
    """`system - rival` in macro-F1 on one target; Holm's p-value over all pairs and targets."""

    target: str
    system: str
    rival: str
    """Another encoder, or of the systems without one the best on this target."""
    interval: Interval
    p_value: float
    raw_p_value: float | None = None
    """Before the adjustment."""
    conclusion: str
    """better, worse or no difference."""


class EncoderPanel(msgspec.Struct, frozen=True, kw_only=True):
    """All targets and systems, and the paired differences of the encoders."""

    systems: tuple[str, ...]
    encoders: tuple[str, ...]
    """Of the systems; the others count words."""
    trials: int
    max_tokens: int
    rows: tuple[PanelRow, ...]
    differences: tuple[PanelDifference, ...]
    left_out: dict[str, str]
    """Target -> why it could not be probed."""
    seed_spread: float = 0.0
    """Standard deviation over training runs by which intervals were widened before a word was said;
    0: the encoders are compared as they are."""


def as_panel(plain: Mapping[str, Any]) -> EncoderPanel:
    """The panel that a report's context holds as plain values.

    Raises:
        ArtifactError: something else.
    """
    try:
        return msgspec.convert(plain, EncoderPanel)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"damaged panel ({error}); make it again") from error


def conclude_pairs(
    compared: Sequence[tuple[str, Difference]], *, seed_spread: float = 0.0
) -> tuple[PanelDifference, ...]:
    """What each (target, paired difference) says; all of them are one family for Holm.

    Their p-values are taken as they were before any other adjustment. Better and worse need both
    an adjusted p-value below 5 % and an interval without 0, widened by `seed_spread`.
    """
    raw = [each.p_value if each.raw_p_value is None else each.raw_p_value for _, each in compared]
    reach = NormalDist().inv_cdf(1 - _ALPHA / 2) * seed_spread
    found = []
    for (target, each), one, adjusted in zip(compared, raw, holm(raw), strict=True):
        point, low, high = each.interval.point, each.interval.low, each.interval.high
        word = "no difference"
        if adjusted < _ALPHA and point - math.hypot(point - low, reach) > 0:
            word = "better"
        elif adjusted < _ALPHA and point + math.hypot(high - point, reach) < 0:
            word = "worse"
        found.append(
            PanelDifference(
                target=target,
                system=each.system,
                rival=each.rival,
                interval=each.interval,
                p_value=round(adjusted, 10),
                raw_p_value=round(one, 10),
                conclusion=word,
            )
        )
    return tuple(found)


def panel_sentences(panel: EncoderPanel) -> list[str]:
    """One sentence a pair: on which targets an encoder is better, worse, or neither; what is left.

    The best of the systems without an encoder is another one from target to target.
    """
    lines = []

    def rival_of(each: PanelDifference) -> str:
        return each.rival if each.rival in panel.encoders else "the best without an encoder"

    for system, rival in dict.fromkeys((each.system, rival_of(each)) for each in panel.differences):
        pair = [d for d in panel.differences if (d.system, rival_of(d)) == (system, rival)]
        told = [
            f"{len(found)} {word}" + (f" ({', '.join(found)})" if word != "no difference" else "")
            for word in ("better", "worse", "no difference")
            if (found := [each.target for each in pair if each.conclusion == word])
        ]
        lines.append(f"{system} against {rival}, {len(pair)} targets: {'; '.join(told)}.")
    if panel.differences:
        runs = (
            f"intervals widened by a standard deviation over training runs of {panel.seed_spread:g}"
            if panel.seed_spread
            else "the encoders are compared as they are, other training runs may come out otherwise"
        )
        lines.append(
            f"P-values of these {len(panel.differences)} comparisons are adjusted together (Holm); "
            f"{runs}."
        )
    return lines + [f"Left out: {reason}" for reason in panel.left_out.values()]


def format_panel(panel: EncoderPanel) -> str:
    """The panel as Markdown: macro-F1 a target and system, then what differs and what was left."""
    head = ["target", "labels", "texts", *panel.systems]
    lines = [
        f"Macro-F1 of linear probes on frozen states, {panel.trials:,} trials of at most "
        f"{panel.max_tokens} tokens, 95 % intervals over clusters of duplicates.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for row in panel.rows:
        cells = [f"{f.point:.2f} [{f.low:.2f}, {f.high:.2f}]" for f in row.scores.values()]
        lines.append(
            f"| {' | '.join([row.target, str(len(row.labels)), f'{row.texts:,}', *cells])} |"
        )
    return "\n".join([*(lines if panel.rows else []), "", *panel_sentences(panel)]).strip()


def panel_lines(panel: EncoderPanel) -> str:
    """The panel for a terminal: under each target a line a system; then the same sentences."""
    width = max((len(name) for name in panel.systems), default=0)
    lines = [f"macro-F1 of linear probes on frozen states, {panel.trials:,} trials, 95 % intervals"]
    for row in panel.rows:
        lines += ["", f"{row.target}: {len(row.labels)} labels, {row.texts:,} texts"]
        lines += [
            f"  {name:<{width}}  {f.point:.2f}  {f.low:.2f} to {f.high:.2f}"
            for name, f in row.scores.items()
        ]
    return "\n".join([*(lines if panel.rows else []), "", *panel_sentences(panel)]).strip()


def panel_strips(panel: EncoderPanel) -> tuple[Axis, list[Strip], list[tuple[str, str]]]:
    """(axis, one strip a target, (system, look) of the encoders and the best without one)."""
    axis = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), 1)
    best = "best without an encoder"
    looks = looks_of(panel.encoders) | {best: "baseline"}
    strips = []
    for row in panel.rows:
        wordy = [name for name in row.scores if name not in panel.encoders]
        strongest = max(wordy, key=lambda name: row.scores[name].point)
        shown = {name: row.scores[name] for name in panel.encoders} | {best: row.scores[strongest]}
        said = [f"{name} {f1.point:.2f}" for name, f1 in shown.items()]
        strips.append(
            Strip(
                name=row.target,
                figure=f"n = {row.texts:,}",
                marks=tuple(
                    Mark(looks[name], axis.share(f1.point), axis.share(f1.low), axis.share(f1.high))
                    for name, f1 in shown.items()
                ),
                sentence=f"{row.target}, macro-F1: {'; '.join(said)} ({strongest})",
            )
        )
    return axis, strips, list(looks.items())
