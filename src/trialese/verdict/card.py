"""Model cards and the data card, written from a verdict alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trialese.errors import RecordError
from trialese.records import ATTRIBUTION, Difference, Scores, Verdict
from trialese.verdict.text import METRICS, classification_report, in_brackets, search_budget, signed

__all__ = ["attribution_of", "format_data_card", "format_model_card", "list_facts"]


_SHOWN_ELSEWHERE = (
    "attribution",
    "recipe",
    "synthetic",
    "language_model",
    "language_model_parts",
    "panel",
)
_SHOWN = 12  # of a list
_FIRST = ("source", "data_timestamp")


def attribution_of(context: Mapping[str, Any]) -> str:
    """Who is to be thanked for the text; nobody for made-up trials."""
    return str(context.get("attribution") or ("" if context.get("synthetic") else ATTRIBUTION))


def list_facts(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of every fact, source first, nested names joined by a comma."""
    if not context:
        yield "source", "not given: these predictions were judged on their own"
    if "synthetic" in context:
        yield "synthetic", "yes, made up by a generator" if context["synthetic"] else "no"
    first = [name for name in _FIRST if name in context]
    for name in [*first, *(n for n in context if n not in (*_SHOWN_ELSEWHERE, *_FIRST))]:
        yield from _flattened(name.replace("_", " "), context[name])


