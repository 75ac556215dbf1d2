"""Fitting a classifier: losses, what learns and how fast, and the one loop over epochs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trialese.errors import ArtifactError, RecordError
from trialese.pretrain.backbone import FAMILIES, family_of, longest_text, part_of, unwrapped
from trialese.pretrain.compute import computes_in_bf16
from trialese.pretrain.data import scheduled_rate
from trialese.pretrain.encoder import Encoder
from trialese.pretrain.lora import attach_lora, no_dropout
from trialese.progress import Progress, silent
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings
from trialese.tasks.classifier import (
    Classifier,
    Preprocessing,
    labels_layer,
    load_masked_lm,
    reads_first_token,
)
from trialese.tasks.scorer import length_sorted_batches
from trialese.tasks.task import encode_labels
from trialese.thresholds import best_cut, decide, f1_averages

__all__ = [
    "FirstTokenForward",
    "FitLog",
    "fit_classifier",
    "freeze_layers",
    "linear_decay",
    "loss_function",
    "make_optimiser",
    "with_lora",
]


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_FOCAL_GAMMA = 2.0


def loss_function(
    kind: Literal["multilabel", "multiclass"],
    truth: NDArray[np.bool_],
    settings: FinetuneSettings,
    device: torch.device,
) -> Loss:
    """A function of (logits, targets), both (texts, labels), for the task's kind.

    The weight of a label is (negatives / positives in `truth`) ** `positive_weight`.
    """
    positives = np.maximum(1, truth.sum(axis=0))
    ratio = (len(truth) - truth.sum(axis=0)) / positives
    weight = torch.tensor(ratio**settings.positive_weight, dtype=torch.float32, device=device)
    smoothing = settings.label_smoothing
    if kind == "multiclass":
        share = weight / weight.mean()

        def single(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(
                logits, targets.argmax(dim=1), weight=share, label_smoothing=smoothing
            )

        return single

    def binary(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        soft = targets * (1 - smoothing) + smoothing / 2
        each = functional.binary_cross_entropy_with_logits(
            logits, soft, pos_weight=weight, reduction="none"
        )
        if settings.loss == "focal":
            probabilities = torch.sigmoid(logits)
            wrong = torch.where(targets > 0, 1 - probabilities, probabilities)
            each = each * wrong**_FOCAL_GAMMA
        return each.sum(dim=1).mean()

    def ranking(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Each true label's logit is pushed above 0 and each other's below it, by two
        # log-sum-exps, so that 2 positives of 17 weigh as much as 15 negatives.
        zero = logits.new_zeros(len(logits), 1)
        hidden = torch.finfo(logits.dtype).min
        others = logits.masked_fill(targets > 0, hidden)
        theirs = (weight.log() - logits).masked_fill(targets == 0, hidden)
        above = torch.logsumexp(torch.cat([zero, others], dim=1), dim=1)
        below = torch.logsumexp(torch.cat([zero, theirs], dim=1), dim=1)
        return (above + below).mean()

    return ranking if settings.loss == "ranking" else binary


def freeze_layers(model: Any, frozen_layers: int | None) -> None:
    """Keep the embeddings and the lowest `frozen_layers` layers from learning."""
    if frozen_layers is None:
        return
    for name, parameter in model.named_parameters():
        layer = _LAYER.search(name)
        if "embeddings." in name or (layer and int(layer.group(1)) < frozen_layers):
            parameter.requires_grad_(False)


def with_lora(model: Any, settings: FinetuneSettings) -> Any:
    """The model with adapters on the encoder; pooler and head learn whole."""
    return attach_lora(model, settings.lora, saved=_head_names(model))


def _head_names(model: Any) -> tuple[str, ...]:
    """The modules between the encoder's states and the labels, by their first names."""
    own = dict.fromkeys(
        name.partition(".")[0]
        for name, _ in model.named_parameters()
        if not name.startswith(f"{model.base_model_prefix}.")
    )
    return (*(("pooler",) if _has_pooler(model) else ()), *own)


