"""What is searched for, and the SQL that it means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Query", "all_of", "conditions_of", "match_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is searched for; every filter that is given must hold."""

    words: str = ""
    phase: str | None = None
    """One of the phases of a trial, such as PHASE2; "" for none."""
    sex: str | None = None
    status: str | None = None
    year_from: int | None = None
    year_to: int | None = None
    """Years of first posting."""
    model: str = ""
    """Digest of the model that `label` is predicted by."""
    label: str | None = None
    """A predicted label; "" for texts that were read and got none."""


def match_of(words: str) -> str:
    """The words as an FTS5 query: all must stand there, "quoted" ones next to one another.

    A last word that is still being typed matches longer ones; -word must not stand there.
    """
    wanted: list[tuple[str, bool]] = []
    unwanted: list[str] = []
    for minus, phrase, word in re.findall(r'(-?)(?:"([^"]*)"?|([^\s"]+))', words):
        text = (phrase or word).replace('"', " ").replace("\0", " ").strip()
        if not re.search(r"\w", text):
            continue
        if minus:
            unwanted.append(f'"{text}"')
        else:
            wanted.append((f'"{text}"', bool(word)))
    if not wanted:
        return ""
    terms = [term for term, _ in wanted]
    if wanted[-1][1] and not unwanted and re.search(r"\w$", words):
        terms[-1] += "*"
    return " AND ".join(terms) + "".join(f" NOT {term}" for term in unwanted)


def conditions_of(query: Query) -> tuple[list[str], dict[str, object]]:
    """Conditions of SQL for the filters, and their values."""
    where, values = [], dict[str, object]()
    if query.phase is not None:
        where.append("'|' || trials.phases || '|' LIKE '%|' || :phase || '|%'")
        values["phase"] = query.phase
    for name in ("sex", "status"):
        if getattr(query, name) is not None:
            where.append(f"trials.{name} = :{name}")
            values[name] = getattr(query, name)
    for name, sign in (("year_from", ">="), ("year_to", "<=")):
        if getattr(query, name) is not None:
            where.append(f"trials.year {sign} :{name}")
            values[name] = getattr(query, name)
    if query.label is not None:
        where.append(
            "trials.place IN (SELECT place FROM predicted WHERE model = :by AND label = :label)"
        )
        values |= {"by": query.model, "label": query.label}
    return where, values


def all_of(conditions: Iterable[str]) -> str:
    """SQL that holds where every one of them does."""
    return " AND ".join(conditions) or "1"
