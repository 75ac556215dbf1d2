"""What both stages share: blocks, work folder, phases, measurements, files at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from msgspec import to_builtins
from torch import nn
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from trialese.artifacts import Draft, artifact_key, work_folder, write_artifact
from trialese.corpus import open_blocks
from trialese.errors import RecipeError
from trialese.pretrain import workers
from trialese.pretrain.backbone import quiet_transformers
from trialese.pretrain.batches import Phase
from trialese.pretrain.checkpoint import open_work
from trialese.pretrain.curves import draw_curve, write_events, write_rows
from trialese.pretrain.device import Compute, choose_compute
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.gain import gained_top1
from trialese.pretrain.heldout import (
    HeldoutScore,
    HeldoutSet,
    fix_masks,
    measure,
    save_masks,
    score_row,
)
from trialese.pretrain.loop import train
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.schedule import Plan
from trialese.progress import Progress
from trialese.records import Split, TokenBlocks
from trialese.settings import PhaseSettings, PretrainSettings

__all__ = ["Session", "begin_session", "finish_session", "save_model", "write_together"]

logger = logging.getLogger(__name__)

_HEADLESS_NOTE = "the checkpoint has no masked-LM head: a new one, decoder tied, was trained"


@dataclass(slots=True)
class Session:
    """What both stages share while they train."""

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
        encoder = MaskedEncoder(
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

    def gains(
        self, before: Sequence[HeldoutScore], after: Sequence[HeldoutScore]
    ) -> dict[str, dict[str, float]]:
        """Gain in top-1 accuracy on the test blocks of each era, with its 95 % interval."""
        return {
            f"{heldout.era}-{heldout.split}": to_builtins(gained_top1(one, other, heldout.owner))
            for heldout, one, other in zip(self.heldouts("test"), before, after, strict=True)
        }

    def train(
        self,
        model: nn.Module,
        name: str,
        phase: PhaseSettings,
        blocks: TokenBlocks,
        old: TokenBlocks | None = None,
    ) -> None:
        """Run one phase of the loop and keep its rows."""
        settings = self.settings
        plan = Plan(
            phase=phase,
            blocks=len(blocks.ids),
            old_blocks=len(old.ids) if old else 0,
            replay_share=settings.replay_share if old else 0.0,
            seed=settings.seed,
        )
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


def _heldout_every_steps(settings: PretrainSettings, plan: Plan) -> int:
    if settings.heldout.every_epochs is None:
        return settings.heldout.every_steps
    return settings.heldout.every_epochs * plan.steps_per_epoch


def begin_session(
    path: Path,
    *,
    kind: str,
    blocks: Path,
    settings: PretrainSettings,
    tokenizer: PreTrainedTokenizerFast,
    made_from: Mapping[str, dict[str, Any]],
    progress: Progress,
) -> Session:
    """A session whose work folder was begun with these settings and inputs (`made_from`)."""
    key = artifact_key(kind, **made_from)
    folder = work_folder(path)
    if workers.rank() == 0:
        open_work(folder, key, made_from)
    workers.wait_for_all()
    vocabulary, compute = Vocabulary.of(tokenizer), choose_compute(settings)
    logger.info("computing on %s in %s", compute.device, compute.dtype)
    return Session(blocks, settings, vocabulary, compute, folder, [], progress)


@contextmanager
def write_together(
    path: Path, settings: PretrainSettings, *, kind: str, made_from: Mapping[str, dict[str, Any]]
) -> Iterator[Draft]:
    """`write_artifact`, by the first process of several; what the others write is thrown away.

    On leaving, the artifact is in place for every process.
    """
    with workers.join_workers(settings):
        if workers.rank() == 0:
            with write_artifact(path, kind=kind, **made_from) as draft:
                yield draft
        else:
            with TemporaryDirectory() as aside:
                yield Draft(Path(aside))
        workers.wait_for_all()


def save_model(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer so that the Auto classes load them."""
    model.to("cpu").eval().requires_grad_(True)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def finish_session(run: Session, draft: Draft, title: str, *, new_head: bool) -> None:
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
    draft.notes["computed_in"] = str(run.compute.dtype).removeprefix("torch.")
