"""Raw studies -> sorted runs, and a tally in which every record is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from trialese.collect.merge import RunWriter
from trialese.collect.parse import parse_study
from trialese.collect.source import (
    ATTRIBUTION,
    SYNTHETIC_NOTICE,
    RawStudy,
    Reject,
    StudyError,
)
from trialese.errors import RecordError

__all__ = ["Tally", "take_in"]

CSV_NOTICE = (
    "the website's CSV holds no eligibility criteria, no detailed description, no keywords and "
    "no reason for stopping"
)
_REPORT_EVERY = 500


class Tally(msgspec.Struct):
    """Counts over records; tallies of parts add up to that of the whole."""

    records: int = 0
    synthetic: int = 0
    formats: dict[str, int] = {}
    rejects: list[Reject] = []
    oldest_data: str | None = None
    newest_data: str | None = None

    def saw(self, data_date: str | None) -> None:
        """Note the day that a record's data are of."""
        if data_date:
            self.newest_data = max(self.newest_data or data_date, data_date)
            self.oldest_data = min(self.oldest_data or data_date, data_date)

    def add(self, other: Tally) -> None:
        """Count the other's records too."""
        self.records += other.records
        self.synthetic += other.synthetic
        for name, count in other.formats.items():
            self.formats[name] = self.formats.get(name, 0) + count
        self.rejects.extend(other.rejects)
        self.saw(other.oldest_data)
        self.saw(other.newest_data)

    def counts(self) -> dict[str, Any]:
        """The counts as a manifest holds them."""
        reasons: dict[str, int] = {}
        for reject in self.rejects:
            reasons[reject.reason] = reasons.get(reject.reason, 0) + 1
        return {
            "records": self.records,
            "formats": dict(sorted(self.formats.items())),
            "rejects": dict(sorted(reasons.items())),
            "synthetic": self.synthetic,
        }

    def notes(self) -> dict[str, Any]:
        """What a manifest must say because of what was in the records."""
        notes: dict[str, Any] = {"synthetic": self.synthetic > 0}
        if self.newest_data:
            notes["data_timestamp"] = self.newest_data
        if self.oldest_data != self.newest_data:
            notes["oldest_data_timestamp"] = self.oldest_data
        if sum(self.formats.values()) > self.synthetic:
            notes["attribution"] = ATTRIBUTION
        if self.synthetic:
            notes["synthetic_notice"] = SYNTHETIC_NOTICE
        if "csv" in self.formats:
            notes["csv"] = CSV_NOTICE
        return notes

    def refuse_nothing_but_rejects(self) -> None:
        """Do nothing if some record became a trial.

        Raises:
            RecordError: not one did; names the first reject.
        """
        if self.rejects and len(self.rejects) == self.records:
            first = min(self.rejects)
            raise RecordError(
                f"{first.origin}: {first.detail or first.reason} "
                f"(all {self.records:,} records were refused)"
            )


def take_in(
    items: Iterable[RawStudy | Reject],
    runs: RunWriter,
    *,
    told: Callable[[int], None] = lambda records: None,
) -> Tally:
    """The tally of `items`, whose trials go to `runs`; `told` hears now and then how many."""
    tally = Tally()
    for item in items:
        tally.records += 1
        if tally.records % _REPORT_EVERY == 0:
            told(tally.records)
        if isinstance(item, Reject):
            tally.rejects.append(item)
            continue
        try:
            parsed = parse_study(item)
        except StudyError as error:
            tally.rejects.append(error.reject())
            continue
        tally.formats[item.format] = tally.formats.get(item.format, 0) + 1
        tally.synthetic += parsed.trial.synthetic
        tally.saw(parsed.data_date)
        runs.add(parsed)
    return tally
