"""An exported classifier: its graph on ONNX Runtime, its tokenizer, and what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialese.artifacts import MANIFEST_NAME, read_manifest
from trialese.errors import ArtifactError
from trialese.parallel import count_cores
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.tasks.scorer import (
    ONNX_NAME,
    TOKENIZER_NAME,
    LabelsTexts,
    Preprocessing,
    as_texts,
    encode_texts,
    padded,
    read_description,
    score_ids,
)
from trialese.temperature import Calibration, calibrate
from trialese.thresholds import probabilities

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OnnxScorer"]


@dataclass(frozen=True, slots=True)
class OnnxScorer(LabelsTexts):
    """A task, a graph, its tokenizer, its thresholds and its preprocessing."""

    task: Task
    preprocessing: Preprocessing
    thresholds: Thresholds | None
    digest: str
    precision: str
    """"fp32", or "int8" of weights."""
    session: Any
    """`onnxruntime.InferenceSession`: input_ids, attention_mask -> logits."""
    tokenizer: Any
    """`tokenizers.Tokenizer`."""
    calibration: Calibration | None = None

    @property
    def engine(self) -> str:
        """ONNX Runtime, its version and the precision, such as "onnxruntime 1.20.1 fp32"."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__} {self.precision}"

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
                f"{folder}: an exported classifier needs onnxruntime and tokenizers; "
                "run `pip install 'trialese[infer]'`"
            ) from error
        known = read_description(folder)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or count_cores()
        try:
            session = onnxruntime.InferenceSession(
                str(folder / ONNX_NAME), options, providers=["CPUExecutionProvider"]
            )
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
        except Exception as error:  # both raise whatever their parsers do
            first = str(error).strip().splitlines()[0]
            raise ArtifactError(f"{folder}: damaged export ({first}); export it again") from error
        outputs = session.get_outputs()[0].shape[-1]
        if outputs != len(known.task.labels):
            raise ArtifactError(
                f"{folder}: the graph has {outputs} outputs but {len(known.task.labels)} labels "
                "are declared; export it again"
            )
        return cls(
            task=known.task,
            preprocessing=known.preprocessing,
            thresholds=known.thresholds,
            digest=known.digest,
            precision=_precision_of_export(folder),
            session=session,
            tokenizer=tokenizer,
            calibration=known.calibration,
        )

    def predict_proba(
        self, texts: Sequence[str], *, batch_texts: int = 32, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Probabilities (texts, labels); see `Classifier.predict_proba`."""
        cleaned = [self.preprocessing.clean(text) for text in as_texts(texts)]
        logits = score_ids(
            encode_texts(self.tokenizer, cleaned, self.preprocessing.max_tokens),
            self._logits,
            len(self.task.labels),
            batch_texts=batch_texts,
            progress=progress,
        )
        kind = self.task.kind
        return calibrate(probabilities(logits, kind), self.calibration, kind=kind)

    def _logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        block, mask = padded(ids, 0)
        (logits,) = self.session.run(None, {"input_ids": block, "attention_mask": mask})
        found: NDArray[np.float32] = logits
        return found


def _precision_of_export(folder: Path) -> str:
    if not (folder / MANIFEST_NAME).is_file():
        return "fp32"
    return "int8" if read_manifest(folder).settings.get("to") == "onnx-int8" else "fp32"
