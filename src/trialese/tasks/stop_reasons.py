"""Why a trial stopped: the 17 classes of Open Targets, several at once.

Labels and their meaning: Razuvayevskaya et al. 2024, "Genetic factors associated with reasons
for clinical trial stoppage", Nature Genetics 56; `opentargets/clinical_trial_reason_to_stop`.
"""

from __future__ import annotations

from collections.abc import Iterable

from trialese.records import Example, Task, Trial

__all__ = ["STOP_REASONS", "STOP_REASON_GROUPS", "STOP_REASON_WORDS", "examples_of_trials"]

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


def examples_of_trials(trials: Iterable[Trial], dropped: dict[str, int]) -> list[Example]:
    """One example a stopped synthetic trial, with the labels that its grammar meant.

    Real trials carry no such labels and are dropped, as are trials without a reason; both are
    counted in `dropped`.
    """
    from trialese.corpus import clean_text

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
