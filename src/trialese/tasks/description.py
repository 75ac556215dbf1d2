"""What stands beside a classifier's weights: its task, its preprocessing, its thresholds.

Plain JSON in the classifier's folder, the same beside PyTorch weights and beside an exported
graph: what was done to a text in training is done to it in use, whatever computes the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from trialese.artifacts import MANIFEST_NAME, digest_of_folder, read_manifest
from trialese.cutoffs import PUBLISHED_CUT
from trialese.errors import ArtifactError
from trialese.records import Task, Thresholds
from trialese.tasks.stop_reasons import STOP_REASONS

__all__ = [
    "OPEN_TARGETS_PRESET",
    "Description",
    "Preprocessing",
    "Preset",
    "check_masked_lm",
    "model_folder",
    "origin_of",
    "read_description",
    "write_description",
]

_PREPROCESSING = "preprocessing.json"
_THRESHOLDS = "thresholds.json"


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a text before the tokenizer sees it, and after how many tokens it ends."""

    max_tokens: int
    cleaning: Literal["faithful", "none"] = "faithful"
    fields: tuple[str, ...] = ()
    """Of a trial, the fields that are rendered; () for tasks that read one text of their own."""
    withhold: tuple[str, ...] = ()
    without_sex_words: bool = False

    def clean(self, text: str) -> str:
        """The text as the model reads it."""
        if self.cleaning == "none":
            return text
        from trialese.corpus import clean_text

        return clean_text(text)


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """One cut-off for every label, and what to say where none reaches it."""

    cut: float
    fallback: str


OPEN_TARGETS_PRESET = Preset(cut=PUBLISHED_CUT, fallback="Uncategorised")


@dataclass(frozen=True, slots=True)
class Description:
    """A classifier but for its weights and its tokenizer."""

    task: Task
    preprocessing: Preprocessing
    thresholds: Thresholds | None = None
    preset: Preset | None = None
    digest: str = ""
    """sha256 over the names and bytes of the folder's files; "" before it is one."""


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`preprocessing.json`."""

    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: tuple[str, ...]
    description: str
    preprocessing: Preprocessing


class _SavedThresholds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`thresholds.json`."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    chosen_on: Literal["train", "tune", "test"]
    preset: Preset | None = None
    """What Open Targets' own pipeline uses instead of `values`, for their 17 labels."""


def model_folder(path: Path) -> Path:
    """The folder with the weights: `path`, or `path/model` in what `finetune` wrote.

    Raises:
        ArtifactError: no classifier there.
    """
    for folder in (path / "model", path):
        if (folder / _PREPROCESSING).is_file():
            return folder
    raise ArtifactError(
        f"{path}: no classifier here (no {_PREPROCESSING}); "
        "give a folder that `trialese finetune` wrote"
    )


def check_masked_lm(folder: Path) -> None:
    """Refuse a folder that cannot be a masked-LM to start from.

    Raises:
        ArtifactError: no configuration of a model there.
    """
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: no model here (no config.json); give a masked-LM folder")


def origin_of(model: Path) -> str:
    """What the masked-LM is, as its artifact tells it; "" for a folder that is none of ours."""
    if not (model.parent / MANIFEST_NAME).is_file():
        return ""
    notes = read_manifest(model.parent).notes
    facts = (str(notes.get("backbone", "")), str(notes.get("head") or ""))
    adapted = "first adapted to the old trials" if notes.get("adapted_to_old") else ""
    return "; ".join(filter(None, (*facts, adapted)))


def read_description(folder: Path) -> Description:
    """The description in a model folder.

    Raises:
        ArtifactError: missing or damaged.
    """
    thresholds = preset = None
    try:
        saved = msgspec.json.decode((folder / _PREPROCESSING).read_bytes(), type=_Saved)
        if (folder / _THRESHOLDS).is_file():
            cut = msgspec.json.decode((folder / _THRESHOLDS).read_bytes(), type=_SavedThresholds)
            thresholds = Thresholds(labels=cut.labels, values=cut.values, chosen_on=cut.chosen_on)
            preset = cut.preset
        if thresholds is not None and thresholds.labels != saved.labels:
            raise ValueError(f"{_THRESHOLDS} is of other labels")
        digest = digest_of_folder(folder)
    except (msgspec.DecodeError, OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: damaged classifier ({error}); fit it again") from error
    task = Task(saved.task, saved.labels, saved.kind, saved.description)
    return Description(task, saved.preprocessing, thresholds, preset, digest)


def write_description(
    folder: Path, task: Task, preprocessing: Preprocessing, thresholds: Thresholds | None
) -> None:
    """Write the two files into the folder of the weights."""
    saved = _Saved(
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        description=task.description,
        preprocessing=preprocessing,
    )
    _write_json(folder / _PREPROCESSING, saved)
    if thresholds is not None:
        cut = _SavedThresholds(
            labels=thresholds.labels,
            values=thresholds.values,
            chosen_on=thresholds.chosen_on,
            preset=OPEN_TARGETS_PRESET if task.labels == STOP_REASONS.labels else None,
        )
        _write_json(folder / _THRESHOLDS, cut)


def _write_json(path: Path, value: Any) -> None:
    text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2)
    path.write_bytes(text + b"\n")
