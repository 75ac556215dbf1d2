"""Rendering of a trial as the document that a model reads: chosen fields, each under its name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from trialese.corpus.clean import clean_text, clean_text_published, starts_with_item
from trialese.errors import RecipeError
from trialese.records import Document, Trial
from trialese.settings import RenderSettings

__all__ = ["check_fields", "render_document"]

_FIELDS: Final = frozenset(field.name for field in msgspec.structs.fields(Trial))
_MARKERS: Final = {
    "brief_title": "Title",
    "official_title": "Official title",
    "brief_summary": "Summary",
    "detailed_description": "Description",
    "why_stopped": "Why stopped",
}
"""Section names; a field that is not here is called by its own name: "Eligibility criteria"."""
_SAID_AS: Final = {
    "sex": "sex|gender|sexes eligible for study|genders eligible for study",
    "gender_based": "gender[- ]based(?: eligibility)?",
    "healthy_volunteers": "(?:accepts )?healthy volunteers",
    "overall_status": "(?:overall |recruitment )?status",
    "minimum_age": "minimum age|ages? eligible for study",
    "maximum_age": "maximum age",
}
"""How a coded field is named where a text repeats it as "name: value"."""
_FEWEST_CUT_CHARACTERS = 12
"""Verbatim repeats shorter than this are words of the language, not copies of a field."""


def render_document(trial: Trial, settings: RenderSettings) -> Document:
    """The trial's document: sections apart by a blank line, empty fields left out.

    A field whose text an earlier section has already said word for word is left out as well: a
    masked token could be read off its copy. Withheld fields are never rendered; see
    `RenderSettings.withhold`.

    Raises:
        RecipeError: `settings` name a field that trials do not have.
    """
    check_fields(settings)
    clean = clean_text if settings.cleaning == "faithful" else clean_text_published
    cuts = tuple(_cuts(trial, settings))
    sections: list[str] = []
    said: set[str] = set()
    for field in settings.fields:
        if field in settings.withhold:
            continue
        text = clean(_as_text(getattr(trial, field)))
        for cut in cuts:
            text, found = cut.subn(" ", text)
            text = clean(text) if found else text
        if not text.strip() or text in said:
            continue
        said.add(text)
        sections.append(_under_marker(field, text) if settings.markers else text)
    return Document(trial.nct_id, "\n\n".join(sections))


def check_fields(settings: RenderSettings) -> None:
    """Refuse names of fields that trials do not have (RecipeError, with the nearest right one)."""
    for key, names in (("fields", settings.fields), ("withhold", settings.withhold)):
        for name in names:
            if name not in _FIELDS or name.startswith("synthetic"):
                near = difflib.get_close_matches(name, _FIELDS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise RecipeError(f"corpus.render.{key}: a trial has no field {name!r}{hint}")


def _under_marker(field: str, text: str) -> str:
    name = _MARKERS.get(field) or field.replace("_", " ").capitalize()
    if "\n" not in text:
        return f"{name}: {text}"
    return f"{name}:\n{text}" if starts_with_item(text) else f"{name}:\n\n{text}"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return "; ".join(value)
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return "" if value is None else str(value)


def _cuts(trial: Trial, settings: RenderSettings) -> Iterator[re.Pattern[str]]:
    """What to cut out of every section: verbatim copies of withheld texts, "sex: male" of codes."""
    for field in settings.withhold:
        value = getattr(trial, field)
        for text in value if isinstance(value, tuple) else (value,):
            words = clean_text(_as_text(text)).split()
            if isinstance(text, str) and sum(map(len, words)) >= _FEWEST_CUT_CHARACTERS:
                flexible = r"\s+".join(map(re.escape, words))
                yield re.compile(rf"(?<!\w){flexible}(?!\w)", re.IGNORECASE)
        if field in _SAID_AS:
            yield re.compile(rf"\b(?:{_SAID_AS[field]})\s*[:=]\s*[^\n.;]*[.;]?", re.IGNORECASE)
