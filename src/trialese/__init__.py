"""trialese keeps a language model of clinical-trial text up to date, and scores it honestly.

The public names stand in `__init__.pyi`, where type checkers read them. They are loaded on first
use: importing trialese never imports torch.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)

__all__ = ["__version__", *_names]  # noqa: PLE0604 - the names are strings, read from the stub
