"""When to adapt again: how well a model reads trials, by the quarter in which they were posted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from trialese.corpus import render_document
from trialese.errors import RecordError
from trialese.pretrain.backbone import load_masked_lm, read_tokenizer
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import HeldoutSet, measure
from trialese.pretrain.masking import Vocabulary, mask_blocks
from trialese.pretrain.terms import RisingTerm, pieces_per_word, rising_terms
from trialese.progress import Progress, silent
from trialese.records import Interval, Trial
from trialese.settings import RenderSettings

__all__ = [
    "QuarterRow",
    "Staleness",
    "as_dict",
    "as_table",
    "measure_staleness",
    "quarter_of",
    "word_l2r_scores",
]

BLOCK_TOKENS = 128
PLL_TOKENS = 48


class QuarterRow(msgspec.Struct, frozen=True):
    """Figures of the sampled trials first posted in one quarter."""

    quarter: str
    trials: int
    sampled: int
    loss: Interval
    """Masked-LM loss (nats a hidden token), 15 % hidden; 95 % interval over trials."""
    top1: float
    pseudo_perplexity: float
    """PLL-word-l2r over the first tokens of some trials; see `word_l2r_scores`."""
    pieces_per_word: float


class Staleness(msgspec.Struct, frozen=True):
    """The page a model's owner opens each month."""

    trained_until: str
    quarters: tuple[QuarterRow, ...]
    rising: tuple[RisingTerm, ...]
    difference: Interval | None
    """Loss on trials posted since `trained_until` less that on those before; None: none since."""
    advice: str


def measure_staleness(
    trials: Iterable[Trial],
    model: Path,
    *,
    trained_until: str,
    render: RenderSettings | None = None,
    sample: int = 40,
    pll_sample: int = 6,
    seed: int = 7,
    progress: Progress = silent,
) -> Staleness:
    """Loss, pseudo-perplexity and vocabulary by posting quarter, and whether to adapt again.

    `model` is a masked-LM folder. Of each quarter `sample` trials are drawn by hash of their id.
    Trials the model was trained on read better for that reason alone: hand it held-out ones, or
    read `trained_until` as the border between seen and unseen.

    Raises:
        ArtifactError: no masked-LM in `model`.
        RecordError: no trial has a posting date.
    """
    tokenizer = read_tokenizer(model)
    encoder = MaskedEncoder(load_masked_lm(model)[0])
    counts, texts = _draw(trials, render or RenderSettings(), sample, seed)
    if not texts:
        raise RecordError("staleness: no trial has a posting date; check the snapshot's source")
    rows, losses = [], {}
    for number, quarter in enumerate(sorted(texts), 1):
        row, losses[quarter] = _measure_quarter(
            quarter, texts[quarter], encoder, tokenizer, pll_sample, seed
        )
        rows.append(msgspec.structs.replace(row, trials=counts[quarter]))
        progress("staleness: quarters", number, len(texts))
    border = quarter_of(trained_until) or ""
    before = [quarter for quarter in texts if quarter <= border]
    since = [quarter for quarter in texts if quarter > border]
    rising = rising_terms(
        [text for quarter in before for text in texts[quarter]],
        [text for quarter in since for text in texts[quarter]],
        tokenizer,
    )
    difference = _difference(
        [losses[quarter] for quarter in before], [losses[quarter] for quarter in since], seed
    )
    advice = _advise(trained_until, rows, border, difference)
    return Staleness(trained_until, tuple(rows), tuple(rising), difference, advice)


def quarter_of(date: str | None) -> str | None:
    """The quarter of an ISO date, such as "2024Q3"; None where the month is not known."""
    if date is None or len(date) < 7 or not date[5:7].isdigit():
        return None
    return f"{date[:4]}Q{(int(date[5:7]) + 2) // 3}"


@torch.no_grad()
def word_l2r_scores(
    ids: Sequence[int], encoder: MaskedEncoder, vocabulary: Vocabulary
) -> NDArray[np.float64]:
    """Log-probability of each ordinary token: (tokens,), nats. `ids` begin and end specially.

    PLL-word-l2r (Kauf and Ivanova 2023): each token is hidden together with the later pieces of
    its own word, so that a word cannot be read off its own ending.
    """
    places = list(range(1, len(ids) - 1))
    inputs = np.tile(np.asarray(ids, dtype=np.int64), (len(places), 1))  # (places, tokens)
    for row, place in enumerate(places):
        stop = place + 1
        while stop < len(ids) - 1 and vocabulary.continues_word[ids[stop]]:
            stop += 1
        inputs[row, place:stop] = vocabulary.mask_id
    positions = torch.tensor(places)[:, None]
    logits = encoder.logits(torch.from_numpy(inputs), None, positions)
    targets = torch.tensor([ids[place] for place in places])
    scores = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    return np.asarray(scores.double().numpy())


