"""Counts over a snapshot, and the records that somebody should look at before trusting them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from trialese.collect.snapshot import read_trials
from trialese.records import Snapshot, Trial

__all__ = [
    "Finding",
    "Summary",
    "find_doubts",
    "quality_report",
    "summarise_snapshot",
]


MAX_EXAMPLES = 5
STOPPED = frozenset({"TERMINATED", "WITHDRAWN", "SUSPENDED"})
_FEMALE = re.compile(r"\b(?:women|woman|females?)\b", re.IGNORECASE)
_MALE = re.compile(r"\b(?:men|man|males?)\b", re.IGNORECASE)
_STATEMENT_ENDS = re.compile(r"\n\s*\n|\n\s*(?=[-*•]|\d+[.)])|(?<=[.;])\s+")
_ADMITS_ONE_SEX = re.compile(
    r"""
    \W*(?:\d+[.)]\s*)?(?:inclusion\ criteria:?\s*)?
    (?:(?:all|only|adult|healthy|young|older|elderly|obese|overweight|ambulatory|bisexual
       |homosexual|heterosexual|pregnant|(?:post|pre|peri)-?menopausal|hiv[ -](?:infected|positive)
       )\s+)*
    (?:women|woman|females?|men|man|males?)\b
    (?!\W*\w+:\s*$)(?!\ caregiver|\ carrier)(?!.{0,12}:\s*[<>≥≤\d])
    (?![^.;]*\b(?:must|may|will|should|if|excluded)\b)
    |.*\bmust\ be\ (?:a\ )?(?:fe)?male\b
    |.*\b(?:sex|gender):\ ?(?:women|men|females?|males?)\b
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
"""A statement about who takes part ("Women with ...", "Sex: Male"), not about what the members of
one sex must do or how high their haemoglobin must be."""
_REPRODUCTION = re.compile(
    r"child[- ]?bearing|bear(?:ing)? (?:a )?child|pregnancy|lactat|breast[- ]?feed|nursing|fertil"
    r"|contracept|birth[- ]control|(?<!post)(?<!post-)(?<!pre)(?<!pre-)(?<!peri)menopaus|steril"
    r"|hysterectom|tubal|intrauterine|condom|conceive|sperm|reproductive|sexually active|vasectom"
    r"|hcg\b|partner",
    re.IGNORECASE,
)
_ESCAPE = re.compile(r"\\[\\`*_{}\[\]()#+\-.!<>~|^&]")
_EXCLUSION = re.compile(r"exclusion\s+criteria|criteria\s+for\s+exclusion", re.IGNORECASE)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over a snapshot's trials, each from the most frequent on (years in order)."""

    trials: int
    statuses: dict[str, int]
    phases: dict[str, int]
    years: dict[str, int]
    """Of first posting."""
    sexes: dict[str, int]
    study_types: dict[str, int]
    stopped_with_reason: int
    missing: dict[str, int]
    """Field -> trials in which it is empty; fields that are always there are left out."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of doubt about the records, how many trials raise it, and some of them."""

    name: str
    meaning: str
    trials: int
    examples: tuple[str, ...]


def summarise_snapshot(snapshot: Snapshot) -> Summary:
    """Counts by status, phase, year, sex and type, and what is missing.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    statuses: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    years: Counter[str] = Counter()
    sexes: Counter[str] = Counter()
    types: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    trials = reasons = 0
    for trial in read_trials(snapshot):
        trials += 1
        statuses[trial.overall_status or "none"] += 1
        phases["/".join(trial.phases) or "none"] += 1
        years[(trial.first_posted or "none")[:4]] += 1
        sexes[trial.sex or "none"] += 1
        types[trial.study_type or "none"] += 1
        reasons += bool(trial.why_stopped)
        missing.update(
            name
            for name, value in zip(
                trial.__struct_fields__, msgspec.structs.astuple(trial), strict=True
            )
            if value in ("", None, ())
        )
    return Summary(
        trials=trials,
        statuses=dict(statuses.most_common()),
        phases=dict(phases.most_common()),
        years=dict(sorted(years.items())),
        sexes=dict(sexes.most_common()),
        study_types=dict(types.most_common()),
        stopped_with_reason=reasons,
        missing={
            name: missing[name]
            for name in Trial.__struct_fields__
            if missing[name] and not name.startswith("synthetic")
        },
    )


def quality_report(snapshot: Snapshot) -> list[Finding]:
    """What in the snapshot contradicts itself or is empty, each with a count and examples.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    return find_doubts(read_trials(snapshot))


def find_doubts(trials: Iterable[Trial]) -> list[Finding]:
    """One `Finding` for every check, those that found nothing included."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {name: [] for name in _CHECKS}
    for trial in trials:
        for name, (_, doubtful) in _CHECKS.items():
            if doubtful(trial):
                counts[name] += 1
                if len(examples[name]) < MAX_EXAMPLES:
                    examples[name].append(trial.nct_id)
    return [
        Finding(name=name, meaning=meaning, trials=counts[name], examples=tuple(examples[name]))
        for name, (meaning, _) in _CHECKS.items()
    ]


def _texts(trial: Trial) -> tuple[str, ...]:
    return (
        trial.brief_title,
        trial.official_title,
        trial.brief_summary,
        trial.detailed_description,
        trial.eligibility_criteria,
    )


def _one_sex_only(trial: Trial) -> bool:
    """Whether the inclusion criteria admit one sex and never speak of the other.

    Most criteria that name one sex only are about child-bearing and contraception; they say
    nothing of who may enrol.
    """
    if trial.sex != "All":
        return False
    inclusion = _EXCLUSION.split(trial.eligibility_criteria, maxsplit=1)[0]
    if bool(_FEMALE.search(inclusion)) == bool(_MALE.search(inclusion)):
        return False
    return any(
        _ADMITS_ONE_SEX.match(statement) and not _REPRODUCTION.search(statement)
        for statement in _STATEMENT_ENDS.split(inclusion)
    )


def _order_of_dates(trial: Trial) -> bool:
    pairs = (
        (trial.start_date, trial.completion_date),
        (trial.first_posted, trial.last_update_posted),
    )
    # Dates of unequal exactness are compared as far as both go.
    return any(
        earlier is not None and later is not None and earlier[: len(later)] > later[: len(earlier)]
        for earlier, later in pairs
    )


_CHECKS: dict[str, tuple[str, Callable[[Trial], bool]]] = {
    "empty_eligibility": (
        "no eligibility criteria at all",
        lambda trial: not trial.eligibility_criteria.strip(),
    ),
    "empty_summary": ("no brief summary", lambda trial: not trial.brief_summary.strip()),
    "escapes_left": (
        "a text holds backslash escapes, as v2 writes them; rendering undoes them",
        lambda trial: any(_ESCAPE.search(text) for text in _texts(trial)),
    ),
    "sex_all_but_one_in_criteria": (
        "sex is All, but the inclusion criteria admit one sex only",
        _one_sex_only,
    ),
    "reason_but_not_stopped": (
        "a reason for stopping on a trial that is not stopped",
        lambda trial: bool(trial.why_stopped) and trial.overall_status not in STOPPED,
    ),
    "stopped_without_reason": (
        "stopped, but no reason is given",
        lambda trial: trial.overall_status in STOPPED and not trial.why_stopped,
    ),
    "dates_contradict": (
        "completed before it started, or updated before it was first posted",
        _order_of_dates,
    ),
    "no_first_posting": (
        "no date of first posting, so it is neither old nor new",
        lambda trial: trial.first_posted is None,
    ),
}
