"""Parsing of a raw study, of whatever format, into a `Trial`."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from trialese.collect.parse_table import parse_aact, parse_csv, parse_text
from trialese.collect.parse_v2 import parse_v2
from trialese.collect.parse_xml import parse_xml
from trialese.collect.source import RawStudy, StudyError
from trialese.collect.vocabulary import nct_id_in
from trialese.records import Trial

__all__ = ["Parsed", "parse_study", "parse_trial"]


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
    return Parsed(trial, data_date, packed, tuple(unreadable.items()))


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
