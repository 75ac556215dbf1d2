"""The synthetic source: made-up studies in the shape of API v2, marked as such.

Study i is a pure function of (seed, i), so any number streams without being held. Each carries
`"synthetic": true`, the organisation "trialese synthetic sample" and an NCT number in the range
NCT90000000-NCT99999999, which the registry is decades from reaching.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from trialese.collect.sample_grammar import SITES, SPONSORS, Condition
from trialese.collect.sample_reasons import stop_reason
from trialese.collect.sample_text import (
    Plan,
    make_plan,
    tell_criteria,
    tell_details,
    tell_summary,
    tell_titles,
)
from trialese.collect.source import RawStudy, Reject, SourceFacts
from trialese.errors import RecipeError
from trialese.settings import SampleSettings

__all__ = ["ORGANISATION", "SampleSource", "sample_study"]

ORGANISATION = "trialese synthetic sample"
MAX_STUDIES = 10_000_000
STOPPED_SHARE = 0.40
REPEATED_SHARE = 0.03
_STOPPED = ("TERMINATED", "WITHDRAWN", "SUSPENDED")
_RUNNING = ("COMPLETED", "COMPLETED", "RECRUITING", "ACTIVE_NOT_RECRUITING", "UNKNOWN")


class SampleSource:
    """Synthetic studies, as many as the settings say, between their dates."""

    def __init__(self, settings: SampleSettings) -> None:
        if not 0 < settings.studies <= MAX_STUDIES:
            raise RecipeError(
                f"collect.sample.studies: {settings.studies:,} is not in 1 .. {MAX_STUDIES:,}"
            )
        try:
            first, last = (
                date.fromisoformat(text) for text in (settings.from_date, settings.to_date)
            )
        except ValueError as error:
            raise RecipeError(f"collect.sample: dates are YYYY-MM-DD ({error})") from error
        if first > last:
            raise RecipeError("collect.sample: from_date is after to_date; swap them")
        self._settings = settings
        self.total: int | None = settings.studies

    def studies(self) -> Iterator[RawStudy | Reject]:
        for index in range(self._settings.studies):
            yield RawStudy(f"sample:{index}", "v2", sample_study(self._settings, index))

    def parts(self) -> Iterator[Iterator[RawStudy | Reject]]:
        yield self.studies()

    def facts(self) -> SourceFacts:
        return SourceFacts(name="sample")

    def close(self) -> None:
        """Nothing is kept."""


def sample_study(settings: SampleSettings, index: int) -> dict[str, Any]:
    """Synthetic study number `index` as API v2 gives a study; equal for equal arguments."""
    told = index
    rng = random.Random(f"{settings.seed}:{index}")
    if index > 0 and rng.random() < REPEATED_SHARE:
        # A sponsor registers nearly the same protocol again: the text of an earlier study.
        told = rng.randrange(max(0, index - 1000), index)
    study = _told(settings, random.Random(f"{settings.seed}:{told}:text"))
    identity = study["protocolSection"]["identificationModule"]
    identity["nctId"] = f"NCT{90_000_000 + index}"
    identity["orgStudyIdInfo"] = {"id": f"SYN-{settings.seed}-{index:07d}"}
    if told != index:
        identity["briefTitle"] += " (Second Cohort)"
    return study


def _told(settings: SampleSettings, rng: random.Random) -> dict[str, Any]:
    """The study without its identifiers."""
    plan = make_plan(settings, rng)
    condition, drug = plan.condition, plan.drug
    brief, official = tell_titles(rng, plan)
    identity: dict[str, Any] = {
        "organization": {"fullName": ORGANISATION, "class": "OTHER"},
        "briefTitle": brief,
    }
    if rng.random() < 0.93:
        identity["officialTitle"] = official
    status, labels = _status(rng, plan)
    description = {"briefSummary": tell_summary(rng, plan)}
    if rng.random() < 0.7:
        description["detailedDescription"] = tell_details(rng, plan)
    conditions: dict[str, Any] = {"conditions": [condition.name]}
    if rng.random() < 0.6:
        conditions["keywords"] = [condition.area, drug]
    names = (drug, plan.control)[: 2 if plan.arms > 1 else 1]
    outcome = {
        "measure": condition.endpoint[:1].upper() + condition.endpoint[1:],
        "timeFrame": f"{plan.weeks} weeks",
    }
    protocol = {
        "identificationModule": identity,
        "statusModule": status,
        "sponsorCollaboratorsModule": {"leadSponsor": {"name": rng.choice(SPONSORS)}},
        "descriptionModule": description,
        "conditionsModule": conditions,
        "designModule": _design(rng, plan),
        "armsInterventionsModule": {
            "interventions": [{"type": "DRUG", "name": name} for name in names]
        },
        "outcomesModule": {"primaryOutcomes": [outcome]},
        "eligibilityModule": _eligibility(rng, condition, drug),
        "contactsLocationsModule": {"locations": _locations(rng)},
    }
    return {
        "protocolSection": protocol,
        "hasResults": False,
        "synthetic": True,
        "syntheticStopReasons": list(labels),
    }


def _design(rng: random.Random, plan: Plan) -> dict[str, Any]:
    info: dict[str, Any] = {"primaryPurpose": rng.choice(("TREATMENT", "TREATMENT", "PREVENTION"))}
    design: dict[str, Any] = {
        "studyType": "OBSERVATIONAL",
        "designInfo": info,
        "enrollmentInfo": {"count": plan.participants, "type": "ESTIMATED"},
    }
    if plan.interventional:
        design["studyType"] = "INTERVENTIONAL"
        design["phases"] = list(plan.phases)
        info["allocation"] = "RANDOMIZED" if plan.arms > 1 else "NA"
        info["interventionModel"] = "PARALLEL" if plan.arms > 1 else "SINGLE_GROUP"
        info["maskingInfo"] = {"masking": plan.masking}
    return design


def _eligibility(rng: random.Random, condition: Condition, drug: str) -> dict[str, Any]:
    sex, cue = _sex(rng, condition)
    eligibility: dict[str, Any] = {
        "eligibilityCriteria": tell_criteria(rng, condition, drug, cue),
        "healthyVolunteers": condition.area == "infection" and rng.random() < 0.3,
        "minimumAge": "18 Years",
    }
    if sex is not None:
        eligibility["sex"] = sex
    if rng.random() < 0.5:
        eligibility["maximumAge"] = f"{rng.choice((55, 65, 75, 80, 85))} Years"
    return eligibility


def _sex(rng: random.Random, condition: Condition) -> tuple[str | None, str]:
    """The field's value (None: not given) and the sex that the criteria speak of."""
    cue = condition.sex
    if cue == "ALL":
        cue = rng.choices(("ALL", "FEMALE", "MALE"), (84, 9, 7))[0]
    field = cue if rng.random() > 0.03 else "ALL"  # registrants forget to set it
    return (None if rng.random() < 0.015 else field), cue


