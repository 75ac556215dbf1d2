"""Parsers of table rows: the website's CSV download, AACT's joined rows, bare texts.

The CSV download has no eligibility criteria, no detailed description, no keywords and no
why_stopped in either of its generations (until 2023: "Title", "Status", "Gender", ...; since
then: "Study Title", "Study Status", "Sex", ...), so those stay empty, unless somebody has added a
column of reasons.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from trialese.collect.delimited import (
    CSV_ID_COLUMN,
    CSV_REASON_COLUMN,
    ID_COLUMNS,
    REASON_COLUMNS,
    TEXT_COLUMNS,
    TITLE_COLUMNS,
    find_column,
    known_columns,
)
from trialese.collect.source import RawStudy, StudyError
from trialese.collect.vocabulary import (
    choice,
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

__all__ = [
    "FIELDS_OF_CSV",
    "TextRow",
    "fields_in_csv",
    "parse_aact",
    "parse_csv",
    "parse_text",
    "text_row",
]

_DESIGN_COLUMNS = ("Study Design", "Study Designs")
FIELDS_OF_CSV: Mapping[str, tuple[str, ...]] = {
    "nct_id": (CSV_ID_COLUMN,),
    "org_study_id": ("Other IDs",),
    "brief_title": ("Study Title", "Title"),
    "acronym": ("Acronym",),
    "brief_summary": ("Brief Summary",),
    "sex": ("Sex", "Gender"),
    "minimum_age": ("Age",),
    "maximum_age": ("Age",),
    "overall_status": ("Study Status", "Status"),
    "why_stopped": (CSV_REASON_COLUMN,),
    "study_type": ("Study Type",),
    "phases": ("Phases",),
    "allocation": _DESIGN_COLUMNS,
    "intervention_model": _DESIGN_COLUMNS,
    "primary_purpose": _DESIGN_COLUMNS,
    "masking": _DESIGN_COLUMNS,
    "enrollment": ("Enrollment",),
    "conditions": ("Conditions",),
    "interventions": ("Interventions",),
    "primary_outcomes": ("Primary Outcome Measures",),
    "lead_sponsor": ("Sponsor", "Sponsor/Collaborators"),
    "first_posted": ("First Posted",),
    "last_update_posted": ("Last Update Posted",),
    "start_date": ("Start Date",),
    "completion_date": ("Completion Date",),
}
"""Field of a `Trial` -> the columns of the website's CSV that hold it, in both generations."""

_MISSING = frozenset({"null", "NULL", "nan", "NaN", "<NA>", "#N/A"})
"""Words that programs write into an empty cell; the website itself wrote "null" in 2018."""
_EXCEL_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?: 0?0:00)?\Z")
_NCT_ID = re.compile(r"NCT[0-9]{8}", re.IGNORECASE)
_INTERVENTION_KIND = re.compile(r"[A-Z][A-Za-z_/ -]{0,24}: ")
_AGES = re.compile(r"(?P<low>\d+ \w+)(?: to (?P<high>\d+ \w+)| and older)|up to (?P<top>\d+ \w+)")


