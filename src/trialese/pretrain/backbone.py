"""A pinned checkpoint, its tokenizer, and the description of the encoder family it belongs to."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from trialese.artifacts import digest_of
from trialese.errors import ArtifactError
from trialese.hub import BackboneFiles, locate_backbone
from trialese.settings import BackboneSettings

__all__ = [
    "FAMILIES",
    "Backbone",
    "Family",
    "check_vocabulary",
    "family_of",
    "first_line",
    "head_modules",
    "load_backbone",
    "load_masked_lm",
    "load_tokenizer",
    "load_weights",
    "longest_text",
    "part_of",
    "quiet_transformers",
    "read_config",
    "read_tokenizer",
    "refuse_pickle",
    "tokenizer_digest",
    "unwrapped",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Family:
    """Where the parts of an encoder family stand, and in what its layers differ from BERT's.

    Names are dotted paths as in `part_of`. One description serves training, measuring, fitting a
    classifier, predicting and exporting (see `encoder.Encoder`).
    """

    body: str = "bert"
    """From a model with a head."""
    embeddings: str = "embeddings"
    """From the body, as are `layers`, `final_norm` and `rotary`."""
    words: str = "word_embeddings"
    """From the embeddings, as are `token_types`, `places` and `embedding_norm`."""
    token_types: str | None = "token_type_embeddings"
    places: str | None = "position_embeddings"
    embedding_norm: str = "LayerNorm"
    first_place: int = 0
    """The row of `places` that a text's first token reads."""
    layers: str = "encoder.layer"
    projections: tuple[str, ...] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    )
    """From a layer, as all that follows; one name: a single layer makes all three."""
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    intermediate: str = "intermediate.dense"
    activation: str = "intermediate.intermediate_act_fn"
    gated: bool = False
    """The intermediate layer makes two halves: activation(first) x second (GeGLU)."""
    out: str = "output.dense"
    out_norm: str = "output.LayerNorm"
    pre_norm: bool = False
    """Norms stand before attention and feed-forward, and not after them."""
    final_norm: str | None = None
    rotary: str | None = None
    """Positions turn queries and keys (RoPE); each layer names its kind in `attention_type`."""
    relative_bias: str | None = None
    """The part of the body whose `compute_position_bias` is added to attention scores."""
    transform: tuple[str, ...] = ("cls.predictions.transform",)
    """Modules of the masked-LM head before the decoder, in order; "gelu" is that function."""
    head: tuple[str, ...] = ("transform",)
    """Endings of the names of what a new head trains and an adapter carries, decoder excepted."""
    decoder: str = "cls.predictions.decoder"
    pooler: str | None = "bert.pooler"
    """Makes one state of a text's first for a classifier, where the body has such a part."""
    pooled_dense: str | None = "bert.pooler.dense"
    """The new linear layer between the first token's state and the labels."""
    labels: str = "classifier"
    """The linear layer that scores the labels."""

    def classify(self, model: Any, states: Tensor) -> Tensor:
        """Scores (texts, labels) of first states (texts, 1, hidden), by the model's own modules."""
        if self.pooler is not None:
            scores: Tensor = model.classifier(model.dropout(part_of(model, self.pooler)(states)))
        elif hasattr(model, "head"):
            scores = model.classifier(model.drop(model.head(states[:, 0])))
        else:
            scores = model.classifier(states)
        return scores


_ROBERTA = Family(
    body="roberta",
    first_place=2,
    transform=("lm_head.dense", "gelu", "lm_head.layer_norm"),
    head=("lm_head.dense", "lm_head.layer_norm"),
    decoder="lm_head.decoder",
    pooler=None,
    pooled_dense="classifier.dense",
    labels="classifier.out_proj",
)

FAMILIES = {
    "bert": Family(),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": replace(
        _ROBERTA,
        body="mpnet",
        token_types=None,
        projections=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        attention_out="attention.attn.o",
        attention_norm="attention.LayerNorm",
        relative_bias="encoder",
    ),
    "modernbert": Family(
        body="model",
        words="tok_embeddings",
        token_types=None,
        places=None,
        embedding_norm="norm",
        layers="layers",
        projections=("attn.Wqkv",),
        attention_out="attn.Wo",
        attention_norm="attn_norm",
        intermediate="mlp.Wi",
        activation="mlp.act",
        gated=True,
        out="mlp.Wo",
        out_norm="mlp_norm",
        pre_norm=True,
        final_norm="final_norm",
        rotary="rotary_emb",
        transform=("head",),
        head=("head",),
        decoder="decoder",
        pooler=None,
        pooled_dense=None,
    ),
}
"""By transformers' `model_type`."""


