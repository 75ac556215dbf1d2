"""The errors that a user can cause and cure; a message names culprit and cure in one line.

The command line shows these in one line and exits 1; any other exception is a bug and keeps
its traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable

__all__ = [
    "EXTRAS",
    "ArtifactError",
    "LeakageError",
    "RecipeError",
    "RecordError",
    "RegistryError",
    "TrialeseError",
    "is_of_the_disk",
    "missing_module",
    "suggest",
    "with_article",
]

EXTRAS = {
    "data": ("pyarrow",),
    "linear": ("joblib", "scipy", "sklearn", "threadpoolctl"),
    "infer": ("onnxruntime", "tokenizers"),
    "hub": ("huggingface_hub",),
    "train": (
        "accelerate", "matplotlib", "peft", "safetensors", "tensorboard", "torch", "transformers",
    ),
    "serve": (
        "fastapi", "h11", "markdown_it", "multipart", "prometheus_client", "pydantic",
        "python_multipart", "starlette", "uvicorn",
    ),
    "export": ("onnx", "onnxscript"),
    "xlsx": ("python_calamine", "xlsxwriter"),
}  # fmt: skip
"""Of each extra, the modules that its packages bring and the base install lacks."""
_DISK_REFUSES = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
    errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR,
}  # fmt: skip
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


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


def missing_module(name: str) -> str | None:
    """One line that names a module which is not installed and the extra that brings it.

    None where no extra does: an install that is broken, or a bug.
    """
    root = name.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if root in modules), None)
    if extra is None:
        return None
    return f"this needs {root}, which is not installed; run `pip install 'trialese[{extra}]'`"


def suggest(name: str, known: Iterable[str], *, lead: str = "known here:") -> str:
    """The cure for an unknown name: the nearest of those known, if one is near, and all of them.

    `lead` stands before the list.
    """
    choices = list(known)
    folded = {choice.casefold().replace("_", "-"): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold().replace("_", "-"), folded, n=1)
    guess = f"did you mean {folded[near[0]]}? " if near else ""
    return f"{guess}{lead} {', '.join(choices)}"


def with_article(noun: str) -> str:
    """Such as "a snapshot" or "an adapter"."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def is_of_the_disk(error: BaseException) -> bool:
    """Whether the disk refused; Rust and C++ libraries say so in words only."""
    if isinstance(error, OSError):
        return error.errno in _DISK_REFUSES
    if not isinstance(error, Exception):
        return False
    found = _OS_ERROR.search(str(error))
    return (found is not None and int(found[1]) in _DISK_REFUSES) or (
        os.strerror(errno.ENOSPC) in str(error)
    )
