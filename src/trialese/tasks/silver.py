"""Texts with labels that are no truth, but a model's or some rule's: something to learn from.

A language model is fitted on them before the labelled ones, a baseline on both. However good, they
are never scored against; and since whoever gave them may have seen the labels of the test texts, a
system that learnt from them says so wherever it is judged. A silver text that is near any labelled
one, of whatever fold, is left out, so that none stands near a test text.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from trialese.artifacts import digest_of
from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.records import Example, Task
from trialese.settings import DedupSettings, FinetuneSettings, SilverSettings
from trialese.tasks.hub import locate_labelled
from trialese.tasks.labelled import id_of, read_rows, split_labels, text_of

__all__ = ["Silver", "SilverStart", "read_silver", "silver_examples"]


@dataclass(frozen=True, slots=True)
class Silver:
    """The texts that can be used, each once, and the counts of those left out, by reason."""

    task: Task
    examples: tuple[Example, ...]
    settings: SilverSettings
    left_out: dict[str, int]

    @property
    def digest(self) -> str:
        """sha256 of every text and its labels."""
        return digest_of([[example.text, example.labels] for example in self.examples])


def read_silver(table: Path, column: str, task: Task) -> tuple[list[Example], Counter[str]]:
    """The rows with a text and labels that the task knows, texts as they stand; the others counted.

    Raises:
        RecordError: no such file or column, a malformed row, or no row that can be used.
    """
    left_out: Counter[str] = Counter()
    examples: list[Example] = []
    for number, row in read_rows(table):
        where = f"{table}: row {number}"
        text = text_of(row, where).strip()
        if column not in row:
            named = ", ".join(filter(None, row))
            raise RecordError(f"{where}: no column {column!r}; the table has {named}")
        labels = split_labels(row[column])
        unknown = [label for label in labels if label not in task.labels]
        if not text or not labels:
            left_out["no text" if not text else "no label"] += 1
        elif unknown:
            left_out[f"unknown label {unknown[0]!r}"] += 1
        else:
            examples.append(Example(id_of(row, number), text, labels))
    if not examples:
        raise RecordError(f"{table}: no row has a text and a label of {task.name} in {column!r}")
    return examples, left_out


def silver_examples(
    task: Task, settings: SilverSettings, labelled: Sequence[Example], dedup: DedupSettings
) -> Silver:
    """The table's texts, clean, each once with the labels that most of its rows have.

    Those in one cluster with a text of `labelled` are left out.

    Raises:
        RecordError: see `read_silver`; or every text is near a labelled one.
    """
    from trialese.corpus import clean_text, cluster_texts, normalise

    table = locate_labelled(settings.table)
    rows, left_out = read_silver(table, settings.column, task)
    same: dict[str, list[Example]] = {}
    for row in rows:
        if text := clean_text(row.text):
            same.setdefault(normalise(text), []).append(replace(row, text=text))
    cleaned = sum(map(len, same.values()))
    left_out["no text"] += len(rows) - cleaned
    left_out["the text of another row"] = cleaned - len(same)
    once = [
        replace(
            first,
            example_id=f"silver {number}",
            labels=Counter(row.labels for row in (first, *others)).most_common(1)[0][0],
        )
        for number, (first, *others) in enumerate(same.values())
    ]
    clusters = cluster_texts(((e.example_id, e.text) for e in (*labelled, *once)), dedup)
    near = {clusters[example.example_id] for example in labelled}
    kept = [
        replace(each, cluster=clusters[each.example_id])
        for each in once
        if clusters[each.example_id] not in near
    ]
    left_out["near a labelled text"] = len(once) - len(kept)
    if not kept:
        raise RecordError(f"{table}: every text is near a labelled one; give other texts")
    counts = {reason: count for reason, count in left_out.items() if count}
    return Silver(task, tuple(kept), settings, counts)


class SilverStart:
    """The model that every fit of a seed starts from: fitted on the silver texts when first asked
    for, kept in `folder` until `discard`."""

    def __init__(
        self,
        silver: Silver,
        model: Path,
        settings: FinetuneSettings,
        folder: Path,
        progress: Progress = silent,
    ) -> None:
        self._silver, self._model, self._folder, self._progress = silver, model, folder, progress
        self._settings = msgspec.structs.replace(
            settings,
            epochs=silver.settings.epochs,
            lr=silver.settings.lr or settings.lr,
            average_last=1,  # there is nothing here to choose an epoch by
        )
        self.then = msgspec.structs.replace(settings, pooler="random", label_words=False)
        """Settings of the fits that start from it: pooler and labels are learnt already."""

    def of(self, seed: int) -> Path:
        """The folder of the seed's model.

        Raises:
            ArtifactError: no usable model to begin with.
        """
        from trialese.tasks.fitting import fit_classifier

        out = self._folder / str(seed)
        if not out.exists():
            examples = self._silver.examples
            fit_classifier(
                self._silver.task,
                examples,
                examples[:1],
                self._model,
                self._settings,
                seed=seed,
                progress=self._progress,
            )[0].save(out)
        return out

    def discard(self) -> None:
        """Remove the models."""
        shutil.rmtree(self._folder, ignore_errors=True)