def family_of(model: Any) -> Family | None:
    """The description of the model's family; None if it has none, or is a decoder."""
    config = unwrapped(model).config
    if getattr(config, "is_decoder", False):
        return None
    known = FAMILIES.get(config.model_type)
    if known is None or known.places is None or known.first_place == 0:
        return known
    # RoBERTa counts places from behind the padding id; MPNet's is 1 whatever the config says
    padding = 1 if config.model_type == "mpnet" else config.pad_token_id
    return replace(known, first_place=padding + 1)


def part_of(module: Any, path: str) -> Any:
    """The part at a dotted path, such as "encoder.layer"."""
    return functools.reduce(getattr, path.split("."), module)


def unwrapped(model: Any) -> Any:
    """transformers' own model, without peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_modules(model: Any) -> list[str]:
    """Names of what of the masked-LM head a new head trains: all but the decoder."""
    base = unwrapped(model)
    family = family_of(base)
    if family is not None:
        return list(family.head)
    decoder = base.get_output_embeddings()
    return [
        name
        for name, module in base.named_modules()
        if not name.startswith(f"{base.base_model_prefix}.")
        and module is not decoder
        and not list(module.children())
        and list(module.parameters(recurse=False))
    ]


def longest_text(model: Any) -> int:
    """How many tokens the model has positions for."""
    base = unwrapped(model)
    taken, family = 0, family_of(model)
    if family is not None:
        taken = family.first_place
    else:  # RoBERTa's relatives count from behind the padding id as well
        for name, module in base.named_modules():
            if name.endswith("position_embeddings"):
                padding = getattr(module, "padding_idx", None)
                taken = 0 if padding is None else padding + 1
    return int(base.config.max_position_embeddings) - taken


@dataclass(frozen=True, slots=True)
class Backbone:
    """A masked-language model in fp32, its tokenizer, and where they came from."""

    model: Any
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
        ArtifactError: not to be had, no masked-LM or encoder, damaged weights, or a tokenizer
            with more ids than the model has embeddings.
    """
    files = locate_backbone(settings)
    tokenizer = read_tokenizer(files.tokenizer)
    model, missing = load_masked_lm(files.folder, seed=seed)
    check_vocabulary(tokenizer, model, files.name)
    # a decoder's bias alone may be lacking, where the checkpoint has none
    new_head = any(not name.endswith("bias") for name in missing)
    if new_head:
        logger.warning("%s has no masked-LM head; a new one is trained", files.name)
    return Backbone(
        model, tokenizer, files.name, files.revision, _digest(files, tokenizer), new_head
    )


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, model: Any, name: str | Path) -> None:
    """Refuse a tokenizer that makes ids which the model has no embedding for.

    A model with more embeddings than ids is fine: many round their number up.

    Raises:
        ArtifactError: such ids.
    """
    ids = max(tokenizer.get_vocab().values()) + 1
    known = model.get_input_embeddings().weight.shape[0]
    if ids > known:
        raise ArtifactError(
            f"{name}: the tokenizer has {ids} ids but the model only {known}; take the model's own "
            "tokenizer (for pretrain: set pretrain.backbone.tokenizer to it)"
        )


def load_masked_lm(folder: Path, *, seed: int = 0) -> tuple[Any, frozenset[str]]:
    """The masked-LM in `folder` in fp32 and evaluation mode, and the parameters it lacked.

    Any encoder that transformers has a masked-LM of. Only head parameters may be lacking; they
    are drawn from `seed` without touching the global generator.

    Raises:
        ArtifactError: no encoder, code of its own, or weights that do not fit.
    """
    config = read_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, missing, surplus = load_weights(AutoModelForMaskedLM, folder, config=config)
    torn = sorted(name for name in missing if name.startswith(f"{model.base_model_prefix}."))
    if torn:
        raise ArtifactError(f"{folder}: the encoder is incomplete ({torn[0]}); fetch it again")
    heads = sorted(name for name in surplus if not _OTHER_HEAD.search(name))
    if heads:
        more = f" and {len(heads) - 1} more" if len(heads) > 1 else ""
        logger.warning(
            "%s: %s%s left aside, of no part of a %s masked-LM",
            *(folder, heads[0], more, config.model_type),
        )
    if model.get_output_embeddings() is None:
        raise ArtifactError(
            f"{folder}: transformers finds no masked-LM head in a {config.model_type} model; "
            "choose another backbone"
        )
    return model.eval(), missing


_OTHER_HEAD = re.compile(r"pooler|seq_relationship|position_ids|discriminator_predictions")
"""Of weights that a checkpoint has beside its masked-LM: parts that many have, for other uses."""

_CURE = "trialese adapts encoders with a masked-LM, such as BERT, RoBERTa, MPNet or ModernBERT"


