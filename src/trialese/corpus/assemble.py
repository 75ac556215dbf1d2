"""Trials in, corpus out: render, filter, fingerprint, cluster, split and write.

Each trial is prepared without knowing the others, in this process or in several; the texts then
wait in an unnamed file until all have come, so memory holds fingerprints and ids only. What is
written is sorted by id: neither the order of the input nor the number of processes changes a byte.
"""

from __future__ import annotations

import os
import re
import string
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np

from trialese.artifacts import as_settings, write_artifact
from trialese.collect.merge import TRIAL_COLUMNS
from trialese.collect.snapshot import read_identities, read_trials
from trialese.collect.vocabulary import study_number
from trialese.corpus.boilerplate import Boilerplate, ParagraphLedger, cut_paragraphs
from trialese.corpus.dedup import (
    Fingerprint,
    Fingerprinter,
    FingerprintIndex,
    normalise,
    paragraph_hash,
    paragraph_keys,
)
from trialese.corpus.render import check_fields, render_document
from trialese.corpus.split import assign_split, check_split, overlap_table
from trialese.corpus.store import (
    CARD_NAME,
    Era,
    StoredDocument,
    corpus_card,
    write_boilerplate,
    write_documents,
    write_drops,
    write_overlap,
)
from trialese.errors import RecordError
from trialese.parallel import count_cores, map_in_processes
from trialese.progress import Progress, silent
from trialese.records import Corpus, Document, Drop, Snapshot, Trial
from trialese.settings import CorpusSettings, DedupSettings, FilterSettings

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = [
    "Intake",
    "PrepareParts",
    "Prepared",
    "Preparer",
    "Row",
    "assemble_corpus",
    "build_corpus",
    "era_of",
    "join_prepared",
    "keep_document",
    "prepare_trials",
]


_ASCII_LETTERS = string.ascii_letters.encode()
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def keep_document(document: Document, settings: FilterSettings) -> Document | Drop:
    """The document itself, or a Drop: `empty`, `too_short`, `too_long` or `few_letters`.

    Lengths are in characters; the share of letters is among characters that are not blank.
    """
    text = document.text
    if not text.strip():
        return Drop(document.nct_id, "empty")
    if len(text) < settings.min_characters:
        return Drop(document.nct_id, "too_short")
    if len(text) > settings.max_characters:
        return Drop(document.nct_id, "too_long")
    solid = "".join(text.split())
    if _count_letters(solid) < settings.min_letters_share * len(solid):
        return Drop(document.nct_id, "few_letters")
    return document


def _count_letters(text: str) -> int:
    data = text.encode("ascii", "ignore")  # counting bytes is twenty times as fast
    letters = len(data) - len(data.translate(None, _ASCII_LETTERS))
    return letters + (0 if text.isascii() else sum(map(str.isalpha, _NOT_ASCII.findall(text))))


_CHUNK_TRIALS = 256


class Prepared(msgspec.Struct, frozen=True, array_like=True):
    """One trial as a document with its fingerprint, or the reason why it is none."""

    nct_id: str
    first_posted: str | None
    reason: str = ""
    text: str = ""
    exact: bytes = b""
    shingles: bytes = b""
    bands: bytes = b""
    paragraphs: bytes = b""

    def fingerprint(self) -> Fingerprint:
        """What clustering compares."""
        return Fingerprint(
            self.exact,
            np.frombuffer(self.shingles, np.uint32),
            np.frombuffer(self.bands, np.uint64),
        )

    def paragraph_hashes(self) -> NDArray[np.uint64]:
        """Of each paragraph long enough to count as boilerplate, its hash, in order."""
        return np.frombuffer(self.paragraphs, np.uint64)


