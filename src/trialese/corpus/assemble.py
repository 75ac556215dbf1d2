"""Trials in, Corpus out: render, filter, cluster, split, write.

Trials come one by one and their texts wait in an unnamed file, so memory holds fingerprints and
ids only. What is written is sorted by id: neither the order of the input nor the number of
workers leaves a trace.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trialese.artifacts import as_settings, write_artifact
from trialese.collect import read_trials
from trialese.corpus.intake import Intake
from trialese.corpus.prepare import prepare_trials
from trialese.corpus.render import check_fields
from trialese.corpus.split import check_split
from trialese.corpus.store import write_boilerplate, write_documents, write_drops
from trialese.progress import Progress, silent
from trialese.records import Corpus, Snapshot, Trial
from trialese.settings import CorpusSettings

__all__ = ["assemble_corpus", "build_corpus"]

_REPORT_EVERY = 500
_MANY_TRIALS = 20_000
"""From so many trials on, starting worker processes pays."""


def build_corpus(
    snapshot: Snapshot,
    settings: CorpusSettings,
    path: Path,
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
    trials = int(snapshot.manifest.counts.get("trials", 0))
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if trials >= _MANY_TRIALS else 1
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
    removed and why (both sorted by id), `boilerplate.parquet` the most frequent paragraphs.
    """
    check_fields(settings.render)
    check_split(settings.split)
    stated = as_settings(settings)
    stated.pop("blocks")  # they are made from the corpus, not for it
    with write_artifact(path, kind="corpus", settings=stated, inputs=inputs) as draft:
        draft.notes.update(notes or {})
        with Intake(settings, draft.folder) as intake:
            for prepared in prepare_trials(trials, settings, workers=workers):
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
            **written,
        )
    assert draft.manifest is not None
    return Corpus(path, draft.manifest)
