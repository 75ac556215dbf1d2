"""Parser of API v2 studies (JSON).

Only the modules that a `Trial` needs are decoded, with their types checked; msgspec skips the
rest (locations, results: most of the bytes). A record in which a type is not as it should be
("120", 120.0, "No": tables and other programs have been at it) is read a second time, piece by
piece, and what cannot be understood is noted. Piece names: clinicaltrials.gov/data-api, study data
structure.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from trialese.collect.source import RawStudy, StudyError
from trialese.collect.vocabulary import (
    choice,
    data_date_of,
    iso_date,
    masking_level,
    nct_id_of,
    phases_of,
    read_side_field,
    sex_of,
    whole_number,
    yes_or_no,
)
from trialese.records import Trial

__all__ = ["parse_v2", "study_from_v1"]

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Struct(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A part of a study; keys that are not named are skipped."""


class _OrgStudyId(_Struct, frozen=True):
    id: str | None = None


class _Identification(_Struct, frozen=True):
    nct_id: str | None = None
    nct_id_aliases: tuple[str, ...] | None = None
    org_study_id_info: _OrgStudyId | None = None
    brief_title: str | None = None
    official_title: str | None = None
    acronym: str | None = None


class _Date(_Struct, frozen=True):
    date: str | None = None


class _Status(_Struct, frozen=True):
    overall_status: str | None = None
    why_stopped: str | None = None
    start_date_struct: _Date | None = None
    completion_date_struct: _Date | None = None
    study_first_post_date_struct: _Date | None = None
    last_update_post_date_struct: _Date | None = None


class _Sponsor(_Struct, frozen=True):
    name: str | None = None


class _Sponsors(_Struct, frozen=True):
    lead_sponsor: _Sponsor | None = None


class _Description(_Struct, frozen=True):
    brief_summary: str | None = None
    detailed_description: str | None = None


class _Conditions(_Struct, frozen=True):
    conditions: tuple[str, ...] | None = None
    keywords: tuple[str, ...] | None = None


class _Masking(_Struct, frozen=True):
    masking: str | None = None


class _DesignInfo(_Struct, frozen=True):
    allocation: str | None = None
    intervention_model: str | None = None
    primary_purpose: str | None = None
    masking_info: _Masking | None = None


class _Enrollment(_Struct, frozen=True):
    count: Count | None = None


class _Design(_Struct, frozen=True):
    study_type: str | None = None
    phases: tuple[str, ...] | None = None
    design_info: _DesignInfo | None = None
    enrollment_info: _Enrollment | None = None


class _Intervention(_Struct, frozen=True):
    name: str | None = None


class _Arms(_Struct, frozen=True):
    interventions: list[_Intervention] | None = None


class _Outcome(_Struct, frozen=True):
    measure: str | None = None


class _Outcomes(_Struct, frozen=True):
    primary_outcomes: list[_Outcome] | None = None


class _Eligibility(_Struct, frozen=True):
    eligibility_criteria: str | None = None
    healthy_volunteers: bool | None = None
    sex: str | None = None
    gender_based: bool | None = None
    gender_description: str | None = None
    minimum_age: str | None = None
    maximum_age: str | None = None


class _Protocol(_Struct, frozen=True):
    identification_module: _Identification | None = None
    status_module: _Status | None = None
    sponsor_collaborators_module: _Sponsors | None = None
    description_module: _Description | None = None
    conditions_module: _Conditions | None = None
    design_module: _Design | None = None
    arms_interventions_module: _Arms | None = None
    outcomes_module: _Outcomes | None = None
    eligibility_module: _Eligibility | None = None


class _MiscInfo(_Struct, frozen=True):
    version_holder: str | None = None


class _Derived(_Struct, frozen=True):
    misc_info_module: _MiscInfo | None = None


class _Study(_Struct, frozen=True):
    protocol_section: _Protocol | None = None
    derived_section: _Derived | None = None
    synthetic: bool = False
    synthetic_stop_reasons: tuple[str, ...] = ()


_DECODER = msgspec.json.Decoder(_Study)