def _flattened(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flattened(f"{name}, {str(key).replace('_', ' ')}", inner)
    elif isinstance(value, (list, tuple)):
        plain = [item for item in value if not isinstance(item, (Mapping, list, tuple))]
        more = [f"{len(value) - _SHOWN} more"] if len(plain) > _SHOWN else []
        listed = ", ".join([*map(str, plain[:_SHOWN]), *more]) or "none"
        yield name, listed if len(plain) == len(value) else f"{len(value)} (in verdict.json)"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, f"{value:,}"
    elif isinstance(value, float):
        yield name, f"{value:.5g}"
    else:
        yield name, "not known" if value is None else str(value)


_LIMITS = """\
The model reads English registry text. It was made for research on registries, not for care: no
decision about a person should rest on it. Scores hold for texts like those it was judged on; trials
of other years, fields or registries may fare worse. Its cut-offs were chosen on tune texts; new
data may want new ones."""


_USE = """\
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```
"""


_OWN_USE = """\
```console
$ trialese predict PATH "Slow accrual"
```
"""


def format_model_card(
    verdict: Verdict,
    system: str,
    *,
    context: Mapping[str, Any] | None = None,
    use: str | None = None,
) -> str:
    """A `README.md` for the model's folder: YAML with a `model-index`, then Markdown.

    The index holds what the hub can show: averaged F1 with its interval in the metric's
    `config`. `context` is that of `write_report`; `use` tells how the model is loaded, by default
    with transformers, or by trialese where transformers cannot.

    Raises:
        RecordError: the verdict has no such system.
    """
    found = [scores for scores in verdict.scores if scores.system == system]
    if not found:
        known = ", ".join(scores.system for scores in verdict.scores)
        raise RecordError(f"{verdict.task}: no scores of {system}; the verdict has {known}")
    context = context or {}
    if use is None and _members_of(verdict, system):
        use = _OWN_USE
    library = "transformers" if use is None else "trialese"
    front = "\n".join(_yaml(_metadata(verdict, found[0], context, library)))
    body = "\n".join(_body(verdict, found[0], context, use or _USE))
    return f"---\n{front}\n---\n\n{body}\n"


def format_data_card(verdicts: Sequence[Verdict], context: Mapping[str, Any]) -> str:
    """The data card as Markdown: where the text is from, what was dropped, what was judged."""
    lines = ["# Data card\n"]
    if context.get("synthetic"):
        lines.append("**Synthetic data: made up by a generator. It describes no real trial.**\n")
    lines += ["| fact | value |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in list_facts(context)]
    for verdict in verdicts:
        lines += [f"\n## {verdict.task}\n", f"{_kind(verdict)}. Test rows: `{verdict.signature}`\n"]
        lines += ["| label | test texts |", "|---|--:|"]
        lines += [f"| {_cell(x.label)} | {x.support:,} |" for x in verdict.scores[0].labels]
        lines += ["", *(f"- {audit.name}: {audit.finding}" for audit in verdict.audits)]
    return "\n".join([*lines, "", attribution_of(context)]).rstrip() + "\n"


def _metadata(
    verdict: Verdict, scores: Scores, context: Mapping[str, Any], library: str
) -> dict[str, Any]:
    backbone = context.get("recipe", {}).get("pretrain", {}).get("backbone", {}).get("name", "")
    on_hub = "/" in backbone and not backbone.startswith((".", "/", "~"))
    metrics = [
        {
            "type": "f1",
            "name": METRICS[f"{name}-f1"],
            "value": average.f1.point,
            "config": f"{name}, {_level(verdict)} interval {in_brackets(average.f1)}",
        }
        for name, average in scores.averages.items()
    ]
    return {
        "language": "en",
        "library_name": library,
        "pipeline_tag": "text-classification",
        **({"base_model": backbone} if on_hub else {}),
        "tags": ["trialese", "clinical-trials", verdict.task],
        "metrics": ["f1"],
        "model-index": [
            {
                "name": f"trialese-{verdict.task}-{scores.system}",
                "results": [
                    {
                        "task": {"type": "text-classification", "name": verdict.task},
                        "dataset": {
                            "type": "synthetic" if context.get("synthetic") else "registry-text",
                            "name": verdict.signature.split("|v")[0],
                            "split": "test",
                        },
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }


def _body(verdict: Verdict, scores: Scores, context: Mapping[str, Any], use: str) -> Iterator[str]:
    yield f"# {verdict.task}, {scores.system}\n"
    if context.get("synthetic"):
        yield "**Trained on synthetic trials, for trying out only.**\n"
    yield f"{_kind(verdict)}: {', '.join(verdict.labels)}.\n"
    yield "## Use\n"
    yield use
    yield f"{_LIMITS}\n"
    about = verdict.notes.get("weights", {}).get(scores.system, {})
    if about:
        yield "## Which weights these are\n"
        yield f"The weights beside this card: {about['model']}.\n"
        yield f"Must not be tested on: {about['must_not_be_tested_on']}.\n"
    if members := _members_of(verdict, scores.system):
        yield "## What it is made of\n"
        for name, each in members.items():
            yield (
                f"- {name} ({each['scored_by']}), {each['weight']:g} of the log-odds: "
                f"{each['model']}. Must not be tested on: {each['must_not_be_tested_on']}."
            )
        yield ""
    yield "## Scores\n"
    yield (
        f"{verdict.rows:,} test texts in {verdict.clusters:,} clusters of duplicates, none of them "
        f"trained on unless the audits say so. Signature: `{verdict.signature}`\n"
    )
    yield from classification_report(scores, verdict)
    rivals = [d for d in verdict.differences if d.system == scores.system and d.metric in METRICS]
    if rivals:
        yield "## Against its rivals\n"
        yield from map(_rival, rivals)
        yield ""
    if budget := search_budget(verdict):
        yield "## Search budget\n"
        yield from (f"- {name}: {what}" for name, what in budget.items())
        yield ""
    yield "## Audits\n"
    for audit in verdict.audits:
        yield f"- {'passed' if audit.passed else 'look'}: {audit.name}: {audit.finding}"
    yield "\n## Data\n"
    for name, value in list_facts(context):
        yield f"- {name}: {value}"
    yield f"\n{attribution_of(context)}"


def _members_of(verdict: Verdict, system: str) -> Mapping[str, Any]:
    """Of a blend, its members by name; {} of any other system."""
    found: Mapping[str, Any] = verdict.notes.get("weights", {}).get(system, {}).get("members", {})
    return found


def _rival(found: Difference) -> str:
    return (
        f"- {METRICS[found.metric]}, against {found.rival}: {signed(found.interval)}, "
        f"p = {found.p_value:.4f}, {found.conclusion}"
    )


def _kind(verdict: Verdict) -> str:
    several = "several labels at once" if verdict.kind == "multilabel" else "one label a text"
    return f"{len(verdict.labels)} labels, {several}"


def _level(verdict: Verdict) -> str:
    return f"{verdict.notes['settings']['confidence']:.0%}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """The lines of a mapping as YAML; strings as JSON writes them, which YAML reads."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(inner, indent + "  ")
        elif isinstance(inner, list):
            yield f"{indent}{key}:"
            for item in inner:
                lines = [*_yaml(item)] if isinstance(item, Mapping) else [json.dumps(item)]
                yield f"{indent}- {lines[0]}"
                yield from (f"{indent}  {line}" for line in lines[1:])
        else:
            yield f"{indent}{key}: {json.dumps(inner, ensure_ascii=False)}"
