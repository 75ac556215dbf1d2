"""The error tree. A message names the culprit and the cure, in one line.

The command line shows these in one line and exits 1; any other exception is a bug and keeps
its traceback.
"""

__all__ = [
    "ArtifactError",
    "LeakageError",
    "RecipeError",
    "RecordError",
    "RegistryError",
    "TrialeseError",
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
