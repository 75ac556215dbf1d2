"""What a server does in the background: index the snapshot, then let every model read it.

A model reads a few trials and rests as long as that took, so that requests find a processor. What
has been read is kept in the index; the next start goes on where this one ended.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from trialese.collect import read_trials
from trialese.errors import TrialeseError
from trialese.records import Trial
from trialese.tasks.reading import text_of_trial
from trialese.web.shelf import Shelf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trialese.web.served import Served, ServedModel

__all__ = ["Reader", "Score"]

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
