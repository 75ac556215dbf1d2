"""Where prepared trials wait until all have come: texts in an unnamed file, the rest in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from trialese.corpus.boilerplate import Boilerplate, ParagraphLedger, cut_paragraphs
from trialese.corpus.dedup import FingerprintIndex
from trialese.corpus.prepare import Prepared
from trialese.corpus.split import assign_split
from trialese.corpus.store import Era, StoredDocument
from trialese.records import Drop
from trialese.settings import CorpusSettings, DedupSettings

__all__ = ["Intake", "Row", "era_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """A document whose text waits in the file."""

    number: int
    nct_id: str
    exact: bytes
    start: int
    length: int
    first_posted: str | None


class Intake:
    """Takes in prepared trials in any order, and gives back what stays, by ascending id."""

    def __init__(self, settings: CorpusSettings, scratch: Path) -> None:
        self._settings = settings
        self._spill: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - __exit__
        self._end = 0
        self._index = FingerprintIndex(settings.dedup, scratch=scratch)
        self._ledger = ParagraphLedger(settings.boilerplate)
        self._waiting: list[Row] = []
        self.drops: list[Drop] = []
        self.boilerplate: list[Boilerplate] = []
        """The most frequent of them."""
        self.boilerplate_paragraphs = 0
        self.cut_paragraphs = 0
        self.trials = 0

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self._spill.close()
        self._index.__exit__()

    def take(self, trial: Prepared) -> None:
        """Put the trial among the waiting, or among the drops."""
        self.trials += 1
        if trial.reason:
            self.drops.append(Drop(trial.nct_id, trial.reason))
            return
        number = len(self._waiting)
        self._index.add(trial.nct_id, trial.fingerprint())
        self._ledger.add(number, trial.paragraph_hashes())
        start, length = self._write(trial.text)
        self._waiting.append(
            Row(number, trial.nct_id, trial.exact, start, length, trial.first_posted)
        )

    def clusters(self) -> dict[str, str]:
        """For each id the smallest id of its cluster."""
        return self._index.clusters()

    def keep(self, clusters: Mapping[str, str]) -> list[Row]:
        """The rows that stay, by ascending id, boilerplate capped; the others join the drops."""
        kept = self._cap_boilerplate(self._without_copies(clusters))
        self.drops.sort(key=lambda drop: (drop.nct_id, drop.reason))
        return kept

    def stored(self, rows: list[Row], clusters: Mapping[str, str]) -> Iterator[StoredDocument]:
        """The rows with text, cluster, split and era."""
        earliest = _earliest(self._waiting, clusters)
        for row in rows:
            cluster = clusters[row.nct_id]
            yield StoredDocument(
                nct_id=row.nct_id,
                cluster=cluster,
                split=assign_split(
                    cluster, self._settings.split, first_posted=earliest.get(cluster)
                ),
                era=era_of(row.first_posted, self._settings.new_from),
                first_posted=row.first_posted,
                text=self._read(row),
            )

    def _without_copies(self, clusters: Mapping[str, str]) -> list[Row]:
        kept: list[Row] = []
        ids: set[str] = set()
        copies: set[bytes | str] = set()
        for row in sorted(self._waiting, key=lambda row: (row.nct_id, row.exact)):
            reason = _why_drop(row, clusters, self._settings.dedup, ids, copies)
            if reason is None:
                kept.append(row)
            else:
                self.drops.append(Drop(row.nct_id, reason))
        return kept

    def _cap_boilerplate(self, rows: list[Row]) -> list[Row]:
        by_number = {row.number: row for row in rows}
        self.boilerplate_paragraphs, self.boilerplate, cuts = self._ledger.frequent(
            list(by_number), lambda number: self._read(by_number[number])
        )
        for number, hashes in cuts.items():
            row = by_number[number]
            text = cut_paragraphs(self._read(row), hashes)
            self.cut_paragraphs += len(hashes)
            if len(text) < self._settings.filters.min_characters:
                self.drops.append(Drop(row.nct_id, "boilerplate_only"))
                del by_number[number]
            else:
                start, length = self._write(text)
                by_number[number] = replace(row, start=start, length=length)
        return list(by_number.values())

    def _write(self, text: str) -> tuple[int, int]:
        data = text.encode("utf-8")
        start = self._end
        self._spill.write(data)
        self._end += len(data)
        return start, len(data)

    def _read(self, row: Row) -> str:
        self._spill.flush()
        return os.pread(self._spill.fileno(), row.length, row.start).decode("utf-8")


def era_of(first_posted: str | None, new_from: str | None) -> Era:
    """Whether a trial is new: first posted on or after `new_from`. Without a date it is old.

    Without `new_from` every trial is new, whatever its date.
    """
    if new_from is None:
        return "new"
    return "new" if first_posted is not None and first_posted >= new_from else "old"


def _earliest(rows: list[Row], clusters: Mapping[str, str]) -> dict[str, str]:
    """The first date on which a trial of each cluster was posted, dropped copies included."""
    earliest: dict[str, str] = {}
    for row in rows:
        if row.first_posted is not None:
            cluster = clusters[row.nct_id]
            earliest[cluster] = min(row.first_posted, earliest.get(cluster, row.first_posted))
    return earliest


def _why_drop(
    row: Row,
    clusters: Mapping[str, str],
    settings: DedupSettings,
    ids: set[str],
    copies: set[bytes | str],
) -> str | None:
    """The reason to drop a row, given the ids and copies kept so far; None (and noted) to keep."""
    if row.nct_id in ids:
        return "repeated_id"
    if settings.drop == "exact" and row.exact in copies:
        return "exact_duplicate"
    if settings.drop == "near" and clusters[row.nct_id] in copies:
        return "near_duplicate"
    ids.add(row.nct_id)
    copies.add(clusters[row.nct_id] if settings.drop == "near" else row.exact)
    return None