class Preparer:
    """Renders, filters and fingerprints trials; remembers words only, which makes it faster."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._settings = settings
        self._fingerprint = Fingerprinter(settings.dedup)

    def __call__(self, trial: Trial) -> Prepared:
        """The trial, prepared."""
        document = render_document(trial, self._settings.render)
        outcome = keep_document(document, self._settings.filters)
        if isinstance(outcome, Drop):
            return Prepared(trial.nct_id, trial.first_posted, outcome.reason)
        keys = paragraph_keys(document.text)
        least = self._settings.boilerplate.min_words
        long = [paragraph_hash(key) for key in keys if key.count(" ") + 1 >= least]
        found = self._fingerprint.of_key(" ".join(filter(None, keys)) or normalise(document.text))
        return Prepared(
            trial.nct_id,
            trial.first_posted,
            text=document.text,
            exact=found.exact,
            shingles=found.shingles.tobytes(),
            bands=found.bands.tobytes(),
            paragraphs=np.array(long, np.uint64).tobytes(),
        )


def prepare_trials(
    trials: Iterable[Trial], settings: CorpusSettings, *, workers: int = 1
) -> Iterator[Prepared]:
    """The trials prepared, in order, by so many processes (1: by this one).

    Raises:
        ArtifactError: a worker died.
    """
    if workers <= 1:
        yield from map(Preparer(settings), trials)
        return
    chunks = _chunks(trials)
    for prepared in map_in_processes(_ChunkPreparer(settings), chunks, processes=workers):
        yield from prepared


class PrepareParts:
    """Prepares batches of trials on an engine with machines of its own; each worker makes one.

    It is what Ray Data's `map_batches` takes with `batch_format="pyarrow"`. Batches may be cut
    anywhere and come in any order: each trial is prepared without knowing the others.
    """

    def __init__(self, settings: CorpusSettings) -> None:
        """`settings` are those that `join_prepared` is given.

        Raises:
            RecipeError: a field that trials do not have.
        """
        check_fields(settings.render)
        self._prepare = Preparer(settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Column "part" (binary) of the batch's rows, which are a snapshot's as they are on disk.

        Raises:
            RecordError: they are not.
        """
        import pyarrow as pa

        try:
            trials = msgspec.convert(batch.select(TRIAL_COLUMNS.names).to_pylist(), list[Trial])
        except (KeyError, msgspec.ValidationError) as error:
            raise RecordError(
                f"a batch holds no rows of a snapshot's trials.parquet ({error})"
            ) from error
        parts = [msgspec.msgpack.encode(self._prepare(trial)) for trial in trials]
        return pa.table({"part": pa.array(parts, pa.binary())})


