"""What a synthetic study is about, and how its texts tell it."""

from __future__ import annotations

import random
from datetime import date, timedelta
from typing import NamedTuple

from trialese.collect.sample_grammar import (
    CONDITIONS,
    DRUGS,
    EXCLUSIONS,
    FEMALE_EXCLUSIONS,
    FEMALE_INCLUSIONS,
    GENERAL_INCLUSIONS,
    MALE_INCLUSIONS,
    NEW_DRUGS,
    NEW_FROM,
    Condition,
)
from trialese.settings import SampleSettings

__all__ = ["Plan", "make_plan", "tell_criteria", "tell_details", "tell_summary", "tell_titles"]

NEW_SHARE = 0.75
_NEW_DAY = date.fromisoformat(NEW_FROM)
_PHASES = (("PHASE1",), ("PHASE2",), ("PHASE2",), ("PHASE3",), ("PHASE4",), ("NA",),
           ("PHASE1", "PHASE2"), ("PHASE2", "PHASE3"))  # fmt: skip
_OLD_CONDITIONS = tuple(condition for condition in CONDITIONS if not condition.new)
_NEW_CONDITIONS = tuple(condition for condition in CONDITIONS if condition.new)


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
            _NEW_CONDITIONS if is_new and rng.random() < 0.25 else _OLD_CONDITIONS
        ),
        drug=rng.choice(NEW_DRUGS if is_new and rng.random() < NEW_SHARE else DRUGS),
        control=rng.choice(("placebo", "standard of care", "usual care", rng.choice(DRUGS))),
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
    inclusions = rng.sample(GENERAL_INCLUSIONS, rng.randint(3, 6))
    exclusions = rng.sample(EXCLUSIONS, rng.randint(3, 7))
    if cue != "ALL":
        cues = FEMALE_INCLUSIONS if cue == "FEMALE" else MALE_INCLUSIONS
        inclusions[rng.randrange(2) : 0] = rng.sample(cues, rng.randint(1, 2))
    elif rng.random() < 0.5:
        inclusions.insert(0, "Men and women aged {low} to {high} years")
    if cue != "MALE" and rng.random() < 0.65:
        exclusions.append(rng.choice(FEMALE_EXCLUSIONS))
    bullet = rng.choice(("* {}", "* {}", "{number}\\. {}", "- {}"))
    return "\n\n".join(
        f"{head}:\n\n"
        + "\n".join(
            bullet.format(text.format(**slots), number=number)
            for number, text in enumerate(texts, 1)
        )
        for head, texts in (("Inclusion Criteria", inclusions), ("Exclusion Criteria", exclusions))
    )
