"""Words of two periods compared: how far a vocabulary breaks them up, and which ones rose.

How well a model reads the trials first posted in one quarter.

When to adapt again: how well a model reads trials, by the quarter in which they were posted."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from trialese.bootstrap import interval
from trialese.corpus.render import render_document
from trialese.corpus.store import read_stored
from trialese.errors import ArtifactError, RecordError
from trialese.pretrain.backbone import load_backbone
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import HeldoutSet, measure, resampled_shares
from trialese.pretrain.lora import load_lora, merge_lora
from trialese.pretrain.masking import Vocabulary, mask_blocks
from trialese.progress import Progress, silent
from trialese.records import Corpus, Interval, Trial
from trialese.settings import BackboneSettings, RenderSettings

__all__ = [
    "BrokenTerm",
    "QuarterRow",
    "RisingTerm",
    "Staleness",
    "as_dict",
    "as_table",
    "broken_terms",
    "draw_trials",
    "load_reader",
    "mean_loss",
    "measure_quarter",
    "measure_staleness",
    "pieces_per_word",
    "quarter_of",
    "read_training",
    "resampled_losses",
    "rising_terms",
    "word_l2r_scores",
]


_WORD = re.compile(r"[^\W\d_][\w-]*[^\W_]")
"""Two or more letters or digits, beginning with a letter: "SARS-CoV-2", "pembrolizumab"."""


class RisingTerm(msgspec.Struct, frozen=True):
    """A word that more documents use since than before."""

    word: str
    documents_before: int
    documents_since: int
    z: float
    """Log-odds ratio over its standard error."""
    pieces: int
    """Word pieces that the vocabulary breaks it into."""


class BrokenTerm(msgspec.Struct, frozen=True):
    """A word that only documents of since use, and that the vocabulary breaks up."""

    word: str
    documents_since: int
    pieces: int


def pieces_per_word(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> float:
    """Mean word pieces a word over all words of the texts (fertility); 0.0 without words."""
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    pieces = _count_pieces(list(counts), tokenizer)
    words = counts.total()
    return sum(counts[word] * n for word, n in pieces.items()) / words if words else 0.0


def rising_terms(
    before: Sequence[str],
    since: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    count: int = 20,
    fewest_documents: int = 3,
) -> list[RisingTerm]:
    """The words whose share of documents rose most, by z of the smoothed log-odds ratio.

    Shares of documents, not of words, so that one long document cannot make a term. Half a
    document is added to each cell (Haldane 1956); words in fewer than `fewest_documents` of
    `since` are left out.
    """
    early, late = _document_counts(before), _document_counts(since)
    found = [
        (word, early[word], n, _log_odds_z(early[word], len(before), n, len(since)))
        for word, n in late.items()
        if n >= fewest_documents
    ]
    found = [row for row in found if row[3] > 0]
    found.sort(key=lambda row: (-row[3], row[0]))
    pieces = _count_pieces([row[0] for row in found[:count]], tokenizer)
    return [RisingTerm(*row, pieces[row[0]]) for row in found[:count]]


def broken_terms(
    before: Sequence[str],
    since: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    count: int = 20,
    fewest_documents: int = 3,
) -> list[BrokenTerm]:
    """New words of two pieces or more: most pieces first, then those of most documents.

    New is what no text of `before` holds; words in fewer than `fewest_documents` of `since` are
    left out.
    """
    known = _document_counts(before)
    new = {
        word: n
        for word, n in _document_counts(since).items()
        if n >= fewest_documents and word not in known
    }
    pieces = _count_pieces(list(new), tokenizer)
    found = [BrokenTerm(word, n, pieces[word]) for word, n in new.items() if pieces[word] > 1]
    found.sort(key=lambda term: (-term.pieces, -term.documents_since, term.word))
    return found[:count]


def _log_odds_z(early: int, early_total: int, late: int, late_total: int) -> float:
    cells = [n + 0.5 for n in (late, late_total - late, early, early_total - early)]
    ratio = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    return ratio / math.sqrt(sum(1 / cell for cell in cells))


def _document_counts(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in {w.lower() for w in _WORD.findall(text)})


def _count_pieces(words: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    encoded = tokenizer.backend_tokenizer.encode_batch(list(words), add_special_tokens=False)
    return {word: len(one.ids) for word, one in zip(words, encoded, strict=True)}


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
    heldout = HeldoutSet(quarter, "test", rows, rows, masked, vocabulary.mask_id)
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
    return interval(point, resampled_losses(sums, seed))


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
) -> tuple[Any, PreTrainedTokenizerFast]:
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
    model: Any,
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
    draws = resampled_losses(late, seed) - resampled_losses(early, seed + 1)
    return interval(point, draws)


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