def _has_pooler(model: Any) -> bool:
    """Whether a new linear layer of the body or beside it makes the first token's state ready."""
    return any(".pooler." in f".{name}" for name, _ in model.named_parameters())


_LAYER = re.compile(r"(?:layer|layers|albert_layers)\.(\d+)\.")


def make_optimiser(model: Any, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """AdamW with a rate a layer, a rate for the head, and no decay on biases and norms."""
    layers = model.config.num_hidden_layers
    head = tuple(f".{name}." for name in _head_names(unwrapped(model)))
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if any(part in f".{name}" for part in head):
            lr = settings.head_lr
        else:
            layer = _LAYER.search(name)
            depth = layers - 1 - int(layer.group(1)) if layer else layers
            lr = settings.lr * settings.layer_decay**depth
        plain = parameter.ndim < 2  # biases and norms
        groups.setdefault((lr, 0.0 if plain else settings.weight_decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in groups.items()
        ],
        fused=True,
    )


def linear_decay(steps: int, warmup_share: float) -> Callable[[int], float]:
    """The share of the full rate at each step: up in a straight line, then down to 0."""
    share = max(warmup_share, 1 / max(1, steps))  # at least one step of warm-up
    return lambda step: scheduled_rate(step, steps, warmup_share=share)


class FirstTokenForward:
    """`logits(states(ids))` of a classifier whose embeddings and lowest layers do not learn.

    Frozen layers never learn, so their states are computed once a text, not once an epoch; and
    since the head reads the first token alone, the last layer makes queries, output and
    feed-forward for that token only. Build it after attaching adapters: the others' weights are
    read as they are in each call. Frozen layers run without dropout; the others drop hidden
    states as the configuration says, drawn from torch's own generator.
    """

    def __init__(
        self, model: Any, frozen_layers: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self._model, self._frozen = model, frozen_layers
        hidden = ("hidden_dropout_prob", "mlp_dropout")  # by families
        attention = ("attention_probs_dropout_prob", "attention_dropout")
        rates = [
            next((float(getattr(model.config, n)) for n in names if hasattr(model.config, n)), 0.0)
            for names in (hidden, attention)
        ]
        self._encoder = Encoder(
            model,
            dtype=dtype,
            dropout=rates[0],
            attention_dropout=rates[1],
            explicit_attention=False,
        )

    def states(self, ids: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
        """What the frozen part makes of each text: (tokens, hidden) each, in the order of `ids`."""
        found: list[Tensor] = [torch.empty(0)] * len(ids)
        with torch.inference_mode(False), torch.no_grad():
            for rows in length_sorted_batches([len(text) for text in ids], 64):
                texts = [torch.tensor(ids[row], device=device) for row in rows]
                block = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
                x = self._encoder.lower(block, _attended(texts, block.shape[1]), self._frozen)
                for place, row in enumerate(rows):
                    found[row] = x[place, : len(ids[row])].clone()
        return found

    def logits(self, states: Sequence[Tensor]) -> Tensor:
        """Scores (texts, labels) of texts given as `states` made them."""
        x = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        first = torch.zeros((len(x), 1), dtype=torch.long, device=x.device)
        attended = _attended(states, x.shape[1])
        drop = _torch_dropout if self._model.training else no_dropout
        upper = self._encoder.upper(x, attended, first, self._frozen, drop)
        return self._encoder.family.classify(self._model, upper[:, None])


def _torch_dropout(x: Tensor, rate: float) -> Tensor:
    return functional.dropout(x, rate) if rate else x


def _attended(texts: Sequence[Tensor], width: int) -> Tensor:
    """(texts, tokens): True on tokens of the text, False on padding."""
    lengths = torch.tensor([len(text) for text in texts], device=texts[0].device)
    return torch.arange(width, device=lengths.device) < lengths[:, None]


logger = logging.getLogger(__name__)

_MOST_STATE_BYTES = 2**30  # of frozen layers' output, kept from epoch to epoch
_SORTED_BATCHES = 8  # so many batches are drawn at random, then sorted by length among themselves


@dataclass(slots=True)
class FitLog:
    """What happened in one fit, epoch by epoch."""

    tune_scores: list[tuple[float, float]] = field(default_factory=list)
    """(micro-F1, macro-F1) on tune after each epoch, at the cut-off that is best there."""
    losses: list[float] = field(default_factory=list)
    best_epoch: int = 0
    new_pooler: bool = False
    precision: str = "fp32"
    """Of the products in training; scores are fp32."""


def fit_classifier(
    task: Task,
    train: Sequence[Example],
    tune: Sequence[Example],
    model: str | Path,
    settings: FinetuneSettings,
    *,
    seed: int,
    preprocessing: Preprocessing | None = None,
    progress: Progress = silent,
) -> tuple[Classifier, FitLog]:
    """A classifier fitted on `train` and stopped on `tune`, and the log of the fit.

    `model` is the folder of a masked-LM or encoder. The same arguments on the same device give
    the same weights: initialisation, dropout and order follow from `seed`, and the generators of
    the caller are left as they were.

    Raises:
        ArtifactError: no usable model at `model`.
        RecordError: nothing to learn from, or labels that do not fit the task.
    """
    model = Path(model)
    if not train or not tune:
        raise RecordError(
            f"{task.name}: {len(train)} texts to train and {len(tune)} to tune on; give more texts "
            "or fewer folds"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preprocessing = preprocessing or Preprocessing(max_tokens=settings.max_tokens)
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        classifier, log = _new_classifier(task, model, settings, preprocessing)
        classifier.model.to(device)
        if settings.label_words:
            _start_from_label_words(classifier)
        _train(classifier, train, tune, settings, seed, log, progress)
    classifier.model.eval()
    return classifier, log


def _new_classifier(
    task: Task, folder: Path, settings: FinetuneSettings, preprocessing: Preprocessing
) -> tuple[Classifier, FitLog]:
    model, tokenizer, missing = load_masked_lm(task, folder, dropout=settings.dropout)
    heads = tuple(f".{name}." for name in _head_names(model))
    foreign = [name for name in missing if not any(part in f".{name}" for part in heads)]
    if foreign:
        raise ArtifactError(
            f"{folder}: {len(foreign)} weights are missing, such as {foreign[0]}; "
            "give a masked-LM or encoder of a known architecture"
        )
    positions = longest_text(model)
    preprocessing = msgspec.structs.replace(
        preprocessing, max_tokens=min(preprocessing.max_tokens, positions)
    )
    family = family_of(model)
    path = family.pooled_dense if family else None
    new = path is not None and f"{path}.weight" in missing
    log = FitLog(new_pooler=new or any("pooler" in name for name in missing))
    if settings.pooler == "identity" and path is not None and (new or family == FAMILIES["bert"]):
        dense = part_of(model, path)
        with torch.no_grad():  # any other projection scrambles what [CLS] has learnt
            torch.nn.init.eye_(dense.weight)
            torch.nn.init.zeros_(dense.bias)
    return Classifier(task, model, tokenizer, preprocessing), log


def _start_from_label_words(classifier: Classifier) -> None:
    """Set each label's output weights to the direction in which the words of its name lie."""
    words = [label.replace("_", " ").lower() for label in classifier.task.labels]
    model = classifier.model.eval()
    _, last = labels_layer(model)
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(**classifier.pad(classifier.encode(words), model.device))
        hook.remove()
        (states,) = seen  # (labels, hidden)
        states = states - states.mean(dim=0)
        weight = last.weight
        weight.copy_(states / states.norm(dim=1, keepdim=True) * weight.norm(dim=1, keepdim=True))


def _train(
    classifier: Classifier,
    train: Sequence[Example],
    tune: Sequence[Example],
    settings: FinetuneSettings,
    seed: int,
    log: FitLog,
    progress: Progress,
) -> None:
    clean = classifier.preprocessing.clean
    ids = classifier.encode([clean(example.text) for example in train])
    truth = encode_labels(classifier.task, train)
    tune_truth = encode_labels(classifier.task, tune)
    tune_texts = [example.text for example in tune]
    if settings.method == "lora":
        classifier.model = with_lora(classifier.model, settings)
    freeze_layers(classifier.model, settings.frozen_layers)
    model = classifier.model
    device = next(model.parameters()).device
    targets = torch.from_numpy(truth.astype(np.float32)).to(device)  # (texts, labels)
    loss_of = loss_function(classifier.task.kind, truth, settings, device)
    optimiser = make_optimiser(model, settings)
    steps_an_epoch = sum(1 for _ in _batches(ids, settings, seed, 0))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, linear_decay(settings.epochs * steps_an_epoch, settings.warmup_share)
    )
    bf16 = computes_in_bf16(settings.precision, device.type)
    log.precision = "bf16" if bf16 else "fp32"
    logits_of = _forward(classifier, ids, settings, device, bf16=bf16)
    best: dict[str, torch.Tensor] | None = None
    best_score = -1.0
    averaged: dict[str, torch.Tensor] = {}
    for epoch in range(1, settings.epochs + 1):
        model.train()
        total = torch.zeros((), device=device)
        for rows in _batches(ids, settings, seed, epoch):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = logits_of(rows)
            loss = loss_of(logits.float(), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            total += loss.detach() * len(rows)
        log.losses.append(total.item() / len(ids))
        progress("fit: epochs", epoch, settings.epochs)
        if last := min(settings.average_last, settings.epochs):
            if epoch > settings.epochs - last:
                _add(averaged, model, 1 / last)
            continue
        log.tune_scores.append(_score(classifier, tune_texts, tune_truth))
        score = sum(log.tune_scores[-1])
        if score > best_score:
            best_score, log.best_epoch = score, epoch
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        elif epoch - log.best_epoch >= settings.patience:
            break
    model.load_state_dict(averaged if settings.average_last else best)
    if settings.method == "lora":
        classifier.model = model.merge_and_unload()
        for parameter in classifier.model.parameters():
            parameter.requires_grad_(True)


def _forward(
    classifier: Classifier,
    ids: Sequence[Sequence[int]],
    settings: FinetuneSettings,
    device: torch.device,
    *,
    bf16: bool,
) -> Callable[[list[int]], torch.Tensor]:
    """A function from rows of `ids` to their logits (rows, labels), in training."""
    model = classifier.model
    whole = unwrapped(model)
    if settings.frozen_layers is None or not reads_first_token(whole):
        return lambda rows: model(**classifier.pad([ids[row] for row in rows], device)).logits
    dtype = torch.bfloat16 if bf16 else torch.float32
    forward = FirstTokenForward(whole, settings.frozen_layers, dtype=dtype)
    if sum(map(len, ids)) * model.config.hidden_size * 4 > _MOST_STATE_BYTES:
        return lambda rows: forward.logits(forward.states([ids[row] for row in rows], device))
    states = forward.states(ids, device)
    return lambda rows: forward.logits([states[row] for row in rows])


def _score(
    classifier: Classifier, texts: Sequence[str], truth: NDArray[np.bool_]
) -> tuple[float, float]:
    scores = classifier.predict_proba(texts, batch_texts=64)
    cut = 0.5
    if classifier.task.kind == "multilabel":
        cut = best_cut(scores.ravel(), truth.ravel(), near=0.5)
    return f1_averages(truth, decide(scores, classifier.task.kind, cut))


def _batches(
    ids: Sequence[Sequence[int]], settings: FinetuneSettings, seed: int, epoch: int
) -> Iterator[list[int]]:
    """Every row once, in an order that follows from (seed, epoch), each batch of near-equal
    length."""
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(ids)).tolist()
    span = settings.batch_texts * _SORTED_BATCHES
    batches = []
    for start in range(0, len(order), span):
        rows = order[start : start + span]
        lengths = [len(ids[row]) for row in rows]
        for batch in length_sorted_batches(lengths, settings.batch_texts, settings.batch_tokens):
            batches.append([rows[place] for place in batch])
    for place in generator.permutation(len(batches)):
        yield batches[place]


def _add(averaged: dict[str, torch.Tensor], model: Any, share: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            part = value.detach() * share
            averaged[name] = averaged[name] + part if name in averaged else part
        else:
            averaged[name] = value.detach().clone()
