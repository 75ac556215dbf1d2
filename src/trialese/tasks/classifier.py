"""A fitted classifier: predict, save, load. A plain Hugging Face sequence-classification folder.

`AutoModelForSequenceClassification.from_pretrained(folder)` loads it, labels and problem type
included. Beside the weights stand `thresholds.json` and `preprocessing.json`, so that what was
done to a text in training is done to it in use.

A classifier can also be stored as what it adds to a pinned backbone, in a tenth of the bytes: of
each matrix of the encoder the two factors of its difference from the backbone's own, the best of
their rank (truncated singular values, Eckart & Young 1936), and the head whole.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trialese.errors import ArtifactError
from trialese.hub import check_masked_lm, locate_backbone
from trialese.pretrain.backbone import (
    check_vocabulary,
    family_of,
    load_weights,
    quiet_transformers,
    read_config,
    read_tokenizer,
)
from trialese.pretrain.compute import choose_compute
from trialese.pretrain.encoder import Encoder
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.settings import BackboneSettings, Precision, PretrainSettings
from trialese.tasks.blend import BLEND_NAME, describe_blend
from trialese.tasks.linear import refuse_linear
from trialese.tasks.scorer import (
    CPU_TOKENS,
    ONNX_NAME,
    Agreement,
    LabelsTexts,
    Preprocessing,
    Preset,
    as_texts,
    encode_texts,
    given_labels,
    model_folder,
    new_folder,
    padded,
    read_description,
    score_ids,
)
from trialese.temperature import Calibration, calibrate
from trialese.thresholds import probabilities

__all__ = [
    "Classifier",
    "FirstTokenLogits",
    "OwnLogits",
    "Preprocessing",
    "fast_forward",
    "labels_layer",
    "load_masked_lm",
    "reads_first_token",
]


_COMPARED_TEXTS = 256
"""In another precision, so many texts are scored in fp32 as well, to tell how they agree."""
_PACKED_ROWS = 512
"""Rows that weights are packed for; other numbers of rows work as well, if less fast."""


class FirstTokenLogits:
    """`logits(inputs, attended)` of a sequence classifier that no longer learns.

    The one forward pass (`pretrain.encoder`), without dropout, whose last layer makes queries,
    output and feed-forward for the first token only, which is all that the head reads.
    """

    def __init__(
        self,
        model: Any,
        *,
        dtype: torch.dtype = torch.float32,
        packed_rows: int | None = None,
        plain: bool = False,
    ) -> None:
        self._encoder = Encoder(
            model.requires_grad_(False),
            dtype=dtype,
            packed_rows=packed_rows,
            explicit_attention=plain,
            plain=plain,
        )
        self.precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        self._model = model

    def __call__(self, inputs: Tensor, attended: Tensor | None) -> Tensor:
        """(texts, labels) in fp32; `inputs` (texts, tokens), `attended` bool, or None if all are.

        From the pooler on it is fp32 in any case: that is a thousandth of the work.
        """
        first = torch.zeros((inputs.shape[0], 1), dtype=torch.long, device=inputs.device)
        states = self._encoder.states(inputs, attended, first).float()  # (texts, hidden)
        return self._encoder.family.classify(self._model, states[:, None])


class OwnLogits:
    """`logits(inputs, attended)` by transformers' own forward pass, computed in bf16."""

    precision = "bf16"

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, inputs: Tensor, attended: Tensor | None) -> Tensor:
        """As `FirstTokenLogits` gives them."""
        mask = torch.ones_like(inputs) if attended is None else attended.long()
        with torch.autocast(inputs.device.type, torch.bfloat16):
            logits: Tensor = self._model(input_ids=inputs, attention_mask=mask).logits
        return logits.float()


def reads_first_token(model: Any) -> bool:
    """Whether the model's family has a description and its head reads the first token alone."""
    pooling = getattr(model.config, "classifier_pooling", "cls")
    return family_of(model) is not None and pooling == "cls"


def fast_forward(model: Any, precision: Precision) -> FirstTokenLogits | OwnLogits | None:
    """The model's fast forward pass on the device that suits; None for its own in fp32, if its
    family has no description.

    Raises:
        RecipeError: a precision that the device does not have.
    """
    compute = choose_compute(PretrainSettings(precision=precision))
    model.to(compute.device)
    if not reads_first_token(model):
        return OwnLogits(model) if compute.dtype == torch.bfloat16 else None
    return FirstTokenLogits(
        model, dtype=compute.dtype, packed_rows=_PACKED_ROWS if compute.packed else None
    )


logger = logging.getLogger(__name__)