def parse_csv(raw: RawStudy, unreadable: dict[str, str] | None = None) -> Trial:
    """The `Trial` of a row of the website's CSV download, of either generation.

    A side field that cannot be read is left empty and noted in `unreadable`: name -> why.

    Raises:
        StudyError: no NCT number.
    """
    row, origin = _cells(raw), raw.origin
    row = {name: "" if value.strip() in _MISSING else value for name, value in row.items()}
    noted: dict[str, str] = {} if unreadable is None else unreadable
    days = _Days(cell for name, cell in row.items() if name.endswith(("Date", "Posted")))

    def cell(*names: str) -> str:
        return next((row[name] for name in names if row.get(name)), "")

    def cells(*names: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in cell(*names).split("|") if part.strip())

    def date(field: str, column: str) -> str | None:
        return read_side_field(days.iso_date, cell(column), field, origin, noted)

    design = {
        name.strip(): value.strip()
        for name, _, value in (
            part.partition(":") for part in cells("Study Design", "Study Designs")
        )
    }
    ages = _AGES.search(cell("Age"))
    return Trial(
        nct_id=nct_id_of(cell(CSV_ID_COLUMN), origin),
        org_study_id=(cells("Other IDs") or ("",))[0],
        brief_title=cell("Study Title", "Title"),
        acronym=cell("Acronym"),
        brief_summary=cell("Brief Summary"),
        sex=read_side_field(sex_of, cell("Sex", "Gender"), "sex", origin, noted),
        minimum_age=ages["low"] or "" if ages else "",
        maximum_age=ages["high"] or ages["top"] or "" if ages else "",
        overall_status=choice(cell("Study Status", "Status")),
        why_stopped=cell(CSV_REASON_COLUMN),
        study_type=choice(cell("Study Type").partition(":")[0]),
        phases=phases_of(cells("Phases")),
        allocation=choice(design.get("Allocation")),
        intervention_model=choice(design.get("Intervention Model")),
        primary_purpose=choice(design.get("Primary Purpose")),
        masking=masking_level(design.get("Masking")),
        enrollment=read_side_field(whole_number, cell("Enrollment"), "enrollment", origin, noted),
        conditions=cells("Conditions"),
        interventions=tuple(
            _INTERVENTION_KIND.sub("", name, count=1) for name in cells("Interventions")
        ),
        primary_outcomes=cells("Primary Outcome Measures"),
        lead_sponsor=cell("Sponsor") or (cells("Sponsor/Collaborators") or ("",))[0],
        first_posted=date("first_posted", "First Posted"),
        last_update_posted=date("last_update_posted", "Last Update Posted"),
        start_date=date("start_date", "Start Date"),
        completion_date=date("completion_date", "Completion Date"),
    )


def fields_in_csv(row: Mapping[str, object], trial: Trial) -> frozenset[str]:
    """The fields that a row of the website's CSV holds: those of the columns that it has.

    People choose columns before they download. The newer generation names age groups only
    ("ADULT, OLDER_ADULT"), which are no limits of age.
    """
    held = {field for field, columns in FIELDS_OF_CSV.items() if any(c in row for c in columns)}
    if not (trial.minimum_age or trial.maximum_age):
        held -= {"minimum_age", "maximum_age"}
    return frozenset(held)


class _Days:
    """The dates of one row; those that Excel wrote again (7/17/2018) are read if the row tells
    whether the day or the month comes first."""

    def __init__(self, cells: Iterable[str]) -> None:
        found = [match for cell in cells if (match := _EXCEL_DATE.match(cell.strip()))]
        self._month_first = any(int(match[2]) > 12 for match in found)
        self._day_first = any(int(match[1]) > 12 for match in found)

    def iso_date(self, text: str, origin: str) -> str | None:
        """As `vocabulary.iso_date`."""
        match = _EXCEL_DATE.match(text.strip())
        if match is None:
            return iso_date(text, origin)
        one, other = int(match[1]), int(match[2])
        if self._month_first == self._day_first and one != other:
            raise StudyError(
                origin,
                "bad_date",
                f"{text[:40]!r} may be day or month first, as Excel writes it; "
                "download the CSV again and do not save it in Excel",
            )
        month, day = (other, one) if self._day_first else (one, other)
        return iso_date(f"{match[3]}-{month:02d}-{day:02d}", origin)


