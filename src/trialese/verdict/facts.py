"""What is known of the data behind a verdict, as lines of a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["ATTRIBUTION", "attribution_of", "list_facts"]

ATTRIBUTION = (
    "Registry text: courtesy of the U.S. National Library of Medicine (ClinicalTrials.gov). "
    "It may not be current, and the Library does not endorse this work."
)
_SHOWN_ELSEWHERE = ("attribution", "recipe", "synthetic")
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
    else:
        yield name, "not known" if value is None else str(value)
