"""State behind the page: scores in the background, answers, queues, examples, learning curves.

Each model scores a few texts and rests as long as that took, so that requests find a processor.
Scores are kept in the search index; the next start goes on where this one ended.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialese.artifacts import MANIFEST_NAME, read_manifest
from trialese.collect.api import fetch_trial
from trialese.collect.snapshot import find_trials, read_trials
from trialese.errors import ArtifactError, TrialeseError
from trialese.records import Snapshot, Trial
from trialese.settings import CollectSettings
from trialese.tasks.folds import build_examples, settings_of
from trialese.tasks.formats import text_of_trial
from trialese.tasks.history import HeldPrediction, read_said
from trialese.web.active_learning import MOST_TEXTS, Labelled, Neighbour, Neighbours, Queue
from trialese.web.annotations import AnswerLog, settle
from trialese.web.learning_curve import CurveWatcher, LearningCurve, answers_per_hour
from trialese.web.own_texts import OwnTexts
from trialese.web.search_index import SearchIndex, open_ready

if TYPE_CHECKING:
    from trialese.web.models import Served, ServedModel

__all__ = ["PageState", "Score", "SnapshotScoring", "labelled_examples", "prepare_search"]

logger = logging.getLogger(__name__)

_TEXTS = 16
_TRIALS = 500
_COMPARED_CHARACTERS = 5_000

Score = Callable[["ServedModel", Sequence[str]], "NDArray[np.float64]"]
"""Probabilities (texts, labels) from a model, computed when nobody else waits for it."""


class SnapshotScoring:
    """Indexes the snapshot and scores it with every model, in a thread between start and stop.

    Texts of the user's own come first: somebody waits to label them.
    """

    def __init__(self, served: Served, score: Score) -> None:
        self.index: SearchIndex | None = None
        self.failure: str = ""
        """Why there is no index, or why scoring ended."""
        self._served = served
        self._score = score
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if there is a snapshot or a file of texts."""
        if self._served.snapshot is not None or self._served.queue:
            self._stopping.clear()
            if self._served.snapshot is not None:  # one made beforehand answers from now on
                self.index = open_ready(self._served.snapshot)
            self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End after the chunk under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.index is not None:
            self.index.close()

    def _run(self) -> None:
        snapshot = self._served.snapshot
        what = "scoring the texts of the queue"
        try:
            if snapshot is not None:
                what = f"{snapshot.path}: indexing it for search"
                self.index = self.index or SearchIndex(snapshot)
            while not self._served.ready:
                if self._stopping.wait(0.05):
                    return
            for model in list(self._served.models.values()):
                if model.folder in self._served.queue:
                    self._score_texts(self._served.queue[model.folder], model)
            for model in list(self._served.models.values()):
                if self.index is not None:
                    self._score_snapshot(self.index, model)
        except Exception as error:  # whatever it is, clients must learn why there is no search
            self.failure = f"{what} ended: {error}"
            known = isinstance(error, TrialeseError | OSError)
            logger.error("%s", self.failure, exc_info=None if known else error)

    def _score_texts(self, own: OwnTexts, model: ServedModel) -> None:
        texts = [text for _, text in own.texts]
        for start in range(own.count_scored(model.scorer.digest), len(texts), _TEXTS):
            if self._stopping.is_set():
                return
            begun = time.perf_counter()
            scores = self._score(model, texts[start : start + _TEXTS])
            own.add_scores(model.scorer.digest, scores)
            self._stopping.wait(time.perf_counter() - begun)

    def _score_snapshot(self, index: SearchIndex, model: ServedModel) -> None:
        """Keep labels and scores of every trial: those that a generation brought, else scored."""
        for trials, until in _unsaid(self._served, index, model, self._stopping):
            for start in range(0, len(trials), _TEXTS):
                if self._stopping.is_set():
                    return
                begun = time.perf_counter()
                self._keep(index, model, trials[start : start + _TEXTS], until)
                self._stopping.wait(time.perf_counter() - begun)

    def _keep(
        self, index: SearchIndex, model: ServedModel, part: list[tuple[Trial, str]], until: int
    ) -> None:
        texts = [text for _, text in part]
        scores = self._score(model, texts)
        predictions = model.predictions(texts, scores)
        scored = [
            (trial.nct_id, text, scores[row], prediction.labels)
            for row, ((trial, text), prediction) in enumerate(zip(part, predictions, strict=True))
        ]
        index.add_scores(model.scorer.digest, scored, until=until)


def prepare_search(served: Served, stopping: threading.Event) -> None:
    """Index the snapshot and keep what its generation says of it, before anybody asks.

    Ends after the chunk under way when `stopping` is set. What goes wrong is logged: scoring tries
    again later, and tells.
    """
    if served.snapshot is None:
        return
    try:
        with closing(SearchIndex(served.snapshot)) as index:
            for model in served.models.values():
                for trials, _ in _unsaid(served, index, model, stopping):
                    if trials:
                        break  # to be scored, when the model answers
    except (TrialeseError, OSError, sqlite3.Error) as error:
        logger.warning("%s: not indexed beforehand: %s", served.snapshot.path, error)


