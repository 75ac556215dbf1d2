"""Why synthetic trials stopped: phrasings by label, in the proportions of real stop reasons.

The labels are those of Open Targets (Razuvayevskaya et al. 2024); `REASONS` carries how often
each occurs among 3,372 human-labelled texts. The phrasings are trialese's own.
"""

from __future__ import annotations

import random

__all__ = ["REASONS", "stop_reason"]

REASONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "Insufficient_Enrollment": (972, (
        "Slow accrual", "Low enrollment", "Poor recruitment", "Slow patient recruitment",
        "Lack of participants", "Inability to recruit enough patients", "Low accrual rate",
        "Only {n} of {m} planned participants were enrolled", "No participants were enrolled",
        "Recruitment was slower than expected", "Difficulty in recruiting {people}",
    )),
    "Business_Administrative": (716, (
        "Sponsor decision", "Business decision", "Lack of funding", "Funding was withdrawn",
        "Company decision to stop development of {drug}", "Strategic portfolio prioritization",
        "Contract between sponsor and site could not be agreed", "Loss of funding",
        "The sponsor was acquired and ended the programme", "Administrative reasons",
    )),
    "Negative": (324, (
        "Lack of efficacy", "Futility", "Interim analysis showed no benefit of {drug}",
        "Primary endpoint was not met", "Insufficient efficacy in the {drug} arm",
        "Stopped for futility after {n} patients", "No difference between groups was observed",
    )),
    "Study_Design": (279, (
        "Change of study design", "Redesign of the protocol", "Change in protocol",
        "The design was no longer feasible", "Awaiting protocol amendment",
        "Eligibility criteria were too strict",
        "Change in standard of care made the design obsolete",
    )),
    "Logistics_Resources": (275, (
        "Drug supply problems", "{drug} no longer available", "Lack of resources",
        "Manufacturing delays of {drug}", "Equipment was out of service", "Lack of study staff",
        "Device not available", "Logistical difficulties at the sites",
    )),
    "Invalid_Reason": (215, (
        "Study was never started", "Study completed", "Study was not initiated", "On hold",
        "Study finished as planned", "Enrollment closed", "Study cancelled before enrolment",
    )),
    "Another_Study": (183, (
        "Results of another trial of {drug} became available", "Replaced by another study",
        "Competing study at the site", "Participants moved to an extension study",
        "Data from a parallel study answered the question", "Merged with another protocol",
    )),
    "Safety_Sideeffects": (182, (
        "Safety concerns", "Adverse events", "Unacceptable toxicity of {drug}",
        "Liver toxicity in {n} patients", "Serious adverse events in the {drug} arm",
        "Increased mortality in the treatment group", "Dose-limiting toxicity",
    )),
    "Covid19": (160, (
        "COVID-19 pandemic", "COVID-19", "Recruitment paused because of COVID-19",
        "Halted due to the coronavirus pandemic", "Site closed owing to SARS-CoV-2 restrictions",
    )),
    "Study_Staff_Moved": (154, (
        "PI left the institution", "Principal investigator moved to another university",
        "The investigator is no longer at this site", "Investigator retired",
        "Departure of the study coordinator",
    )),
    "Regulatory": (97, (
        "IRB approval expired", "FDA requested a clinical hold", "Regulatory authority decision",
        "Approval was not granted by the competent authority", "Regulatory issues",
    )),
    "No_Context": (76, (
        "See detailed description", "Study terminated", "Terminated", "No longer needed",
        "The study was stopped",
    )),
    "Endpoint_Met": (47, (
        "Primary endpoint reached early", "Sufficient number of patients obtained",
        "Target number of events was reached", "Enough data were collected",
    )),
    "Insufficient_Data": (34, (
        "Not enough data for analysis", "Too few evaluable samples",
        "Insufficient data to draw a conclusion",
    )),
    "Interim_Analysis": (27, (
        "Planned interim analysis", "Suspended for interim data review",
        "Pending interim analysis",
    )),
    "Success": (19, (
        "{drug} was clearly superior to control", "Early evidence of benefit", "Drug was approved",
    )),
    "Ethical_Reason": (14, (
        "Ethical concerns", "Ethics committee recommended stopping",
        "No longer ethical to randomize",
    )),
}  # fmt: skip
_OPENINGS = (
    "", "", "", "", "Due to ", "Study terminated due to ", "The study was stopped: ",
    "Terminated early because of ", "Study was closed. Reason: ", "Trial halted; ",
)  # fmt: skip
_ENDINGS = ("", "", "", ".", ".", " (synthetic site {n})", ", as of visit {n}.")
_JOINTS = ("; ", " and ", ". ", ", also ")
_LABELS = tuple(REASONS)
_WEIGHTS = tuple(weight for weight, _ in REASONS.values())
_COVID = _LABELS.index("Covid19")
_WEIGHTS_BEFORE_COVID = tuple(
    0 if index == _COVID else weight for index, weight in enumerate(_WEIGHTS)
)
_SEVERAL_SHARE = 0.12


def stop_reason(
    rng: random.Random, *, stopped_year: int, people: str, drug: str
) -> tuple[str, tuple[str, ...]]:
    """A text that says why a study stopped, and the labels that it means, sorted.

    Covid19 occurs only for studies that stopped in 2020 or later.
    """
    weights = _WEIGHTS if stopped_year >= 2020 else _WEIGHTS_BEFORE_COVID
    labels = rng.choices(_LABELS, weights, k=2 if rng.random() < _SEVERAL_SHARE else 1)
    labels = list(dict.fromkeys(labels))
    parts = [rng.choice(REASONS[label][1]) for label in labels]
    opening = rng.choice(_OPENINGS)
    joined = rng.choice(_JOINTS).join(
        part
        if place == 0 and not opening
        else part[:1].lower() + part[1:]
        if not part.startswith(("COVID", "PI ", "IRB", "FDA", "{"))
        else part
        for place, part in enumerate(parts)
    )
    slots = {"n": rng.randint(1, 60), "m": rng.randint(61, 400), "people": people, "drug": drug}
    text = (opening + joined + rng.choice(_ENDINGS)).format(**slots)
    return text, tuple(sorted(labels))
