"""Which documents are kept. What is not kept comes back as a Drop with its reason."""

from __future__ import annotations

from trialese.records import Document, Drop
from trialese.settings import FilterSettings

__all__ = ["keep_document"]


def keep_document(document: Document, settings: FilterSettings) -> Document | Drop:
    """The document itself, or a Drop: `empty`, `too_short`, `too_long` or `few_letters`.

    Lengths are in characters; the share of letters is among characters that are not blank.
    """
    text = document.text
    if not text.strip():
        return Drop(document.nct_id, "empty")
    if len(text) < settings.min_characters:
        return Drop(document.nct_id, "too_short")
    if len(text) > settings.max_characters:
        return Drop(document.nct_id, "too_long")
    solid = "".join(text.split())
    if sum(map(str.isalpha, solid)) < settings.min_letters_share * len(solid):
        return Drop(document.nct_id, "few_letters")
    return document
