"""Attribution: the words of a text that carried a label, with weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np

from trialese.errors import RecordError
from trialese.tasks.blend import BlendClassifier
from trialese.tasks.linear import LinearClassifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.tasks.classifier import Classifier
    from trialese.tasks.scorer import Scorer

__all__ = ["Explanation", "Span", "explain"]


_STEPS = 32
_BATCH = 16


class Span(msgspec.Struct, frozen=True):
    """Characters `start` to `end` of the explained text, and what they did to the label."""

    start: int
    end: int
    weight: float
    """Share of the label's log-odds against a text of [MASK] alone (of a linear classifier: against
    an empty one; of a blend: each member's, by its weight); negative: spoke against."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One label of one text, with a span a word in the order of the text."""

    text: str
    """As the model reads it."""
    label: str
    probability: float
    spans: tuple[Span, ...]
    """Words that the model read; of a text that is too long, the beginning alone."""


def explain(
    scorer: Scorer, text: str, label: str | None = None, *, steps: int = _STEPS
) -> Explanation:
    """Which words carried `label`, or, without one, the label with the highest probability.

    Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) over the word embeddings, from
    the text with every word hidden by the mask token (by the unknown one where a tokenizer has
    none) to the text itself, in `steps` steps, summed over each word. Of a linear classifier: the
    weights of each word's n-grams, times their values. Of a blend: the weighted mean of both.

    Raises:
        RecordError: an empty text, a label that the task does not know, or an exported
            classifier, which has no gradients.
    """
    _refuse_exported(scorer)
    read = scorer.preprocessing.clean(text)
    words = [(each.start(), each.end()) for each in re.finditer(r"\S+", read)]
    if not words:
        raise RecordError("the text is empty; write one")
    labels = scorer.task.labels
    if label is not None and label not in labels:
        raise RecordError(f"label {label!r} is unknown; use one of {', '.join(labels)}")
    chances = scorer.predict_proba([text])[0]
    column = int(chances.argmax()) if label is None else labels.index(label)
    weights = _weigh(scorer, read, words, column, steps)
    return Explanation(
        text=read,
        label=labels[column],
        probability=float(chances[column]),
        spans=tuple(
            Span(*words[place], round(weight, 6)) for place, weight in sorted(weights.items())
        ),
    )


def _refuse_exported(scorer: Scorer) -> None:
    for part in scorer.members if isinstance(scorer, BlendClassifier) else (scorer,):
        if isinstance(part, BlendClassifier):
            _refuse_exported(part)
        elif not isinstance(part, LinearClassifier):
            from trialese.tasks.classifier import Classifier  # loads torch

            if not isinstance(part, Classifier):
                raise RecordError(
                    "an exported classifier cannot be explained; give the one it was made from"
                )


def _weigh(
    scorer: Scorer, read: str, words: Sequence[tuple[int, int]], column: int, steps: int
) -> dict[int, float]:
    """Place of each word -> its part of the log-odds, whatever computes them."""
    if isinstance(scorer, LinearClassifier):
        return scorer.word_weights(read, column)
    if isinstance(scorer, BlendClassifier):
        total: dict[int, float] = {}
        for member, share in scorer.shares(column):
            for place, weight in _weigh(member, read, words, column, steps).items():
                total[place] = total.get(place, 0.0) + share * weight
        return total
    return _weigh_words(cast("Classifier", scorer), read, words, column, steps)


def _weigh_words(
    scorer: Classifier, read: str, words: Sequence[tuple[int, int]], column: int, steps: int
) -> dict[int, float]:
    """Place of each word that the model read -> its part of the log-odds."""
    encoded = scorer.tokenizer(
        read,
        truncation=True,
        max_length=scorer.preprocessing.max_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    special = np.array(encoded["special_tokens_mask"], dtype=bool)
    gains = _integrated_gradients(scorer, encoded["input_ids"], special, column, steps)
    return _by_word(read, words, encoded["offset_mapping"], special, gains)


def _integrated_gradients(
    classifier: Classifier, ids: Sequence[int], special: NDArray[np.bool_], column: int, steps: int
) -> NDArray[np.float64]:
    """(tokens,): each token's share of logit(text) - logit(masked text)."""
    import torch

    model, device = classifier.model.eval(), classifier.model.device
    table, tokenizer = model.get_input_embeddings(), classifier.tokenizer
    blank = next(
        token
        for token in (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id)
        if token is not None
    )
    given = torch.tensor(ids, device=device)
    hidden = torch.where(torch.tensor(special, device=device), given, torch.full_like(given, blank))
    with torch.no_grad():
        start, end = table(hidden), table(given)  # (tokens, hidden)
    total = torch.zeros_like(start)
    # midpoints: half the error of a left or right sum
    points = (torch.arange(steps, device=device, dtype=torch.float32) + 0.5) / steps
    for part in torch.split(points, _BATCH):
        path = start + part[:, None, None] * (end - start)  # (steps, tokens, hidden)
        path.requires_grad_()
        logit = model(inputs_embeds=path).logits[:, column].sum()
        (gradient,) = torch.autograd.grad(logit, path)
        total += gradient.sum(dim=0)
    gains = (total / steps * (end - start)).sum(dim=-1)
    return np.asarray(gains.double().cpu().numpy())


def _by_word(
    read: str,
    words: Sequence[tuple[int, int]],
    offsets: Sequence[tuple[int, int]],
    special: NDArray[np.bool_],
    gains: NDArray[np.float64],
) -> dict[int, float]:
    """Word -> summed gain of the tokens that begin within it.

    A token of a byte-level vocabulary may begin with the space before its word, or be space alone:
    then it belongs to the word that follows, or at the end to the last one.
    """
    starts = np.array([start for start, _ in words])
    weights: dict[int, float] = {}
    for (start, _), out, gain in zip(offsets, special, gains, strict=True):
        if out:
            continue
        solid = start
        while solid < len(read) and read[solid].isspace():
            solid += 1
        place = max(0, int(np.searchsorted(starts, solid, side="right")) - 1)
        weights[place] = weights.get(place, 0.0) + float(gain)
    return weights
