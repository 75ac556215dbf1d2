"""Held-out figures against sums written out by hand over the stock model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trialese.corpus.blocks import open_blocks
from trialese.pretrain.backbone import load_backbone
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import fix_masks, measure, score_row
from trialese.pretrain.masking import Vocabulary
from trialese.settings import BackboneSettings, HeldoutSettings

CPU = torch.device("cpu")


def test_figures_equal_the_plain_sums_whatever_the_batch(tiny_backbone: Path, toy_blocks: Path):
    backbone = load_backbone(BackboneSettings(name=str(tiny_backbone)))
    blocks = open_blocks(toy_blocks, era="old", split="tune")
    assert blocks is not None
    vocabulary = Vocabulary.of(backbone.tokenizer)
    held = fix_masks(blocks, "old", "tune", vocabulary, HeldoutSettings())
    encoder = MaskedEncoder(backbone.model)
    row = score_row(measure(encoder, held, batch_blocks=5, device=CPU), held)
    loss, top1, top5, tokens = 0.0, 0, 0, 0
    masked = held.masked
    for index in range(len(held.rows)):
        logits = backbone.model(torch.from_numpy(masked.inputs[index : index + 1])).logits[0]
        for place, valid in zip(masked.positions[index], masked.valid[index], strict=True):
            if valid:
                target = int(blocks.ids[held.rows[index], place])
                loss -= float(logits[place].log_softmax(0)[target].detach())
                ranked = logits[place].argsort(descending=True).tolist()
                top1 += ranked[0] == target
                top5 += target in ranked[:5]
                tokens += 1
    assert row["masked_tokens"] == tokens > 50
    assert row["loss"] == pytest.approx(loss / tokens, abs=1e-5)
    assert (row["top1"], row["top5"]) == (top1 / tokens, top5 / tokens)
    again = score_row(measure(encoder, held, batch_blocks=64, device=CPU), held)
    assert again["loss"] == pytest.approx(row["loss"], abs=1e-6)
    assert again["top1"] == row["top1"]


def test_blocks_and_masks_are_fixed_by_their_own_seed(tiny_backbone: Path, toy_blocks: Path):
    backbone = load_backbone(BackboneSettings(name=str(tiny_backbone)))
    blocks = open_blocks(toy_blocks, era="new", split="train")
    assert blocks is not None
    vocabulary = Vocabulary.of(backbone.tokenizer)

    def made(**changes: object):
        return fix_masks(blocks, "new", "tune", vocabulary, HeldoutSettings(**changes))

    few, same, other = made(max_blocks=9), made(max_blocks=9), made(max_blocks=9, seed=8)
    assert len(few.rows) == 9 and (np.diff(few.rows) > 0).all()
    assert (few.masked.inputs == same.masked.inputs).all()
    assert few.rows.tolist() != other.rows.tolist()
    every = made(max_blocks=10**6)
    assert (every.masked.inputs[few.rows] == few.masked.inputs).all()
    ordinary = ~blocks.special[every.rows]
    assert every.masked.masked_tokens / ordinary.sum() == pytest.approx(0.15, abs=0.02)
