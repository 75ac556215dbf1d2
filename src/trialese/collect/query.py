"""What a collection asks the registry for, as parameters of /studies."""

from __future__ import annotations

from trialese.settings import CollectSettings

__all__ = ["FIELDS", "query_of", "year_windows"]

FIELDS = (
    "IdentificationModule", "StatusModule", "SponsorCollaboratorsModule", "DescriptionModule",
    "ConditionsModule", "DesignModule", "ArmsInterventionsModule", "OutcomesModule",
    "EligibilityModule", "MiscInfoModule",
)  # fmt: skip
"""The modules that a `Trial` is parsed from; locations and results would treble the bytes."""
FIRST_YEAR = 1999
"""Of first posting: the registry opened in February 2000 with studies dated a little earlier."""


def query_of(settings: CollectSettings) -> dict[str, str]:
    """The parameters of /studies, paging apart, that the settings ask for.

    Sorted by date because the registry's default order is unstable, and only dates and numbers
    can be sorted by.
    """
    query = {
        "format": "json",
        "sort": "StudyFirstPostDate:asc",
        "fields": "|".join(FIELDS),
        "pageSize": str(settings.page_size),
    }
    windows = [
        f"AREA[{area}]RANGE[{date},MAX]"
        for area, date in (
            ("StudyFirstPostDate", settings.since),
            ("LastUpdatePostDate", settings.updated_since),
        )
        if date
    ]
    if windows:
        query["filter.advanced"] = " AND ".join(windows)
    if settings.query:
        query["query.term"] = settings.query
    return query


def year_windows(query: dict[str, str], *, last_year: int) -> list[dict[str, str]]:
    """The query once for each year of first posting; the first and last windows are open."""
    starts = ["MIN", *(f"{year}-01-01" for year in range(FIRST_YEAR + 1, last_year + 1))]
    ends = [*(f"{year}-12-31" for year in range(FIRST_YEAR, last_year)), "MAX"]
    return [
        {**query, "filter.advanced": f"AREA[StudyFirstPostDate]RANGE[{start},{end}]"}
        for start, end in zip(starts, ends, strict=True)
    ]
