"""Who may enrol: All, Female or Male, read from the text with the answering fields withheld."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trialese.records import Example, Task, Trial
from trialese.settings import RenderSettings, SexSettings, TasksSettings
from trialese.tasks.task import TaskDefinition, examples_of_field

__all__ = [
    "SEX",
    "SEX_DESCRIPTIONS",
    "SEX_WORDS",
    "WITHHELD",
    "cut_sex_words",
    "define",
    "examples_of_trials",
    "render_settings",
    "task_for",
]

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

SEX_DESCRIPTIONS: dict[str, str] = {
    "All": "Anybody may enrol, whatever their sex.",
    "Female": "Only women and girls may enrol.",
    "Male": "Only men and boys may enrol.",
}

_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_SAYS_SEX = re.compile(
    r"\b(?:wom[ae]n|m[ae]n|fe?males?|males?|girls?|boys?|ladies|gentlemen|mothers?|fathers?|"
    r"maternal|paternal|pregnan\w*|lactat\w*|nursing|breast-?feeding|contracepti\w*|"
    r"child-?bearing|gender|sex|sexes|her|his|she|he)\b",
    re.IGNORECASE,
)


def define(settings: TasksSettings) -> TaskDefinition:
    """The task as the recipe wants it."""
    section = settings.sex
    return TaskDefinition(
        task=task_for(section),
        section=section,
        read_trials=lambda trials, dropped: examples_of_trials(trials, section, dropped),
        fields=section.fields,
        withhold=WITHHELD,
        without_sex_words=section.without_sex_words,
        missing_label="None",
        keywords=SEX_WORDS,
        descriptions=SEX_DESCRIPTIONS,
    )


def task_for(settings: SexSettings) -> Task:
    """The task, with the label "None" for trials without the field if the recipe says so."""
    if settings.missing == "drop":
        return SEX
    return Task(SEX.name, (*SEX.labels, "None"), SEX.kind, SEX.description)


def render_settings(settings: SexSettings) -> RenderSettings:
    """How a trial is rendered for this task: the recipe's fields, the answer withheld."""
    return RenderSettings(fields=settings.fields, withhold=WITHHELD)


def cut_sex_words(text: str) -> str:
    """The text without the sentences and lines that say women, men, pregnant, ..."""
    lines = []
    for line in text.split("\n"):
        kept = [part for part in _SENTENCE.split(line) if not _SAYS_SEX.search(part)]
        if kept or not line.strip():
            lines.append(" ".join(kept))
    return "\n".join(lines).strip()


def examples_of_trials(
    trials: Iterable[Trial], settings: SexSettings, dropped: dict[str, int]
) -> list[Example]:
    """One example a trial: its rendered text and its sex, ordered by nct_id.

    Trials without the field are dropped or labelled "None" as the settings say; see
    `task.examples_of_field`.
    """
    return examples_of_field(
        trials,
        task_for(settings),
        "sex",
        render_settings(settings),
        dropped,
        missing_label="None" if settings.missing == "label" else None,
        edit=cut_sex_words if settings.without_sex_words else str,
        max_trials=settings.max_trials,
    )
