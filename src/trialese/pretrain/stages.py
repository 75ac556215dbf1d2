"""The two stages: a base that can be compared with fairly, and the adapter for new trials."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from trialese.artifacts import as_settings, read_manifest
from trialese.corpus import build_blocks
from trialese.errors import ArtifactError, RecipeError
from trialese.pretrain.backbone import (
    load_backbone,
    load_masked_lm,
    load_tokenizer,
    read_tokenizer,
    tokenizer_digest,
)
from trialese.pretrain.checkpoint import read_checkpoint, stable_file
from trialese.pretrain.lora import attach_lora, merge_lora, save_lora
from trialese.pretrain.session import (
    Session,
    begin_session,
    finish_session,
    save_model,
    write_together,
)
from trialese.progress import Progress, silent
from trialese.records import Adapter, Corpus, Manifest, TokenBlocks
from trialese.settings import BackboneSettings, BlockSettings, PretrainSettings

__all__ = ["build_base", "tokenise_corpus", "train_adapter"]

_STABLE = "stable/model"

_ADAPTER_ONLY = ("adapt_phase", "replay_share")
"""Settings that a base does not depend on."""


def tokenise_corpus(
    corpus: Corpus,
    backbone: BackboneSettings,
    blocks: BlockSettings,
    path: Path,
    *,
    progress: Progress = silent,
) -> Manifest:
    """The token blocks of the corpus for one backbone: artifact of kind "blocks" at `path`.

    Raises:
        ArtifactError: the backbone's tokenizer is not to be had, or the corpus is damaged.
    """
    tokenizer = load_tokenizer(backbone)
    return build_blocks(
        corpus,
        tokenizer.backend_tokenizer,
        blocks,
        path,
        tokenizer_digest=tokenizer_digest(tokenizer),
        progress=progress,
    )


def build_base(
    blocks: Path, settings: PretrainSettings, path: Path, *, progress: Progress = silent
) -> Adapter:
    """The masked-LM that adapters stand on and are compared with: artifact of kind "model".

    A backbone without a masked-LM head (or with `base="always"`) is first adapted to the old
    trials: a head phase with the encoder frozen, then LoRA or full training with the head;
    merged. Otherwise it is the checkpoint itself, measured at step 0. `path/model` loads with
    `AutoModelForMaskedLM` and `AutoTokenizer`.

    Raises:
        ArtifactError: the backbone is not to be had, or the blocks are of another tokenizer.
        RecipeError: `base="never"` for a backbone without a head, or no old blocks to train on.
        KeyboardInterrupt: on SIGINT, with a checkpoint written.
    """
    made_blocks = read_manifest(blocks, kind="blocks")
    backbone = load_backbone(settings.backbone, seed=settings.seed)
    _check_tokenizer(made_blocks, backbone.tokenizer, blocks)
    if backbone.new_head and settings.base == "never":
        raise RecipeError(
            f"pretrain.base: never, but {backbone.name} has no masked-LM head to start from; "
            "set it to auto"
        )
    inputs = {"blocks": made_blocks.digest, "backbone": backbone.digest}
    section = {k: v for k, v in as_settings(settings).items() if k not in _ADAPTER_ONLY}
    adapts = backbone.new_head or settings.base == "always"
    made_from = {"settings": section, "inputs": inputs}
    with write_together(path, settings, kind="model", made_from=made_from) as draft:
        run = begin_session(
            path,
            kind="model",
            blocks=blocks,
            settings=settings,
            tokenizer=backbone.tokenizer,
            made_from=made_from,
            progress=progress,
        )
        model: BertForMaskedLM = backbone.model
        run.check_length(model.config.max_position_embeddings)
        if adapts:
            model = _adapt_to_old(run, model, new_head=backbone.new_head)
        else:
            run.measure(model, "tune", "base")
            run.measure(model, "test", "base")
        save_model(model, backbone.tokenizer, draft.folder / "model")
        draft.notes |= {
            "backbone": backbone.name,
            "revision": backbone.revision,
            "new_head": backbone.new_head,
            "adapted_to_old": adapts,
        }
        finish_session(run, draft, f"base: {backbone.name}", new_head=backbone.new_head)
    shutil.rmtree(run.work, ignore_errors=True)
    return Adapter(path, read_manifest(path))


def train_adapter(
    blocks: Path,
    base: Path,
    settings: PretrainSettings,
    path: Path,
    *,
    progress: Progress = silent,
) -> Adapter:
    """`base/model` continued on the new trials, some old ones replayed: kind "adapter".

    `base` is an artifact of kind "model", or a finished adapter that goes on with newer trials,
    from its stable checkpoint if it has one. `path/adapter` loads with
    `PeftModel.from_pretrained` on the model gone on from (method lora only); `path/model` is the
    merged model; under a `wsd` schedule `path/stable/model` is the one before the decay.

    Raises:
        ArtifactError: base or blocks missing, or not of the same tokenizer.
        RecipeError: no new training blocks.
        KeyboardInterrupt: on SIGINT, with a checkpoint written.
    """
    made_blocks = read_manifest(blocks, kind="blocks")
    made_base = read_manifest(base)
    if made_base.kind not in {"model", "adapter"}:
        raise ArtifactError(f"{base}: this is a {made_base.kind}; a model or an adapter is needed")
    start = _STABLE if (base / _STABLE).is_dir() else "model"
    tokenizer = read_tokenizer(base / start)
    _check_tokenizer(made_blocks, tokenizer, blocks)
    model, missing = load_masked_lm(base / start)
    if missing:
        raise ArtifactError(f"{base}/{start}: the masked-LM head is missing; build the base again")
    new_head = bool(made_base.notes.get("new_head"))
    inputs = {"blocks": made_blocks.digest, "base": made_base.digest}
    section = as_settings(settings)
    made_from = {"settings": section, "inputs": inputs}
    with write_together(path, settings, kind="adapter", made_from=made_from) as draft:
        run = begin_session(
            path,
            kind="adapter",
            blocks=blocks,
            settings=settings,
            tokenizer=tokenizer,
            made_from=made_from,
            progress=progress,
        )
        new = run.find("new", "train")
        if new is None:
            raise RecipeError(
                f"{blocks}: no new trials to train on; move corpus.new_from to an earlier date"
            )
        before = run.measure(model, "test", "adapt")
        train_head = settings.train_head and new_head
        trained = _prepare(model, settings, train_head=train_head)
        run.train(trained, "adapt", settings.adapt_phase, new, run.find("old", "train"))
        step = int(run.rows[-1]["step"])
        if settings.method == "lora":
            name, revision = made_base.notes.get("backbone", ""), made_base.notes.get("revision")
            save_lora(trained, draft.folder / "adapter", backbone=name, revision=revision)
            tokenizer.save_pretrained(draft.folder / "adapter")
        _save_stable_model(run, trained, tokenizer, draft.folder)
        merged = merge_lora(trained) if settings.method == "lora" else model
        after = run.measure(merged, "test", "adapt", step=step, tokens=run.tokens)
        save_model(merged, tokenizer, draft.folder / "model")
        draft.notes |= {
            **made_base.notes,
            "method": settings.method,
            "went_on_from": start,
            "head_trained": train_head or settings.method == "full",
            "training_blocks": new.digest,
            "top1_gain": run.gains(before, after),
        }
        finish_session(
            run, draft, f"adapter on {made_base.notes.get('backbone')}", new_head=new_head
        )
    shutil.rmtree(run.work, ignore_errors=True)
    return Adapter(path, read_manifest(path))


def _adapt_to_old(run: Session, model: BertForMaskedLM, *, new_head: bool) -> BertForMaskedLM:
    settings = run.settings
    old = run.find("old", "train")
    if old is None:
        raise RecipeError(
            f"{run.blocks}: the backbone must first be adapted to old trials, but there are none; "
            "set corpus.new_from to a date with trials before it"
        )
    head = model.cls.predictions
    if new_head:
        _set_unigram_bias(head.bias, old)
        run.measure(model, "test", "head")
        model.requires_grad_(False)
        head.transform.requires_grad_(True)
        head.bias.requires_grad_(True)
        run.train(model, "head", settings.head_phase, old)
    else:
        run.measure(model, "test", "base")
    trained = _prepare(model, settings, train_head=new_head)
    head.bias.requires_grad_(new_head or settings.method == "full")
    run.train(trained, "base", settings.base_phase, old)
    step = int(run.rows[-1]["step"])
    merged = merge_lora(trained) if settings.method == "lora" else model
    run.measure(merged, "test", "base", step=step, tokens=run.tokens)
    return merged


def _save_stable_model(
    run: Session, trained: Any, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write the merged model of before a `wsd` schedule's decay, if that was kept."""
    found = read_checkpoint(stable_file(run.work / "adapt.safetensors"))
    if found is None:
        return
    stable = copy.deepcopy(trained)
    with torch.no_grad():
        for name, value in stable.named_parameters():
            if value.requires_grad:
                value.copy_(found.weights[name])
    merged = merge_lora(stable) if run.settings.method == "lora" else stable
    save_model(merged, tokenizer, folder / _STABLE)


def _prepare(model: BertForMaskedLM, settings: PretrainSettings, *, train_head: bool) -> Any:
    """The model with what the method trains requiring a gradient, and nothing else."""
    if settings.method == "full":
        return model.requires_grad_(True)
    model.requires_grad_(False)
    return attach_lora(model, settings.lora, train_head=train_head, seed=settings.seed)


def _set_unigram_bias(bias: nn.Parameter, blocks: TokenBlocks) -> None:
    """A new head begins at the log frequencies of the training tokens (one added to each).

    That is where its first hundreds of steps would otherwise go.
    """
    counts = np.bincount(blocks.ids[~blocks.special].ravel(), minlength=len(bias)) + 1.0
    with torch.no_grad():
        bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def _check_tokenizer(
    made_blocks: Manifest, tokenizer: PreTrainedTokenizerFast, blocks: Path
) -> None:
    known = made_blocks.notes.get("tokenizer_digest") or made_blocks.inputs.get("tokenizer")
    if known is not None and known != tokenizer_digest(tokenizer):
        raise ArtifactError(
            f"{blocks}: made with another tokenizer than the backbone's; run the corpus again"
        )
