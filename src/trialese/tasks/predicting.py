"""Texts, or trials from a file, in; their labels with probabilities out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from trialese.errors import RecipeError, RecordError
from trialese.settings import Precision
from trialese.tasks.reading import TextToLabel, read_lines, read_records, texts_of
from trialese.tasks.scorer import Scorer, load_scorer, named_results
from trialese.tasks.writing import format_of, layout_of, person_line

__all__ = [
    "LabelledText",
    "exists",
    "label_texts",
    "looks_like_a_file",
    "predict_inputs",
    "stream_inputs",
]

logger = logging.getLogger(__name__)

_CHUNK_RECORDS = 1024


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
        return person_line(self.nct_id, self.labels, self.scores, self.text)


def predict_inputs(
    model: Path,
    inputs: Sequence[str],
    *,
    stdin: Iterable[str] | None = None,
    precision: Precision = "auto",
) -> Iterator[LabelledText]:
    """One result a text or trial, in their order, streamed.

    `inputs` are texts, or the path of one snapshot or file: `.txt` with a text a line, or any kind
    that `collect` knows. With `stdin`, its lines are the texts.

    Raises:
        ArtifactError: no classifier at `model`.
        RecordError: an empty text, or a file that cannot be understood.
    """
    scorer = load_scorer(model, precision=precision)
    for texts in _chunks(scorer, inputs, stdin):
        yield from label_texts(scorer, texts)


def stream_inputs(
    model: Path,
    inputs: Sequence[str],
    format_name: str,
    *,
    stdin: Iterable[str] | None = None,
    precision: Precision = "auto",
) -> Iterator[bytes]:
    """The bytes of the results in a format that can be streamed; see `predict_inputs`.

    Raises:
        RecipeError: Parquet, or an unknown format.
    """
    format_ = format_of(Path(), format_name)
    if format_ == "parquet":
        raise RecipeError("parquet cannot be streamed; name a file with -o")
    scorer = load_scorer(model, precision=precision)
    layout = layout_of(scorer, format_)
    yield layout.header()
    for texts in _chunks(scorer, inputs, stdin):
        yield layout.part(texts, scorer.predict([each.text for each in texts]))


def _chunks(
    scorer: Scorer, inputs: Sequence[str], stdin: Iterable[str] | None
) -> Iterator[list[TextToLabel]]:
    """What is to be labelled, about a thousand texts at a time."""
    if stdin is not None:
        records: Iterator[object] = read_lines(stdin)
    elif len(inputs) == 1 and exists(inputs[0]):
        records = read_records(Path(inputs[0]))
    else:
        if len(inputs) == 1 and looks_like_a_file(inputs[0]):
            raise RecordError(f"{inputs[0]}: no such file; check the path")
        for position, text in enumerate(inputs, start=1):
            if not text.strip():
                raise RecordError(f"text {position} is empty; write one or leave it out")
        records = iter(inputs)
    left_out: dict[str, int] = {}
    row = 1
    while chunk := list(islice(records, _CHUNK_RECORDS)):
        yield texts_of(chunk, row, scorer.preprocessing, left_out)
        row += len(chunk)
    for reason, count in left_out.items():
        logger.warning("%s: %d records left out: %s", inputs[0], count, reason)


def label_texts(scorer: Scorer, texts: Sequence[TextToLabel]) -> Iterator[LabelledText]:
    """One result for each text, in their order."""
    scores = scorer.predict([each.text for each in texts])
    chosen_on = "0.5" if scorer.thresholds is None else scorer.thresholds.chosen_on
    for each, (labels, chances) in zip(texts, named_results(scorer, scores), strict=True):
        yield LabelledText(
            text=each.text, labels=labels, scores=chances, nct_id=each.name, thresholds=chosen_on
        )


def looks_like_a_file(text: str) -> bool:
    """A mistyped path must not be classified as if it were a text."""
    return re.fullmatch(r"\S+\.(txt|[ct]sv|jsonl?|xml|zip|gz|zst|parquet)", text) is not None


def exists(text: str) -> bool:
    """Whether the text is the path of something."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a text too long for a path, or with a NUL in it
        return False
