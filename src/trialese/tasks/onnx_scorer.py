"""A classifier that `trialese export` wrote, run by ONNX Runtime; torch is not needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialese.errors import ArtifactError
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.tasks.description import Preprocessing, read_description
from trialese.tasks.scorer import ONNX_NAME, encode_texts, padded, probabilities, score_ids

__all__ = ["TOKENIZER_NAME", "OnnxScorer"]

TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class OnnxScorer:
    """A task, a graph, its tokenizer, its thresholds and its preprocessing."""

    task: Task
    preprocessing: Preprocessing
    thresholds: Thresholds | None
    digest: str
    session: Any
    """`onnxruntime.InferenceSession`: input_ids, attention_mask -> logits."""
    tokenizer: Any
    """`tokenizers.Tokenizer`."""

    @property
    def engine(self) -> str:
        """ONNX Runtime and its version."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> OnnxScorer:
        """The exported classifier in a folder; `threads` are those of one batch, None: all cores.

        Raises:
            ArtifactError: a damaged one, or onnxruntime is not installed.
        """
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ArtifactError(
                f"{folder}: an exported classifier needs onnxruntime; pip install onnxruntime"
            ) from error
        known = read_description(folder)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        try:
            session = onnxruntime.InferenceSession(
                str(folder / ONNX_NAME), options, providers=["CPUExecutionProvider"]
            )
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
        except Exception as error:  # both raise whatever their parsers do
            first = str(error).strip().splitlines()[0]
            raise ArtifactError(f"{folder}: damaged export ({first}); export it again") from error
        return cls(
            task=known.task,
            preprocessing=known.preprocessing,
            thresholds=known.thresholds,
            digest=known.digest,
            session=session,
            tokenizer=tokenizer,
        )

    def predict(
        self, texts: Sequence[str], *, batch_texts: int = 32, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Probabilities (texts, labels); see `Classifier.predict`."""
        cleaned = [self.preprocessing.clean(text) for text in texts]
        logits = score_ids(
            encode_texts(self.tokenizer, cleaned, self.preprocessing.max_tokens),
            self._logits,
            len(self.task.labels),
            batch_texts=batch_texts,
            progress=progress,
        )
        return probabilities(logits, self.task.kind)

    def _logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        block, mask = padded(ids, 0)
        (logits,) = self.session.run(None, {"input_ids": block, "attention_mask": mask})
        found: NDArray[np.float32] = logits
        return found
