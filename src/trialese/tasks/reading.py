"""What is to be labelled: a snapshot, or a file of any kind, as records in their order.

Records are as their source holds them until `texts_of` reads them, so that those which another
process or an earlier run has done cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trialese.artifacts import MANIFEST_NAME
from trialese.errors import RecordError
from trialese.records import Trial

if TYPE_CHECKING:
    from trialese.collect import RawStudy, Reject
    from trialese.tasks.description import Preprocessing

__all__ = ["TextToLabel", "read_lines", "read_records", "read_texts", "text_of_trial", "texts_of"]


@dataclass(frozen=True, slots=True)
class TextToLabel:
    """One text with what names it."""

    row: int
    """Position of its record in the input, from 1."""
    name: str
    """NCT id, or what stands in the table's identifying column."""
    text: str
    from_trial: bool = False
    """The text was put together from a trial's fields; the trial's id says it all."""


def read_records(path: Path) -> Iterator[str | Trial | RawStudy | Reject]:
    """The records of a snapshot, a `.txt` with a text a line, or any file that `collect` knows.

    Raises:
        RecordError: no such file, or one that cannot be understood as a whole.
        ArtifactError: an artifact that is no snapshot.
    """
    from trialese.collect import open_snapshot, read_raw, read_trials

    if (path / MANIFEST_NAME).is_file():
        yield from read_trials(open_snapshot(path))
    elif path.suffix.lower() == ".txt":
        try:
            with path.open(encoding="utf-8-sig", errors="strict") as file:
                yield from read_lines(file)
        except UnicodeDecodeError as error:
            raise RecordError(f"{path}: not UTF-8; save it as UTF-8") from error
        except OSError as error:
            raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    else:
        yield from read_raw(path)


def read_lines(stream: Iterable[str]) -> Iterator[str]:
    """The lines that hold something, without blanks around them."""
    return (line.strip() for line in stream if line.strip())


def texts_of(
    records: Sequence[object],
    first_row: int,
    how: Preprocessing,
    left_out: dict[str, int],
) -> list[TextToLabel]:
    """What the task reads of each record; what holds no text is counted in `left_out` by reason."""
    from trialese.collect import RawStudy, Reject, StudyError, parse_trial, text_row

    texts: list[TextToLabel] = []
    for row, record in enumerate(records, start=first_row):
        try:
            if isinstance(record, Reject):
                reason = record.reason
            elif isinstance(record, str):
                texts.append(TextToLabel(row, "", record))
                continue
            elif isinstance(record, RawStudy) and record.format == "text":
                named = text_row(record)
                texts.append(TextToLabel(row, named.identifier, named.text))
                continue
            else:
                trial = record if isinstance(record, Trial) else parse_trial(record)
                if text := text_of_trial(trial, how):
                    texts.append(TextToLabel(row, trial.nct_id, text, from_trial=True))
                    continue
                reason = "no_text_for_this_task"
        except StudyError as error:
            reason = error.reason
        left_out[reason] = left_out.get(reason, 0) + 1
    return texts


def read_texts(path: Path, model: Path, *, most: int = 5000) -> list[str]:
    """The first different texts that the classifier at `model` would read of a file or snapshot.

    Raises:
        RecordError: no such file, or one that cannot be understood as a whole.
        ArtifactError: no classifier at `model`.
    """
    from trialese.tasks.description import model_folder, read_description

    how = read_description(model_folder(model)).preprocessing
    found: dict[str, None] = {}
    for record in read_records(path):
        found.update(dict.fromkeys(each.text for each in texts_of([record], 1, how, {})))
        if len(found) == most:
            break
    return list(found)


def text_of_trial(trial: Trial, how: Preprocessing) -> str:
    """What a task with this preprocessing reads of a trial, as in training."""
    from trialese.corpus import clean_text, render_document
    from trialese.settings import RenderSettings
    from trialese.tasks.sex import cut_sex_words

    if not how.fields:
        return clean_text(trial.why_stopped)
    text = render_document(trial, RenderSettings(fields=how.fields, withhold=how.withhold)).text
    return cut_sex_words(text) if how.without_sex_words else text
