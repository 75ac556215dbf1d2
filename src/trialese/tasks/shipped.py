"""Classifiers that ship with the package: found by name, in two strengths, whichever can run here.

The small one is linear and needs numpy alone; the large one is an adapter on the embedded MiniLM
and needs the training extra. Each is an artifact, so its files are compared with their digests
before it is loaded. `pipeline/shipping.py` makes them.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from trialese.artifacts import read_manifest
from trialese.corpus.dedup import normalise
from trialese.errors import ArtifactError
from trialese.hub import MINILM_PACKAGE

__all__ = [
    "FITTED_ON",
    "SHIPPED",
    "ModelSize",
    "fitted_on",
    "name_of_text",
    "shipped_folder",
    "shipped_sizes",
    "why_not_large",
]

ModelSize = Literal["small", "large"]

SHIPPED = ("stop-reasons", "sex")
"""The names, those of their tasks."""

FITTED_ON = "fitted_on.txt"
"""Beside each classifier: `name_of_text` of every text that it was fitted on, a line each."""

_HOME = Path(__file__).parents[1] / "shipped"
_NEEDED = ("torch", "transformers", "safetensors")


def shipped_sizes(name: str) -> tuple[ModelSize, ...]:
    """The strengths that ship under the name, the weaker first; () for any other name."""
    sizes: tuple[ModelSize, ...] = ("small", "large")
    return tuple(size for size in sizes if (_HOME / name / size).is_dir() and name in SHIPPED)


def shipped_folder(name: str, size: ModelSize | None = None) -> Path:
    """The folder of the classifier of that name; without a size the strongest that can run here.

    Its files are compared with their digests: no part of one that ships is used unseen.

    Raises:
        ArtifactError: no such name or size, or files that are not as they were shipped.
    """
    sizes = shipped_sizes(name)
    if not sizes:
        raise ArtifactError(
            f"{name}: no such classifier ships with trialese; there are {', '.join(SHIPPED)}, or "
            "give a folder that `trialese finetune` wrote"
        )
    if size is not None and size not in sizes:
        raise ArtifactError(f"{name}: ships as {' and '.join(sizes)} only; leave the size out")
    if size is None:
        size = "small" if _lacking() else sizes[-1]
    folder = _HOME / name / size
    try:
        if not folder.is_dir():
            raise ArtifactError(f"{folder}: not there")
        read_manifest(folder, kind="classifier", verify=True)
    except ArtifactError as error:
        what, _, cure = str(error).rpartition("; ")  # which is that for what users make
        raise ArtifactError(f"{what or cure}; install trialese again") from error
    return folder


def fitted_on(folder: Path) -> frozenset[str]:
    """Names of the texts that the classifier was fitted on; none where its folder does not list
    them, as only those of a classifier that ships do."""
    path = folder / FITTED_ON
    return frozenset(path.read_text("utf-8").split()) if path.is_file() else frozenset()


def name_of_text(name: str, text: str) -> str:
    """What names a text in a list of `fitted_on`: its NCT number, or without one the first 16
    digits of the sha256 of what `corpus.dedup.normalise` makes of it."""
    if name.startswith("NCT"):
        return name
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:16]


def why_not_large(name: str, size: ModelSize | None) -> str:
    """What the stronger one would need, to be said where the weaker answers for want of it."""
    lacking = "" if size or "large" not in shipped_sizes(name) else _lacking()
    return lacking and f" (the large one needs {lacking}: pip install 'trialese[train]')"


def _lacking() -> str:
    """What the large classifiers need and is not installed; "" if nothing lacks."""
    for module in _NEEDED:
        if find_spec(module) is None:
            return module
    try:
        metadata.distribution(MINILM_PACKAGE)
    except metadata.PackageNotFoundError:
        return MINILM_PACKAGE
    return ""
