"""Toy blocks of made-up trial text, and tiny encoders of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.conftest import WORDS, tiny_tokenizer
from trialese.artifacts import write_artifact
from trialese.corpus.packing import pack_blocks
from trialese.pretrain.backbone import load_tokenizer, tokenizer_digest
from trialese.records import Document
from trialese.settings import (
    BackboneSettings,
    BlockSettings,
    HeldoutSettings,
    LoraSettings,
    PhaseSettings,
    PretrainSettings,
)

SENTENCES = {
    "old": "a study of the drug in women with breast cancer . placebo dose safety of the drug .",
    "new": "covid vaccine trial in adults ! interim analysis for futility . slow accrual of men .",
}


def toy_documents(era: str, count: int, seed: int) -> list[Document]:
    """Documents of shuffled sentences, so that there is something to learn and to tell apart."""
    generator = np.random.default_rng(seed)
    words = SENTENCES[era].split()
    return [
        Document(f"NCT{seed:04}{number:04}", " ".join([*words, *generator.permutation(words)]))
        for number in range(count)
    ]


def write_toy_blocks(
    folder: Path, backbone: Path, *, old: bool = True, block_tokens: int = 32
) -> Path:
    """An artifact of kind blocks in `folder`, made with the backbone's tokenizer."""
    tokenizer = load_tokenizer(BackboneSettings(name=str(backbone)))
    inputs = {"tokenizer": tokenizer_digest(tokenizer)}
    folders = {}
    with write_artifact(folder, kind="blocks", inputs=inputs) as draft:
        for era in ("old", "new") if old else ("new",):
            for seed, (split, count) in enumerate((("train", 40), ("tune", 12), ("test", 12))):
                name = f"{era}-{split}"
                documents = toy_documents(era, count, seed)
                settings = BlockSettings(block_tokens=block_tokens)
                pack_blocks(documents, tokenizer.backend_tokenizer, settings, draft.folder / name)
                folders[name] = {"documents": count}
        draft.counts["folders"] = folders
    return folder


def _toy_settings(backbone: Path, **changes: object) -> PretrainSettings:
    """Settings for a run of a second: eight steps of eight blocks."""
    values = {
        "backbone": BackboneSettings(name=str(backbone)),
        "lora": LoraSettings(rank=4, alpha=8),
        "heldout": HeldoutSettings(max_blocks=8, every_steps=4, batch_blocks=8),
        "head_phase": PhaseSettings(steps=4, batch_blocks=8, lr=1e-2),
        "base_phase": PhaseSettings(steps=8, batch_blocks=8, lr=1e-2),
        "adapt_phase": PhaseSettings(steps=8, batch_blocks=8, lr=1e-2),
        "checkpoint_every_steps": 3,
        "device": "cpu",
        "precision": "fp32",
        **changes,
    }
    return PretrainSettings(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def toy_settings() -> Callable[..., PretrainSettings]:
    """`toy_settings(backbone, **changes)`: settings for a run of a second."""
    return _toy_settings


@pytest.fixture(scope="session")
def write_blocks() -> Callable[..., Path]:
    """`write_blocks(folder, backbone, old=True)`: an artifact of toy blocks."""
    return write_toy_blocks


@pytest.fixture(scope="session")
def toy_blocks(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of toy blocks with both eras; do not write to it."""
    return write_toy_blocks(tmp_path_factory.mktemp("blocks") / "blocks", tiny_backbone)


TEXTS = [" ".join(WORDS[start : start + 12]) for start in range(0, len(WORDS) - 12)] * 3
TEXTS += ["Café-based (il-6) trials, 12 mg/day; naïve patients' 3rd dose!"] * 4

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 72,
}  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "mpnet": SIZES,
    "modernbert": {**SIZES, "num_hidden_layers": 4, "global_attn_every_n_layers": 3,
                   "local_attention": 8},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48,
                   "max_position_embeddings": 72},
    "electra": {**SIZES, "embedding_size": 16},
    "deberta-v2": {**SIZES, "relative_attention": True, "position_buckets": 8,
                   "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
                   "share_att_key": True, "position_biased_input": False},
    "albert": {**SIZES, "embedding_size": 16},
}  # fmt: skip
"""What makes a family's configuration tiny; dropout stays as the family has it."""

WITH_DESCRIPTION = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "modernbert")
BYTE_LEVEL = {"roberta", "modernbert"}
UNIGRAM = {"xlm-roberta", "camembert", "deberta-v2", "albert"}


def family_tokenizer(family: str) -> Any:
    """A fast tokenizer of the family's kind: WordPiece, byte-level BPE or Unigram."""
    if family not in BYTE_LEVEL | UNIGRAM:
        return tiny_tokenizer()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if family in BYTE_LEVEL:
        made = Tokenizer(models.BPE(unk_token=None))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=420, special_tokens=names, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        )
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=names, unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[(name, made.token_to_id(name)) for name in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", cls_token="<s>", eos_token="</s>",
        sep_token="</s>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
    )  # fmt: skip


def family_config(family: str, tokenizer: Any, **more: Any) -> Any:
    """The family's configuration, tiny, for the tokenizer."""
    return transformers.CONFIG_MAPPING[family](
        **{**FAMILIES[family], **more},
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id,
    )  # fmt: skip


def save_family(folder: Path, family: str, *, head: bool = True, **more: Any) -> Path:
    """A tiny checkpoint of the family with its tokenizer; without `head`, a plain encoder."""
    tokenizer = family_tokenizer(family)
    kind = transformers.AutoModelForMaskedLM if head else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(family_config(family, tokenizer, **more))
        for parameter in model.parameters():  # biases are made 0, which would hide mistakes
            if parameter.ndim == 1:
                parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
