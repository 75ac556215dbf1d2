"""Parser of legacy study XML (`clinical_study`, public.xsd).

The registry served this format until June 2024 and millions of copies are about. Text blocks
are indented and hard-wrapped in it; the indentation is taken off here, the wrapping is left to
the corpus.
"""

from __future__ import annotations

import textwrap
from contextlib import suppress
from typing import cast
from xml.etree import ElementTree as ET
from xml.parsers import expat

from trialese.collect.source import RawStudy, StudyError
from trialese.collect.vocabulary import (
    choice,
    data_date_of,
    design_of,
    iso_date,
    masking_level,
    nct_id_of,
    optional_age,
    phases_of,
    read_side_field,
    sex_of,
    whole_number,
    yes_or_no,
)
from trialese.records import Trial

__all__ = ["XML_ROOT", "parse_xml"]

XML_ROOT = b"<clinical_study"


def parse_xml(raw: RawStudy, unreadable: dict[str, str] | None = None) -> tuple[Trial, str | None]:
    """The `Trial` of a legacy XML study, and the date on which the registry processed it.

    A side field that cannot be read is left empty and noted in `unreadable`: name -> why.

    Raises:
        StudyError: not well-formed, no `clinical_study`, or with a document type of its own
            (entities can be made to expand without bound; the registry declares none).
    """
    assert isinstance(raw.data, bytes)
    if XML_ROOT not in raw.data:
        raise StudyError(raw.origin, "no_study", "this XML is no study (no clinical_study)")
    try:
        _refuse_document_type(raw)
        root = ET.fromstring(raw.data)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise StudyError(raw.origin, "bad_xml", f"not well-formed XML ({error})") from error
    if root.tag != "clinical_study":
        raise StudyError(raw.origin, "no_study", f"this XML is no study (root <{root.tag[:40]}>)")
    noted: dict[str, str] = {} if unreadable is None else unreadable
    return _trial(root, raw.origin, noted), _data_date(root)


class _RootError(Exception):
    """The first element has been reached."""


def _refuse_document_type(raw: RawStudy) -> None:
    """Do nothing if the parser itself sees no document type before the first element.

    Raises:
        StudyError: it sees one, in whatever encoding and behind whatever comment.
    """

    def refuse(*_: object) -> None:
        raise StudyError(raw.origin, "forbidden_doctype", "declares a document type; not read")

    def stop(*_: object) -> None:
        raise _RootError

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = stop
    with suppress(_RootError, expat.ExpatError):  # what is not well-formed is told by the reader
        parser.Parse(cast(bytes, raw.data), True)


def _trial(root: ET.Element, origin: str, unreadable: dict[str, str]) -> Trial:
    def date(field: str, text: str) -> str | None:
        return read_side_field(iso_date, text, field, origin, unreadable)

    def truth(field: str) -> bool | None:
        text = _text(root, f"eligibility/{field}")
        return read_side_field(yes_or_no, text, field, origin, unreadable)

    # Up to 2016 the dates had other names, and posting dates were not given: the day on which
    # the registry received the record is the nearest thing.
    first_posted = _text(root, "study_first_posted") or _text(root, "firstreceived_date")
    last_update = _text(root, "last_update_posted") or _text(root, "lastchanged_date")
    design = _design(root)
    return Trial(
        nct_id=nct_id_of(_text(root, "id_info/nct_id"), origin),
        nct_id_aliases=_texts(root, "id_info/nct_alias"),
        org_study_id=_text(root, "id_info/org_study_id"),
        brief_title=_text(root, "brief_title"),
        official_title=_text(root, "official_title"),
        acronym=_text(root, "acronym"),
        brief_summary=_block(root, "brief_summary"),
        detailed_description=_block(root, "detailed_description"),
        eligibility_criteria=_block(root, "eligibility/criteria"),
        sex=read_side_field(sex_of, _text(root, "eligibility/gender"), "sex", origin, unreadable),
        gender_based=truth("gender_based"),
        gender_description=_text(root, "eligibility/gender_description"),
        healthy_volunteers=truth("healthy_volunteers"),
        minimum_age=optional_age(_text(root, "eligibility/minimum_age")),
        maximum_age=optional_age(_text(root, "eligibility/maximum_age")),
        overall_status=choice(_text(root, "overall_status")),
        why_stopped=_text(root, "why_stopped"),
        study_type=choice(_text(root, "study_type")),
        phases=phases_of(_texts(root, "phase")),
        allocation=choice(design.get("allocation")),
        intervention_model=choice(design.get("intervention_model")),
        primary_purpose=choice(design.get("primary_purpose")),
        masking=masking_level(design.get("masking")),
        enrollment=read_side_field(
            whole_number, _text(root, "enrollment"), "enrollment", origin, unreadable
        ),
        conditions=_texts(root, "condition"),
        keywords=_texts(root, "keyword"),
        interventions=_texts(root, "intervention/intervention_name"),
        primary_outcomes=_texts(root, "primary_outcome/measure"),
        lead_sponsor=_text(root, "sponsors/lead_sponsor/agency"),
        first_posted=date("first_posted", first_posted),
        last_update_posted=date("last_update_posted", last_update),
        start_date=date("start_date", _text(root, "start_date")),
        completion_date=date("completion_date", _text(root, "completion_date")),
    )


def _text(root: ET.Element, path: str) -> str:
    return _tidy(root.findtext(path))


def _texts(root: ET.Element, path: str) -> tuple[str, ...]:
    found = (_tidy(element.text) for element in root.iterfind(path))
    return tuple(text for text in found if text)


def _tidy(text: str | None) -> str:
    return (text or "").replace("\r\n", "\n").strip()


def _block(root: ET.Element, path: str) -> str:
    """The text block under `path` without the indentation that all its lines share."""
    text = root.findtext(f"{path}/textblock")
    if text is None:
        text = root.findtext(path)
    return textwrap.dedent((text or "").replace("\r", "")).strip()


def _design(root: ET.Element) -> dict[str, str]:
    """Allocation and so on, from the elements since 2017 or the one line before that."""
    info = root.find("study_design_info")
    if info is not None:
        return {element.tag: _tidy(element.text) for element in info}
    interventional = choice(_text(root, "study_type")) in (None, "INTERVENTIONAL")
    return design_of(_text(root, "study_design"), interventional=interventional)


def _data_date(root: ET.Element) -> str | None:
    """Of "... processed this data on DAY" and, before 2011, "... obtained ... on DAY"."""
    _, _, date = _text(root, "required_header/download_date").rpartition(" on ")
    return data_date_of(date)
