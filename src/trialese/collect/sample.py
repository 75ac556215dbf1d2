"""The synthetic source: made-up studies in the shape of API v2, marked as such.

Their vocabulary stands in `sample.toml`. Study i is a pure function of (seed, i), so any number
streams without being held. Each carries `"synthetic": true`, the organisation "trialese synthetic
sample" and an NCT number in the range NCT90000000-NCT99999999, which the registry is decades from
reaching.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trialese.collect.source import RawStudy, Reject, SourceFacts
from trialese.errors import RecipeError
from trialese.settings import SampleSettings

__all__ = [
    "ORGANISATION",
    "REASONS",
    "Condition",
    "Plan",
    "Reason",
    "SampleSource",
    "make_plan",
    "sample_study",
    "stop_reason",
    "tell_criteria",
    "tell_details",
    "tell_summary",
    "tell_titles",
]


class Condition(NamedTuple):
    """A condition, the sex that it admits, and what its studies measure."""

    name: str
    people: str
    area: str
    endpoint: str
    sex: str


class Reason(msgspec.Struct, frozen=True):
    """Phrasings of one stop reason, and how often it occurs among real ones."""

    weight: int
    texts: tuple[str, ...]


class _Words(msgspec.Struct, frozen=True):
    new_from: str
    drugs: tuple[str, ...]
    new_drugs: tuple[str, ...]
    sponsors: tuple[str, ...]
    sites: tuple[tuple[str, str], ...]
    general_inclusions: tuple[str, ...]
    female_inclusions: tuple[str, ...]
    male_inclusions: tuple[str, ...]
    female_exclusions: tuple[str, ...]
    exclusions: tuple[str, ...]
    reason_openings: tuple[str, ...]
    reason_endings: tuple[str, ...]
    reason_joints: tuple[str, ...]
    conditions: tuple[Condition, ...]
    new_conditions: tuple[Condition, ...]
    reasons: dict[str, Reason]


_WORDS = msgspec.toml.decode(
    Path(__file__).with_name("sample.toml").read_text(encoding="utf-8"), type=_Words
)
_NEW_DAY = date.fromisoformat(_WORDS.new_from)
REASONS = _WORDS.reasons  # by label of Open Targets
_LABELS = tuple(REASONS)
_WEIGHTS = tuple(reason.weight for reason in REASONS.values())
_COVID = _LABELS.index("Covid19")
_WEIGHTS_BEFORE_COVID = tuple(
    0 if index == _COVID else weight for index, weight in enumerate(_WEIGHTS)
)
_SEVERAL_SHARE = 0.12

NEW_SHARE = 0.75
_PHASES = (("PHASE1",), ("PHASE2",), ("PHASE2",), ("PHASE3",), ("PHASE4",), ("NA",),
           ("PHASE1", "PHASE2"), ("PHASE2", "PHASE3"))  # fmt: skip


class Plan(NamedTuple):
    """What a study is about, before it is told."""

    posted: date
    condition: Condition
    drug: str
    control: str
    interventional: bool
    phases: tuple[str, ...]
    arms: int
    masking: str
    weeks: int
    participants: int

    @property
    def title_drug(self) -> str:
        """The drug with a capital, as a sentence begins."""
        return self.drug[:1].upper() + self.drug[1:]


def make_plan(settings: SampleSettings, rng: random.Random) -> Plan:
    """A study posted between the settings' dates; new drugs and conditions only in newer ones."""
    first = date.fromisoformat(settings.from_date)
    days = (date.fromisoformat(settings.to_date) - first).days
    posted = first + timedelta(days=rng.randint(0, days))
    is_new = posted >= _NEW_DAY
    return Plan(
        posted=posted,
        condition=rng.choice(
            _WORDS.new_conditions if is_new and rng.random() < 0.25 else _WORDS.conditions
        ),
        drug=rng.choice(_WORDS.new_drugs if is_new and rng.random() < NEW_SHARE else _WORDS.drugs),
        control=rng.choice(("placebo", "standard of care", "usual care", rng.choice(_WORDS.drugs))),
        interventional=rng.random() < 0.85,
        phases=rng.choice(_PHASES),
        arms=rng.choice((1, 2, 2, 3)),
        masking=rng.choice(("NONE", "NONE", "SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")),
        weeks=rng.choice((4, 8, 12, 24, 26, 48, 52, 104)),
        participants=rng.choice((12, 20, 30, 40, 60, 80, 120, 200, 360, 600, 1200)),
    )