class _ChunkPreparer:
    """Prepares several trials at once; pickled as its settings."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._settings = settings
        self._prepare = Preparer(settings)

    def __reduce__(self) -> tuple[type[_ChunkPreparer], tuple[CorpusSettings]]:
        return _ChunkPreparer, (self._settings,)

    def __call__(self, trials: list[Trial]) -> list[Prepared]:
        return list(map(self._prepare, trials))


def _chunks(trials: Iterable[Trial]) -> Iterator[list[Trial]]:
    rest = iter(trials)
    while chunk := list(islice(rest, _CHUNK_TRIALS)):
        yield chunk


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
        self._index.add(trial.nct_id, trial.fingerprint(), group=study_number(trial.nct_id))
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


_REPORT_EVERY = 500
_MANY_TRIALS = 20_000
"""From so many trials on, starting worker processes pays."""
_MOST_OVERLAPS = 20_000
"""Held-out documents whose passages are looked for; about 100 MB, enough for any share."""


def build_corpus(
    snapshot: Snapshot,
    settings: CorpusSettings,
    path: str | Path,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> Corpus:
    """The corpus of a snapshot's trials, written to `path`.

    `workers` processes render and fingerprint; None: one a core for a large snapshot, else this
    one alone. What is written does not depend on it.

    Raises:
        ArtifactError: the snapshot is damaged, `path` cannot be written, or a worker died.
        RecipeError: settings that do not go together, or a field that trials do not have.
    """
    path = Path(path)
    trials = int(snapshot.manifest.counts.get("trials", 0))
    if workers is None:
        workers = count_cores() if trials >= _MANY_TRIALS else 1
    return assemble_corpus(
        read_trials(snapshot),
        settings,
        path,
        inputs={"snapshot": snapshot.manifest.digest},
        notes=snapshot.manifest.notes,
        trials_expected=trials or None,
        workers=workers,
        progress=progress,
    )


def join_prepared(
    parts: Iterable[pa.Table],
    snapshot: Snapshot,
    settings: CorpusSettings,
    path: str | Path,
    *,
    progress: Progress = silent,
) -> Corpus:
    """What `build_corpus` writes, byte for byte, of trials that `PrepareParts` prepared anywhere.

    Raises:
        RecordError: a trial of the snapshot is missing, came twice, or is none of its.
        ArtifactError: the snapshot is damaged, or `path` cannot be written.
        RecipeError: settings that do not go together.
    """
    missing = {row.nct_id for row in read_identities(snapshot)}

    def prepared() -> Iterator[Prepared]:
        for table in parts:
            for part in table["part"].to_pylist():
                found = msgspec.msgpack.decode(part, type=Prepared)
                if found.nct_id not in missing:
                    raise RecordError(
                        f"{found.nct_id}: prepared twice, or no trial of {snapshot.path}"
                    )
                missing.remove(found.nct_id)
                yield found
        if missing:
            raise RecordError(f"{min(missing)}: not prepared, as {len(missing):,} in all")

    return _assemble(
        prepared(),
        settings,
        Path(path),
        inputs={"snapshot": snapshot.manifest.digest},
        notes=snapshot.manifest.notes,
        trials_expected=len(missing),
        progress=progress,
    )


def assemble_corpus(
    trials: Iterable[Trial],
    settings: CorpusSettings,
    path: Path,
    *,
    inputs: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
    trials_expected: int | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> Corpus:
    """The corpus of `trials`, in whatever order they come, written to `path`.

    `documents.parquet` holds the documents with cluster, split and era, `drops.parquet` what was
    removed and why (both sorted by id), `boilerplate.parquet` the most frequent paragraphs,
    `overlap.parquet` how much of held-out documents stands in training documents too.
    """
    return _assemble(
        prepare_trials(trials, settings, workers=workers),
        settings,
        path,
        inputs=inputs,
        notes=notes,
        trials_expected=trials_expected,
        progress=progress,
    )


def _assemble(
    trials: Iterable[Prepared],
    settings: CorpusSettings,
    path: Path,
    *,
    inputs: Mapping[str, str] | None,
    notes: Mapping[str, Any] | None,
    trials_expected: int | None,
    progress: Progress,
) -> Corpus:
    check_fields(settings.render)
    check_split(settings.split)
    stated = as_settings(settings)
    stated.pop("blocks")  # they are made from the corpus, not for it
    with write_artifact(path, kind="corpus", settings=stated, inputs=inputs) as draft:
        draft.notes.update(notes or {})
        with Intake(settings, draft.folder) as intake:
            for prepared in trials:
                intake.take(prepared)
                if intake.trials % _REPORT_EVERY == 0:
                    progress("corpus: trials rendered", intake.trials, trials_expected)
            progress("corpus: looking for duplicates", 0, None)
            clusters = intake.clusters()
            kept = intake.keep(clusters)
            progress("corpus: writing documents", 0, None)
            written = write_documents(draft.folder, intake.stored(kept, clusters))
            write_drops(draft.folder, intake.drops)
            write_boilerplate(draft.folder, intake.boilerplate)
        passages = overlap_table(draft.folder, most_documents=_MOST_OVERLAPS, progress=progress)
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
            boilerplate_paragraphs=intake.boilerplate_paragraphs,
            boilerplate_cut=intake.cut_paragraphs,
            passages_shared=write_overlap(draft.folder, passages),
            **written,
        )
        card = corpus_card(draft.counts, draft.notes)
        (draft.folder / CARD_NAME).write_text(card, encoding="utf-8")
    assert draft.manifest is not None
    return Corpus(path, draft.manifest)
