"""When to adapt again: how well a model reads trials by the quarter in which they were posted.

That trials of two periods are read differently well says little: they differ in subject. So the
effect of time is a difference in differences against a reference model of equal compute, or,
without one, between trials matched by condition; and false borders inside the model's own training
period show how large an effect is that means nothing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from trialese.artifacts import is_complete, read_manifest
from trialese.bootstrap import interval
from trialese.corpus.render import render_document
from trialese.corpus.store import newest_posted, read_stored
from trialese.errors import ArtifactError, RecordError
from trialese.pretrain.backbone import load_backbone, tokenizer_digest
from trialese.pretrain.encoder import MaskedEncoder, PlainMaskedEncoder, masked_encoder
from trialese.pretrain.heldout import read_losses, resampled_shares, word_l2r_scores
from trialese.pretrain.lora import load_lora, merge_lora
from trialese.pretrain.masking import Vocabulary
from trialese.progress import Progress, silent
from trialese.records import Corpus, Interval, Trial
from trialese.settings import BackboneSettings, RenderSettings

__all__ = [
    "CAVEAT",
    "BrokenTerm",
    "DrawnTrial",
    "Effect",
    "QuarterRow",
    "RisingTerm",
    "Staleness",
    "broken_terms",
    "draw_trials",
    "find_reference",
    "load_reader",
    "load_reference",
    "mean_loss",
    "measure_quarter",
    "measure_staleness",
    "pieces_per_word",
    "quarter_of",
    "read_training",
    "resampled_losses",
    "rising_terms",
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


PLL_TOKENS = 48
_MATCHES = 3  # earlier trials that stand for a later one where there is no reference
_FEWEST = 6  # trials on either side of a border
_FALSE_BORDERS = 12


class QuarterRow(msgspec.Struct, frozen=True):
    """Figures of the sampled trials first posted in one quarter."""

    quarter: str
    trials: int
    sampled: int
    loss: Interval
    """Masked-LM loss (nats a token read as [MASK]) over whole documents; 95 % interval over
    trials."""
    top1: float
    pseudo_perplexity: float
    """PLL-word-l2r over the first tokens of some trials; see `word_l2r_scores`."""
    pieces_per_word: float


def quarter_of(date: str | None) -> str | None:
    """The quarter of an ISO date, such as "2024Q3"; None where the month is not known."""
    if date is None or len(date) < 7 or not date[5:7].isdigit():
        return None
    return f"{date[:4]}Q{(int(date[5:7]) + 2) // 3}"


@dataclass(frozen=True, slots=True)
class DrawnTrial:
    """What of a drawn trial is read, and by what it is matched."""

    text: str
    subject: str
    """Conditions and key words, or the title where there are none."""


def draw_trials(
    trials: Iterable[Trial], render: RenderSettings, sample: int, seed: int
) -> tuple[dict[str, int], dict[str, list[DrawnTrial]]]:
    """Trials of each quarter, and those drawn: the smallest hashes of id and seed."""
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
    made: dict[str, list[DrawnTrial]] = {}
    for quarter, kept in sorted(drawn.items()):
        found = [
            DrawnTrial(render_document(trial, render).text, _subject(trial)) for _, trial in kept
        ]
        if readable := [each for each in found if each.text]:
            made[quarter] = readable
    return counts, made


def _subject(trial: Trial) -> str:
    return " ; ".join([*trial.conditions, *trial.keywords]) or trial.brief_title


def measure_quarter(
    quarter: str,
    texts: list[str],
    encoder: MaskedEncoder | PlainMaskedEncoder,
    tokenizer: PreTrainedTokenizerFast,
    pll_sample: int,
    seed: int,
) -> tuple[QuarterRow, NDArray[np.float64]]:
    """The quarter's row, and loss and tokens read as [MASK] of each trial: (trials, 2)."""
    sums = read_losses(texts, encoder, tokenizer, seed)
    vocabulary = Vocabulary.of(tokenizer)
    plls: list[NDArray[np.float64]] = []
    width = min(PLL_TOKENS, encoder.max_tokens)
    for text in texts[:pll_sample]:
        ids = tokenizer.backend_tokenizer.encode(text).ids
        used = [*ids[: width - 1], ids[-1]] if len(ids) > width else ids
        if len(used) > 2:
            plls.append(word_l2r_scores(used, encoder, vocabulary))
    mean = float(np.concatenate(plls).mean()) if plls else math.nan
    losses = sums[:, [0, 2]]
    made = QuarterRow(
        quarter,
        len(texts),
        len(texts),
        mean_loss(losses, seed),
        float(sums[:, 1].sum() / max(1.0, sums[:, 2].sum())),
        math.exp(-mean),
        pieces_per_word(texts, tokenizer),
    )
    return made, losses