def parse_v2(raw: RawStudy, unreadable: dict[str, str] | None = None) -> tuple[Trial, str | None]:
    """The `Trial` of an API v2 study, and the date of the registry data it comes from.

    A side field that cannot be read is left empty and noted in `unreadable`: name -> why.

    Raises:
        StudyError: no JSON, a JSON that is no study, or one without an NCT number.
    """
    noted: dict[str, str] = {} if unreadable is None else unreadable
    study = _decode(raw, noted)
    protocol = study.protocol_section
    if protocol is None:
        raise StudyError(
            raw.origin, "no_study", "this JSON is no study (no protocolSection); pass v2 records"
        )
    misc = (study.derived_section or _Derived()).misc_info_module or _MiscInfo()
    return _trial(protocol, study, raw.origin, noted), data_date_of(misc.version_holder)


def _decode(raw: RawStudy, unreadable: dict[str, str]) -> _Study:
    try:
        try:
            if isinstance(raw.data, bytes):
                return _DECODER.decode(raw.data)
            return msgspec.convert(raw.data, _Study)
        except msgspec.ValidationError:
            pass  # a type slip
        except msgspec.DecodeError:
            # Python writes NaN where JSON has no word for it
            if not isinstance(raw.data, bytes) or not _NO_NUMBERS.intersection(_words(raw.data)):
                raise
        plain = json.loads(raw.data) if isinstance(raw.data, bytes) else raw.data
        if not isinstance(plain, Mapping):
            raise StudyError(raw.origin, "wrong_type", "this JSON is no study: it is no object")
        return _Lenient(raw.origin, unreadable).study(plain)
    except (msgspec.DecodeError, ValueError) as error:
        raise StudyError(raw.origin, "bad_json", f"not valid JSON ({error})") from error
    except RecursionError as error:
        raise StudyError(raw.origin, "too_deep", "nested too deeply to be a study") from error


_NO_NUMBERS = frozenset({b"NaN", b"Infinity", b"-Infinity"})
_FIELD_OF_PIECE = {
    "org_study_id_info": "org_study_id",
    "start_date_struct": "start_date",
    "completion_date_struct": "completion_date",
    "study_first_post_date_struct": "first_posted",
    "last_update_post_date_struct": "last_update_posted",
    "masking_info": "masking",
    "enrollment_info": "enrollment",
}
"""The field of a `Trial` that a piece becomes, where it is called something else."""
_INDISPENSABLE = ("protocol_section", "identification_module", "nct_id")
_BOXES = ("value", "#text", "_", "text")


def _words(data: bytes) -> list[bytes]:
    return data.translate(bytes.maketrans(b",:[]{}", b"      ")).split()


class _Lenient:
    """Builds the parts of a study from plain JSON whose types may be wrong."""

    def __init__(self, origin: str, unreadable: dict[str, str]) -> None:
        self._origin = origin
        self._unreadable = unreadable

    def study(self, data: Mapping[str, Any]) -> _Study:
        read: _Study = self._struct(data, _Study, "")
        return read

    def _struct(self, data: Mapping[str, Any], kind: type[Any], field: str) -> Any:
        hints = get_type_hints(kind, include_extras=True)
        values = {}
        for part in msgspec.structs.fields(kind):
            value = data.get(part.encode_name)
            if value is None or (isinstance(value, float) and math.isnan(value)):
                continue
            own = _FIELD_OF_PIECE.get(part.name) or (
                field if part.name in ("id", "date", "name", "measure", "count") else part.name
            )
            values[part.name] = self._read(value, hints[part.name], own)
        return kind(**{name: value for name, value in values.items() if value is not None})

    def _read(self, value: Any, hint: Any, field: str) -> Any:
        """The value as the type that the hint says, or None with a note."""
        hint = _without_none(hint)
        kind = get_origin(hint) or hint
        try:
            if kind in (list, tuple):
                parts = value if isinstance(value, list) else [value]
                inner = get_args(hint)[0]
                read = (self._read(part, inner, field) for part in parts if part is not None)
                return kind(part for part in read if part is not None)
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                return self._part(value, kind, field)
            value = _unboxed(value)
            if hint is Count:
                return whole_number(value, self._origin)
            if kind is bool:
                return yes_or_no(str(value), self._origin)
            return self._text(value, field)
        except StudyError as error:
            if field in _INDISPENSABLE:
                raise
            self._unreadable[field] = error.detail
            return None

    def _part(self, value: Any, kind: type[msgspec.Struct], field: str) -> Any:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping):
            return self._struct(value, kind, field)
        only = msgspec.structs.fields(kind)
        if len(only) == 1 and isinstance(value, str | int | float):
            inner = _without_none(get_type_hints(kind, include_extras=True)[only[0].name])
            if inner is Count or inner in (str, bool):  # "startDateStruct": "2020-01"
                return self._struct({only[0].encode_name: value}, kind, field)
        detail = f"{only[0].encode_name} and so on expected, not {value!r:.40}"
        raise StudyError(self._origin, "wrong_type", f"{field}: {detail}")

    def _text(self, value: Any, field: str) -> str:
        if isinstance(value, str):
            return value
        # a number is no NCT number, but other names and texts may look like one
        if isinstance(value, bool | int | float) and field != "nct_id":
            whole = isinstance(value, float) and value.is_integer()
            return str(int(value) if whole else value)
        raise StudyError(self._origin, "wrong_type", f"{field} {value!r:.40} is no text")