def tell_titles(rng: random.Random, plan: Plan) -> tuple[str, str]:
    """Brief and official title."""
    name, condition = plan.title_drug, plan.condition
    people = condition.people.title()
    if not plan.interventional:
        brief = f"Real-World Use of {name} in {condition.name}"
        return brief, f"An Observational Cohort Study of {name} Among {people}"
    control = plan.control.title()
    brief = rng.choice((
        f"{name} for {condition.name}",
        f"Efficacy of {name} Versus {control} in {condition.name}",
        f"A Study of {name} in {people}",
        f"Safety and Efficacy of {name} in {condition.name}",
    ))  # fmt: skip
    number = "/".join(phase.removeprefix("PHASE") for phase in plan.phases if phase != "NA")
    stage = f"A Phase {number}" if number else "A"
    blind = {"NONE": "Open-Label", "SINGLE": "Single-Blind"}.get(plan.masking, "Double-Blind")
    design = f"Randomized, {blind}" if plan.arms > 1 else "Single-Arm"
    versus = f" Compared With {control}" if plan.arms > 1 else ""
    return brief, f"{stage} {design} Study of {name}{versus} in {people}"


def tell_summary(rng: random.Random, plan: Plan) -> str:
    """The brief summary."""
    people, drug, weeks = plan.condition.people, plan.drug, plan.weeks
    aim = rng.choice((
        f"The purpose of this study is to evaluate {drug} in {people}.",
        f"This study will test whether {drug} is better than {plan.control} in {people}.",
        f"{plan.title_drug} is being studied in {people}.",
    ))  # fmt: skip
    what = f"The primary outcome is {plan.condition.endpoint} after {weeks} weeks of treatment."
    how = rng.choice((
        f"About {plan.participants} participants will be enrolled.",
        f"Up to {plan.participants} participants will be followed for {weeks} weeks.",
        f"Researchers want to find out whether {drug} is safe and well tolerated.",
    ))  # fmt: skip
    return f"{aim} {what}\n\n{how}"


def tell_details(rng: random.Random, plan: Plan) -> str:
    """Two paragraphs from a store of sentences."""
    condition, drug, weeks = plan.condition, plan.drug, plan.weeks
    dose = rng.choice((5, 10, 25, 50, 100, 200, 400))
    rhythm = rng.choice(("once daily", "twice daily", "every 2 weeks"))
    arms = {2: f"1:1 to {drug} or", 3: f"2:1 to {drug} or"}.get(plan.arms, "to one arm without")
    sentences = [
        f"Despite available treatments, many {condition.people} do not reach their goals.",
        f"{plan.title_drug} acts on a pathway that is relevant to {condition.name}.",
        f"Participants will receive {drug} {dose} mg ({rhythm}) for {weeks} weeks.",
        f"Allocation is {arms} {plan.control}; masking is {plan.masking.lower()}.",
        f"Assessments of {condition.endpoint} take place every {max(1, weeks // 4)} weeks.",
        f"This sample size gives {rng.choice((80, 85, 90))}% power at a two-sided alpha of 0.05.",
        "An independent data monitoring committee reviews safety.",
        f"Blood samples will be drawn to measure concentrations of {drug}.",
        f"Follow-up continues for {rng.choice((4, 8, 12))} weeks after the last dose.",
    ]
    picked = sorted(rng.sample(range(len(sentences)), rng.randint(4, len(sentences))))
    half = len(picked) // 2
    return "\n\n".join(
        " ".join(sentences[place] for place in part) for part in (picked[:half], picked[half:])
    )


def tell_criteria(rng: random.Random, condition: Condition, drug: str, cue: str) -> str:
    """The eligibility criteria, as CommonMark with its escapes, speaking of the sex `cue`."""
    slots = {
        "condition": condition.name.lower(), "drug": drug, "months": rng.choice((3, 6, 12, 24)),
        "bmi": rng.choice((18, 25, 27, 30)), "ecog": rng.choice((1, 2)),
        "egfr": rng.choice((15, 16, 18, 30, 45, 60)), "hb": rng.choice((4, 7, 8, 9)),
        "platelets": rng.choice((75, 100, 150)), "weeks": rng.choice((2, 4, 8, 12)),
        "share": rng.choice((75, 80, 90)), "hba1c": rng.choice(("9.5", "10.0", "10.5")),
        "low": rng.choice((18, 21, 40, 50)), "high": rng.choice((65, 75, 80)),
    }  # fmt: skip
    inclusions = rng.sample(_WORDS.general_inclusions, rng.randint(3, 6))
    exclusions = rng.sample(_WORDS.exclusions, rng.randint(3, 7))
    if cue != "ALL":
        cues = _WORDS.female_inclusions if cue == "FEMALE" else _WORDS.male_inclusions
        inclusions[rng.randrange(2) : 0] = rng.sample(cues, rng.randint(1, 2))
    elif rng.random() < 0.5:
        inclusions.insert(0, "Men and women aged {low} to {high} years")
    if cue != "MALE" and rng.random() < 0.65:
        exclusions.append(rng.choice(_WORDS.female_exclusions))
    bullet = rng.choice(("* {}", "* {}", "{number}\\. {}", "- {}"))
    return "\n\n".join(
        f"{head}:\n\n"
        + "\n".join(
            bullet.format(text.format(**slots), number=number)
            for number, text in enumerate(texts, 1)
        )
        for head, texts in (("Inclusion Criteria", inclusions), ("Exclusion Criteria", exclusions))
    )


