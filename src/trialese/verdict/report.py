"""The report: `verdict.json` for machines, `verdict.md`, and one HTML page that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from trialese import __version__
from trialese.artifacts import read_manifest, write_artifact
from trialese.errors import ArtifactError, RecordError
from trialese.records import BASELINES, WEIGHTLESS, Difference, Scores, Verdict
from trialese.verdict.card import attribution_of, format_data_card, format_model_card, list_facts
from trialese.verdict.charts import (
    LEAST_FORECASTS,
    coverage_panel,
    difference_strips,
    label_strips,
    learning_panels,
    part_strips,
    part_timelines,
    reliability_panel,
)
from trialese.verdict.encoders import as_panel, format_panel, panel_sentences, panel_strips
from trialese.verdict.text import (
    BEHAVIOUR,
    METRICS,
    NO_CONTROL,
    behaviour_rows,
    format_markdown,
    group_rows,
    headline_rows,
    language_model_rows,
    primary_differences,
    primary_of,
    search_budget,
    summarise,
    summarise_language_model,
    trained_once,
)

__all__ = [
    "encode_verdicts",
    "environment",
    "load_context",
    "load_verdicts",
    "render_page",
    "write_report",
]


_CONFUSIONS_SHOWN = 12


def render_page(
    verdicts: Sequence[Verdict],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
) -> str:
    """The whole page; see `write_report` for what `curves` and `context` hold."""
    context = context or {}
    settings = {
        "verdict": verdicts[0].notes["settings"],
        "recipe": context.get("recipe", "not given: these predictions were judged on their own"),
    }
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            tasks=[_task(verdict) for verdict in verdicts],
            panels=learning_panels(curves),
            language_model=language_model_rows(context),
            no_control=NO_CONTROL,
            language_lead=summarise_language_model(context),
            probed=_probed(context),
            **_parts(context),
            facts=list(list_facts(context)),
            settings=msgspec.json.format(msgspec.json.encode(settings, order="sorted")).decode(),
            synthetic=bool(context.get("synthetic")),
            branded=any("|OVERLAP=" in verdict.signature for verdict in verdicts),
            attribution=attribution_of(context),
            metrics=METRICS,
        )
    )


def _parts(context: Mapping[str, Any]) -> dict[str, Any]:
    """Charts and tables of the language models by parts of the held-out documents."""
    parts = context.get("language_model_parts") or {}
    recipe = context.get("recipe") or {}
    new_from = recipe.get("corpus", {}).get("new_from")
    return {
        "parts": parts,
        "part_names": list(
            dict.fromkeys(n for rows in parts.values() for row in rows for n in row.get("top1", ()))
        ),
        "timelines": part_timelines(parts.get("year of first posting", ()), new_from),
        "areas": part_strips(parts.get("area", ())),
    }


def _probed(context: Mapping[str, Any]) -> dict[str, Any] | None:
    """The panel of encoders for the template; None where a run left it out."""
    if "panel" not in context:
        return None
    panel = as_panel(context["panel"])
    axis, strips, looks = panel_strips(panel)
    return {
        "panel": panel,
        "axis": axis,
        "strips": strips,
        "looks": looks,
        "sentences": panel_sentences(panel),
    }


def environment() -> Environment:
    """The template engine: strict about missing values, and everything is escaped."""
    made = Environment(
        loader=PackageLoader("trialese.verdict", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["version"] = __version__
    return made


def _task(verdict: Verdict) -> dict[str, Any]:
    label_axis, labels = label_strips(verdict)
    shown = [mark.look for mark in labels[0].marks]
    systems = [s.system for s in verdict.scores if s.system not in BASELINES]
    if len(shown) > len(systems):
        rivals = [s for s in verdict.scores if s.system in BASELINES]
        systems.append(max(rivals, key=lambda s: s.averages["macro"].f1.point).system)
    known = {"adapted", "base", *BASELINES}  # a verdict on other systems lacks neither of the two
    expected = ("adapted", "base") if known.issuperset(systems) else ()
    lacking = [name for name in expected if name not in systems]
    return {
        "verdict": verdict,
        "anchor": re.sub(r"[^a-z0-9]+", "-", f"task-{verdict.task.lower()}"),
        "summary": summarise(verdict),
        "headline": headline_rows(verdict),
        "by_run": {
            system: found[primary_of(verdict)]
            for system, found in verdict.notes.get("f1_by_seed", {}).items()
            if len(verdict.notes["seeds"]) > 1
        },
        "primary": METRICS[primary_of(verdict)],
        "level": f"{verdict.notes['settings']['confidence']:.0%}",
        "label_axis": label_axis,
        "labels": labels,
        "shown": list(zip(systems, shown, strict=True)),
        "differences": list(_groups(verdict)),
        "table": [_rows(verdict.scores, averages=False), _rows(verdict.scores, averages=True)],
        "reliability": [
            reliability_panel(name, verdict.notes["reliability"][name])
            for name in (scores.system for scores in verdict.scores)
            if name not in WEIGHTLESS
        ],
        "least_forecasts": LEAST_FORECASTS,
        "risk_coverage": [
            coverage_panel(name, found)
            for name, found in verdict.notes.get("risk_coverage", {}).items()
        ],
        "coverage": [
            {"label": label, "cells": cells}
            for label, *cells in zip(
                verdict.labels,
                *(verdict.notes.get("set_coverage", {}).get(s.system, ()) for s in verdict.scores),
                strict=False,
            )
        ],
        "slices": verdict.notes.get("slices", {}),
        "behaviour": behaviour_rows(verdict),
        "about_behaviour": BEHAVIOUR,
        "groups": group_rows(verdict),
        "confusions": _confusions(verdict),
        "matrix": _matrix(verdict),
        "mcnemar": verdict.notes["mcnemar"],
        "budget": search_budget(verdict),
        "lacking": f"Not judged: {', '.join(lacking)}." if lacking else "",
    }


def _confusions(verdict: Verdict) -> list[dict[str, Any]]:
    """What the leader of a multilabel task took for what, most often first, and its rivals."""
    if verdict.kind == "multiclass":
        return []
    matrices = verdict.notes["confusions"]
    shown = [scores.system for scores in verdict.scores][:3]
    pairs = [
        (-count, row, column)
        for row, counts in enumerate(matrices[shown[0]])
        for column, count in enumerate(counts)
        if count > 0
    ]
    return [
        {
            "true": verdict.labels[row],
            "predicted": verdict.labels[column],
            "texts": {system: matrices[system][row][column] for system in shown},
        }
        for _, row, column in sorted(pairs)[:_CONFUSIONS_SHOWN]
    ]


def _matrix(verdict: Verdict) -> list[dict[str, Any]]:
    """The leader's confusion matrix on a multiclass task: counts and their share of the row."""
    if verdict.kind == "multilabel":
        return []
    counts = verdict.notes["confusions"][verdict.scores[0].system]
    return [
        {"label": label, "cells": [{"texts": n, "share": n / max(sum(row), 1)} for n in row]}
        for label, row in zip(verdict.labels, counts, strict=True)
    ]