def resampled_losses(sums: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Token-weighted mean losses of 1,000 bootstrap samples of the trials."""
    return resampled_shares(sums[:, 0], sums[:, 1], resamples=1000, seed=seed)


def mean_loss(sums: NDArray[np.float64], seed: int) -> Interval:
    """Token-weighted mean loss with its interval; `sums` is (trials, 2): loss, hidden tokens."""
    point = float(sums[:, 0].sum() / max(1.0, sums[:, 1].sum()))
    return interval(point, resampled_losses(sums, seed))


class Effect(msgspec.Struct, frozen=True):
    """What a border in time does to the loss, beyond the subjects of the trials."""

    border: str
    """The last quarter before it."""
    before: int
    since: int
    """Trials read on either side."""
    loss: Interval
    """Nats a token; positive: trials since are read worse than they should be."""


class Staleness(msgspec.Struct, frozen=True):
    """The page a model's owner opens each month."""

    trained_until: str
    quarters: tuple[QuarterRow, ...]
    rising: tuple[RisingTerm, ...]
    broken: tuple[BrokenTerm, ...]
    """Words that no sampled trial used before, by how far the vocabulary breaks them up."""
    difference: Interval | None
    """Loss on trials posted since `trained_until` less that on those before, whatever they are
    about; None: none on one side."""
    left_out: int
    """Trials not drawn from, because a model learnt from them."""
    advice: str
    effect: Effect | None = None
    """At the end of training: what the advice goes by."""
    false_borders: tuple[Effect, ...] = ()
    """The same at borders inside the training period, where nothing happened."""
    least_effect: float | None = None
    """The largest of the false ones: what is smaller means nothing."""
    reference: str = ""
    """The model compared with; "": none, trials were matched by condition instead."""


CAVEAT = (
    "Trials of two periods differ in subject, length and sponsor as well as in age. The effect "
    "takes out what a reference model of equal compute, or earlier trials on the same conditions, "
    "find harder too; false borders inside the training period show how much remains by chance "
    "and subject. It does not tell why, and not how much adapting would bring."
)


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


def load_reference(name: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The masked-LM to compare with: a folder or hub id, of the same tokenizer.

    Raises:
        ArtifactError: not to be had, without a masked-LM head, or with another tokenizer.
    """
    model, other = load_reader(BackboneSettings(name=name), None)
    if tokenizer_digest(other) != tokenizer_digest(tokenizer):
        raise ArtifactError(
            f"{name}: another tokenizer than the model's, so that the two cannot be compared; "
            "give a reference of the same backbone, or --reference none"
        )
    return model


def read_training(corpus: Corpus, *, era: str | None = None) -> tuple[frozenset[str], str]:
    """The trials in the corpus's training split, and the date of the newest; "" if none is dated.

    `era` "old" dates the newest among those posted before the corpus's `new_from` alone: a base
    and its control learnt from no newer ones.

    Raises:
        ArtifactError: the corpus is damaged.
    """
    read = [row for row in read_stored(corpus, text=False) if row.split == "train"]
    dates = [row.first_posted for row in read if row.first_posted]
    border = corpus.manifest.settings.get("new_from") if era == "old" else None
    dates = [date for date in dates if border is None or date < border]
    return frozenset(row.nct_id for row in read), newest_posted(corpus, dates)


def find_reference(model: Path, *, has_adapter: bool) -> tuple[Path | None, str]:
    """The model of the same run to compare with, and the era of what `model` learnt.

    `model` is a folder such as RUN/base/model. An adapter is compared with its control (or its
    base); a base or a control with the adapter. None outside a run.
    """
    stage = model.resolve().parent
    if not is_complete(stage):
        return None, ""
    manifest = read_manifest(stage)
    adapted = has_adapter or (manifest.kind == "adapter" and "control" not in manifest.notes)
    others = ("control", "base") if adapted else ("adapter",)
    found = (stage.parent / name for name in others if stage.parent / name != stage)
    other = next((each / "model" for each in found if is_complete(each)), None)
    return other, "" if adapted else "old"


def measure_staleness(
    trials: Iterable[Trial],
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    *,
    trained_until: str,
    trained_on: frozenset[str] = frozenset(),
    reference: Any = None,
    reference_name: str = "",
    render: RenderSettings | None = None,
    sample: int = 40,
    pll_sample: int = 6,
    seed: int = 7,
    progress: Progress = silent,
) -> Staleness:
    """Loss, pseudo-perplexity and vocabulary by posting quarter, and whether to adapt again.

    Of each quarter `sample` trials are drawn by hash of their id. A model reads the trials it
    learnt from better for that reason alone: those in `trained_on` (of both models) are not
    drawn. `reference` is another masked-LM of the same tokenizer that saw as much text, such as
    the control, or the base's own continuation: what it finds harder as well is no staleness.
    Without one, each later trial is compared with the earlier ones of the nearest conditions.

    Raises:
        RecordError: no trial is left that has a posting date.
    """
    encoder = masked_encoder(model)
    other = masked_encoder(reference) if reference is not None else None
    learnt: set[str] = set()
    counts, drawn = draw_trials(
        _leave_out(trials, trained_on, learnt), render or RenderSettings(), sample, seed
    )
    if not drawn:
        raise RecordError(
            "staleness: no trial has a posting date that the model did not learn from; "
            "hand over a newer snapshot"
        )
    rows, losses, gaps = [], {}, {}
    for number, quarter in enumerate(sorted(drawn), 1):
        texts = [each.text for each in drawn[quarter]]
        row, losses[quarter] = measure_quarter(quarter, texts, encoder, tokenizer, pll_sample, seed)
        if other is not None:
            gaps[quarter] = losses[quarter].copy()
            gaps[quarter][:, 0] -= read_losses(texts, other, tokenizer, seed)[:, 0]
        rows.append(msgspec.structs.replace(row, trials=counts[quarter]))
        progress("staleness: quarters", number, len(drawn))
    border = quarter_of(trained_until) or ""
    before = [quarter for quarter in drawn if quarter <= border]
    since = [quarter for quarter in drawn if quarter > border]
    old_texts = [each.text for quarter in before for each in drawn[quarter]]
    new_texts = [each.text for quarter in since for each in drawn[quarter]]
    difference = _difference(
        [losses[quarter] for quarter in before], [losses[quarter] for quarter in since], seed
    )
    subjects = {q: [each.subject for each in found] for q, found in drawn.items()}

    def effect_at(place: str, quarters: Sequence[str]) -> Effect | None:
        sides = [q for q in quarters if q <= place], [q for q in quarters if q > place]
        if other is not None:
            early, late = ([gaps[q] for q in side] for side in sides)
            return _effect(place, early, late, seed)
        return _matched_effect(place, *sides, losses, subjects, seed)

    effect = effect_at(border, [*before, *since])
    found = (effect_at(place, before) for place in _spread(before[:-1], _FALSE_BORDERS))
    false_borders = tuple(each for each in found if each is not None)
    least = max((abs(each.loss.point) for each in false_borders), default=None)
    made = Staleness(
        trained_until,
        tuple(rows),
        tuple(rising_terms(old_texts, new_texts, tokenizer)),
        tuple(broken_terms(old_texts, new_texts, tokenizer)),
        difference,
        len(learnt),
        "",
        effect,
        false_borders,
        least,
        reference_name if other is not None else "",
    )
    return msgspec.structs.replace(made, advice=_advise(made, border))


def _leave_out(
    trials: Iterable[Trial], trained_on: frozenset[str], learnt: set[str]
) -> Iterator[Trial]:
    """The trials not learnt from; the others' ids go to `learnt`."""
    for trial in trials:
        if trial.nct_id in trained_on:
            learnt.add(trial.nct_id)
        else:
            yield trial


def _spread(places: Sequence[str], most: int) -> list[str]:
    """At most so many of the places, evenly spaced."""
    if len(places) <= most:
        return list(places)
    return [places[round(n * (len(places) - 1) / (most - 1))] for n in range(most)]


def _difference(
    before: Sequence[NDArray[np.float64]], since: Sequence[NDArray[np.float64]], seed: int
) -> Interval | None:
    """Mean loss since less mean loss before, each token alike; trials are resampled."""
    if not before or not since:
        return None
    early, late = np.concatenate(before), np.concatenate(since)
    point = mean_loss(late, seed).point - mean_loss(early, seed).point
    return interval(point, resampled_losses(late, seed) - resampled_losses(early, seed + 1))


def _effect(
    border: str,
    before: Sequence[NDArray[np.float64]],
    since: Sequence[NDArray[np.float64]],
    seed: int,
) -> Effect | None:
    """Difference in differences; the arrays hold what the model loses against the reference."""
    sizes = sum(map(len, before)), sum(map(len, since))
    found = _difference(before, since, seed) if min(sizes) >= _FEWEST else None
    return None if found is None else Effect(border, *sizes, found)


def _matched_effect(
    border: str,
    before: Sequence[str],
    since: Sequence[str],
    losses: Mapping[str, NDArray[np.float64]],
    subjects: Mapping[str, Sequence[str]],
    seed: int,
) -> Effect | None:
    """Each later trial's mean loss less that of the earlier ones nearest by its conditions.

    Nearest by cosine of TF-IDF. Resamples draw later trials with their matches, so that the
    interval is somewhat too narrow where many share a match.
    """
    early, late = ([subject for q in side for subject in subjects[q]] for side in (before, since))
    if min(len(early), len(late)) < _FEWEST:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    means = [
        np.concatenate([losses[q][:, 0] / np.maximum(1.0, losses[q][:, 1]) for q in side])
        for side in (before, since)
    ]
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    try:
        table = words.fit_transform([*early, *late])
    except ValueError:  # no words at all: nothing to match by
        likeness = np.zeros((len(late), len(early)))
    else:
        likeness = (table[len(early) :] @ table[: len(early)].T).toarray()
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :_MATCHES]
    gaps = means[1] - means[0][nearest].mean(axis=1)
    found = resampled_shares(gaps, np.ones(len(gaps)), resamples=1000, seed=seed)
    return Effect(border, len(early), len(late), interval(float(gaps.mean()), found))


def _advise(made: Staleness, border: str) -> str:
    """One or two sentences with their numbers."""
    late = [row for row in made.quarters if row.quarter > border]
    effect, least = made.effect, made.least_effect
    if not late:
        newest = made.quarters[-1].quarter
        return (
            f"No need yet: no trial here was posted after {border}, the end of training (the "
            f"newest that was read is of {newest}). Hand over a newer snapshot to ask again."
            + ("" if least is None else f" {_smallest(least)}")
        )
    if len(late) == len(made.quarters):
        return (
            f"No comparison: every trial that may be read was posted after {border}, the end of "
            "training; hand over a snapshot that also holds earlier trials, or say "
            "--trained-until with a later date."
        )
    read, held = sum(row.sampled for row in late), sum(row.trials for row in late)
    if effect is None:
        return (
            f"No comparison: {read} of {held:,} trials posted after {border} were read, and "
            f"each side of it needs at least {_FEWEST}; raise --sample or hand over more trials."
        )
    against = f"against {made.reference}" if made.reference else "matched by condition"
    loss = effect.loss
    figures = (
        f"trials posted after {border} ({read} of {held:,} read) cost {abs(loss.point):.3f} nats a "
        f"token {'more' if loss.point >= 0 else 'less'} than those before, {against} "
        f"({loss.point:+.3f}, 95 % interval {loss.low:+.3f} to {loss.high:+.3f})"
    )
    if loss.low <= 0 or (least is not None and loss.point <= least):
        small = f" {_smallest(least)}" if least is not None and loss.low > 0 else ""
        return f"No need yet: {figures}.{small}"
    if least is None:
        return (
            f"Cannot tell: {figures}, but there is no false border inside the training period to "
            "tell what means nothing; hand over a snapshot with earlier trials."
        )
    return f"Adapt again: {figures}; the largest effect of a false border is {least:.3f}."


def _smallest(least: float) -> str:
    return (
        f"False borders inside the training period show effects up to {least:.3f}, so that "
        "nothing smaller means anything."
    )
