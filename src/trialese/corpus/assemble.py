"""Trials in, Corpus out: render, filter, cluster, split, write.

Trials come one by one and their texts wait in an unnamed file, so memory holds fingerprints and
ids only. What is written is sorted by id: the order of the input leaves no trace.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trialese.artifacts import as_settings, write_artifact
from trialese.collect import read_trials
from trialese.corpus.dedup import FingerprintIndex
from trialese.corpus.filters import keep_document
from trialese.corpus.fingerprint import Fingerprinter
from trialese.corpus.render import check_fields, render_document
from trialese.corpus.split import assign_split
from trialese.corpus.store import Era, StoredDocument, write_documents, write_drops
from trialese.progress import Progress, silent
from trialese.records import Corpus, Drop, Snapshot, Trial
from trialese.settings import CorpusSettings, DedupSettings

__all__ = ["assemble_corpus", "build_corpus", "era_of"]

_REPORT_EVERY = 500


def build_corpus(
    snapshot: Snapshot, settings: CorpusSettings, path: Path, *, progress: Progress = silent
) -> Corpus:
    """The corpus of a snapshot's trials, written to `path`.

    Raises:
        ArtifactError: the snapshot is damaged or `path` cannot be written.
        RecipeError: the settings name a field that trials do not have.
    """
    return assemble_corpus(
        read_trials(snapshot),
        settings,
        path,
        inputs={"snapshot": snapshot.manifest.digest},
        notes=snapshot.manifest.notes,
        progress=progress,
    )


def assemble_corpus(
    trials: Iterable[Trial],
    settings: CorpusSettings,
    path: Path,
    *,
    inputs: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Corpus:
    """The corpus of `trials`, in whatever order they come, written to `path`.

    `documents.parquet` holds the documents with cluster, split and era, `drops.parquet` what was
    removed and why; both are sorted by id.
    """
    check_fields(settings.render)
    stated = as_settings(settings)
    stated.pop("blocks")  # they are made from the corpus, not for it
    with write_artifact(path, kind="corpus", settings=stated, inputs=inputs) as draft:
        draft.notes.update(notes or {})
        with _Intake(settings, draft.folder) as intake:
            for number, trial in enumerate(trials, 1):
                intake.take(trial)
                if number % _REPORT_EVERY == 0:
                    progress("corpus: trials rendered", number, None)
            progress("corpus: documents clustered", 0, len(intake.waiting))
            clusters = intake.index.clusters()
            kept = intake.keep(clusters)
            progress("corpus: documents written", 0, len(kept))
            counts = write_documents(draft.folder, intake.stored(kept, clusters))
            write_drops(draft.folder, intake.drops)
        sizes = Counter(clusters.values())
        draft.counts.update(
            trials=intake.trials,
            documents=len(kept),
            drops=dict(sorted(Counter(drop.reason for drop in intake.drops).items())),
            first_posted_missing=sum(row.first_posted is None for row in kept),
            clusters=len({clusters[row.nct_id] for row in kept}),
            clusters_of_several=sum(size > 1 for size in sizes.values()),
            documents_in_clusters_of_several=sum(size for size in sizes.values() if size > 1),
            largest_cluster=max(sizes.values(), default=0),
            **counts,
        )
    assert draft.manifest is not None
    return Corpus(path, draft.manifest)


def era_of(first_posted: str | None, new_from: str | None) -> Era:
    """Whether a trial is new: first posted on or after `new_from`. Without a date it is old.

    Without `new_from` every trial is new, whatever its date.
    """
    if new_from is None:
        return "new"
    return "new" if first_posted is not None and first_posted >= new_from else "old"


@dataclass(frozen=True, slots=True)
class _Row:
    """A document that waits in the spill file. Rows sort by id, then by text."""

    nct_id: str
    exact: bytes
    start: int
    length: int
    first_posted: str | None


class _Intake:
    """Takes trials in one by one, and remembers of each what later steps need."""

    def __init__(self, settings: CorpusSettings, scratch: Path) -> None:
        self._settings = settings
        self._fingerprint = Fingerprinter(settings.dedup)
        self._spill: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - __exit__
        self._end = 0
        self.index = FingerprintIndex(settings.dedup, scratch=scratch)
        self.waiting: list[_Row] = []
        self.drops: list[Drop] = []
        self.trials = 0

    def __enter__(self) -> _Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self._spill.close()
        self.index.__exit__()

    def take(self, trial: Trial) -> None:
        """Render the trial and put it among the waiting, or among the drops."""
        self.trials += 1
        document = render_document(trial, self._settings.render)
        outcome = keep_document(document, self._settings.filters)
        if isinstance(outcome, Drop):
            self.drops.append(outcome)
            return
        fingerprint = self._fingerprint(document.text)
        self.index.add(document.nct_id, fingerprint)
        text = document.text.encode("utf-8")
        self._spill.write(text)
        self.waiting.append(
            _Row(document.nct_id, fingerprint.exact, self._end, len(text), trial.first_posted)
        )
        self._end += len(text)

    def keep(self, clusters: Mapping[str, str]) -> list[_Row]:
        """The rows that stay, sorted by id; the others join the drops."""
        kept: list[_Row] = []
        ids: set[str] = set()
        copies: set[bytes | str] = set()
        for row in sorted(self.waiting, key=lambda row: (row.nct_id, row.exact)):
            reason = _why_drop(row, clusters, self._settings.dedup, ids, copies)
            if reason is None:
                kept.append(row)
            else:
                self.drops.append(Drop(row.nct_id, reason))
        self.drops.sort(key=lambda drop: (drop.nct_id, drop.reason))
        return kept

    def stored(self, rows: Iterable[_Row], clusters: Mapping[str, str]) -> Iterator[StoredDocument]:
        """The rows with text, cluster, split and era."""
        self._spill.flush()
        for row in rows:
            cluster = clusters[row.nct_id]
            yield StoredDocument(
                nct_id=row.nct_id,
                cluster=cluster,
                split=assign_split(cluster, self._settings.split),
                era=era_of(row.first_posted, self._settings.new_from),
                first_posted=row.first_posted,
                text=os.pread(self._spill.fileno(), row.length, row.start).decode("utf-8"),
            )


def _why_drop(
    row: _Row,
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
