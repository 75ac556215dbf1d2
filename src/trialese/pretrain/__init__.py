"""TokenBlocks in, Adapter out: continued masked-language modelling with LoRA.

The public verbs are loaded on first use, and torch with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialese.pretrain.backbone import Backbone, load_backbone, load_tokenizer, tokenizer_digest
    from trialese.pretrain.cost import estimate
    from trialese.pretrain.curves import read_rows
    from trialese.pretrain.stages import build_base, tokenise_corpus, train_adapter
    from trialese.pretrain.workers import join_workers, only_first

__all__ = [
    "Backbone",
    "build_base",
    "estimate",
    "join_workers",
    "load_backbone",
    "load_tokenizer",
    "only_first",
    "read_rows",
    "tokenise_corpus",
    "tokenizer_digest",
    "train_adapter",
]

_HOME_OF = {
    "Backbone": "backbone",
    "build_base": "stages",
    "estimate": "cost",
    "join_workers": "workers",
    "load_backbone": "backbone",
    "load_tokenizer": "backbone",
    "only_first": "workers",
    "read_rows": "curves",
    "tokenise_corpus": "stages",
    "tokenizer_digest": "backbone",
    "train_adapter": "stages",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
