"""TokenBlocks in, Adapter out: continued masked-language modelling with LoRA.

The public verbs are loaded on first use, and torch with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialese.pretrain.backbone import Backbone, load_backbone, load_tokenizer, tokenizer_digest
    from trialese.pretrain.curves import read_rows
    from trialese.pretrain.estimate import estimate
    from trialese.pretrain.stages import build_base, train_adapter

__all__ = [
    "Backbone",
    "build_base",
    "estimate",
    "load_backbone",
    "load_tokenizer",
    "read_rows",
    "tokenizer_digest",
    "train_adapter",
]

_HOME_OF = {
    "Backbone": "backbone",
    "build_base": "stages",
    "estimate": "estimate",
    "load_backbone": "backbone",
    "load_tokenizer": "backbone",
    "read_rows": "curves",
    "tokenizer_digest": "backbone",
    "train_adapter": "stages",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
