"""Texts, or trials from a file, in; their labels with probabilities out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trialese.cutoffs import decide
from trialese.errors import RecordError
from trialese.records import Trial

if TYPE_CHECKING:
    from trialese.tasks.classifier import Classifier, Preprocessing

__all__ = ["LabelledText", "label_texts", "predict_inputs", "text_of_trial"]

logger = logging.getLogger(__name__)

_CHUNK_TEXTS = 1024


class LabelledText(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One text with the labels it is given and the probability of every label."""

    text: str
    labels: tuple[str, ...]
    scores: dict[str, float]
    nct_id: str = ""
    thresholds: str = "tune"
    """"tune", or "0.5" where the classifier carries no thresholds of its own."""

    def as_line(self) -> str:
        """A line for people: labels with probabilities, then the beginning of the text."""
        given = ", ".join(f"{label} {self.scores[label]:.3f}" for label in self.labels)
        if not given:
            label = max(self.scores, key=self.scores.__getitem__)
            given = f"no label (nearest: {label} {self.scores[label]:.3f})"
        start = " ".join(self.text.split())
        start = start if len(start) <= 80 else start[:79] + "…"
        return "\t".join(filter(None, (self.nct_id, given, start)))


def predict_inputs(
    model: Path, inputs: Sequence[str], *, stdin: Iterable[str] | None = None
) -> Iterator[LabelledText]:
    """One result a text or trial, in their order, streamed.

    `inputs` are texts, or the path of one file: `.txt` with a text a line, or trials in any kind
    of file that `collect` knows. With `stdin`, its lines are the texts.

    Raises:
        ArtifactError: no classifier at `model`.
        RecordError: an empty text, or a file that cannot be understood.
    """
    from trialese.tasks.classifier import Classifier

    classifier = Classifier.load(model)
    if stdin is not None:
        yield from label_texts(classifier, ((line, "") for line in _lines(stdin)))
    elif len(inputs) == 1 and _is_file(inputs[0]):
        yield from label_texts(classifier, _from_file(Path(inputs[0]), classifier))
    else:
        if len(inputs) == 1 and _looks_like_a_file(inputs[0]):
            raise RecordError(f"{inputs[0]}: no such file; check the path")
        for position, text in enumerate(inputs, start=1):
            if not text.strip():
                raise RecordError(f"text {position} is empty; write one or leave it out")
        yield from label_texts(classifier, ((text, "") for text in inputs))


def label_texts(classifier: Classifier, texts: Iterable[tuple[str, str]]) -> Iterator[LabelledText]:
    """One result for each (text, nct_id), in their order; scored by chunks of a thousand."""
    task, cuts = classifier.task, classifier.thresholds
    values: float | np.ndarray = 0.5 if cuts is None else np.array(cuts.values)
    origin = "0.5" if cuts is None else cuts.chosen_on
    stream = iter(texts)
    while chunk := list(islice(stream, _CHUNK_TEXTS)):
        scores = classifier.predict([text for text, _ in chunk])
        given = decide(scores, task.kind, values)
        for row, (text, nct_id) in enumerate(chunk):
            yield LabelledText(
                text=text,
                labels=tuple(task.labels[column] for column in np.flatnonzero(given[row])),
                scores={
                    label: round(float(score), 6)
                    for label, score in zip(task.labels, scores[row], strict=True)
                },
                nct_id=nct_id,
                thresholds=origin,
            )


def _lines(stream: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in stream if line.strip())


def _looks_like_a_file(text: str) -> bool:
    """A mistyped path must not be classified as if it were a text."""
    return re.fullmatch(r"\S+\.(txt|[ct]sv|jsonl?|xml|zip|gz|zst|parquet)", text) is not None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a text too long for a path
        return False


def _from_file(path: Path, classifier: Classifier) -> Iterator[tuple[str, str]]:
    if path.suffix.lower() == ".txt":
        with path.open(encoding="utf-8", errors="strict") as file:
            try:
                for line in _lines(file):
                    yield line, ""
            except UnicodeDecodeError as error:
                raise RecordError(f"{path}: not UTF-8; save it as UTF-8") from error
        return
    from trialese.collect import read_trials_from_file

    without = 0
    for trial in read_trials_from_file(path):
        text = text_of_trial(trial, classifier.preprocessing)
        if text:
            yield text, trial.nct_id
        without += not text
    if without:
        logger.warning("%s: %d trials hold no text for this task; left out", path, without)


def text_of_trial(trial: Trial, how: Preprocessing) -> str:
    """What a task with this preprocessing reads of a trial, as in training."""
    from trialese.corpus import clean_text, render_document
    from trialese.settings import RenderSettings
    from trialese.tasks.sex import cut_sex_words

    if not how.fields:
        return clean_text(trial.why_stopped)
    text = render_document(trial, RenderSettings(fields=how.fields, withhold=how.withhold)).text
    return cut_sex_words(text) if how.without_sex_words else text