def _without_none(hint: Any) -> Any:
    """The type of which a hint says that it may be missing."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _unboxed(value: Any) -> Any:
    """The scalar in `["x"]` or `{"value": "x"}`, as XML and RDF converters write it."""
    for _ in range(3):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        elif isinstance(value, Mapping):
            named = [name for name in _BOXES if name in value]
            if not named:
                break
            value = value[named[0]]
    return value


def _trial(protocol: _Protocol, study: _Study, origin: str, unreadable: dict[str, str]) -> Trial:
    def date(field: str, struct: _Date | None) -> str | None:
        text = struct.date if struct is not None else None
        return read_side_field(iso_date, text, field, origin, unreadable)

    identity = protocol.identification_module or _Identification()
    status = protocol.status_module or _Status()
    sponsor = (protocol.sponsor_collaborators_module or _Sponsors()).lead_sponsor or _Sponsor()
    description = protocol.description_module or _Description()
    conditions = protocol.conditions_module or _Conditions()
    design = protocol.design_module or _Design()
    info = design.design_info or _DesignInfo()
    arms = protocol.arms_interventions_module or _Arms()
    outcomes = protocol.outcomes_module or _Outcomes()
    eligibility = protocol.eligibility_module or _Eligibility()
    return Trial(
        nct_id=nct_id_of(identity.nct_id or "", origin),
        nct_id_aliases=identity.nct_id_aliases or (),
        org_study_id=(identity.org_study_id_info or _OrgStudyId()).id or "",
        brief_title=identity.brief_title or "",
        official_title=identity.official_title or "",
        acronym=identity.acronym or "",
        brief_summary=description.brief_summary or "",
        detailed_description=description.detailed_description or "",
        eligibility_criteria=eligibility.eligibility_criteria or "",
        sex=read_side_field(sex_of, eligibility.sex, "sex", origin, unreadable),
        gender_based=eligibility.gender_based,
        gender_description=eligibility.gender_description or "",
        healthy_volunteers=eligibility.healthy_volunteers,
        minimum_age=eligibility.minimum_age or "",
        maximum_age=eligibility.maximum_age or "",
        overall_status=_word(status.overall_status),
        why_stopped=status.why_stopped or "",
        study_type=_word(design.study_type),
        phases=_phases(design.phases or ()),
        allocation=_word(info.allocation),
        intervention_model=_word(info.intervention_model),
        primary_purpose=_word(info.primary_purpose),
        masking=_masking((info.masking_info or _Masking()).masking),
        enrollment=(design.enrollment_info or _Enrollment()).count,
        conditions=conditions.conditions or (),
        keywords=conditions.keywords or (),
        interventions=_present(item.name for item in arms.interventions or ()),
        primary_outcomes=_present(item.measure for item in outcomes.primary_outcomes or ()),
        lead_sponsor=sponsor.name or "",
        first_posted=date("first_posted", status.study_first_post_date_struct),
        last_update_posted=date("last_update_posted", status.last_update_post_date_struct),
        start_date=date("start_date", status.start_date_struct),
        completion_date=date("completion_date", status.completion_date_struct),
        synthetic=study.synthetic,
        synthetic_stop_reasons=study.synthetic_stop_reasons,
    )


def _present(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values if value)


def _word(text: str | None) -> str | None:
    """The registry's own word as it is; another program's spelling of it in the registry's."""
    return text if text and text.isupper() else choice(text)