def _groups(verdict: Verdict) -> Iterator[dict[str, Any]]:
    """The difference plots: the primary figure first, then what is exploratory, none twice."""
    once = " One training run each." if trained_once(verdict) else ""
    primary = primary_differences(verdict)
    if primary:
        name = METRICS[primary_of(verdict)]
        yield _group(
            f"{name}: {primary[0].system} against every other system",
            "The verdict rests on these paired differences; their p-values are adjusted together "
            f"(Holm).{once}",
            primary,
        )
    further = [d for d in verdict.differences if d not in primary]
    averages = [d for d in further if d.metric in METRICS]
    labels = [d for d in further if d.metric not in METRICS]
    for system in dict.fromkeys(d.system for d in further):
        rivals = [d for d in averages if d.system == system]
        for rival in dict.fromkeys(d.rival for d in rivals if d.rival not in BASELINES):
            found = [d for d in rivals if d.rival == rival]
            yield _group(
                f"{system} minus {rival}",
                f"Exploratory: further averages, p-values not adjusted.{once}",
                found,
            )
            found = [d for d in labels if (d.system, d.rival) == (system, rival)]
            if found:
                yield _group(
                    f"{system} minus {rival}, label by label",
                    "Exploratory: F1 of each label, p-values adjusted for the number of labels. "
                    f"Too few: fewer than 20 texts have the label.{once}",
                    found,
                )
        found = [d for d in rivals if d.rival in BASELINES]
        if found:
            names = " and ".join(dict.fromkeys(d.rival for d in found))
            yield _group(
                f"{system} minus the best baseline ({names})",
                "Exploratory: for every figure the strongest baseline on that very figure, "
                f"p-values not adjusted.{once}",
                found,
            )


def _group(title: str, caption: str, found: Sequence[Difference]) -> dict[str, Any]:
    axis, strips = difference_strips(found)
    return {"title": title, "caption": caption, "axis": axis, "strips": strips}


