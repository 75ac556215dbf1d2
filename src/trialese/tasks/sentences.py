"""Sentences written by hand for each label: what its name means, as a registry would say it.

Written from the label names, and none is taken from a labelled file: a label with a dozen texts
learns from them what its name says (`tasks.stop_reasons.sentences`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trialese.records import Example, Task
from trialese.settings import DedupSettings

__all__ = ["STOP_REASON_SENTENCES", "sentence_examples"]

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
        "The drug did not work.",
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


def sentence_examples(
    task: Task, labelled: Sequence[Example], dedup: DedupSettings, *, times: int
) -> list[Example]:
    """Each label's sentences, `times` over, to be learnt beside labelled texts; never scored.

    A sentence that is equal or nearly equal to a labelled text is left out, so that no text is
    judged that stood among them. A task that has none gets an empty list.
    """
    if not times or task.name != "stop-reasons":
        return []
    from trialese.corpus import cluster_texts

    written = {
        f"sentence {label} {place}": Example("", text, (label,))
        for label, texts in STOP_REASON_SENTENCES.items()
        for place, text in enumerate(texts)
    }
    texts = [(f"text {text.example_id}", text.text) for text in labelled]
    clusters = cluster_texts([*texts, *((n, e.text) for n, e in written.items())], dedup)
    taken = {clusters[name] for name, _ in texts}
    return [
        replace(sentence, example_id=f"{name} {time}", cluster=name)
        for time in range(times)
        for name, sentence in written.items()
        if clusters[name] not in taken
    ]
