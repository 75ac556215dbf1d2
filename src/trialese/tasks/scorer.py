"""A classifier in use, whatever computes it: texts in, probabilities out.

Two engines: PyTorch (`classifier.Classifier`) and ONNX Runtime (`onnx_scorer.OnnxScorer`, of a
folder that `trialese export` wrote; needs no torch). The folder decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trialese.cutoffs import decide
from trialese.progress import Progress, silent
from trialese.settings import Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.records import Task, Thresholds
    from trialese.tasks.description import Preprocessing

__all__ = [
    "CPU_TOKENS",
    "ONNX_NAME",
    "Scorer",
    "encode_texts",
    "given_labels",
    "length_sorted_batches",
    "load_scorer",
    "named_results",
    "padded",
    "probabilities",
    "score_ids",
]

ONNX_NAME = "model.onnx"
CPU_TOKENS = 512
"""Of a batch: enough rows for the matrix products, few enough for the caches."""


class Scorer(Protocol):
    """What every classifier can do, fitted here or exported."""

    @property
    def task(self) -> Task:
        """Its labels and whether several hold at once."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What happens to a text first."""
        ...

    @property
    def thresholds(self) -> Thresholds | None:
        """Cut-offs chosen on tune; None: 0.5, or the largest of a multiclass task."""
        ...

    @property
    def digest(self) -> str:
        """sha256 that names the model's files."""
        ...

    @property
    def engine(self) -> str:
        """What computes the scores, such as "torch fp32"; those of two engines differ a little."""
        ...

    def predict(self, texts: Sequence[str], *, progress: Progress = silent) -> NDArray[np.float64]:
        """Probabilities (texts, labels) of raw texts, in their order."""
        ...


def load_scorer(path: Path, *, precision: Precision = "auto") -> Scorer:
    """The classifier in a folder that `finetune` or `export` wrote.

    `precision` is that of PyTorch: `auto` is bf16 where the processor computes in it. An exported
    graph has its own.

    Raises:
        ArtifactError: no classifier there, a damaged one, or its engine is not installed.
        RecipeError: a precision that the machine does not have.
    """
    from trialese.tasks.description import model_folder

    folder = model_folder(path)
    if (folder / ONNX_NAME).is_file():
        from trialese.tasks.onnx_scorer import OnnxScorer

        return OnnxScorer.load(folder)
    from trialese.tasks.classifier import Classifier

    return Classifier.load(folder, precision=precision)


def given_labels(
    task: Task, thresholds: Thresholds | None, scores: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Label sets (texts, labels) of scores of that shape, by the classifier's cut-offs or 0.5."""
    cuts = 0.5 if thresholds is None else np.array(thresholds.values)
    return decide(scores, task.kind, cuts)


def named_results(
    scorer: Scorer, scores: NDArray[np.float64]
) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
    """Of each row of scores (texts, labels): its label set, and all probabilities to six places."""
    labels = scorer.task.labels
    for row, given in zip(
        scores, given_labels(scorer.task, scorer.thresholds, scores), strict=True
    ):
        yield (
            tuple(labels[column] for column in np.flatnonzero(given)),
            {label: round(float(score), 6) for label, score in zip(labels, row, strict=True)},
        )


def encode_texts(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text by a `tokenizers.Tokenizer`, special ones included, cut."""
    if (tokenizer.truncation or {}).get("max_length") != max_tokens:
        tokenizer.enable_truncation(max_tokens)  # changing it while another thread encodes fails
    if tokenizer.padding is not None:
        tokenizer.no_padding()
    return [encoded.ids for encoded in tokenizer.encode_batch_fast(list(texts))]


def padded(
    ids: Sequence[Sequence[int]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and attention mask, both (texts, tokens of the longest)."""
    lengths = np.array([len(text) for text in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    block = np.full(mask.shape, pad_id, np.int64)
    block[mask] = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
    return block, mask.astype(np.int64)


def probabilities(logits: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """Probabilities of logits (texts, labels): sigmoid if several labels may hold, else softmax."""
    scores = logits.astype(np.float64)
    if kind == "multilabel":
        return np.asarray((1 + np.tanh(scores / 2)) / 2)  # the sigmoid, which cannot overflow so
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def score_ids(
    ids: Sequence[Sequence[int]],
    logits: Callable[[list[Sequence[int]]], NDArray[Any]],
    labels: int,
    *,
    batch_texts: int,
    batch_tokens: int = CPU_TOKENS,
    progress: Progress = silent,
) -> NDArray[np.float64]:
    """Logits (texts, labels), `logits` being asked for batches of near-equal length.

    Texts that become the same token ids are scored once: 36 % of stop reasons share their
    normalised text with another trial, and the model cannot tell them apart.
    """
    row_of: dict[tuple[int, ...], int] = {}
    rows = [row_of.setdefault(tuple(text), len(row_of)) for text in ids]
    distinct = list(row_of)
    found = np.zeros((len(distinct), labels), np.float64)
    done = 0
    for batch in length_sorted_batches([len(text) for text in distinct], batch_texts, batch_tokens):
        found[batch] = logits([distinct[row] for row in batch])
        done += len(batch)
        progress("predict: distinct texts", done, len(distinct))
    return found[rows]


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