def _rows(scores: Sequence[Scores], *, averages: bool) -> list[dict[str, Any]]:
    rows = []
    total = sum(label.support for label in scores[0].labels)
    names = list(scores[0].averages) if averages else [x.label for x in scores[0].labels]
    for place, name in enumerate(names):
        cells: list[dict[str, Any]] = []
        for each in scores:
            if averages:
                mean = each.averages[name]
                precision, recall, f1 = mean.precision.point, mean.recall.point, mean.f1
            else:
                label = each.labels[place]
                precision, recall, f1 = label.precision, label.recall, label.f1
            cells.append({"precision": precision, "recall": recall, "f1": f1})
        highest = max(cell["f1"].point for cell in cells)
        for cell in cells:
            cell["best"] = highest > 0 and cell["f1"].point == highest
        rows.append(
            {
                "name": f"{name} avg" if averages else name,
                "cells": cells,
                "support": total if averages else scores[0].labels[place].support,
            }
        )
    return rows


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """What verdict.json holds."""

    format: int = 1
    verdicts: list[Verdict]
    curves: list[dict[str, Any]] = []
    context: dict[str, Any] = {}


def write_report(
    path: str | Path,
    verdicts: Sequence[Verdict],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """`path`, now an artifact: `verdict.json`, `verdict.md`, `report.html` and `cards/`.

    Args:
        path: the folder to make.
        verdicts: one a task.
        curves: rows of pretraining's metrics.jsonl (`step`, `tokens`, `era`, `split`, `loss`,
            `top1`), each with the name of its run under `stage`.
        context: facts of the data card: `source`, `data_timestamp`, `attribution`, `synthetic`
            (true puts a banner on top), `recipe`, and counts and notes under any other name.
        inputs: digests of what was judged, for the manifest.

    Raises:
        RecordError: there is no verdict.
        ArtifactError: the folder cannot be written.
    """
    path = Path(path)
    if not verdicts:
        raise RecordError("no verdict to report; judge at least one task")
    context = dict(context or {})
    settings = verdicts[0].notes["settings"]
    with write_artifact(path, kind="verdict", settings=settings, inputs=inputs) as draft:
        (draft.folder / "verdict.json").write_bytes(encode_verdicts(verdicts, curves, context))
        text = format_markdown(verdicts, context)
        if "panel" in context:
            panel = format_panel(as_panel(context["panel"]))
            text += f"\n# What the encoders know of trials\n\n{panel}\n"
        (draft.folder / "verdict.md").write_text(text, encoding="utf-8")
        page = render_page(verdicts, curves=curves, context=context)
        (draft.folder / "report.html").write_text(page, encoding="utf-8")
        _write_cards(draft.folder / "cards", verdicts, context)
        draft.counts.update(tasks=len(verdicts), texts=sum(verdict.rows for verdict in verdicts))
        draft.notes.update(signatures=[verdict.signature for verdict in verdicts])
    return path


def encode_verdicts(
    verdicts: Sequence[Verdict],
    curves: Sequence[Mapping[str, Any]],
    context: Mapping[str, Any],
) -> bytes:
    """What verdict.json holds, the same bytes for the same verdicts."""
    rows = [dict(row) for row in curves]
    contents = _File(verdicts=list(verdicts), curves=rows, context=dict(context))
    return msgspec.json.format(msgspec.json.encode(contents, order="sorted")) + b"\n"


def _write_cards(folder: Path, verdicts: Sequence[Verdict], context: Mapping[str, Any]) -> None:
    """`data.md`, and for each task's models a README.md to lay into their folders."""
    folder.mkdir()
    (folder / "data.md").write_text(format_data_card(verdicts, context), encoding="utf-8")
    for verdict in verdicts:
        for system in (scores.system for scores in verdict.scores):
            if system not in BASELINES:
                home = folder / re.sub(r"[^\w.+-]", "_", f"{verdict.task}-{system}")
                home.mkdir()
                card = format_model_card(verdict, system, context=context)
                (home / "README.md").write_text(card, encoding="utf-8")


def load_context(path: Path) -> dict[str, Any]:
    """What `write_report` was given as `context`; see `load_verdicts` for what is raised."""
    return _load(path).context


def load_verdicts(path: Path) -> list[Verdict]:
    """The verdicts in a folder that `write_report` or `write_protocols` made.

    Raises:
        ArtifactError: no such folder, one of another kind, or a damaged file.
    """
    return _load(path).verdicts


def _load(path: Path) -> _File:
    read_manifest(path, kind="verdict", verify=True)
    file = path / "verdict.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); judge again") from error
