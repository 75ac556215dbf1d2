"""The published and the honest protocol side by side, and the inflation of the first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trialese.artifacts import write_artifact
from trialese.errors import RecordError
from trialese.records import Interval, Scores, Verdict
from trialese.verdict.card import attribution_of, list_facts
from trialese.verdict.charts import Mark, Strip, make_axis
from trialese.verdict.report import encode_verdicts, environment
from trialese.verdict.text import METRICS, in_brackets, signed

__all__ = ["Inflation", "compare_protocols", "subtract", "write_protocols"]


_FACTS = {
    "scored_rows": "texts scored",
    "scored_trained_on": "of the scored, fitted on",
    "scored_trained_on_exactly": "of the scored, fitted on word for word",
    "scored_trained_on_nearly": "of the scored, fitted on at least nearly",
    "held_out_rows": "texts held out (10 %)",
    "held_out_trained_on": "of the held out, fitted on",
    "held_out_trained_on_exactly": "of the held out, fitted on word for word",
    "held_out_trained_on_nearly": "of the held out, fitted on at least nearly",
}
"""How what `finetune_published` counts is called in print."""


class Inflation(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one system under both protocols, and how much of the first is inflation."""

    system: str
    metric: str
    """Such as "micro-f1" or "f1:Success"."""
    published: Interval
    honest: Interval
    inflation: Interval


def subtract(one: Interval, other: Interval) -> Interval:
    """The difference of two estimates with its interval, from their own intervals.

    MOVER (Zou & Donner 2008): the distances of each estimate to its limits are added as squares.
    It takes the estimates for independent; two protocols that score the same texts rise and fall
    together, which makes the interval too wide rather than too narrow.
    """
    point = one.point - other.point
    low = point - math.hypot(one.point - one.low, other.high - other.point)
    high = point + math.hypot(one.high - one.point, other.point - other.low)
    return Interval(*(round(value, 10) + 0.0 for value in (point, low, high)))


def compare_protocols(published: Verdict, honest: Verdict) -> list[Inflation]:
    """Averages and labels of every system that both verdicts have, the published one's order.

    Raises:
        RecordError: another task or other labels, or no system in common.
    """
    if (published.task, published.labels) != (honest.task, honest.labels):
        raise RecordError(
            f"protocols of {published.task} and {honest.task} cannot be compared; "
            "give two verdicts on one task with the same labels"
        )
    by_name = {scores.system: scores for scores in honest.scores}
    found = [
        Inflation(
            system=scores.system,
            metric=metric,
            published=one,
            honest=other,
            inflation=subtract(one, other),
        )
        for scores in published.scores
        if scores.system in by_name
        for (metric, one), (_, other) in zip(_f1(scores), _f1(by_name[scores.system]), strict=True)
    ]
    if not found:
        raise RecordError(f"{published.task}: the two verdicts have no system in common")
    return found


