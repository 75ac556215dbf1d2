"""The only fine-tuning loop: labelled texts in, a fitted Classifier out. Device-agnostic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from trialese.cutoffs import best_cut, decide, f1_averages
from trialese.errors import ArtifactError, RecordError
from trialese.progress import Progress, silent
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings
from trialese.tasks.classifier import (
    Classifier,
    Preprocessing,
    load_masked_lm,
)
from trialese.tasks.forward import FirstTokenForward
from trialese.tasks.losses import loss_function
from trialese.tasks.optimiser import freeze_layers, linear_decay, make_optimiser, with_lora
from trialese.tasks.scorer import length_sorted_batches
from trialese.tasks.task import encode_labels

__all__ = ["FitLog", "fit_classifier"]

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


def fit_classifier(
    task: Task,
    train: Sequence[Example],
    tune: Sequence[Example],
    model: Path,
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
    model, tokenizer, missing = load_masked_lm(
        task, folder, hidden_dropout_prob=settings.dropout, attention_probs_dropout_prob=0.0
    )
    foreign = [name for name in missing if "pooler" not in name and "classifier" not in name]
    if foreign:
        raise ArtifactError(
            f"{folder}: {len(foreign)} weights are missing, such as {foreign[0]}; "
            "give a masked-LM or encoder of a known architecture"
        )
    positions = model.config.max_position_embeddings
    preprocessing = msgspec.structs.replace(
        preprocessing, max_tokens=min(preprocessing.max_tokens, positions)
    )
    log = FitLog(new_pooler=any("pooler" in name for name in missing))
    if settings.pooler == "identity":
        dense = model.bert.pooler.dense
        with torch.no_grad():  # any other projection scrambles what [CLS] has learnt
            torch.nn.init.eye_(dense.weight)
            torch.nn.init.zeros_(dense.bias)
    return Classifier(task, model, tokenizer, preprocessing), log


def _start_from_label_words(classifier: Classifier) -> None:
    """Set each label's output weights to the direction in which the words of its name lie."""
    words = [label.replace("_", " ").lower() for label in classifier.task.labels]
    model = classifier.model.eval()
    with torch.no_grad():
        batch = classifier.pad(classifier.encode(words), model.device)
        states = model.bert(**batch).pooler_output  # (labels, hidden)
        states = states - states.mean(dim=0)
        weight = model.classifier.weight
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
    bf16 = _use_bf16(settings.precision, device)
    logits_of = _forward(classifier, ids, settings, device)
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
) -> Callable[[list[int]], torch.Tensor]:
    """A function from rows of `ids` to their logits (rows, labels), in training."""
    model = classifier.model
    if settings.frozen_layers is None:
        return lambda rows: model(**classifier.pad([ids[row] for row in rows], device)).logits
    whole = model.get_base_model() if settings.method == "lora" else model
    forward = FirstTokenForward(whole, settings.frozen_layers)
    if sum(map(len, ids)) * model.config.hidden_size * 4 > _MOST_STATE_BYTES:
        return lambda rows: forward.logits(forward.states([ids[row] for row in rows], device))
    states = forward.states(ids, device)
    return lambda rows: forward.logits([states[row] for row in rows])


def _score(
    classifier: Classifier, texts: Sequence[str], truth: NDArray[np.bool_]
) -> tuple[float, float]:
    scores = classifier.predict(texts, batch_texts=64)
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


def _use_bf16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())  # elsewhere it is emulated, and slower


def _add(averaged: dict[str, torch.Tensor], model: Any, share: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            part = value.detach() * share
            averaged[name] = averaged[name] + part if name in averaged else part
        else:
            averaged[name] = value.detach().clone()
