"""The task of stop reasons: the 17 classes of Open Targets, several at once.

Labels and their meaning: Razuvayevskaya et al. 2024, "Genetic factors associated with reasons
for clinical trial stoppage", Nature Genetics 56; `opentargets/clinical_trial_reason_to_stop`.
The sentences are written from the label names, none taken from a labelled file: a label with a
dozen texts learns from them what its name says (`tasks.stop_reasons.sentences`). More, many of
them with two reasons or with one that is denied, stand in `sentences/stop-reasons.tsv`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import as_file, files

from trialese.collect.delimited import BadRow
from trialese.collect.tables import read_table
from trialese.corpus.clean import clean_text
from trialese.records import Example, Task, Trial
from trialese.settings import TasksSettings
from trialese.tasks.scorer import OPEN_TARGETS_PRESET
from trialese.tasks.task import TaskDefinition, select_examples

__all__ = [
    "STOP_REASONS",
    "STOP_REASON_DESCRIPTIONS",
    "STOP_REASON_GROUPS",
    "STOP_REASON_SENTENCES",
    "STOP_REASON_WORDS",
    "define",
    "examples_of_trials",
    "written_sentences",
]


STOP_REASONS = Task(
    name="stop-reasons",
    labels=(
        "Another_Study",
        "Business_Administrative",
        "Covid19",
        "Endpoint_Met",
        "Ethical_Reason",
        "Insufficient_Data",
        "Insufficient_Enrollment",
        "Interim_Analysis",
        "Invalid_Reason",
        "Logistics_Resources",
        "Negative",
        "No_Context",
        "Regulatory",
        "Safety_Sideeffects",
        "Study_Design",
        "Study_Staff_Moved",
        "Success",
    ),
    kind="multilabel",
    description="Why a clinical trial was stopped early, from its free-text reason.",
)

STOP_REASON_GROUPS = {
    **dict.fromkeys(STOP_REASONS.labels, "Neutral"),
    "Business_Administrative": "Suspicious",
    "Negative": "Negative",
    "Safety_Sideeffects": "Safety",
    "Success": "Success",
    "Invalid_Reason": "Invalid",
}
"""Label -> Open Targets' coarser group: the column `meta` of github.com/opentargets/stopReasons,
data/classes.csv at 50b31efd. (Their prediction code of 2021 calls Suspicious "Possibly_Negative"
and has No_Context among the invalid ones.)"""

STOP_REASON_WORDS: dict[str, tuple[str, ...]] = {
    "Another_Study": ("another study", "other study", "new study", "new protocol", "replaced"),
    "Business_Administrative": ("sponsor", "business", "funding", "company", "strategic"),
    "Covid19": ("covid", "coronavirus", "pandemic", "sars-cov-2"),
    "Endpoint_Met": ("endpoint met", "endpoint was met", "objective met", "objectives were met"),
    "Ethical_Reason": ("ethic", "irb", "unethical"),
    "Insufficient_Data": ("insufficient data", "not enough data", "lack of data"),
    "Insufficient_Enrollment": ("enrol", "recruit", "accrual", "no participants", "no patients"),
    "Interim_Analysis": ("interim", "dsmb", "dmc"),
    "Invalid_Reason": ("completed", "ongoing", "see ", "withdrew", "pi decision"),
    "Logistics_Resources": ("resource", "logistic", "staff", "supply", "availability"),
    "Negative": ("efficacy", "futility", "no benefit", "ineffective", "negative result"),
    "No_Context": ("terminated", "withdrawn", "stopped", "discontinued"),
    "Regulatory": ("fda", "regulatory", "approval", "authority", "license"),
    "Safety_Sideeffects": ("safety", "adverse", "toxic", "side effect", "risk"),
    "Study_Design": ("design", "protocol", "feasib", "inclusion criteria", "methodolog"),
    "Study_Staff_Moved": (
        "pi left",
        "investigator left",
        "left the",
        "moved",
        "leaving",
        "relocat",
    ),
    "Success": ("success", "superior", "positive result", "effective treatment"),
}
"""For the `keywords` baseline: a label is given where one of its words stands. Written from the
label names and Open Targets' descriptions, before any score was looked at."""


