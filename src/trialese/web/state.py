"""What a server does in the background: index the snapshot, then let every model read it.

A model reads a few trials and rests as long as that took, so that requests find a processor. What
has been read is kept in the index; the next start goes on where this one ended.


What stands behind the page: the reader, the log of answers, queues and labelled examples."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trialese.artifacts import MANIFEST_NAME, read_manifest
from trialese.collect.api import fetch_trial
from trialese.collect.snapshot import find_trials, read_trials
from trialese.errors import TrialeseError
from trialese.records import Trial
from trialese.settings import (
    CollectSettings,
    DeclaredTaskSettings,
    SexSettings,
    StopReasonsSettings,
    TasksSettings,
)
from trialese.tasks.folds import build_examples
from trialese.tasks.formats import text_of_trial
from trialese.web.active_learning import MOST_TEXTS, Labelled, Neighbour, Neighbours, Queue
from trialese.web.annotations import AnswerLog
from trialese.web.search_index import Shelf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trialese.records import Snapshot, Trial
    from trialese.web.models import Served, ServedModel

__all__ = ["Desk", "Reader", "Score", "labelled_examples"]


logger = logging.getLogger(__name__)

_TEXTS = 16
_TRIALS = 500

Score = Callable[["ServedModel", Sequence[str]], "NDArray[np.float64]"]
"""Probabilities (texts, labels) from a model, computed when nobody else waits for it."""


class Reader:
    """Indexes and reads in a thread of its own, between `start` and `stop`."""

    def __init__(self, served: Served, score: Score) -> None:
        self.shelf: Shelf | None = None
        self.failure: str = ""
        """Why there is no index, or why reading ended."""
        self._served = served
        self._score = score
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if there is a snapshot."""
        if self._served.snapshot is not None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._work, name="reader", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End after the chunk under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.shelf is not None:
            self.shelf.close()

    def _work(self) -> None:
        assert self._served.snapshot is not None
        try:
            self.shelf = Shelf(self._served.snapshot)
            while not self._served.ready:
                if self._stopping.wait(0.05):
                    return
            for model in list(self._served.models.values()):
                self._read(self.shelf, model)
        except (TrialeseError, sqlite3.Error) as error:
            self.failure = f"{self._served.snapshot.path}: reading it for search ended: {error}"
            logger.error("%s", self.failure)

    def _read(self, shelf: Shelf, model: ServedModel) -> None:
        """Let the model read what it has not yet read, and note what it predicts."""
        scorer = model.scorer
        until = shelf.read_until(scorer.digest)
        trials = islice(read_trials(shelf.snapshot), until, None)
        while chunk := list(islice(trials, _TRIALS)):
            texts = [(trial, text_of_trial(trial, scorer.preprocessing)) for trial in chunk]
            readable = [(trial, text) for trial, text in texts if text]
            for start in range(0, len(readable), _TEXTS):
                if self._stopping.is_set():
                    return
                begun = time.perf_counter()
                self._keep(shelf, model, readable[start : start + _TEXTS], until)
                self._stopping.wait(time.perf_counter() - begun)
            until += len(chunk)
            shelf.add_readings(scorer.digest, [], until=until)

    def _keep(
        self, shelf: Shelf, model: ServedModel, part: list[tuple[Trial, str]], until: int
    ) -> None:
        texts = [text for _, text in part]
        scores = self._score(model, texts)
        shelf.add_readings(
            model.scorer.digest,
            [
                (trial.nct_id, text, scores[row], told.labels)
                for row, ((trial, text), told) in enumerate(
                    zip(part, model.predictions(texts, scores), strict=True)
                )
            ],
            until=until,
        )


_COMPARED_CHARACTERS = 5_000


