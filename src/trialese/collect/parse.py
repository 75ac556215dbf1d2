"""Parsing of a raw study, of whatever format, into a `Trial`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from trialese.collect.parse_table import (
    FIELDS_OF_CSV,
    fields_in_csv,
    parse_aact,
    parse_csv,
    parse_text,
)
from trialese.collect.parse_v2 import parse_v2
from trialese.collect.parse_xml import parse_xml
from trialese.collect.source import RawStudy, StudyError, StudyFormat
from trialese.collect.vocabulary import nct_id_in
from trialese.records import Trial

__all__ = ["FIELDS_OF_FORMAT", "INEXACT_FIELDS", "Parsed", "parse_study", "parse_trial"]

_EVERY_FIELD = frozenset(Trial.__struct_fields__)
_MADE_UP = frozenset({"synthetic", "synthetic_stop_reasons"})  # every file says: not made up
FIELDS_OF_FORMAT: Mapping[StudyFormat, frozenset[str]] = {
    "v2": _EVERY_FIELD,
    "xml": _EVERY_FIELD,
    "aact": _EVERY_FIELD,
    "csv": frozenset(FIELDS_OF_CSV) | _MADE_UP,
    "text": frozenset({"nct_id", "detailed_description", "why_stopped"}) | _MADE_UP,
}
"""The fields that a kind of file can hold. One that it cannot hold, it never erases."""
INEXACT_FIELDS: Mapping[StudyFormat, frozenset[str]] = {
    "csv": frozenset({"primary_outcomes"}),  # with description and time frame behind the measure
    "text": frozenset({"detailed_description"}),  # any text of the study
}
"""Fields that a kind of file holds in other words than the rest, so that a comparison with
another kind tells nothing."""
_STATED_OF_EVERY_STUDY = (
    "brief_title", "brief_summary", "eligibility_criteria", "overall_status", "study_type",
    "conditions", "lead_sponsor",
)  # fmt: skip
"""The registry demands these of every study, so a record without one is only a part."""
_STOPPED = ("TERMINATED", "WITHDRAWN", "SUSPENDED")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A trial with what else its record told."""

    trial: Trial
    data_date: str | None
    """The day of the registry's data that the record is from, where it says."""
    packed: bytes
    """The trial as MessagePack, which also proves that all its text can be stored."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Field and why, of each side field that says something that cannot be read."""
    format: str = "v2"
    held: frozenset[str] = _EVERY_FIELD
    """The fields of which this record tells the value, be it that there is none."""


def parse_trial(raw: RawStudy) -> Trial:
    """The study as a `Trial`.

    Raises:
        RecordError: the record cannot be understood; one line that names its origin and why.
    """
    return parse_study(raw).trial


def parse_study(raw: RawStudy) -> Parsed:
    """The study as a `Trial`, with the date of its data.

    Raises:
        StudyError: as `parse_trial`, with a reason to count by.
    """
    unreadable: dict[str, str] = {}
    try:
        trial, data_date = _parse(raw, unreadable)
        packed = msgspec.msgpack.encode(trial)
    except UnicodeEncodeError as error:
        raise StudyError(
            raw.origin,
            "not_utf8",
            "holds lone surrogates, which are no text",
            nct_id=nct_id_in(raw.data),
        ) from error
    except StudyError as error:
        error.nct_id = error.nct_id or nct_id_in(raw.data)
        raise
    # Every study has a title, a status and so on: an empty cell is a gap of the file.
    gaps = [name for name in _STATED_OF_EVERY_STUDY if not getattr(trial, name)]
    held = _held_fields(raw, trial).difference(unreadable, gaps)
    return Parsed(trial, data_date, packed, tuple(unreadable.items()), raw.format, held)


def _held_fields(raw: RawStudy, trial: Trial) -> frozenset[str]:
    can_hold = FIELDS_OF_FORMAT[raw.format]
    if raw.format == "csv" and isinstance(raw.data, Mapping):
        return fields_in_csv(raw.data, trial) | _MADE_UP
    if raw.format != "text" and all(getattr(trial, name) for name in _STATED_OF_EVERY_STUDY):
        return can_hold
    # A part of a record (some fields asked of the API, some tables of AACT): what is not there
    # may not have been asked for.
    filled = _filled(trial)
    if trial.overall_status and trial.overall_status not in _STOPPED:
        filled.add("why_stopped")  # the registry keeps a reason for stopped studies only
    return can_hold & (filled | _MADE_UP)


def _filled(trial: Trial) -> set[str]:
    values = zip(trial.__struct_fields__, msgspec.structs.astuple(trial), strict=True)
    return {name for name, value in values if value not in ("", None, ())}


def _parse(raw: RawStudy, unreadable: dict[str, str]) -> tuple[Trial, str | None]:
    if raw.format == "v2":
        return parse_v2(raw, unreadable)
    if raw.format == "xml":
        return parse_xml(raw, unreadable)
    if raw.format == "csv":
        return parse_csv(raw, unreadable), None
    if raw.format == "aact":
        return parse_aact(raw, unreadable), None
    return parse_text(raw), None
