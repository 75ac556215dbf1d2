"""The two stages of pretraining: a base to compare with, and the adapter for new trials."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from trialese.artifacts import (
    Draft,
    artifact_key,
    as_settings,
    read_manifest,
    remove_at_once,
    work_folder,
    write_artifact,
)
from trialese.corpus.blocks import open_blocks
from trialese.corpus.packing import build_blocks
from trialese.errors import ArtifactError, RecipeError, with_article
from trialese.hub import refuse_long_blocks
from trialese.pretrain.backbone import (
    head_modules,
    load_backbone,
    load_masked_lm,
    load_tokenizer,
    longest_text,
    quiet_transformers,
    read_tokenizer,
    tokenizer_digest,
)
from trialese.pretrain.compute import (
    Compute,
    choose_compute,
    join_workers,
    rank,
    wait_for_all,
)
from trialese.pretrain.data import Phase, PhasePlan
from trialese.pretrain.encoder import masked_encoder
from trialese.pretrain.heldout import (
    HeldoutScore,
    HeldoutSet,
    draw_curve,
    fix_masks,
    gained_top1,
    measure,
    save_masks,
    save_score,
    score_row,
    write_events,
    write_rows,
)
from trialese.pretrain.lora import attach_lora, merge_lora, save_lora
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.train import open_work, read_checkpoint, stable_file, train
from trialese.progress import Progress, silent
from trialese.records import Adapter, Corpus, Manifest, Split, TokenBlocks
from trialese.settings import BackboneSettings, BlockSettings, PhaseSettings, PretrainSettings

__all__ = [
    "TrainingRun",
    "begin_run",
    "build_base",
    "finish_run",
    "save_model",
    "tokenise_corpus",
    "train_adapter",
    "train_control",
    "write_together",
]


logger = logging.getLogger(__name__)

_HEADLESS_NOTE = "the checkpoint has no masked-LM head: a new one, decoder tied, was trained"


@dataclass(slots=True)
class TrainingRun:
    """What both stages share: blocks, work folder, rows of metrics."""

    blocks: Path
    settings: PretrainSettings
    vocabulary: Vocabulary
    compute: Compute
    work: Path
    rows: list[dict[str, Any]]
    progress: Progress

    def find(self, era: Literal["old", "new"], split: Split) -> TokenBlocks | None:
        return open_blocks(self.blocks, era=era, split=split)

    def check_length(self, longest_tokens: int) -> None:
        """Refuse blocks that are longer than the model has positions."""
        found = open_blocks(self.blocks, era="new", split="train")
        found = found or open_blocks(self.blocks, era="old", split="train")
        if found is not None and found.ids.shape[1] > longest_tokens:
            raise RecipeError(
                f"{self.blocks}: blocks of {found.ids.shape[1]} tokens, but the backbone has "
                f"{longest_tokens} positions; lower corpus.blocks.block_tokens"
            )

    def heldouts(self, split: Split) -> list[HeldoutSet]:
        """The held-out sets of a split that have blocks: new, then old."""
        found = [("new", self.find("new", split)), ("old", self.find("old", split))]
        options = (self.vocabulary, self.settings.heldout)
        return [fix_masks(blocks, era, split, *options) for era, blocks in found if blocks]

    def measure(
        self, model: nn.Module, split: Split, phase: str, *, step: int = 0, tokens: int = 0
    ) -> list[HeldoutScore]:
        """Add rows of a split, and return their scores: new trials, then old.

        Test blocks are measured first and last in a run, never in between.
        """
        encoder = masked_encoder(
            model.to(self.compute.device),
            dtype=self.compute.dtype,
            explicit_attention=self.compute.explicit_attention,
        )
        batch = self.settings.heldout.batch_blocks
        heldouts = self.heldouts(split)
        scores = [
            measure(encoder, one, batch_blocks=batch, device=self.compute.device)
            for one in heldouts
        ]
        about = {"phase": phase, "step": step, "tokens": tokens}
        self.rows += [
            about | score_row(score, one) for score, one in zip(scores, heldouts, strict=True)
        ]
        return scores

    def save_scores(self, scores: Sequence[HeldoutScore], folder: Path, name: str) -> None:
        """Write the sums of every test block, as `measure` gave them, for `compare_models`."""
        for heldout, score in zip(self.heldouts("test"), scores, strict=True):
            save_score(score, heldout.owner, folder / f"{heldout.era}-test-{name}.safetensors")

    def gains(
        self, before: Sequence[HeldoutScore], after: Sequence[HeldoutScore]
    ) -> dict[str, dict[str, float]]:
        """Gain in top-1 accuracy on the test blocks of each era, with its 95 % interval."""
        return {
            f"{heldout.era}-{heldout.split}": msgspec.to_builtins(
                gained_top1(one, other, heldout.owner)
            )
            for heldout, one, other in zip(self.heldouts("test"), before, after, strict=True)
        }

    def plan(self, phase: PhaseSettings, blocks: TokenBlocks, old: TokenBlocks | None) -> PhasePlan:
        """Order and length of a phase over these blocks, some old ones replayed."""
        return PhasePlan(
            phase=phase,
            blocks=len(blocks.ids),
            old_blocks=len(old.ids) if old else 0,
            replay_share=self.settings.replay_share if old else 0.0,
            seed=self.settings.seed,
        )

    def train(
        self,
        model: nn.Module,
        name: str,
        phase: PhaseSettings,
        blocks: TokenBlocks,
        old: TokenBlocks | None = None,
        *,
        as_long_as: PhasePlan | None = None,
    ) -> None:
        """Run one phase of the loop and keep its rows; `as_long_as` gives steps and schedule."""
        settings = self.settings
        plan = self.plan(phase, blocks, old)
        if as_long_as is not None:
            steps = msgspec.structs.replace(phase, steps=as_long_as.steps)
            plan = replace(plan, phase=steps, cycle_steps=as_long_as.steps_per_cycle)
        self.rows += train(
            model,
            Phase(
                name=name,
                plan=plan,
                blocks=blocks,
                old_blocks=old,
                vocabulary=self.vocabulary,
                masking=settings.masking,
                heldouts=self.heldouts("tune"),
                heldout_every_steps=_heldout_every_steps(settings, plan),
                heldout_batch_blocks=settings.heldout.batch_blocks,
                checkpoint_every_steps=settings.checkpoint_every_steps,
                checkpoint=self.work / f"{name}.safetensors",
                compute=self.compute,
                dropout=settings.backbone_dropout,
                compile=settings.compile,
                data_workers=settings.data_workers,
            ),
            progress=self.progress,
        )

    @property
    def tokens(self) -> int:
        """Tokens seen by the phase that ran last."""
        return int(self.rows[-1]["tokens"]) if self.rows else 0


def _heldout_every_steps(settings: PretrainSettings, plan: PhasePlan) -> int:
    if settings.heldout.every_epochs is None:
        return settings.heldout.every_steps
    return settings.heldout.every_epochs * plan.steps_per_epoch


def begin_run(
    path: Path,
    *,
    kind: str,
    blocks: Path,
    settings: PretrainSettings,
    tokenizer: PreTrainedTokenizerFast,
    made_from: Mapping[str, dict[str, Any]],
    progress: Progress,
) -> TrainingRun:
    """A run whose work folder was begun with these settings and inputs (`made_from`)."""
    key = artifact_key(kind, **made_from)
    folder = work_folder(path)
    if rank() == 0:
        open_work(folder, key, made_from)
    wait_for_all()
    vocabulary, compute = Vocabulary.of(tokenizer), choose_compute(settings)
    logger.info("computing on %s in %s", compute.device, compute.dtype)
    return TrainingRun(blocks, settings, vocabulary, compute, folder, [], progress)


@contextmanager
def write_together(
    path: Path, settings: PretrainSettings, *, kind: str, made_from: Mapping[str, dict[str, Any]]
) -> Iterator[Draft]:
    """`write_artifact`, by the first process of several; what the others write is thrown away.

    On leaving, the artifact is in place for every process.
    """
    with join_workers(settings):
        if rank() == 0:
            with write_artifact(path, kind=kind, **made_from) as draft:
                yield draft
        else:
            with TemporaryDirectory() as aside:
                yield Draft(Path(aside))
        wait_for_all()


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer so that the Auto classes load them."""
    model.to("cpu").eval().requires_grad_(True)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def finish_run(run: TrainingRun, draft: Draft, title: str, *, new_head: bool) -> None:
    """Write rows, picture, events and masks; counts and notes for the manifest."""
    for row in run.rows:
        row["new_head"] = new_head
    write_rows(run.rows, draft.folder / "metrics.jsonl")
    draw_curve(run.rows, draft.folder, title=title + (" (new head)" if new_head else ""))
    write_events(run.rows, draft.folder / "tensorboard")
    for heldout in [*run.heldouts("tune"), *run.heldouts("test")]:
        save_masks(heldout, draft.folder / "heldout" / f"{heldout.era}-{heldout.split}.safetensors")
    if new_head:
        draft.notes["head"] = _HEADLESS_NOTE
    steps = {row["phase"]: row["step"] for row in run.rows}
    tokens = {row["phase"]: row["tokens"] for row in run.rows}
    draft.counts |= {"steps": steps, "tokens": tokens}
    draft.notes["threads"] = torch.get_num_threads()
    draft.notes["computed_in"] = str(run.compute.dtype).removeprefix("torch.")


