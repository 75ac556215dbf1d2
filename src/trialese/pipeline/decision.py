"""Whether to adapt the language model again, and whether what came of it may take over.

Every figure that a decision rests on stands in it, beside what was needed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trialese.corpus.store import read_stored
from trialese.generations import Generation
from trialese.records import Corpus

__all__ = [
    "Action",
    "Decision",
    "Figure",
    "Training",
    "read_decision",
    "read_training",
]

DECISION_NAME = "decision.json"
TRAINING_NAME = "training.json"

Action = Literal[
    "adopted",
    "never",
    "no language model",
    "not yet",
    "no need",
    "cannot tell",
    "promoted",
    "refused",
]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a decision, as text."""

    name: str
    value: str
    needed: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided of the language model, why, and by which rule: `decision.json`."""

    action: Action
    outcome: str
    """One sentence."""
    reason: str
    rule: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    new_trials: int = 0
    """Posted since the language model's training."""
    enough_on: str | None = None
    """The day by which there will be enough new trials at the present rate."""
    tried_at: int | None = None
    """How many new trials there were when a challenger was refused last."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What the language model learnt from: `training.json`."""

    until: str
    """First posting of the newest trial; "" where none is dated."""
    ids: tuple[str, ...]


def read_training(corpus: Corpus) -> Training:
    """What a language model trained on this corpus learnt from.

    Raises:
        ArtifactError: the corpus is damaged.
    """
    read = [row for row in read_stored(corpus, text=False) if row.split == "train"]
    until = max((row.first_posted for row in read if row.first_posted), default="")
    return Training(until=until, ids=tuple(sorted(row.nct_id for row in read)))


def read_decision(generation: Generation) -> Decision:
    """The decision that was taken when the generation was made."""
    data = (generation.path / DECISION_NAME).read_bytes()
    return msgspec.json.decode(data, type=Decision)