def read_config(folder: Path) -> Any:
    """The configuration of an encoder that transformers itself can build.

    Raises:
        ArtifactError: none there, code of its own, a decoder, or no masked-LM of it.
    """
    try:
        described = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: config.json cannot be read; fetch it again") from error
    if not isinstance(described, dict):
        raise ArtifactError(f"{folder}: config.json describes no model; fetch it again")
    if described.get("auto_map"):
        raise ArtifactError(
            f"{folder}: this model brings code of its own (auto_map in config.json), which is "
            f"never run; {_CURE}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        name = described.get("model_type", "unnamed")
        raise ArtifactError(
            f"{folder}: config.json names no known model ({name}); {_CURE}"
        ) from error
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ArtifactError(f"{folder}: a {kind} model, which encodes and decodes; {_CURE}")
    if getattr(config, "is_decoder", False) or type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ArtifactError(f"{folder}: a {kind} model, but {_CURE}")
    return config


def load_weights(
    architecture: Any, folder: Path, **options: Any
) -> tuple[Any, frozenset[str], frozenset[str]]:
    """(model in fp32, names of parameters that the folder lacks, names that it has too many).

    `architecture` is a class of transformers with `from_pretrained`, which gets `options`. Weights
    are safetensors alone, and no code in the folder runs.

    Raises:
        ArtifactError: pickled weights, damaged ones, ones of another shape, or numbers that are
            not finite.
    """
    refuse_pickle(folder)
    with quiet_transformers():
        try:
            model, report = architecture.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # told below, by name
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # safetensors and shape errors share no parent
            raise ArtifactError(
                f"{folder}: weights cannot be loaded ({first_line(error)}); fetch them again"
            ) from error
    for name, *shapes in sorted(report.get("mismatched_keys") or ()):
        held, needed = ("x".join(map(str, shape)) for shape in shapes)
        raise ArtifactError(
            f"{folder}: {name} is {held}, but config.json needs {needed}; fetch or fit it again"
        )
    surplus = frozenset(report["unexpected_keys"])
    deeper = sorted(name for name in surplus if _A_LAYER.search(name))
    if deeper:
        raise ArtifactError(
            f"{folder}: the weights have {deeper[0]}, which the model of config.json has not; "
            "fetch both from one place"
        )
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ArtifactError(
                f"{folder}: {name} holds numbers that are not finite; make it again"
            )
    return model, frozenset(report["missing_keys"]), surplus


_A_LAYER = re.compile(r"(^|[._])(layers?|albert_layers|h|blocks?)\.\d+\.")


def first_line(error: Exception) -> str:
    """What the error says in its first line; the name of its kind if it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def refuse_pickle(folder: Path, *, stem: str = "model", pickled: str = "pytorch_model") -> None:
    """Return unless the folder's weights are a pickle alone, which may run any code when opened.

    Raises:
        ArtifactError: a pickle alone, with the command that converts it.
    """
    found = sorted(folder.glob(f"{pickled}*.bin"))
    if any(folder.glob(f"{stem}*.safetensors")) or not found:
        return  # a folder without any weights is told by whoever loads it
    program = (
        "import glob, torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() "
        f"for f in glob.glob('{pickled}*.bin') for k, v in torch.load(f, weights_only=True)"
        f".items()}}, '{stem}.safetensors', {{'format': 'pt'}})"
    )
    raise ArtifactError(
        f"{folder}: the weights are a pickle ({found[0].name}), which trialese never opens; "
        f'convert them with: cd {folder} && python -c "{program}"'
    )


def read_tokenizer(folder: Path, *, masks: bool = True) -> PreTrainedTokenizerFast:
    """The fast tokenizer in `folder`, untruncated and unpadded; see `load_tokenizer`.

    Without `masks` it need not know a mask token: a classifier never sees one.

    Raises:
        ArtifactError: none there, a slow one, or one without a token that is needed.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises whatever its parsers do
        raise ArtifactError(
            f"{folder}: no usable tokenizer ({first_line(error)}); put the model's own beside "
            "the weights, or set pretrain.backbone.tokenizer to it"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ArtifactError(
            f"{folder}: a slow tokenizer ({type(tokenizer).__name__}), which is not used; put a "
            "tokenizer.json beside the weights, or set pretrain.backbone.tokenizer to a fast one"
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # without its files, transformers silently makes a tokenizer of special tokens only
        raise ArtifactError(
            f"{folder}: no vocabulary here (tokenizer.json or vocab.txt); "
            "set pretrain.backbone.tokenizer to where it is"
        )
    needed = {"mask": tokenizer.mask_token_id if masks else 0, "padding": tokenizer.pad_token_id}
    lacking = [role for role, token in needed.items() if token is None]
    if lacking:
        raise ArtifactError(
            f"{folder}: the tokenizer has no {' and no '.join(lacking)} token; name it in "
            "tokenizer_config.json, or choose another model"
        )
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
