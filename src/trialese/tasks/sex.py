"""Who may enrol: All, Female or Male, read from the text with the answering fields withheld."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

from trialese.records import Example, Task, Trial
from trialese.settings import RenderSettings, SexSettings

__all__ = ["SEX", "SEX_WORDS", "WITHHELD", "examples_of_trials", "render_settings", "task_for"]

SEX = Task(
    name="sex",
    labels=("All", "Female", "Male"),
    kind="multiclass",
    description="The sex of the people who may enrol, from the trial's text.",
)

WITHHELD = ("sex", "gender_based", "gender_description")
"""The structured fields that state the answer."""

SEX_WORDS: dict[str, tuple[str, ...]] = {
    "Female": (
        "women", "woman", "female", "pregnan", "breast", "ovar", "cervi", "uter", "endometri",
        "menopaus", "vagin", "maternal", "labor", "labour", "obstetric", "contracept",
    ),
    "Male": (
        " men ", "male patients", "prostat", "testic", "erectile", "hypogonad", "testosterone",
        "sperm", "penile", "vasectom",
    ),
}  # fmt: skip
"""For the `keywords` baseline: the label whose words stand most often, else All."""


def task_for(settings: SexSettings) -> Task:
    """The task, with the label "None" for trials without the field if the recipe says so."""
    if settings.missing == "drop":
        return SEX
    return Task(SEX.name, (*SEX.labels, "None"), SEX.kind, SEX.description)


def render_settings(settings: SexSettings) -> RenderSettings:
    """How a trial is rendered for this task: the recipe's fields, the answer withheld."""
    return RenderSettings(fields=settings.fields, withhold=WITHHELD)


def examples_of_trials(
    trials: Iterable[Trial], settings: SexSettings, dropped: dict[str, int]
) -> list[Example]:
    """One example a trial: its rendered text and its sex, ordered by nct_id.

    Trials without the field are dropped or labelled "None" as the settings say; with
    `max_trials`, those with the smallest hashes of their ids are kept. `dropped` counts by reason.
    """
    from trialese.corpus import render_document

    render = render_settings(settings)

    def usable() -> Iterable[Example]:
        for trial in trials:
            if trial.sex is None and settings.missing == "drop":
                dropped["no_sex"] = dropped.get("no_sex", 0) + 1
                continue
            text = render_document(trial, render).text
            if not text:
                dropped["no_text"] = dropped.get("no_text", 0) + 1
                continue
            yield Example(trial.nct_id, text, (trial.sex or "None",))

    if settings.max_trials is None:
        chosen = list(usable())
    else:
        seen = 0

        def counted() -> Iterable[tuple[str, str, Example]]:
            nonlocal seen
            for example in usable():
                seen += 1
                yield _hash(example.example_id), example.example_id, example

        chosen = [entry[2] for entry in heapq.nsmallest(settings.max_trials, counted())]
        if seen > len(chosen):
            dropped["beyond_max_trials"] = seen - len(chosen)
    return sorted(chosen, key=lambda example: example.example_id)


def _hash(nct_id: str) -> str:
    return hashlib.sha256(f"sex|{nct_id}".encode()).hexdigest()