def _unsaid(
    served: Served, index: SearchIndex, model: ServedModel, stopping: threading.Event
) -> Iterator[tuple[list[tuple[Trial, str]], int]]:
    """Chunk by chunk, trials of which the generation says nothing, with their texts.

    With each, how many trials are done before it; what the generation says is kept before, and that
    the chunk is done after.
    """
    scorer = model.scorer
    until = index.scored_until(scorer.digest)
    if until == index.trials:
        return
    said = _said(served, model)
    trials = islice(read_trials(index.snapshot), until, None)
    while chunk := list(islice(trials, _TRIALS)):
        texts = [(trial, text_of_trial(trial, scorer.preprocessing)) for trial in chunk]
        with_text = [(trial, text) for trial, text in texts if text]
        known = [
            (row.nct_id, text, np.array(list(row.scores.values())), row.labels)
            for row, text in ((said.get(trial.nct_id), text) for trial, text in with_text)
            if row is not None
        ]
        index.add_scores(scorer.digest, known, until=until)
        yield [(trial, text) for trial, text in with_text if trial.nct_id not in said], until
        if stopping.is_set():
            return
        until += len(chunk)
        index.add_scores(scorer.digest, [], until=until)


def _said(served: Served, model: ServedModel) -> dict[str, HeldPrediction]:
    """What the generation says that the model said, by NCT id."""
    try:
        return read_said(served.layers.get(model.folder, ()), model.scorer)
    except ArtifactError as error:
        logger.warning("%s; scored anew", error)
        return {}


class PageState:
    """Made once a server. Queues and examples are made on first use and kept."""

    def __init__(
        self, served: Served, score: Score, *, registry: CollectSettings | None = None
    ) -> None:
        """With `registry`, trials that the snapshot lacks are asked for there.

        Raises:
            ArtifactError: the file of answers cannot be used.
        """
        self.served = served
        self.scoring = SnapshotScoring(served, score)
        self._registry = registry
        self._asking = threading.Lock()
        self.log = None if served.labels is None else AnswerLog(served.labels)
        self._lock = threading.Lock()
        self._neighbours: dict[str, tuple[Neighbours, str]] = {}
        self._queues: dict[str, tuple[int, Queue]] = {}
        self._curves = CurveWatcher()

    def close(self) -> None:
        """Stop scoring and close every file."""
        self.scoring.stop()
        self._curves.close()
        if self.log is not None:
            self.log.close()

    @property
    def live(self) -> bool:
        """Whether the registry may be asked."""
        return self._registry is not None

    def trial(self, nct_id: str) -> tuple[Trial, str] | None:
        """The trial of that number or alias, and its source: snapshot or registry.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        if self.served.snapshot is not None:
            index = self.scoring.index
            own = (index.nct_id(nct_id) if index else None) or nct_id
            held = find_trials(self.served.snapshot, [own]).get(own)
            if held is not None:
                return held, "snapshot"
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
                examples, why = self._examples(model)
                self._neighbours[model.name] = (Neighbours(examples), why)
            known, why = self._neighbours[model.name]
        compared = text[:_COMPARED_CHARACTERS]
        return known.nearest(compared, most, also=self._answered(model)), why

    def queue(self, model: ServedModel) -> Queue | None:
        """The queue of the texts that the model has scored so far; None while there is none.

        Made anew when the model has scored a quarter more.
        """
        source, log = self.served.queue.get(model.folder, self.scoring.index), self.log
        if source is None or log is None:
            return None
        digest = model.scorer.digest
        with self._lock:
            done = self.read_share(model) >= 1
            scored = source.count_scored(digest)
            made_of, queue = self._queues.get(digest, (0, None))
            if scored > made_of * 1.25 or (done and scored > made_of):
                cuts = model.scorer.thresholds
                queue = Queue(
                    model.scorer.task,
                    source.scored_texts(digest, most=MOST_TEXTS),
                    None if cuts is None else cuts.values,
                    log.events(),
                )
                self._queues[digest] = (scored, queue)
        return queue

    def read_share(self, model: ServedModel) -> float:
        """Share of the texts of its queue, or of the snapshot's trials, that the model has read."""
        own, index, digest = (
            self.served.queue.get(model.folder), self.scoring.index, model.scorer.digest
        )  # fmt: skip
        if own is not None:
            return own.count_scored(digest) / len(own.texts)
        return 0.0 if index is None else index.scored_until(digest) / max(1, index.trials)

    def learning_curve(self, model: ServedModel, log: AnswerLog) -> LearningCurve:
        """What more labels would bring, by those so far; computed in the background."""
        task = model.scorer.task
        standing = log.standing(task.name)
        settled, _ = settle(standing, log.decisions(task.name))
        return self._curves.curve(model.name, task, settled, answers_per_hour(standing))

    def _answered(self, model: ServedModel) -> list[Labelled]:
        if self.log is None:
            return []
        name = model.scorer.task.name
        standing = self.log.standing(name)
        settled, _ = settle(standing, self.log.decisions(name))
        decided = {each.key: each for each in settled if each.decided_by}
        answers = [
            (event.members[0], event.labels, f"labelled here by {annotator}")
            for annotator, held in standing.items()
            for event in held.values()
            if event.kind == "answer" and event.key not in decided
        ]
        answers += [
            (each.members[0], each.labels, f"decided here by {each.decided_by}")
            for each in decided.values()
        ]
        return [
            Labelled(id=member.id, text=member.text, labels=labels, source=source)
            for member, labels, source in answers
        ]

    def _examples(self, model: ServedModel) -> tuple[list[Labelled], str]:
        try:
            return labelled_examples(model.folder, self.served.snapshot), ""
        except TrialeseError as error:
            return [], str(error)


def labelled_examples(folder: Path, snapshot: Snapshot | None) -> list[Labelled]:
    """The examples that the classifier in `folder` was fitted and judged on, if still there.

    Raises:
        TrialeseError: the folder does not say, or the labelled file or the snapshot is missing.
    """
    if not (folder / MANIFEST_NAME).is_file():
        return []
    described = read_manifest(folder).settings
    name, section = described["task"], described["section"]
    examples = build_examples(name, settings_of(name, section), snapshot).examples
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
