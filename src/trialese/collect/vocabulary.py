"""The registry's words, from those of legacy XML, the website and AACT to those of API v2.

The vocabularies are those of ClinicalTrials.gov's data structure pages (API v2 enumerations and
the legacy public.xsd). A word that is new to both becomes upper case with underscores, which is
how v2 coins its own; only dates, identifiers and sex, which later stages rely on, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from trialese.collect.source import StudyError

__all__ = [
    "choice",
    "data_date_of",
    "iso_date",
    "masking_level",
    "nct_id_of",
    "optional_age",
    "phases_of",
    "sex_of",
    "truth_of",
]

_NCT_ID = re.compile(r"NCT[0-9]{8}\Z")
_ISO_DATE = re.compile(r"[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?\Z")
_WRITTEN_DATE = re.compile(r"([A-Za-z]+)\.?\s+(?:([0-9]{1,2}),?\s+)?([0-9]{4})\Z")
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_NOT_A_WORD = re.compile(r"[^A-Z0-9]+")
_EXCEPTIONS = {
    "": None,
    "UNKNOWN_STATUS": "UNKNOWN",
    "N_A": "NA",
    "NOT_APPLICABLE": "NA",
    "SINGLE_GROUP_ASSIGNMENT": "SINGLE_GROUP",
    "PARALLEL_ASSIGNMENT": "PARALLEL",
    "CROSSOVER_ASSIGNMENT": "CROSSOVER",
    "FACTORIAL_ASSIGNMENT": "FACTORIAL",
    "SEQUENTIAL_ASSIGNMENT": "SEQUENTIAL",
    "EDUCATIONAL_COUNSELING_TRAINING": "ECT",
    "RANDOMIZED_CONTROLLED_TRIAL": "RANDOMIZED",
    "OBSERVATIONAL_PATIENT_REGISTRY": "OBSERVATIONAL",
}
_PHASE = re.compile(r"(EARLY_)?PHASE_?([0-4])\Z")
_SEX: dict[str, Literal["All", "Female", "Male"]] = {
    "ALL": "All",
    "BOTH": "All",  # legacy records up to 2016
    "FEMALE": "Female",
    "MALE": "Male",
}
_TRUTH = {
    "YES": True, "TRUE": True, "T": True, "ACCEPTS_HEALTHY_VOLUNTEERS": True,
    "NO": False, "FALSE": False, "F": False,
}  # fmt: skip


def nct_id_of(text: str, origin: str) -> str:
    """The NCT number in `text`.

    Raises:
        StudyError: there is none, or something else.
    """
    if _NCT_ID.match(text):
        return text
    tidy = text.strip().upper()
    if not tidy:
        raise StudyError(origin, "no_nct_id", "the record has no NCT number; download it again")
    if not _NCT_ID.match(tidy):
        raise StudyError(
            origin, "bad_nct_id", f"{tidy[:40]!r} is no NCT number (NCT and eight digits)"
        )
    return tidy


def iso_date(text: str | None, origin: str) -> str | None:
    """The date as YYYY-MM-DD, YYYY-MM or YYYY, as exact as given; None for an empty text.

    Raises:
        StudyError: neither ISO 8601 nor such as "October 12, 2001" or "May 1984".
    """
    if not text:
        return None
    if _ISO_DATE.match(text):
        return text
    text = text.strip()
    if not text:
        return None
    written = _WRITTEN_DATE.match(text)
    if written and written[1].lower() in _MONTHS:
        month = _MONTHS.index(written[1].lower()) + 1
        text = f"{written[3]}-{month:02d}" + (f"-{int(written[2]):02d}" if written[2] else "")
    if not _ISO_DATE.match(text):
        raise StudyError(origin, "bad_date", f"{text[:40]!r} is no date")
    return text


def data_date_of(text: str | None) -> str | None:
    """The day that a file says its data are of; None for anything else than a day."""
    try:
        date = iso_date((text or "").strip(), "")
    except StudyError:
        return None  # only a fact about the file; the study itself is whole
    return date if date and len(date) == len("YYYY-MM-DD") else None


def choice(text: str | None) -> str | None:
    """The word as API v2 spells it ("Active, not recruiting" -> ACTIVE_NOT_RECRUITING)."""
    if not text:
        return None
    word = _NOT_A_WORD.sub("_", text.upper()).strip("_")
    return _EXCEPTIONS.get(word, word)


def masking_level(text: str | None) -> str | None:
    """NONE, SINGLE, DOUBLE, ... without who is masked: "Double (Investigator)" -> DOUBLE.

    Records from before 2017 say "Open Label", "Single Blind" and "Double-Blind".
    """
    word = choice((text or "").partition("(")[0])
    return "NONE" if word == "OPEN_LABEL" else (word or "").removesuffix("_BLIND") or None


def phases_of(words: Iterable[str]) -> tuple[str, ...]:
    """Phases as API v2 names them: "Phase 1/Phase 2" -> ("PHASE1", "PHASE2"), "N/A" -> ("NA",).

    Phase 0 was renamed Early Phase 1 by the registry.
    """
    phases: list[str] = []
    for word in words:
        plain = choice(word)
        if plain == "NA":
            phases.append(plain)
            continue
        for part in re.split(r"[/|]", word):
            phase = choice(part)
            match = _PHASE.match(phase or "")
            if match:
                phase = "EARLY_PHASE1" if match[1] or match[2] == "0" else f"PHASE{match[2]}"
            if phase:
                phases.append(phase)
    return tuple(dict.fromkeys(phases))


def sex_of(text: str | None, origin: str) -> Literal["All", "Female", "Male"] | None:
    """Who may enrol; None where the record does not say.

    Raises:
        StudyError: another word.
    """
    word = choice(text)
    if word is None:
        return None
    if word not in _SEX:
        raise StudyError(origin, "bad_sex", f"sex {text!r:.40} is none of All, Female, Male")
    return _SEX[word]


def truth_of(text: str | None) -> bool | None:
    """Yes or no in the words that the formats use; None for anything else."""
    return _TRUTH.get(choice(text) or "")


def optional_age(text: str | None) -> str:
    """An age limit such as "18 Years"; "" where there is none ("N/A" in legacy records)."""
    text = (text or "").strip()
    return "" if text.upper() in ("N/A", "NA", "NONE") else text