def _masking(text: str | None) -> str | None:
    return text if text and text.isupper() else masking_level(text)


def _phases(words: tuple[str, ...]) -> tuple[str, ...]:
    return words if all(word.isupper() for word in words) else phases_of(words)


_V1_PLACES: dict[str, tuple[str, ...]] = {
    "NCTId": ("identificationModule", "nctId"),
    "NCTIdAlias": ("identificationModule", "nctIdAliases", "*"),
    "OrgStudyId": ("identificationModule", "orgStudyIdInfo", "id"),
    "BriefTitle": ("identificationModule", "briefTitle"),
    "OfficialTitle": ("identificationModule", "officialTitle"),
    "Acronym": ("identificationModule", "acronym"),
    "OverallStatus": ("statusModule", "overallStatus"),
    "WhyStopped": ("statusModule", "whyStopped"),
    "StartDate": ("statusModule", "startDateStruct", "date"),
    "CompletionDate": ("statusModule", "completionDateStruct", "date"),
    "StudyFirstPostDate": ("statusModule", "studyFirstPostDateStruct", "date"),
    "LastUpdatePostDate": ("statusModule", "lastUpdatePostDateStruct", "date"),
    "LeadSponsorName": ("sponsorCollaboratorsModule", "leadSponsor", "name"),
    "BriefSummary": ("descriptionModule", "briefSummary"),
    "DetailedDescription": ("descriptionModule", "detailedDescription"),
    "Condition": ("conditionsModule", "conditions", "*"),
    "Keyword": ("conditionsModule", "keywords", "*"),
    "StudyType": ("designModule", "studyType"),
    "Phase": ("designModule", "phases", "*"),
    "DesignAllocation": ("designModule", "designInfo", "allocation"),
    "DesignInterventionModel": ("designModule", "designInfo", "interventionModel"),
    "DesignPrimaryPurpose": ("designModule", "designInfo", "primaryPurpose"),
    "DesignMasking": ("designModule", "designInfo", "maskingInfo", "masking"),
    "EnrollmentCount": ("designModule", "enrollmentInfo", "count"),
    "InterventionName": ("armsInterventionsModule", "interventions", "*", "name"),
    "PrimaryOutcomeMeasure": ("outcomesModule", "primaryOutcomes", "*", "measure"),
    "EligibilityCriteria": ("eligibilityModule", "eligibilityCriteria"),
    "Gender": ("eligibilityModule", "sex"),
    "GenderBased": ("eligibilityModule", "genderBased"),
    "GenderDescription": ("eligibilityModule", "genderDescription"),
    "HealthyVolunteers": ("eligibilityModule", "healthyVolunteers"),
    "MinimumAge": ("eligibilityModule", "minimumAge"),
    "MaximumAge": ("eligibilityModule", "maximumAge"),
}
"""Where a field of API v1 stands in v2; "*" is a list. Its names are unique in a v1 record."""


def study_from_v1(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study of API v1 (until 2024) in the shape of v2, with all that a `Trial` holds.

    `study` is what stands under "Study" in FullStudies, or a row of StudyFields, where every
    field is a list of its values.
    """
    found: dict[str, list[Any]] = {}
    waiting: list[tuple[str, Any]] = [("", study)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting.extend(reversed([(str(key), part) for key, part in value.items()]))
        elif isinstance(value, list):
            waiting.extend((name, part) for part in reversed(value))
        elif value not in (None, ""):
            found.setdefault(name, []).append(value)
    protocol: dict[str, Any] = {}
    for name, (module, *place) in _V1_PLACES.items():
        if name in found:
            _put(protocol.setdefault(module, {}), place, found[name])
    version = [{"versionHolder": text} for text in found.get("VersionHolder", ())[:1]]
    return {
        "protocolSection": protocol,
        **({"derivedSection": {"miscInfoModule": version[0]}} if version else {}),
    }


def _put(into: dict[str, Any], place: list[str], values: list[Any]) -> None:
    name, *rest = place
    if rest[:1] == ["*"]:
        into[name] = [{rest[1]: value} for value in values] if rest[1:] else values
    elif rest:
        _put(into.setdefault(name, {}), rest, values)
    else:
        into[name] = values[0] if len(values) == 1 else "\n".join(map(str, values))
