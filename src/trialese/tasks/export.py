"""A classifier as an ONNX graph that runs without torch, its parity checked before it is kept."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trialese.artifacts import write_artifact
from trialese.errors import ArtifactError, RecordError
from trialese.pretrain.backbone import FAMILIES
from trialese.records import Manifest, Task, Thresholds
from trialese.tasks.classifier import Classifier, FirstTokenLogits
from trialese.tasks.onnx_scorer import OnnxScorer
from trialese.tasks.scorer import (
    ONNX_NAME,
    TOKENIZER_NAME,
    given_labels,
    write_description,
)

__all__ = ["ExportKind", "export_classifier", "label_agreement", "quantise", "write_graph"]


ExportKind = Literal["onnx", "onnx-int8"]
MAX_DIFFERENCE = 1e-4
"""Of probabilities, fp32 graph against torch."""
MIN_AGREEMENT = 0.995
"""Share of texts that get the same labels, int8 graph against torch."""
MIN_TEXTS = 200
"""Fewer texts could not tell 99.5 % from 99 %."""
_OPSET = 20
_PROBES = (
    "x",
    "Low accrual",
    "The sponsor decided to stop the study for business reasons, not for safety or efficacy. " * 9,
    "COVID-19 pandemic",
    "Interim analysis: futility (p > 0.5, n ≥ 30)",
)
"""Of different lengths, so that they stand in one batch with padding."""


def export_classifier(
    model: Path, to: ExportKind, path: Path, *, texts: Sequence[str] = ()
) -> Manifest:
    """The manifest of the exported classifier at `path`: graph, tokenizer, task, thresholds.

    The graph is compared with torch before anything is kept: fp32 in probabilities on padded
    batches, int8 in labels on `texts`, which should be of the kind that it will read.

    Raises:
        ArtifactError: no classifier of a described family at `model`, parity missed (with the
            figure), or the export extra is not installed.
        RecordError: too few texts to check int8 with.
    """
    _need_export_extra()
    distinct = list(dict.fromkeys(texts))
    if to == "onnx-int8" and len(distinct) < MIN_TEXTS:
        raise RecordError(
            f"{len(distinct)} different texts to check int8 with; give at least {MIN_TEXTS} of "
            "the kind that it will read (--texts FILE)"
        )
    classifier = Classifier.from_pretrained(model)
    if classifier.forward is None:
        raise ArtifactError(
            f"{model}: a {classifier.model.config.model_type}; export knows the families that have "
            f"a fast forward pass ({', '.join(FAMILIES)})"
        )
    inputs = {"classifier": classifier.digest}
    with write_artifact(path, kind="export", settings={"to": to}, inputs=inputs) as draft:
        folder = draft.folder
        classifier.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_NAME))
        write_description(folder, classifier)
        graph = folder / ONNX_NAME
        write_graph(classifier, graph)
        parity = _check_fp32(classifier, folder, [*_PROBES, *distinct[:64]])
        draft.notes |= {"task": classifier.task.name, "classifier": classifier.digest, **parity}
        if to == "onnx-int8":
            quantise(graph)
            draft.notes |= _check_int8(classifier, folder, distinct)
        draft.counts["bytes"] = graph.stat().st_size
    assert draft.manifest is not None
    return draft.manifest


def label_agreement(
    task: Task, thresholds: Thresholds | None, scores: np.ndarray, others: np.ndarray
) -> float:
    """Share of texts that both scores (texts, labels) give exactly the same labels."""
    given, too = (given_labels(task, thresholds, each) for each in (scores, others))
    return float((given == too).all(axis=1).mean())


class _Graph(nn.Module):
    """(input_ids, attention_mask) -> logits, of parameters that stand in the graph as they are."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._logits = FirstTokenLogits(model, plain=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self._logits(input_ids, attention_mask.bool())


def write_graph(classifier: Classifier, path: Path) -> None:
    """Write the classifier as an fp32 graph with free numbers of texts and tokens."""
    ids = torch.full((2, 7), classifier.tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.ones_like(ids)
    texts, tokens = torch.export.Dim("texts"), torch.export.Dim("tokens")
    shape = {0: texts, 1: tokens}
    with warnings.catch_warnings(), _silenced("torch.onnx"):
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            _Graph(copy.deepcopy(classifier.model).cpu()).eval(),
            (ids, mask),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(shape, shape),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _check_fp32(classifier: Classifier, folder: Path, texts: Sequence[str]) -> dict[str, float]:
    theirs = OnnxScorer.load(folder).predict_proba(
        texts, batch_texts=len(texts)
    )  # so some are padded
    difference = float(np.abs(theirs - classifier.predict_proba(texts)).max())
    if not difference <= MAX_DIFFERENCE:
        raise ArtifactError(
            f"the exported graph differs from the classifier by {difference:.2g} in probability "
            f"(limit {MAX_DIFFERENCE}); nothing was written; report this with your versions of "
            "torch and onnxruntime"
        )
    return {"largest_difference_fp32": difference}


def quantise(path: Path) -> None:
    """Give the graph int8 weights, a scale a column; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _silenced(None):  # it recommends a step that the exporter has done
        quantize_dynamic(
            path,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,  # without VNNI, 8-bit products of pairs overflow 16 bits
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def _check_int8(classifier: Classifier, folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    ours, theirs = classifier.predict_proba(texts), OnnxScorer.load(folder).predict_proba(texts)
    agreement = label_agreement(classifier.task, classifier.thresholds, ours, theirs)
    if agreement < MIN_AGREEMENT:
        raise ArtifactError(
            f"int8 gives {agreement:.2%} of {len(texts):,} texts the labels of the classifier "
            f"(at least {MIN_AGREEMENT:.1%} are needed); nothing was written; export --to onnx"
        )
    return {"label_agreement_int8": agreement, "texts_compared": len(texts)}


@contextlib.contextmanager
def _silenced(name: str | None) -> Iterator[None]:
    """Only errors from the logger called `name` meanwhile."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _need_export_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ArtifactError(
            f"exporting needs {error.name}; pip install 'trialese[export]'"
        ) from error