# Written from the label names, and none is taken from a labelled file: a label with a dozen texts
# learns from them what its name says (`tasks.stop_reasons.sentences`).
STOP_REASON_SENTENCES: dict[str, tuple[str, ...]] = {
    "Another_Study": (
        "The study was replaced by another study.",
        "Superseded by a newer protocol.",
        "Merged into a follow-up trial.",
        "Patients will be enrolled in a different trial of the same drug.",
    ),
    "Business_Administrative": (
        "Sponsor's business decision.",
        "Funding was withdrawn.",
        "Company strategy changed; portfolio prioritisation.",
        "Administrative reasons.",
        "The contract between sponsor and institution ended.",
    ),
    "Covid19": (
        "Stopped because of the COVID-19 pandemic.",
        "SARS-CoV-2 restrictions made visits impossible.",
    ),
    "Endpoint_Met": (
        "The study endpoint was met.",
        "Primary objective achieved.",
        "Objectives of the study were reached with fewer patients.",
        "The primary outcome was attained early, no need to enrol more.",
        "Study goals have been accomplished.",
        "Target was reached before the planned end.",
        "The required number of events occurred.",
        "Maximum tolerated dose was determined, study objective met.",
    ),
    "Ethical_Reason": (
        "Ethical reasons.",
        "Ethical concerns about the placebo group.",
        "The ethics committee considered it unethical to continue.",
        "It was no longer ethical to randomise patients to the control arm.",
        "Ethics committee withdrew its approval.",
        "Continuing would be unethical.",
        "The IRB had ethical objections.",
        "Not ethically justified to withhold treatment.",
    ),
    "Insufficient_Data": (
        "Insufficient data.",
        "Not enough data for a meaningful analysis.",
        "Too few data were collected to draw conclusions.",
        "Lack of data prevented evaluation of the outcome.",
        "Data were incomplete and could not be analysed.",
        "Missing data.",
        "The number of evaluable samples was too low for analysis.",
        "No data were collected.",
    ),
    "Insufficient_Enrollment": (
        "Slow accrual.",
        "Low recruitment, too few participants enrolled.",
    ),
    "Interim_Analysis": (
        "Interim analysis.",
        "Stopped after the planned interim analysis.",
        "Decision based on the results of an interim analysis.",
        "The data monitoring committee recommended stopping after the interim look.",
        "Interim results were reviewed and the study was ended.",
        "Stopped on the recommendation of the DSMB.",
        "Planned interim review of the data.",
        "Terminated following interim evaluation.",
    ),
    "Invalid_Reason": (
        "The study has been completed.",
        "The study is still ongoing.",
        "Participants are being followed up.",
        "See the publication for details.",
        "Recruitment is complete, follow-up continues.",
    ),
    "Logistics_Resources": (
        "Logistical problems.",
        "Lack of resources.",
        "The device was not available.",
        "Shortage of study staff.",
        "Drug supply problems.",
    ),
    "Negative": (
        "Lack of efficacy.",
        "Futility: no difference from placebo.",
        "The drug was ineffective.",
    ),
    "No_Context": (
        "Terminated.",
        "Study withdrawn.",
        "The study was stopped early.",
        "The investigator decided to end the study.",
        "Cancelled.",
        "Study never started.",
        "Discontinued.",
        "Unknown reason.",
    ),
    "Regulatory": (
        "Regulatory reasons.",
        "Requested by the FDA.",
        "Approval by the health authority was not obtained.",
        "The drug was approved and is now marketed.",
        "The IRB approval expired.",
        "Marketing authorisation was withdrawn.",
    ),
    "Safety_Sideeffects": (
        "Safety concerns.",
        "Serious adverse events.",
        "Unacceptable toxicity.",
    ),
    "Study_Design": (
        "The study design was changed.",
        "The protocol was not feasible.",
        "Flaws in the study design.",
        "Inclusion criteria were too strict.",
    ),
    "Study_Staff_Moved": (
        "The principal investigator left the institution.",
        "The PI moved to another hospital.",
        "The investigator retired.",
    ),
    "Success": (
        "Success.",
        "The treatment proved superior to control.",
        "Early success: the drug was effective.",
        "Efficacy was demonstrated, stopped early for benefit.",
        "Positive results made continuation unnecessary.",
        "Significant benefit in the treatment group.",
        "The trial stopped early because the treatment worked.",
        "Overwhelming efficacy.",
    ),
}


