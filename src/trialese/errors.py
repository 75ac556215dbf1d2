"""The errors that a user can cause and cure; a message names culprit and cure in one line.

The command line shows these in one line and exits 1; any other exception is a bug and keeps
its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "LeakageError",
    "RecipeError",
    "RecordError",
    "RegistryError",
    "TrialeseError",
    "suggest",
]


class TrialeseError(Exception):
    """Anything a user can cause and cure."""


class RegistryError(TrialeseError):
    """The registry cannot be reached, or answers something that it should not."""


class RecordError(TrialeseError):
    """A record, a labelled row or a file of them cannot be understood."""


class RecipeError(TrialeseError):
    """A setting is unknown, of the wrong type, or does not go with another."""


class ArtifactError(TrialeseError):
    """A folder on disk is missing, half-written, or of another kind than is needed."""


class LeakageError(TrialeseError):
    """Something would be judged on data that it was trained or tuned on."""


def suggest(name: str, known: Iterable[str], *, lead: str = "known here:") -> str:
    """The cure for an unknown name: the nearest of those known, if one is near, and all of them.

    `lead` stands before the list.
    """
    choices = list(known)
    folded = {choice.casefold().replace("_", "-"): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold().replace("_", "-"), folded, n=1)
    guess = f"did you mean {folded[near[0]]}? " if near else ""
    return f"{guess}{lead} {', '.join(choices)}"
