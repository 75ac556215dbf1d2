"""A pinned checkpoint and its tokenizer, as a BERT masked-language model."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from trialese.artifacts import digest_of
from trialese.errors import ArtifactError
from trialese.hub import BackboneFiles, locate_backbone
from trialese.settings import BackboneSettings

__all__ = [
    "Backbone",
    "load_backbone",
    "load_masked_lm",
    "load_tokenizer",
    "quiet_transformers",
    "read_tokenizer",
    "tokenizer_digest",
]

logger = logging.getLogger(__name__)

HEAD_PREFIX = "cls.predictions."


@dataclass(frozen=True, slots=True)
class Backbone:
    """A masked-language model in fp32, its tokenizer, and where they came from."""

    model: BertForMaskedLM
    tokenizer: PreTrainedTokenizerFast
    name: str
    revision: str | None
    digest: str
    new_head: bool
    """The checkpoint had no masked-LM head; `model` has a new, untrained one (tied decoder)."""


def load_tokenizer(settings: BackboneSettings) -> PreTrainedTokenizerFast:
    """The backbone's fast tokenizer, with truncation and padding switched off.

    Raises:
        ArtifactError: the backbone is not to be had, or has no usable tokenizer.
    """
    return read_tokenizer(locate_backbone(settings).tokenizer)


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 of everything that decides which ids a text becomes."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def load_backbone(settings: BackboneSettings, *, seed: int = 0) -> Backbone:
    """The backbone as a masked-LM in fp32; a missing head is made from `seed`, decoder tied.

    Raises:
        ArtifactError: not to be had, not a BERT masked-LM or encoder, damaged weights, or a
            tokenizer with more ids than the model has embeddings.
    """
    files = locate_backbone(settings)
    tokenizer = read_tokenizer(files.tokenizer)
    model, missing = load_masked_lm(files.folder, seed=seed)
    new_head = any(name.startswith(f"{HEAD_PREFIX}transform.") for name in missing)
    if new_head:
        logger.warning("%s has no masked-LM head; a new one is trained", files.name)
    if len(tokenizer) > model.config.vocab_size:
        raise ArtifactError(
            f"{files.name}: the tokenizer has {len(tokenizer)} ids but the model only "
            f"{model.config.vocab_size}; set pretrain.backbone.tokenizer to the right one"
        )
    return Backbone(
        model, tokenizer, files.name, files.revision, _digest(files, tokenizer), new_head
    )


def load_masked_lm(folder: Path, *, seed: int = 0) -> tuple[BertForMaskedLM, frozenset[str]]:
    """The masked-LM in `folder` in fp32 and evaluation mode, and the parameters it lacked.

    Only head parameters may be lacking; they are drawn from `seed` without touching the global
    generator.

    Raises:
        ArtifactError: another architecture, or weights that do not fit it.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise ArtifactError(f"{folder}: config.json names no known model; need BERT") from error
    if config.model_type != "bert" or config.is_decoder:
        raise ArtifactError(
            f"{folder}: a {config.model_type} model, but trialese adapts BERT encoders "
            "(model_type bert: BERT, BioBERT, PubMedBERT, MiniLM); choose another backbone"
        )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        try:
            model, report = BertForMaskedLM.from_pretrained(
                folder, config=config, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # safetensors, pickle and shape errors share no parent
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArtifactError(f"{folder}: weights cannot be loaded ({reason})") from error
    missing = frozenset(report["missing_keys"])
    torn = sorted(name for name in missing if not name.startswith(HEAD_PREFIX))
    if torn or report.get("mismatched_keys"):
        culprit = torn[0] if torn else "shapes differ from config.json"
        raise ArtifactError(f"{folder}: the encoder is incomplete ({culprit}); fetch it again")
    return model.eval(), missing


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in `folder`, untruncated and unpadded; see `load_tokenizer`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its parsers do
        raise ArtifactError(
            f"{folder}: no usable tokenizer; set pretrain.backbone.tokenizer to one that fits"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ArtifactError(f"{folder}: no fast tokenizer (tokenizer.json or vocab.txt) here")
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # without its files, transformers silently makes a tokenizer of special tokens only
        raise ArtifactError(
            f"{folder}: no vocabulary here (tokenizer.json or vocab.txt); "
            "set pretrain.backbone.tokenizer to where it is"
        )
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        raise ArtifactError(f"{folder}: the tokenizer lacks [MASK] or [PAD]; choose another")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _digest(files: BackboneFiles, tokenizer: PreTrainedTokenizerFast) -> str:
    return digest_of({"model": files.digest, "tokenizer": tokenizer_digest(tokenizer)})


class quiet_transformers:  # noqa: N801 - reads as a verb in `with`
    """Silence transformers' loading bar and missing-key warnings: we report them ourselves."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        self._bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: Any) -> None:
        transformers_logging.set_verbosity(self._verbosity)
        if self._bar:
            transformers_logging.enable_progress_bar()