def _status(rng: random.Random, plan: Plan) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The status module, and the labels of the reason for stopping if the study stopped."""
    posted = plan.posted
    updated = posted + timedelta(days=rng.randint(30, 900))
    start = posted + timedelta(days=rng.randint(-60, 90))
    status: dict[str, Any] = {
        "startDateStruct": {"date": start.isoformat()[: rng.choice((7, 10))]},
        "completionDateStruct": {"date": updated.isoformat()[:7]},
        "studyFirstPostDateStruct": {"date": posted.isoformat(), "type": "ACTUAL"},
        "lastUpdatePostDateStruct": {"date": updated.isoformat(), "type": "ACTUAL"},
    }
    if rng.random() >= STOPPED_SHARE:
        status["overallStatus"] = rng.choice(_RUNNING)
        return status, ()
    status["overallStatus"] = rng.choices(_STOPPED, (70, 25, 5))[0]
    text, labels = stop_reason(
        rng, stopped_year=updated.year, people=plan.condition.people, drug=plan.drug
    )
    status["whyStopped"] = text
    return status, labels


def _locations(rng: random.Random) -> list[dict[str, str]]:
    sites = min(int(rng.lognormvariate(1.2, 1.3)) + 1, 400)
    return [
        {
            "facility": f"Synthetic Site {rng.randrange(10_000):04d}",
            "status": "COMPLETED",
            "city": city,
            "country": country,
        }
        for city, country in rng.choices(SITES, k=sites)
    ]