def write_protocols(
    path: Path,
    pairs: Sequence[tuple[Verdict, Verdict]],
    *,
    overlap: Mapping[str, Mapping[str, Any]] | None = None,
    context: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """`path`, now an artifact: `twin.json`, `twin.md`, `report.html`, `verdict.json`.

    Args:
        path: the folder to make.
        pairs: for each task the published verdict and the honest one.
        overlap: task -> facts on how many scored texts had been trained on, exactly and nearly.
        context: facts of the data card; see `write_report`.
        inputs: digests of what was judged, for the manifest.
    """
    context, overlap = dict(context or {}), overlap or {}
    tasks = [
        _task(published, honest, overlap.get(published.task, {})) for published, honest in pairs
    ]
    page = (
        environment()
        .get_template("protocols.html.jinja")
        .render(
            tasks=tasks,
            facts=list(list_facts(context)),
            synthetic=bool(context.get("synthetic")),
            attribution=attribution_of(context),
            metrics=METRICS,
        )
    )
    plain = {
        "format": 1,
        "tasks": [
            {
                "overlap": task["overlap"],
                "inflation": task["rows"],
                "signatures": task["signatures"],
            }
            for task in tasks
        ],
    }
    verdicts = [verdict for pair in pairs for verdict in pair]
    signatures = [verdict.signature for verdict in verdicts]
    with write_artifact(
        path, kind="verdict", settings={"signatures": signatures}, inputs=inputs
    ) as draft:
        text = msgspec.json.format(msgspec.json.encode(plain, order="sorted"))
        (draft.folder / "verdict.json").write_bytes(encode_verdicts(verdicts, (), context))
        (draft.folder / "twin.json").write_bytes(text + b"\n")
        markdown = "\n".join(line for task in tasks for line in _markdown(task))
        (draft.folder / "twin.md").write_text(markdown + "\n", encoding="utf-8")
        (draft.folder / "report.html").write_text(page, encoding="utf-8")
    return path


def _f1(scores: Scores) -> Iterator[tuple[str, Interval]]:
    for name, average in scores.averages.items():
        yield f"{name}-f1", average.f1
    for label in scores.labels:
        yield f"f1:{label.label}", label.f1


def _task(published: Verdict, honest: Verdict, overlap: Mapping[str, Any]) -> dict[str, Any]:
    rows = compare_protocols(published, honest)
    systems = list(dict.fromkeys(row.system for row in rows))
    axis = make_axis([0.0, 1.0])
    charts = {
        system: [_strip(row, axis.share) for row in rows if row.system == system]
        for system in systems
    }
    return {
        "name": published.task,
        "anchor": re.sub(r"[^a-z0-9]+", "-", f"task-{published.task.lower()}"),
        "summary": " ".join([_summary(published, honest, rows[:2]), *_overlap_sentence(overlap)]),
        "overlap": dict(overlap),
        "overlap_said": {_FACTS.get(k, str(k).replace("_", " ")): v for k, v in overlap.items()},
        "rows": rows,
        "systems": systems,
        "axis": axis,
        "charts": charts,
        "signatures": {"published": published.signature, "honest": honest.signature},
        "audits": {"published": published.audits, "honest": honest.audits},
        "level": f"{honest.notes['settings']['confidence']:.0%}",
    }


def _summary(published: Verdict, honest: Verdict, averages: Sequence[Inflation]) -> str:
    said = "; ".join(
        f"{METRICS[row.metric]} {row.published.point:.4f} the published way, "
        f"{row.honest.point:.4f} {in_brackets(row.honest)} on texts never trained on, "
        + (
            f"so {signed(row.inflation)} is inflation"
            if row.inflation.point >= 0
            else f"{signed(row.inflation)}: its way of fitting loses more than its scoring gains"
        )
        for row in averages
    )
    return (
        f"{averages[0].system} on {published.task}: {said}. The published way scores "
        f"{published.rows:,} texts, the honest way {honest.rows:,}."
    )


def _overlap_sentence(overlap: Mapping[str, Any]) -> Iterator[str]:
    """How much of the published score was known before, as a sentence."""
    if "scored_trained_on_exactly" in overlap:
        yield (
            f"Of the {overlap['scored_rows']:,} texts that the published way scores, "
            f"{overlap['scored_trained_on_exactly']:,} had been fitted on word for word, and "
            f"{overlap['scored_trained_on_nearly']:,} at least nearly; even of the "
            f"{overlap['held_out_rows']:,} that it holds out, "
            f"{overlap['held_out_trained_on_exactly']:,} and "
            f"{overlap['held_out_trained_on_nearly']:,}."
        )


def _strip(row: Inflation, share: Any) -> Strip:
    marks = tuple(
        Mark(look, share(found.point), share(found.low), share(found.high))
        for look, found in (("base", row.published), ("adapted", row.honest))
    )
    name = METRICS.get(row.metric, row.metric.removeprefix("f1:"))
    return Strip(
        name=name,
        figure=f"{signed(row.inflation)}",
        marks=marks,
        sentence=f"{name}: published {row.published.point:.4f} {in_brackets(row.published)}, "
        f"honest {row.honest.point:.4f} {in_brackets(row.honest)}",
    )


def _markdown(task: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {task['name']}: published and honest\n"
    yield f"{task['summary']}\n"
    for name, value in task["overlap_said"].items():
        yield f"- {name}: {value:,}" if isinstance(value, int) else f"- {name}: {value}"
    yield f"- published: `{task['signatures']['published']}`"
    yield f"- honest: `{task['signatures']['honest']}`\n"
    yield "| system | figure | published | honest | interval | inflation | interval |"
    yield "|---|---|--:|--:|---|--:|---|"
    for row in task["rows"]:
        yield (
            f"| {row.system} | {METRICS.get(row.metric, row.metric.removeprefix('f1:'))} "
            f"| {row.published.point:.4f} | {row.honest.point:.4f} | {in_brackets(row.honest)} "
            f"| {row.inflation.point:+.4f} "
            f"| [{row.inflation.low:+.4f}, {row.inflation.high:+.4f}] |"
        )
    yield ""
