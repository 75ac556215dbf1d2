"""Batches: the same whatever the number of threads; texts kept apart where the blocks say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trialese.corpus.packing import pack_blocks
from trialese.pretrain.backbone import load_tokenizer
from trialese.pretrain.compute import choose_compute
from trialese.pretrain.data import Phase, Plan, ready_batches
from trialese.pretrain.masking import Vocabulary
from trialese.records import Document
from trialese.settings import (
    BackboneSettings,
    BlockSettings,
    MaskingSettings,
    PhaseSettings,
    PretrainSettings,
)


@pytest.fixture
def phase(tiny_backbone: Path, tmp_path: Path):
    """`phase(packing, **changes)`: a phase over 40 short documents."""

    def build(packing: str, **changes: object) -> Phase:
        tokenizer = load_tokenizer(BackboneSettings(name=str(tiny_backbone)))
        documents = [
            Document(f"NCT{n:08}", "a study of the drug " * (1 + n % 3)) for n in range(40)
        ]
        settings = BlockSettings(block_tokens=32, packing=packing)  # type: ignore[arg-type]
        folder = tmp_path / f"{packing}-{len(list(tmp_path.iterdir()))}"
        blocks = pack_blocks(documents, tokenizer.backend_tokenizer, settings, folder)
        return Phase(
            name="adapt",
            plan=Plan(PhaseSettings(epochs=3, batch_blocks=3), len(blocks.ids), 0, 0.0, seed=1),
            blocks=blocks,
            old_blocks=None,
            vocabulary=Vocabulary.of(tokenizer),
            masking=MaskingSettings(),
            compute=choose_compute(PretrainSettings(device="cpu")),
            **changes,  # type: ignore[arg-type]
        )

    return build


@pytest.mark.parametrize("workers", [2, 5])
def test_the_number_of_data_workers_changes_nothing(phase, workers):
    one, many = ready_batches(phase("across")), ready_batches(phase("across", data_workers=workers))
    count = 0
    for ours, theirs in zip(one, many, strict=True):
        assert ours.batch.step == theirs.batch.step == count + 1
        for part, other in zip(ours.parts, theirs.parts, strict=True):
            assert all(
                value is other[name] is None or torch.equal(value, other[name])
                for name, value in part.items()
            )
        count += 1
    assert count == phase("across").plan.steps > 6


def test_blocks_packed_within_keep_their_texts_apart(phase):
    made = phase("within")
    assert made.blocks.isolated and not phase("across").blocks.isolated
    ready = next(ready_batches(made))
    segments = np.concatenate([part["attended"].numpy() for part in ready.parts])
    begins = made.blocks.ids[ready.batch.block_ids] == made.vocabulary.cls_id
    assert (segments.max(axis=1) == begins.sum(axis=1)).all() and segments.max() > 1