_STABLE = "stable/model"

_ADAPTER_ONLY = ("adapt_phase", "replay_share")
"""Settings that a base does not depend on."""

_RUN_ONLY = ("control",)
"""Settings that no single model depends on."""


def tokenise_corpus(
    corpus: Corpus,
    backbone: BackboneSettings,
    blocks: BlockSettings,
    path: str | Path,
    *,
    progress: Progress = silent,
) -> Manifest:
    """The token blocks of the corpus for one backbone: artifact of kind "blocks" at `path`.

    Raises:
        ArtifactError: the backbone's tokenizer is not to be had, or the corpus is damaged.
        RecipeError: blocks longer than the backbone has positions.
    """
    path = Path(path)
    refuse_long_blocks(backbone, blocks.block_tokens)
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
    blocks: str | Path, settings: PretrainSettings, path: str | Path, *, progress: Progress = silent
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
    blocks, path = Path(blocks), Path(path)
    made_blocks = read_manifest(blocks, kind="blocks", verify=True)
    backbone = load_backbone(settings.backbone, seed=settings.seed)
    _check_tokenizer(made_blocks, backbone.tokenizer, blocks)
    if backbone.new_head and settings.base == "never":
        raise RecipeError(
            f"pretrain.base: never, but {backbone.name} has no masked-LM head to start from; "
            "set it to auto"
        )
    inputs = {"blocks": made_blocks.digest, "backbone": backbone.digest}
    section = {
        k: v for k, v in as_settings(settings).items() if k not in {*_ADAPTER_ONLY, *_RUN_ONLY}
    }
    adapts = backbone.new_head or settings.base == "always"
    made_from = {"settings": section, "inputs": inputs}
    with write_together(path, settings, kind="model", made_from=made_from) as draft:
        run = begin_run(
            path,
            kind="model",
            blocks=blocks,
            settings=settings,
            tokenizer=backbone.tokenizer,
            made_from=made_from,
            progress=progress,
        )
        model: Any = backbone.model
        run.check_length(longest_text(model))
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
        finish_run(run, draft, f"base: {backbone.name}", new_head=backbone.new_head)
    remove_at_once(run.work)
    return Adapter(path, read_manifest(path))