STOP_REASON_DESCRIPTIONS: dict[str, str] = {
    "Another_Study": "Another study takes its place, or it went into one.",
    "Business_Administrative": "Decision of the sponsor, money, contracts or administration.",
    "Covid19": "The COVID-19 pandemic or what was ordered against it.",
    "Endpoint_Met": "What the trial was to show or to reach had been reached.",
    "Ethical_Reason": "Going on would not have been ethical, or an ethics committee said so.",
    "Insufficient_Data": "Too few data, or data that cannot be analysed.",
    "Insufficient_Enrollment": "Too few participants, or they came too slowly.",
    "Interim_Analysis": "A look at the data before the planned end led to it.",
    "Invalid_Reason": "The words give no reason for stopping, such as a trial that goes on.",
    "Logistics_Resources": "Staff, drug supply, devices or other resources were lacking.",
    "Negative": "The treatment did not work, or would not have been shown to.",
    "No_Context": "It says that the trial was stopped, but not why.",
    "Regulatory": "An authority, or an approval that was given, refused or had ended.",
    "Safety_Sideeffects": "Side effects or other danger to participants.",
    "Study_Design": "The design or the protocol was changed or did not work.",
    "Study_Staff_Moved": "The investigator or other staff left.",
    "Success": "The treatment was shown to work before the planned end.",
}


@cache
def written_sentences() -> Mapping[str, tuple[str, ...]]:
    """Labels, several joined by `|` -> every sentence written for them, `STOP_REASON_SENTENCES`
    first; read once."""
    found = {label: list(texts) for label, texts in STOP_REASON_SENTENCES.items()}
    with as_file(files("trialese.tasks") / "sentences" / f"{STOP_REASONS.name}.tsv") as table:
        for row in read_table(table, wanted=("labels", "text")):
            assert not isinstance(row, BadRow), row  # the table is our own
            found.setdefault(str(row.cells["labels"]), []).append(str(row.cells["text"]))
    return {labels: tuple(texts) for labels, texts in found.items()}


def define(settings: TasksSettings) -> TaskDefinition:
    """The task as the recipe wants it."""
    section = settings.stop_reasons
    return TaskDefinition(
        task=STOP_REASONS,
        section=section,
        read_trials=lambda trials, dropped: select_examples(
            examples_of_trials(trials, dropped), section.max_trials, dropped
        ),
        keywords=STOP_REASON_WORDS,
        sentences=written_sentences(),
        descriptions=STOP_REASON_DESCRIPTIONS,
        groups=STOP_REASON_GROUPS,
        preset=OPEN_TARGETS_PRESET,
        tokens_a_text=12,  # measured on 3,372 human-labelled reasons
        labelled_share=0.4,
    )


def examples_of_trials(trials: Iterable[Trial], dropped: dict[str, int]) -> list[Example]:
    """One example a stopped synthetic trial, with the labels that its grammar meant.

    Real trials carry no such labels and are dropped, as are trials without a reason; both are
    counted in `dropped`.
    """
    examples = []
    for trial in trials:
        text = clean_text(trial.why_stopped)
        if not text:
            dropped["no_stop_reason"] = dropped.get("no_stop_reason", 0) + 1
        elif not trial.synthetic_stop_reasons:
            dropped["unlabelled"] = dropped.get("unlabelled", 0) + 1
        else:
            examples.append(Example(trial.nct_id, text, trial.synthetic_stop_reasons))
    return examples
