"""TokenBlocks in, Adapter out: continued masked-language modelling with LoRA.

The public verbs are loaded on first use, and torch with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trialese.lazy import load_lazily

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
    "Backbone": "trialese.pretrain.backbone",
    "build_base": "trialese.pretrain.stages",
    "estimate": "trialese.pretrain.cost",
    "join_workers": "trialese.pretrain.workers",
    "load_backbone": "trialese.pretrain.backbone",
    "load_tokenizer": "trialese.pretrain.backbone",
    "only_first": "trialese.pretrain.workers",
    "read_rows": "trialese.pretrain.curves",
    "tokenise_corpus": "trialese.pretrain.stages",
    "tokenizer_digest": "trialese.pretrain.backbone",
    "train_adapter": "trialese.pretrain.stages",
}

__getattr__, __dir__ = load_lazily(__name__, _HOME_OF)