def train_adapter(
    blocks: str | Path,
    base: str | Path,
    settings: PretrainSettings,
    path: str | Path,
    *,
    progress: Progress = silent,
) -> Adapter:
    """Return `base/model` continued on the new trials, some old ones replayed: kind "adapter".

    `base` is an artifact of kind "model", or a finished adapter that goes on with newer trials,
    from its stable checkpoint if it has one. `path/adapter` loads with
    `PeftModel.from_pretrained` on the model gone on from (method lora only); `path/model` is the
    merged model; under a `wsd` schedule `path/stable/model` is the one before the decay.

    Raises:
        ArtifactError: base or blocks missing, or not of the same tokenizer.
        RecipeError: no new training blocks.
        KeyboardInterrupt: on SIGINT, with a checkpoint written.
    """
    return _go_on(Path(blocks), Path(base), settings, Path(path), progress, control=False)


def train_control(
    blocks: str | Path,
    base: str | Path,
    settings: PretrainSettings,
    path: str | Path,
    *,
    progress: Progress = silent,
) -> Adapter:
    """Return `base/model` continued on the *old* trials, for as many steps as the adapter takes.

    Seed, batches, schedule and settings are the adapter's, so that what the adapter has over it
    is due to the new text and not to more training. The folder is as `train_adapter` makes it.

    Raises:
        ArtifactError: base or blocks missing, or not of the same tokenizer.
        RecipeError: no old training blocks, or no new ones that say how long to train.
        KeyboardInterrupt: on SIGINT, with a checkpoint written.
    """
    return _go_on(Path(blocks), Path(base), settings, Path(path), progress, control=True)


