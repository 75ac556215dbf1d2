"""A fitted classifier: predict, save, load. A plain Hugging Face sequence-classification folder.

`AutoModelForSequenceClassification.from_pretrained(folder)` loads it, labels and problem type
included. Beside the weights stand `thresholds.json` and `preprocessing.json`, so that what was
done to a text in training is done to it in use.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from trialese.errors import ArtifactError
from trialese.progress import Progress, silent
from trialese.records import Example, Task, Thresholds
from trialese.settings import FinetuneSettings

__all__ = ["Classifier", "Preprocessing", "length_sorted_batches", "quiet_transformers"]

logger = logging.getLogger(__name__)

PROBLEM_TYPES = {
    "multilabel": "multi_label_classification",
    "multiclass": "single_label_classification",
}


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


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`preprocessing.json`."""

    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: tuple[str, ...]
    description: str
    preprocessing: Preprocessing


class _SavedThresholds(msgspec.Struct, frozen=True, kw_only=True):
    """`thresholds.json`."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    chosen_on: Literal["train", "tune", "test"]


@dataclass(slots=True)
class Classifier:
    """A task, a model, its tokenizer, its thresholds and its preprocessing."""

    task: Task
    model: Any
    tokenizer: Any
    preprocessing: Preprocessing
    thresholds: Thresholds | None = None

    @classmethod
    def fit(
        cls,
        task: Task,
        train: Sequence[Example],
        tune: Sequence[Example],
        model: Path,
        settings: FinetuneSettings,
        *,
        seed: int,
        preprocessing: Preprocessing | None = None,
        progress: Progress = silent,
    ) -> Classifier:
        """A classifier fitted on `train`, stopped on `tune`; see `fitting.fit_classifier`."""
        from trialese.tasks.fitting import fit_classifier

        return fit_classifier(
            task,
            train,
            tune,
            model,
            settings,
            seed=seed,
            preprocessing=preprocessing,
            progress=progress,
        )[0]

    def predict(
        self, texts: Sequence[str], *, batch_texts: int = 32, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Probabilities (texts, labels): sigmoid if several labels may hold at once, else softmax.

        Always in fp32, so that a text in a batch scores as it does alone (to 1e-5).
        """
        cleaned = [self.preprocessing.clean(text) for text in texts]
        ids = self.encode(cleaned)
        scores = np.zeros((len(ids), len(self.task.labels)), np.float64)
        device = self.model.device
        self.model.eval()
        done = 0
        with torch.inference_mode():
            for rows in length_sorted_batches([len(text) for text in ids], batch_texts):
                batch = self.pad([ids[row] for row in rows], device)
                logits = self.model(**batch).logits.float()
                if self.task.kind == "multilabel":
                    probabilities = torch.sigmoid(logits)
                else:
                    probabilities = torch.softmax(logits, dim=-1)
                scores[rows] = probabilities.double().cpu().numpy()
                done += len(rows)
                progress("predict: texts", done, len(ids))
        return scores

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut after `max_tokens`."""
        if not texts:
            return []
        limit = self.preprocessing.max_tokens
        encoded = self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return [list(ids) for ids in encoded]

    def pad(self, ids: Sequence[Sequence[int]], device: torch.device) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (texts, tokens of the longest) on `device`."""
        width = max(map(len, ids))
        block = torch.full((len(ids), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for row, text in enumerate(ids):
            block[row, : len(text)] = torch.tensor(text, dtype=torch.long)
            mask[row, : len(text)] = 1
        return {"input_ids": block.to(device), "attention_mask": mask.to(device)}

    def save(self, path: Path) -> None:
        """Write the classifier as a folder at `path`: safetensors and JSON, nothing pickled.

        Raises:
            ArtifactError: something stands at `path` already.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ArtifactError(f"{path}: something stands there already; choose a new folder")
        aside = path.with_name(f".{path.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with quiet_transformers():
            self.model.save_pretrained(aside)
            # stock code truncates where this says; training did at `max_tokens`
            self.tokenizer.model_max_length = self.preprocessing.max_tokens
            self.tokenizer.save_pretrained(aside)
        task = self.task
        saved = _Saved(
            task=task.name,
            kind=task.kind,
            labels=task.labels,
            description=task.description,
            preprocessing=self.preprocessing,
        )
        _write_json(aside / "preprocessing.json", saved)
        if self.thresholds is not None:
            cut = self.thresholds
            _write_json(
                aside / "thresholds.json",
                _SavedThresholds(labels=cut.labels, values=cut.values, chosen_on=cut.chosen_on),
            )
        if path.exists():
            path.rmdir()
        aside.rename(path)

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """The classifier in a folder that `save` or `finetune` wrote.

        Raises:
            ArtifactError: no classifier there, or a damaged one.
        """
        folder = path / "model" if (path / "model" / "config.json").is_file() else path
        described = folder / "preprocessing.json"
        if not described.is_file():
            raise ArtifactError(
                f"{path}: no classifier here (no preprocessing.json); "
                "give a folder that `trialese finetune` wrote"
            )
        thresholds = None
        try:
            saved = msgspec.json.decode(described.read_bytes(), type=_Saved)
            if (folder / "thresholds.json").is_file():
                cut = msgspec.json.decode(
                    (folder / "thresholds.json").read_bytes(), type=_SavedThresholds
                )
                thresholds = Thresholds(
                    labels=cut.labels, values=cut.values, chosen_on=cut.chosen_on
                )
            with quiet_transformers():
                model = transformers.AutoModelForSequenceClassification.from_pretrained(
                    folder, dtype=torch.float32, local_files_only=True
                )
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True
                )
        except (msgspec.DecodeError, OSError, ValueError, RuntimeError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0]
            raise ArtifactError(f"{folder}: damaged classifier ({first}); fit it again") from error
        if model.config.num_labels != len(saved.labels):
            raise ArtifactError(
                f"{folder}: the model has {model.config.num_labels} outputs but "
                f"{len(saved.labels)} labels are declared; fit it again"
            )
        task = Task(saved.task, saved.labels, saved.kind, saved.description)
        return cls(task, model.eval(), tokenizer, saved.preprocessing, thresholds)


def length_sorted_batches(
    lengths: Sequence[int], batch_texts: int, batch_tokens: int = 16_384
) -> list[list[int]]:
    """Rows in batches of near-equal length, longest first; each row stands in exactly one.

    A batch holds at most `batch_texts` texts and `batch_tokens` tokens, padding included, but at
    least one text.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    widest = 0
    for row in order:
        full = batches and len(batches[-1]) < batch_texts
        if full and (len(batches[-1]) + 1) * widest <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            widest = lengths[row]
    return batches


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' remarks about new heads, and its bars, off the terminal meanwhile."""
    hub = transformers.utils.logging
    level, bars = hub.get_verbosity(), hub.is_progress_bar_enabled()
    hub.set_verbosity_error()
    hub.disable_progress_bar()
    try:
        yield
    finally:
        hub.set_verbosity(level)
        if bars:
            hub.enable_progress_bar()


def _write_json(path: Path, value: Any) -> None:
    text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2)
    path.write_bytes(text + b"\n")
