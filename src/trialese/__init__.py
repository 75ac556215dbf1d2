"""trialese keeps a language model of clinical-trial text up to date, and scores it honestly.

The public names stand in `__init__.pyi`, where type checkers read them. They are loaded on first
use: importing trialese never imports torch.
"""

from __future__ import annotations

import lazy_loader

from trialese.errors import missing_module

__version__ = "0.1.0"

_load, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        told = missing_module(error.name or "")
        if told is None:
            raise
        raise ModuleNotFoundError(f"trialese.{name}: {told}", name=error.name) from error


__all__ = ["__version__", *_names]  # noqa: PLE0604 - the names are strings, read from the stub