def _go_on(
    blocks: Path,
    base: Path,
    settings: PretrainSettings,
    path: Path,
    progress: Progress,
    *,
    control: bool,
) -> Adapter:
    made_blocks = read_manifest(blocks, kind="blocks", verify=True)
    made_base = read_manifest(base, verify=True)
    if made_base.kind not in {"model", "adapter"}:
        raise ArtifactError(
            f"{base}: this is {with_article(made_base.kind)}; a model or an adapter is needed"
        )
    start = _STABLE if (base / _STABLE).is_dir() else "model"
    tokenizer = read_tokenizer(base / start)
    _check_tokenizer(made_blocks, tokenizer, blocks)
    model, missing = load_masked_lm(base / start)
    if missing:
        raise ArtifactError(f"{base}/{start}: the masked-LM head is missing; build the base again")
    new_head = bool(made_base.notes.get("new_head"))
    inputs = {"blocks": made_blocks.digest, "base": made_base.digest}
    section = {k: v for k, v in as_settings(settings).items() if k not in _RUN_ONLY}
    if control:
        section["text"] = "old"
    made_from = {"settings": section, "inputs": inputs}
    with write_together(path, settings, kind="adapter", made_from=made_from) as draft:
        run = begin_run(
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
        old = run.find("old", "train")
        if control and old is None:
            raise RecipeError(
                f"{blocks}: no old trials for the control to go on with; leave it out with "
                "--set pretrain.control=false, or move corpus.new_from to a later date"
            )
        phase = "control" if control else "adapt"
        before = run.measure(model, "test", phase)
        train_head = settings.train_head and new_head
        trained = _prepare(model, settings, train_head=train_head)
        if control and old is not None:
            length = run.plan(settings.adapt_phase, new, old)
            run.train(trained, phase, settings.adapt_phase, old, as_long_as=length)
        else:
            run.train(trained, phase, settings.adapt_phase, new, old)
        step = int(run.rows[-1]["step"])
        if settings.method == "lora":
            name, revision = _base_of_adapter(made_base, base / start)
            save_lora(trained, draft.folder / "adapter", backbone=name, revision=revision)
            tokenizer.save_pretrained(draft.folder / "adapter")
        _save_stable_model(run, trained, tokenizer, draft.folder)
        merged = merge_lora(trained) if settings.method == "lora" else model
        after = run.measure(merged, "test", phase, step=step, tokens=run.tokens)
        run.save_scores(before, draft.folder / "heldout", "before")
        run.save_scores(after, draft.folder / "heldout", "after")
        save_model(merged, tokenizer, draft.folder / "model")
        draft.notes |= {
            **made_base.notes,
            "method": settings.method,
            "went_on_from": start,
            "base_kind": made_base.kind,
            "head_trained": train_head or settings.method == "full",
            "training_blocks": old.digest if control and old is not None else new.digest,
            "top1_gain": run.gains(before, after),
        }
        if control:
            draft.notes["control"] = "went on with old text"
        what = "control" if control else "adapter"
        finish_run(run, draft, f"{what} on {made_base.notes.get('backbone')}", new_head=new_head)
    remove_at_once(run.work)
    return Adapter(path, read_manifest(path))


def _adapt_to_old(run: TrainingRun, model: Any, *, new_head: bool) -> Any:
    settings = run.settings
    old = run.find("old", "train")
    if old is None:
        raise RecipeError(
            f"{run.blocks}: the backbone must first be adapted to old trials, but there are none; "
            "set corpus.new_from to a date with trials before it"
        )
    bias = model.get_output_embeddings().bias
    if new_head:
        if bias is not None:
            _set_unigram_bias(bias, old)
        run.measure(model, "test", "head")
        model.requires_grad_(False)
        endings = tuple(f".{name}" for name in head_modules(model))
        for name, module in model.named_modules():
            if f".{name}".endswith(endings) and not name.startswith(f"{model.base_model_prefix}."):
                module.requires_grad_(True)
        if bias is not None:
            bias.requires_grad_(True)
        run.train(model, "head", settings.head_phase, old)
    else:
        run.measure(model, "test", "base")
    trained = _prepare(model, settings, train_head=new_head)
    if bias is not None:
        bias.requires_grad_(new_head or settings.method == "full")
    run.train(trained, "base", settings.base_phase, old)
    step = int(run.rows[-1]["step"])
    merged = merge_lora(trained) if settings.method == "lora" else model
    run.measure(merged, "test", "base", step=step, tokens=run.tokens)
    return merged


def _base_of_adapter(made_base: Manifest, start: Path) -> tuple[str, str | None]:
    """What adapter_config.json names as its base: something that peft's Auto classes can load.

    The backbone itself where the adapter starts from that; else the folder that it starts from,
    as it was given.
    """
    name, revision = made_base.notes.get("backbone", ""), made_base.notes.get("revision")
    changed = made_base.notes.get("adapted_to_old") or made_base.notes.get("new_head")
    if made_base.kind == "model" and not changed and (revision or Path(name).is_dir()):
        return name, revision
    return str(start), None


def _save_stable_model(
    run: TrainingRun, trained: Any, tokenizer: PreTrainedTokenizerFast, folder: Path
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


def _prepare(model: Any, settings: PretrainSettings, *, train_head: bool) -> Any:
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