ADAPTER_NAME = "adapter.json"
_ADAPTER_WEIGHTS = "adapter.safetensors"


class _SavedAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """`adapter.json`."""

    backbone: str
    """`minilm`, `mpnet` or a hub id."""
    revision: str | None
    digest: str
    """sha256 over the backbone's configuration and weights."""
    rank: int


_PROBLEM_TYPES = {
    "multilabel": "multi_label_classification",
    "multiclass": "single_label_classification",
}


@dataclass(slots=True)
class Classifier(LabelsTexts):
    """A task, a model, its tokenizer, its thresholds and its preprocessing."""

    task: Task
    model: Any
    tokenizer: Any
    preprocessing: Preprocessing
    thresholds: Thresholds | None = None
    preset: Preset | None = None
    """Another pipeline's cut-off, saved beside the thresholds."""
    digest: str = ""
    """sha256 over the files it was loaded from; "" before it is saved."""
    forward: FirstTokenLogits | OwnLogits | None = None
    """The forward pass of a finished classifier; None: the model's own, in fp32."""
    agreement: Agreement | None = None
    """With fp32, of the first texts that were scored in another precision."""
    calibration: Calibration | None = None
    """What makes its scores chances; None: they are scores."""

    @property
    def engine(self) -> str:
        """Such as "torch fp32"."""
        return f"torch {self.precision}"

    def predict_proba(
        self, texts: Sequence[str], *, batch_texts: int = 32, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Probabilities (texts, labels): sigmoid if several labels may hold at once, else softmax.

        In fp32 (see `from_pretrained`) a text in a batch scores as it does alone, to 1e-5. Texts
        that the tokenizer makes the same are scored once. In bf16 the first texts are scored in
        fp32 as well, and `agreement` tells how the two agree.

        Raises:
            RecordError: one text instead of several, or something that is no text.
        """
        cleaned = [self.preprocessing.clean(text) for text in as_texts(texts)]
        self.model.eval()
        with torch.inference_mode():
            ids = self.encode(cleaned)
            options: dict[str, Any] = {
                "batch_texts": batch_texts,
                "batch_tokens": CPU_TOKENS * (1 if self.model.device.type == "cpu" else 32),
            }
            labels = len(self.task.labels)
            logits = score_ids(ids, self._logits, labels, progress=progress, **options)
            scores = self._chances(logits)
            left = _COMPARED_TEXTS - (self.agreement.texts if self.agreement else 0)
            if self.precision != "fp32" and left > 0 and ids:
                exact = replace(self, forward=self._exact(), agreement=None)
                logits = score_ids(ids[:left], exact._logits, labels, **options)
                self._compare(scores[:left], self._chances(logits))
        return scores

    def _chances(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        kind = self.task.kind
        return calibrate(probabilities(logits, kind), self.calibration, kind=kind)

    @property
    def precision(self) -> str:
        """ "fp32" or "bf16"."""
        return "fp32" if self.forward is None else self.forward.precision

    def _exact(self) -> FirstTokenLogits | None:
        return FirstTokenLogits(self.model) if reads_first_token(self.model) else None

    def _compare(self, scores: NDArray[np.float64], exact: NDArray[np.float64]) -> None:
        """Count how the scores (texts, labels) agree with those of fp32."""
        given, told = (given_labels(self.task, self.thresholds, each) for each in (scores, exact))
        before = self.agreement or Agreement(texts=0, same_labels=0, largest_difference=0.0)
        self.agreement = Agreement(
            texts=before.texts + len(scores),
            same_labels=before.same_labels + int((given == told).all(axis=1).sum()),
            largest_difference=max(before.largest_difference, float(abs(scores - exact).max())),
        )

    def take_calibration(self, calibration: Calibration | None) -> None:
        """Calibrate the scores from now on: in the last layer, so that any program that loads the
        weights gives chances, or else after it. Once only."""
        if calibration is None:
            return
        _, last = labels_layer(self.model)
        if last.bias is not None:
            slopes, offsets = (
                torch.tensor(each, dtype=last.weight.dtype, device=last.weight.device)
                for each in (calibration.slopes, calibration.offsets)
            )
            with torch.no_grad():
                last.weight.mul_(slopes[:, None])
                last.bias.mul_(slopes).add_(offsets)
            calibration = msgspec.structs.replace(calibration, in_weights=True)
        self.calibration = calibration

    def _logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        batch = self.pad(ids, self.model.device)
        if self.forward is None:
            logits = self.model(**batch).logits
        else:
            same_length = len(ids[0]) == len(ids[-1])  # they come sorted by length
            attended = None if same_length else batch["attention_mask"].bool()
            logits = self.forward(batch["input_ids"], attended)
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut after `max_tokens`."""
        backend = self.tokenizer.backend_tokenizer
        return encode_texts(backend, texts, self.preprocessing.max_tokens)

    def pad(self, ids: Sequence[Sequence[int]], device: torch.device) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (texts, tokens of the longest) on `device`."""
        block, mask = map(torch.from_numpy, padded(ids, self.tokenizer.pad_token_id))
        return {"input_ids": block.to(device), "attention_mask": mask.to(device)}

    def save_pretrained(self, path: str | Path) -> None:
        """Write the classifier as a folder at `path`: safetensors and JSON, nothing pickled.

        Raises:
            ArtifactError: something stands at `path` already.
        """
        with new_folder(Path(path), self) as folder, quiet_transformers():
            self.model.save_pretrained(folder)
            # stock code truncates where this says; training did at `max_tokens`
            self.tokenizer.model_max_length = self.preprocessing.max_tokens
            self.tokenizer.save_pretrained(folder)

    def save_adapter(self, path: str | Path, *, rank: int, backbone: str = "minilm") -> None:
        """Write, as a folder at `path`, what the classifier adds to the backbone it was fitted
        from: at most `rank` a matrix, half precision. `from_pretrained` adds it up again.

        Raises:
            ArtifactError: something stands at `path`, or the backbone is not to be had.
        """
        files = locate_backbone(BackboneSettings(name=backbone))
        plain = _with_empty_head(self.task, files.folder)[0].state_dict()
        stored: dict[str, Tensor] = {}
        for name, value in self.model.state_dict().items():
            gain = value.detach().cpu() - plain[name]
            if not value.is_floating_point() or not bool(gain.abs().max() > 0):
                continue
            low_rank = value.ndim == 2 and min(value.shape) > rank
            if low_rank and _of_encoder(name, self.model.base_model_prefix):
                left, sizes, right = torch.linalg.svd(gain, full_matrices=False)
                stored[f"{name}.left"] = (left * sizes)[:, :rank]
                stored[f"{name}.right"] = right[:rank]
            else:
                stored[f"{name}.whole"] = value.detach().cpu()
        about = _SavedAdapter(
            backbone=files.name, revision=files.revision, digest=files.digest, rank=rank
        )
        with new_folder(Path(path), self) as folder:
            half = {name: each.half().contiguous() for name, each in stored.items()}
            save_file(half, folder / _ADAPTER_WEIGHTS)
            text = msgspec.json.format(msgspec.json.encode(about, order="deterministic"), indent=2)
            (folder / ADAPTER_NAME).write_bytes(text + b"\n")

    @classmethod
    def from_pretrained(cls, path: str | Path, *, precision: Precision = "fp32") -> Classifier:
        """The classifier in a folder that `save_pretrained` or `finetune` wrote, ready for use; or
        the large one that ships with trialese under that name.

        In fp32 scores do not depend on the chip; `bf16` is faster where the processor computes
        in it, and `auto` takes it there.

        Raises:
            ArtifactError: no classifier there, or a damaged one.
            RecipeError: a precision that the machine does not have.
        """
        folder = model_folder(Path(path), size="large")
        refuse_linear(folder)
        if (folder / ONNX_NAME).is_file():
            raise ArtifactError(
                f"{folder}: an exported classifier; `trialese predict` and `trialese serve` run "
                "it; give the classifier that it was made from"
            )
        if (folder / BLEND_NAME).is_file():
            names = [each.name for each in describe_blend(folder)]
            raise ArtifactError(
                f"{folder}: a blend of {' and '.join(names)}, which is no single network; load it "
                "with trialese.load_classifier, or give the folder of a member that is one"
            )
        known = read_description(folder)
        if (folder / ADAPTER_NAME).is_file():
            model, tokenizer = _load_adapter(known.task, folder)
        else:
            model, tokenizer = _load_whole(known.task, folder)
        return cls(
            task=known.task,
            model=model.eval(),
            tokenizer=tokenizer,
            preprocessing=known.preprocessing,
            thresholds=known.thresholds,
            preset=known.preset,
            digest=known.digest,
            forward=fast_forward(model, precision),
            calibration=known.calibration,
        )


def _load_whole(task: Task, folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a plain Hugging Face folder."""
    config = read_config(folder)
    if config.num_labels != len(task.labels):
        raise ArtifactError(
            f"{folder}: the model has {config.num_labels} outputs but "
            f"{len(task.labels)} labels are declared; fit it again"
        )
    named = tuple(config.id2label[place] for place in range(config.num_labels))
    if named != task.labels:
        raise ArtifactError(
            f"{folder}: config.json and preprocessing.json name other labels, or in another "
            "order; fit it again"
        )
    model, missing, surplus = load_weights(
        transformers.AutoModelForSequenceClassification, folder, config=config
    )
    for what, names in (("lacks", missing), ("has beside those of its model", surplus)):
        if names:  # what is missing would be drawn at random, and labels with it
            raise ArtifactError(
                f"{folder}: damaged classifier: model.safetensors {what} {min(names)}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}; fit it again"
            )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise whatever they do
        first = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{folder}: damaged classifier ({first}); fit it again") from error
    return model, tokenizer


def _load_adapter(task: Task, folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder that `save_adapter` wrote, its backbone added."""
    try:
        saved = msgspec.json.decode((folder / ADAPTER_NAME).read_bytes(), type=_SavedAdapter)
        stored = load_file(folder / _ADAPTER_WEIGHTS)
    except (OSError, msgspec.DecodeError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: damaged classifier ({error}); fit it again") from error
    files = locate_backbone(BackboneSettings(name=saved.backbone, revision=saved.revision))
    if files.digest != saved.digest:
        raise ArtifactError(
            f"{folder}: was fitted from another {saved.backbone} than that in {files.folder}; "
            f"install version {saved.revision}"
        )
    model, tokenizer = _with_empty_head(task, files.folder)
    state = model.state_dict()
    for name in {name.rpartition(".")[0] for name in stored}:
        try:
            if f"{name}.whole" in stored:
                state[name].copy_(stored[f"{name}.whole"])
            else:
                left, right = stored[f"{name}.left"], stored[f"{name}.right"]
                state[name].add_(left.float() @ right.float())
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"{folder}: damaged classifier: {name} does not fit the backbone; fit it again"
            ) from error
    return model, tokenizer


def _with_empty_head(task: Task, folder: Path) -> tuple[Any, Any]:
    """(the backbone with a head of zeros, its tokenizer)."""
    model, tokenizer, missing = load_masked_lm(task, folder)
    state = model.state_dict()
    for name in missing:  # what the checkpoint lacks would be drawn at random
        state[name].zero_()
    return model, tokenizer


def labels_layer(model: Any) -> tuple[str, torch.nn.Linear]:
    """Name and module of the linear layer of a sequence classifier that scores the labels."""
    own = [
        (name, module)
        for name, module in model.named_modules()
        if not name.startswith(f"{model.base_model_prefix}.")
        and isinstance(module, torch.nn.Linear)
    ]
    return own[-1]


def _of_encoder(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.") and ".pooler." not in name


_DROPPED = ("hidden_dropout_prob", "dropout", "mlp_dropout", "embedding_dropout")
_DROPPED_HEAD = ("classifier_dropout", "seq_classif_dropout")
_DROPPED_ATTENTION = ("attention_probs_dropout_prob", "attention_dropout")


def load_masked_lm(
    task: Task, folder: Path, *, dropout: float | None = None
) -> tuple[Any, Any, list[str]]:
    """The model in the folder with a new head for the task, its tokenizer, and the names of the
    weights that it lacks. `dropout` is that of hidden states, attention weights having none;
    None: as the checkpoint says.

    Raises:
        ArtifactError: no model there, or none that can classify.
    """
    check_masked_lm(folder)
    config = read_config(folder)
    options: dict[str, Any] = {}
    if dropout is not None:
        options = {name: dropout for name in _DROPPED if hasattr(config, name)}
        # None means as elsewhere, and stays so
        options |= {n: dropout for n in _DROPPED_HEAD if getattr(config, n, None) is not None}
        options |= {name: 0.0 for name in _DROPPED_ATTENTION if hasattr(config, name)}
    model, missing, _ = load_weights(
        transformers.AutoModelForSequenceClassification,
        folder,
        num_labels=len(task.labels),
        id2label=dict(enumerate(task.labels)),
        label2id={label: place for place, label in enumerate(task.labels)},
        problem_type=_PROBLEM_TYPES[task.kind],
        **options,
    )
    torn = sorted(name for name in missing if _of_encoder(name, model.base_model_prefix))
    if torn:  # they would be drawn at random
        raise ArtifactError(f"{folder}: the encoder is incomplete ({torn[0]}); fetch it again")
    tokenizer = read_tokenizer(folder, masks=False)
    check_vocabulary(tokenizer, model, folder)
    return model, tokenizer, sorted(missing)
