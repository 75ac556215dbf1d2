"""How well a model reads the trials first posted in one quarter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from trialese.corpus import render_document
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.gain import interval_of, resampled_shares
from trialese.pretrain.heldout import HeldoutSet, measure
from trialese.pretrain.masking import Vocabulary, mask_blocks
from trialese.pretrain.terms import pieces_per_word
from trialese.records import Interval, Trial
from trialese.settings import RenderSettings

__all__ = [
    "QuarterRow",
    "draw_trials",
    "mean_loss",
    "measure_quarter",
    "quarter_of",
    "resampled_losses",
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


def draw_trials(
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


def measure_quarter(
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
        mean_loss(sums, seed),
        int(score.top1.sum()) / max(1, int(score.tokens.sum())),
        math.exp(-mean),
        pieces_per_word(texts, tokenizer),
    )
    return made, sums


def resampled_losses(sums: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Token-weighted mean losses of 1,000 bootstrap samples of the trials."""
    return resampled_shares(sums[:, 0], sums[:, 1], resamples=1000, seed=seed)


def mean_loss(sums: NDArray[np.float64], seed: int) -> Interval:
    """Token-weighted mean loss with its interval; `sums` is (trials, 2): loss, hidden tokens."""
    point = float(sums[:, 0].sum() / max(1.0, sums[:, 1].sum()))
    return interval_of(point, resampled_losses(sums, seed))
