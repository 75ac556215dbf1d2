"""When to adapt again: how well a model reads trials, by the quarter in which they were posted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from trialese.corpus import read_stored
from trialese.errors import ArtifactError, RecordError
from trialese.pretrain.backbone import load_backbone
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.gain import interval_of
from trialese.pretrain.lora import load_lora, merge_lora
from trialese.pretrain.quarters import (
    QuarterRow,
    draw_trials,
    mean_loss,
    measure_quarter,
    quarter_of,
    resampled_losses,
)
from trialese.pretrain.terms import BrokenTerm, RisingTerm, broken_terms, rising_terms
from trialese.progress import Progress, silent
from trialese.records import Corpus, Interval, Trial
from trialese.settings import BackboneSettings, RenderSettings

__all__ = [
    "Staleness",
    "as_dict",
    "as_table",
    "load_reader",
    "measure_staleness",
    "read_training",
]


class Staleness(msgspec.Struct, frozen=True):
    """The page a model's owner opens each month."""

    trained_until: str
    quarters: tuple[QuarterRow, ...]
    rising: tuple[RisingTerm, ...]
    broken: tuple[BrokenTerm, ...]
    """Words that no sampled trial used before, by how far the vocabulary breaks them up."""
    difference: Interval | None
    """Loss on trials posted since `trained_until` less that on those before; None: none since."""
    left_out: int
    """Trials not drawn from, because the model learnt from them."""
    advice: str


def load_reader(
    backbone: BackboneSettings, adapter: Path | None
) -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    """The masked-LM to be looked at, a peft adapter merged into it, and its tokenizer.

    Raises:
        ArtifactError: not to be had, an adapter that does not fit, or no masked-LM head.
    """
    found = load_backbone(backbone)
    if found.new_head:
        raise ArtifactError(
            f"{backbone.name}: no masked-LM head, so it predicts nothing; "
            "hand over the folder base/model that `trialese pretrain` made of it"
        )
    model = found.model
    if adapter is not None:
        model = merge_lora(load_lora(model, adapter))
    return model.eval(), found.tokenizer


def read_training(corpus: Corpus) -> tuple[frozenset[str], str]:
    """The trials in the corpus's training split, and the date of the newest; "" if none is dated.

    Raises:
        ArtifactError: the corpus is damaged.
    """
    read = [row for row in read_stored(corpus, text=False) if row.split == "train"]
    dates = [row.first_posted for row in read if row.first_posted]
    return frozenset(row.nct_id for row in read), max(dates, default="")


def measure_staleness(
    trials: Iterable[Trial],
    model: BertForMaskedLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    trained_until: str,
    trained_on: frozenset[str] = frozenset(),
    render: RenderSettings | None = None,
    sample: int = 40,
    pll_sample: int = 6,
    seed: int = 7,
    progress: Progress = silent,
) -> Staleness:
    """Loss, pseudo-perplexity and vocabulary by posting quarter, and whether to adapt again.

    Of each quarter `sample` trials are drawn by hash of their id. A model reads the trials it
    learnt from better for that reason alone: those in `trained_on` are not drawn.

    Raises:
        RecordError: no trial is left that has a posting date.
    """
    encoder = MaskedEncoder(model)
    learnt: set[str] = set()
    counts, texts = draw_trials(
        _leave_out(trials, trained_on, learnt), render or RenderSettings(), sample, seed
    )
    if not texts:
        raise RecordError(
            "staleness: no trial has a posting date that the model did not learn from; "
            "hand over a newer snapshot"
        )
    rows, losses = [], {}
    for number, quarter in enumerate(sorted(texts), 1):
        row, losses[quarter] = measure_quarter(
            quarter, texts[quarter], encoder, tokenizer, pll_sample, seed
        )
        rows.append(msgspec.structs.replace(row, trials=counts[quarter]))
        progress("staleness: quarters", number, len(texts))
    border = quarter_of(trained_until) or ""
    before = [quarter for quarter in texts if quarter <= border]
    since = [quarter for quarter in texts if quarter > border]
    early = [text for quarter in before for text in texts[quarter]]
    late = [text for quarter in since for text in texts[quarter]]
    difference = _difference(
        [losses[quarter] for quarter in before], [losses[quarter] for quarter in since], seed
    )
    return Staleness(
        trained_until,
        tuple(rows),
        tuple(rising_terms(early, late, tokenizer)),
        tuple(broken_terms(early, late, tokenizer)),
        difference,
        len(learnt),
        _advise(trained_until, rows, border, difference),
    )


def _leave_out(
    trials: Iterable[Trial], trained_on: frozenset[str], learnt: set[str]
) -> Iterator[Trial]:
    """The trials not learnt from; the others' ids go to `learnt`."""
    for trial in trials:
        if trial.nct_id in trained_on:
            learnt.add(trial.nct_id)
        else:
            yield trial


def _difference(
    before: Sequence[NDArray[np.float64]], since: Sequence[NDArray[np.float64]], seed: int
) -> Interval | None:
    if not before or not since:
        return None
    early, late = np.concatenate(before), np.concatenate(since)
    point = mean_loss(late, seed).point - mean_loss(early, seed).point
    return interval_of(point, resampled_losses(late, seed) - resampled_losses(early, seed + 1))


def _advise(
    trained_until: str, rows: Sequence[QuarterRow], border: str, difference: Interval | None
) -> str:
    """One sentence with its numbers."""
    if difference is None:
        return f"No comparison: every dated trial lies on one side of {trained_until}."
    late = sum(row.trials for row in rows if row.quarter > border)
    drawn = sum(row.sampled for row in rows if row.quarter > border)
    figures = (
        f"loss on trials posted after {border} ({drawn} of {late:,} read) is "
        f"{difference.point:+.3f} nats a hidden token against those before "
        f"(95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
    )
    if difference.low > 0:
        return f"Adapt again: {figures}."
    return f"No need yet: {figures}."


def as_table(staleness: Staleness) -> str:
    """The quarters, the terms and the advice as plain text."""
    lines = ["quarter  trials  read  loss   95 % interval    top-1  pseudo-ppl  pieces/word"]
    for row in staleness.quarters:
        lines.append(
            f"{row.quarter}  {row.trials:6}  {row.sampled:4}  {row.loss.point:.3f}  "
            f"{row.loss.low:.3f} to {row.loss.high:.3f}  {row.top1:.3f}  "
            f"{row.pseudo_perplexity:10.1f}  {row.pieces_per_word:.2f}"
        )
    rising = ", ".join(f"{term.word} ({term.pieces})" for term in staleness.rising)
    broken = ", ".join(f"{term.word} ({term.pieces})" for term in staleness.broken)
    return "\n".join(
        [
            *lines,
            f"rising (pieces): {rising or 'none'}",
            f"new and broken up (pieces): {broken or 'none'}",
            staleness.advice,
        ]
    )


def as_dict(staleness: Staleness) -> dict[str, Any]:
    """The same for machines."""
    plain: dict[str, Any] = msgspec.to_builtins(staleness)
    return plain
