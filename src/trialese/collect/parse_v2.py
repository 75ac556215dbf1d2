"""Parser of API v2 studies (JSON).

Only the modules that a `Trial` needs are decoded, with their types checked; msgspec skips the
rest (locations, results: most of the bytes). Piece names: clinicaltrials.gov/data-api, study
data structure.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trialese.collect.source import RawStudy, StudyError
from trialese.collect.vocabulary import data_date_of, iso_date, nct_id_of, sex_of
from trialese.records import Trial

__all__ = ["parse_v2"]

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


def parse_v2(raw: RawStudy) -> tuple[Trial, str | None]:
    """The `Trial` of an API v2 study, and the date of the registry data it comes from.

    Raises:
        StudyError: no JSON, a JSON that is no study, or a module of the wrong type.
    """
    study = _decode(raw)
    protocol = study.protocol_section
    if protocol is None:
        raise StudyError(
            raw.origin, "no_study", "this JSON is no study (no protocolSection); pass v2 records"
        )
    misc = (study.derived_section or _Derived()).misc_info_module or _MiscInfo()
    return _trial(protocol, study, raw.origin), data_date_of(misc.version_holder)


def _decode(raw: RawStudy) -> _Study:
    try:
        if isinstance(raw.data, bytes):
            return _DECODER.decode(raw.data)
        return msgspec.convert(raw.data, _Study)
    except msgspec.ValidationError as error:
        raise StudyError(raw.origin, "wrong_type", f"{error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StudyError(raw.origin, "bad_json", f"not valid JSON ({error})") from error
    except RecursionError as error:
        raise StudyError(raw.origin, "too_deep", "nested too deeply to be a study") from error


def _trial(protocol: _Protocol, study: _Study, origin: str) -> Trial:
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
        sex=sex_of(eligibility.sex, origin),
        gender_based=eligibility.gender_based,
        gender_description=eligibility.gender_description or "",
        healthy_volunteers=eligibility.healthy_volunteers,
        minimum_age=eligibility.minimum_age or "",
        maximum_age=eligibility.maximum_age or "",
        overall_status=status.overall_status or None,
        why_stopped=status.why_stopped or "",
        study_type=design.study_type or None,
        phases=design.phases or (),
        allocation=info.allocation or None,
        intervention_model=info.intervention_model or None,
        primary_purpose=info.primary_purpose or None,
        masking=(info.masking_info or _Masking()).masking or None,
        enrollment=(design.enrollment_info or _Enrollment()).count,
        conditions=conditions.conditions or (),
        keywords=conditions.keywords or (),
        interventions=_present(item.name for item in arms.interventions or ()),
        primary_outcomes=_present(item.measure for item in outcomes.primary_outcomes or ()),
        lead_sponsor=sponsor.name or "",
        first_posted=_date(status.study_first_post_date_struct, origin),
        last_update_posted=_date(status.last_update_post_date_struct, origin),
        start_date=_date(status.start_date_struct, origin),
        completion_date=_date(status.completion_date_struct, origin),
        synthetic=study.synthetic,
        synthetic_stop_reasons=study.synthetic_stop_reasons,
    )


def _present(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values if value)


def _date(struct: _Date | None, origin: str) -> str | None:
    return iso_date(struct.date, origin) if struct is not None else None
