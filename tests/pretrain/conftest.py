"""Toy blocks: two eras and three splits of made-up trial text, packed by the real packer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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