class Desk:
    """Made once a server. What takes long is made on first use and kept."""

    def __init__(
        self, served: Served, score: Score, *, registry: CollectSettings | None = None
    ) -> None:
        """With `registry`, trials that the snapshot lacks are asked for there.

        Raises:
            ArtifactError: the file of answers cannot be used.
        """
        self.served = served
        self.reader = Reader(served, score)
        self._registry = registry
        self._asking = threading.Lock()
        self.log = None if served.labels is None else AnswerLog(served.labels)
        self._lock = threading.Lock()
        self._neighbours: dict[str, tuple[Neighbours, str]] = {}
        self._queues: dict[str, tuple[int, Queue]] = {}

    def close(self) -> None:
        """Stop reading and close every file."""
        self.reader.stop()
        if self.log is not None:
            self.log.close()

    @property
    def live(self) -> bool:
        """Whether the registry may be asked."""
        return self._registry is not None

    def trial(self, nct_id: str) -> tuple[Trial, str] | None:
        """The trial of that number or alias, and where it was found: snapshot or registry.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        if self.served.snapshot is not None:
            shelf = self.reader.shelf
            own = (shelf.nct_id(nct_id) if shelf else None) or nct_id
            found = find_trials(self.served.snapshot, [own]).get(own)
            if found is not None:
                return found, "snapshot"
        if self._registry is not None:
            with self._asking:  # one polite request at a time, whoever asks
                fetched = fetch_trial(nct_id, self._registry)
            if fetched is not None:
                return fetched, "registry"
        return None

    def nearest(self, model: ServedModel, text: str, most: int) -> tuple[list[Neighbour], str]:
        """Labelled examples near a text, answers of annotators among them; why none, if none."""
        with self._lock:
            if model.name not in self._neighbours:
                found, why = self._examples(model)
                self._neighbours[model.name] = (Neighbours(found), why)
            known, why = self._neighbours[model.name]
        compared = text[:_COMPARED_CHARACTERS]
        return known.nearest(compared, most, also=self._answered(model)), why

    def queue(self, model: ServedModel) -> Queue | None:
        """The queue of what the model has read so far; None while it has read nothing.

        Made anew when the model has read a quarter more.
        """
        shelf, log = self.reader.shelf, self.log
        if shelf is None or log is None:
            return None
        digest = model.scorer.digest
        with self._lock:
            read = shelf.read(digest)
            made_of, queue = self._queues.get(digest, (0, None))
            done = shelf.read_until(digest) >= shelf.trials
            if read > made_of * 1.25 or (done and read > made_of):
                cuts = model.scorer.thresholds
                queue = Queue(
                    model.scorer.task,
                    shelf.readings(digest, most=MOST_TEXTS),
                    None if cuts is None else cuts.values,
                    log.events(),
                )
                self._queues[digest] = (read, queue)
        return queue

    def _answered(self, model: ServedModel) -> list[Labelled]:
        if self.log is None:
            return []
        return [
            Labelled(
                id=event.members[0].id,
                text=event.members[0].text,
                labels=event.labels,
                source=f"labelled here by {name}",
            )
            for name, answers in self.log.standing(model.scorer.task.name).items()
            for event in answers.values()
            if event.kind == "answer"
        ]

    def _examples(self, model: ServedModel) -> tuple[list[Labelled], str]:
        folder = self.served.folders[list(self.served.models).index(model.name)]
        try:
            return labelled_examples(folder, self.served.snapshot), ""
        except TrialeseError as error:
            return [], str(error)


def labelled_examples(folder: Path, snapshot: Snapshot | None) -> list[Labelled]:
    """What the classifier in `folder` was fitted and judged on, as far as it is still there.

    Raises:
        TrialeseError: the folder does not say, or the labelled file or the snapshot is missing.
    """
    if not (folder / MANIFEST_NAME).is_file():
        return []
    described = read_manifest(folder).settings
    name, section = described["task"], described["section"]
    examples = build_examples(name, _settings(name, section), snapshot).examples
    file = section.get("labelled")
    where = "synthetic" if snapshot and snapshot.manifest.notes.get("synthetic") else "registry"
    return [
        Labelled(
            id=example.example_id,
            text=example.text,
            labels=example.labels,
            source=Path(file).name if file else where,
        )
        for example in examples
    ]


def _settings(name: str, section: dict[str, Any]) -> TasksSettings:
    if name == "sex":
        return TasksSettings(sex=msgspec.convert(section, SexSettings))
    if name == "stop-reasons":
        return TasksSettings(stop_reasons=msgspec.convert(section, StopReasonsSettings))
    return TasksSettings(declared=(msgspec.convert(section, DeclaredTaskSettings),))