def _draw(
    trials: Iterable[Trial], render: RenderSettings, sample: int, seed: int
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Trials of each quarter, and the texts of those drawn: the smallest hashes of id and seed."""
    counts: dict[str, int] = {}
    drawn: dict[str, list[tuple[str, Trial]]] = {}
    for trial in trials:
        quarter = quarter_of(trial.first_posted)
        if quarter is None:
            continue
        counts[quarter] = counts.get(quarter, 0) + 1
        name = hashlib.sha256(f"{seed}:{trial.nct_id}".encode()).hexdigest()
        kept = drawn.setdefault(quarter, [])
        if len(kept) < sample or name < kept[-1][0]:
            kept.append((name, trial))
            kept.sort(key=lambda pair: pair[0])
            del kept[sample:]
    texts = {
        quarter: [render_document(trial, render).text for _, trial in kept]
        for quarter, kept in sorted(drawn.items())
    }
    return counts, {q: [t for t in found if t] for q, found in texts.items() if any(found)}


def _measure_quarter(
    quarter: str,
    texts: list[str],
    encoder: MaskedEncoder,
    tokenizer: PreTrainedTokenizerFast,
    pll_sample: int,
    seed: int,
) -> tuple[QuarterRow, NDArray[np.float64]]:
    """The quarter's row, and loss and hidden tokens of each trial: (trials, 2)."""
    vocabulary = Vocabulary.of(tokenizer)
    length = min(BLOCK_TOKENS, encoder.max_tokens)
    ids = np.full((len(texts), length), vocabulary.pad_id, dtype=np.int64)
    special = np.ones(ids.shape, dtype=bool)
    for row, encoded in enumerate(tokenizer.backend_tokenizer.encode_batch(texts)):
        head = encoded.ids[: length - 1]
        ids[row, : len(head)] = head
        special[row, : len(head)] = encoded.special_tokens_mask[: len(head)]
        ids[row, min(len(head), len(encoded.ids) - 1)] = encoded.ids[-1]
    rows = np.arange(len(texts), dtype=np.int64)
    masked = mask_blocks(ids, special, rows, vocabulary, ratio=0.15, seed=seed, epoch=0)
    heldout = HeldoutSet(quarter, "test", rows, rows, masked)
    score = measure(encoder, heldout, batch_blocks=16, device=torch.device("cpu"))
    sums = np.stack([score.loss, score.tokens.astype(np.float64)], axis=1)
    plls: list[NDArray[np.float64]] = []
    for row in range(min(pll_sample, len(texts))):
        used = ids[row][ids[row] != vocabulary.pad_id][:PLL_TOKENS].tolist()
        used[-1] = int(ids[row][ids[row] != vocabulary.pad_id][-1])
        if len(used) > 2:
            plls.append(word_l2r_scores(used, encoder, vocabulary))
    mean = float(np.concatenate(plls).mean()) if plls else math.nan
    made = QuarterRow(
        quarter,
        len(texts),
        len(texts),
        _mean_loss(sums, seed),
        int(score.top1.sum()) / max(1, int(score.tokens.sum())),
        math.exp(-mean),
        pieces_per_word(texts, tokenizer),
    )
    return made, sums


def _resampled(sums: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Token-weighted mean losses of 1,000 bootstrap samples of the trials."""
    drawn = np.random.default_rng(seed).integers(0, len(sums), (1000, len(sums)))
    totals: NDArray[np.float64] = sums[drawn].sum(axis=1)  # (samples, 2)
    return totals[:, 0] / np.maximum(totals[:, 1], 1.0)


def _interval(point: float, samples: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(point, float(low), float(high))


def _mean_loss(sums: NDArray[np.float64], seed: int) -> Interval:
    point = float(sums[:, 0].sum() / max(1.0, sums[:, 1].sum()))
    return _interval(point, _resampled(sums, seed))


def _difference(
    before: Sequence[NDArray[np.float64]], since: Sequence[NDArray[np.float64]], seed: int
) -> Interval | None:
    if not before or not since:
        return None
    early, late = np.concatenate(before), np.concatenate(since)
    point = _mean_loss(late, seed).point - _mean_loss(early, seed).point
    return _interval(point, _resampled(late, seed) - _resampled(early, seed + 1))


def _advise(
    trained_until: str, rows: Sequence[QuarterRow], border: str, difference: Interval | None
) -> str:
    """One sentence with its numbers."""
    if difference is None:
        return f"No comparison: every dated trial lies on one side of {trained_until}."
    late = sum(row.trials for row in rows if row.quarter > border)
    figures = (
        f"loss on the {late} trials posted after {border} is {difference.point:+.3f} nats a token "
        f"against those before (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
    )
    if difference.low > 0:
        return f"Adapt again: {figures}."
    return f"No need yet: {figures}."


def as_table(staleness: Staleness) -> str:
    """The quarters, the rising terms and the advice as plain text."""
    lines = ["quarter  trials  loss   95 % interval    top-1  pseudo-ppl  pieces/word"]
    for row in staleness.quarters:
        lines.append(
            f"{row.quarter}  {row.trials:6}  {row.loss.point:.3f}  {row.loss.low:.3f} to "
            f"{row.loss.high:.3f}  {row.top1:.3f}  {row.pseudo_perplexity:10.1f}  "
            f"{row.pieces_per_word:.2f}"
        )
    terms = ", ".join(f"{term.word} ({term.pieces})" for term in staleness.rising)
    return "\n".join([*lines, f"rising (pieces): {terms or 'none'}", staleness.advice])


def as_dict(staleness: Staleness) -> dict[str, Any]:
    """The same for machines."""
    plain: dict[str, Any] = msgspec.to_builtins(staleness)
    return plain