def parse_aact(raw: RawStudy, unreadable: dict[str, str] | None = None) -> Trial:
    """The `Trial` of AACT's rows of one study, joined by the reader under AACT's column names.

    AACT's exporter writes line breaks as `~`. Lists (conditions, keywords, ...) are tuples. A side
    field that cannot be read is left empty and noted in `unreadable`: name -> why.

    Raises:
        StudyError: no NCT number.
    """
    row, origin = _cells(raw), raw.origin
    noted: dict[str, str] = {} if unreadable is None else unreadable
    lists = {name: tuple(value) for name, value in raw.data.items() if isinstance(value, tuple)}  # type: ignore[union-attr]

    def cell(name: str) -> str:
        return row.get(name, "").strip()

    def date(field: str, *names: str) -> str | None:
        written = next((cell(name) for name in names if cell(name)), "")
        return read_side_field(iso_date, written, field, origin, noted)

    def truth(name: str) -> bool | None:
        return read_side_field(yes_or_no, cell(name), name, origin, noted)

    def text(name: str) -> str:
        return re.sub(r"(?<!\\)~", "\n", row.get(name, "")).strip()

    return Trial(
        nct_id=nct_id_of(cell("nct_id"), origin),
        nct_id_aliases=lists.get("nct_id_aliases", ()),
        org_study_id=cell("org_study_id"),
        brief_title=cell("brief_title"),
        official_title=cell("official_title"),
        acronym=cell("acronym"),
        brief_summary=text("brief_summary"),
        detailed_description=text("detailed_description"),
        eligibility_criteria=text("criteria"),
        sex=read_side_field(sex_of, cell("gender"), "sex", origin, noted),
        gender_based=truth("gender_based"),
        gender_description=text("gender_description"),
        healthy_volunteers=truth("healthy_volunteers"),
        minimum_age=optional_age(cell("minimum_age")),
        maximum_age=optional_age(cell("maximum_age")),
        overall_status=choice(cell("overall_status")),
        why_stopped=text("why_stopped"),
        study_type=choice(cell("study_type")),
        phases=phases_of([cell("phase")]),
        allocation=choice(cell("allocation")),
        intervention_model=choice(cell("intervention_model")),
        primary_purpose=choice(cell("primary_purpose")),
        masking=masking_level(cell("masking")),
        enrollment=read_side_field(whole_number, cell("enrollment"), "enrollment", origin, noted),
        conditions=lists.get("conditions", ()),
        keywords=lists.get("keywords", ()),
        interventions=lists.get("interventions", ()),
        primary_outcomes=lists.get("primary_outcomes", ()),
        lead_sponsor=cell("lead_sponsor"),
        first_posted=date("first_posted", "study_first_posted_date"),
        last_update_posted=date("last_update_posted", "last_update_posted_date"),
        start_date=date("start_date", "start_month_year", "start_date"),
        completion_date=date("completion_date", "completion_month_year", "completion_date"),
    )


def parse_text(raw: RawStudy) -> Trial:
    """A `Trial` that is a text and an identifier, as the prior art's tables hold them.

    The identifier is the NCT number in the identifying column, else one made of the text's
    sha256 (`TEXT-` and twelve hexadecimal digits), so that equal texts are one trial. A text
    becomes the reason to stop if its column is named so, else the detailed description, as no
    section of it is known; a row may have one of each.

    Raises:
        StudyError: no text in the row, or two of one kind.
    """
    row = _cells(raw)
    reason = _text_in(raw, row, REASON_COLUMNS)
    described = _text_in(raw, row, [name for name in TEXT_COLUMNS if name not in REASON_COLUMNS])
    if not (text := described or reason):
        raise StudyError(raw.origin, "no_text", "the row has no text")
    found = _NCT_ID.fullmatch(_cell_of(row, ID_COLUMNS))
    made_up = f"TEXT-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return Trial(
        nct_id=found[0].upper() if found else made_up,
        brief_title=_cell_of(row, TITLE_COLUMNS),
        why_stopped=reason,
        detailed_description=described,
    )


def _text_in(raw: RawStudy, row: Mapping[str, str], known: Sequence[str]) -> str:
    found = known_columns(list(row), known)
    if len(found) > 1:
        which = " or ".join(map(repr, found))
        raise StudyError(
            raw.origin, "two_texts", f"the text may be that of {which}; leave one out of the table"
        )
    text = _cell_of(row, known)
    return "" if text in _MISSING else text


def _cell_of(row: Mapping[str, str], known: Sequence[str]) -> str:
    column = find_column(list(row), known)
    return "" if column is None else row[column].strip()


class TextRow(NamedTuple):
    """A row of a table of texts."""

    identifier: str
    """As it stands in the identifying column; "" without one."""
    text: str


def text_row(raw: RawStudy) -> TextRow:
    """The text of a row, and what names it.

    Raises:
        StudyError: the text is empty.
    """
    row = _cells(raw)
    text = _cell_of(row, TEXT_COLUMNS)
    if not text or text in _MISSING:
        raise StudyError(raw.origin, "no_text", "the row has no text")
    return TextRow(_cell_of(row, ID_COLUMNS), text)


def _cells(raw: RawStudy) -> dict[str, str]:
    """The cells that are text. Bytes that are no UTF-8 arrive as lone surrogates: refused."""
    assert isinstance(raw.data, Mapping)
    row = {name: value for name, value in raw.data.items() if isinstance(value, str)}
    try:
        "".join(row.values()).encode()
    except UnicodeEncodeError as error:
        raise StudyError(raw.origin, "not_utf8", "holds bytes that are no UTF-8 text") from error
    return row