ORGANISATION = "trialese synthetic sample"
MAX_STUDIES = 10_000_000
STOPPED_SHARE = 0.40
REPEATED_SHARE = 0.03
MONTH_DAYS = 30
STOPPED_A_MONTH = 0.05
"""Of the studies that still run, so many stop in each month that `months` asks for."""
_STOPPED = ("TERMINATED", "WITHDRAWN", "SUSPENDED")
_RUNNING = ("COMPLETED", "COMPLETED", "RECRUITING", "ACTIVE_NOT_RECRUITING", "UNKNOWN")
_STILL_RUNNING = ("RECRUITING", "ACTIVE_NOT_RECRUITING")


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
        per_day = settings.studies / ((last - first).days + 1)
        self._a_month = max(1, round(MONTH_DAYS * per_day))
        self._until = last + timedelta(days=MONTH_DAYS * settings.months)
        self.total: int | None = settings.studies + self._a_month * settings.months

    def studies(self) -> Iterator[RawStudy | Reject]:
        for index in range(self._settings.studies):
            study = sample_study(self._settings, index)
            _stop_later(self._settings, study, index)
            yield RawStudy(f"sample:{index}", "v2", study)
        for month in range(self._settings.months):
            first = self._settings.studies + month * self._a_month
            settings = _of_month(self._settings, month)
            for index in range(first, first + self._a_month):
                yield RawStudy(f"sample:{index}", "v2", sample_study(settings, index))

    def parts(self) -> Iterator[Iterator[RawStudy | Reject]]:
        yield self.studies()

    def facts(self) -> SourceFacts:
        until = self._until.isoformat() if self._settings.months else None
        return SourceFacts(name="sample", data_timestamp=until)

    def close(self) -> None:
        """Nothing is kept."""


def _of_month(settings: SampleSettings, month: int) -> SampleSettings:
    """The settings whose studies are first posted in one month after all others."""
    last = date.fromisoformat(settings.to_date)
    days = (timedelta(days=MONTH_DAYS * month + 1), timedelta(days=MONTH_DAYS * (month + 1)))
    first, end = ((last + each).isoformat() for each in days)
    return msgspec.structs.replace(settings, from_date=first, to_date=end)


def _stop_later(settings: SampleSettings, study: dict[str, Any], index: int) -> None:
    """Stop the study in one of the later months, if it is its turn and it still runs."""
    rng = random.Random(f"{settings.seed}:{index}:later")
    month = math.ceil(rng.random() / STOPPED_A_MONTH)
    status = study["protocolSection"]["statusModule"]
    last = date.fromisoformat(settings.to_date) + timedelta(days=MONTH_DAYS * month)
    updated = status["lastUpdatePostDateStruct"]
    runs = status["overallStatus"] in _STILL_RUNNING and updated["date"] < last.isoformat()
    if month > settings.months or not runs:
        return
    text, labels = stop_reason(rng, stopped_year=last.year, people="participants", drug="drug")
    status["overallStatus"] = "TERMINATED"
    status["whyStopped"] = text
    updated["date"] = last.isoformat()
    study["syntheticStopReasons"] = list(labels)


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
        "sponsorCollaboratorsModule": {"leadSponsor": {"name": rng.choice(_WORDS.sponsors)}},
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
        for city, country in rng.choices(_WORDS.sites, k=sites)
    ]


def stop_reason(
    rng: random.Random, *, stopped_year: int, people: str, drug: str
) -> tuple[str, tuple[str, ...]]:
    """A text that says why a study stopped, and the labels that it means, sorted.

    Covid19 occurs only for studies that stopped in 2020 or later.
    """
    weights = _WEIGHTS if stopped_year >= 2020 else _WEIGHTS_BEFORE_COVID
    labels = rng.choices(_LABELS, weights, k=2 if rng.random() < _SEVERAL_SHARE else 1)
    labels = list(dict.fromkeys(labels))
    parts = [rng.choice(REASONS[label].texts) for label in labels]
    opening = rng.choice(_WORDS.reason_openings)
    joined = rng.choice(_WORDS.reason_joints).join(
        part
        if place == 0 and not opening
        else part[:1].lower() + part[1:]
        if not part.startswith(("COVID", "PI ", "IRB", "FDA", "{"))
        else part
        for place, part in enumerate(parts)
    )
    slots = {"n": rng.randint(1, 60), "m": rng.randint(61, 400), "people": people, "drug": drug}
    text = (opening + joined + rng.choice(_WORDS.reason_endings)).format(**slots)
    return text, tuple(sorted(labels))
