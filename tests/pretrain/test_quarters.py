"""Quarters: their names, and scores by the definition with the stock model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from trialese.pretrain.backbone import load_masked_lm, load_tokenizer
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.staleness import draw_trials, quarter_of, word_l2r_scores
from trialese.records import Trial
from trialese.settings import BackboneSettings, RenderSettings


def test_quarters():
    assert [quarter_of(d) for d in ("2024-01-31", "2024-03", "2024-04-01", "2024-12-31")] == [
        "2024Q1", "2024Q1", "2024Q2", "2024Q4",
    ]  # fmt: skip
    assert quarter_of("2024") is None and quarter_of(None) is None


def test_word_l2r_scores_equal_the_definition(tiny_backbone: Path):
    tokenizer = load_tokenizer(BackboneSettings(name=str(tiny_backbone)))
    vocabulary = Vocabulary.of(tokenizer)
    encoded = tokenizer.backend_tokenizer.encode("the xyzq drug abc")
    ids, words = encoded.ids, encoded.word_ids
    model = AutoModelForMaskedLM.from_pretrained(tiny_backbone).eval()
    expected = []
    for place in range(1, len(ids) - 1):
        shown = [
            vocabulary.mask_id if j >= place and words[j] == words[place] else token
            for j, token in enumerate(ids)
        ]
        logits = model(torch.tensor([shown])).logits[0, place]
        expected.append(float(logits.log_softmax(0)[ids[place]].detach()))
    found = word_l2r_scores(ids, MaskedEncoder(load_masked_lm(tiny_backbone)[0]), vocabulary)
    assert len(expected) > 8
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_trials_are_drawn_whatever_their_order():
    trials = [
        Trial(nct_id=f"NCT{n:08}", first_posted=f"2020-0{1 + n % 6}-01", brief_title=f"study {n}")
        for n in range(60)
    ]
    counts, texts = draw_trials(trials, RenderSettings(), 5, 1)
    assert counts == {"2020Q1": 30, "2020Q2": 30}
    assert [len(found) for found in texts.values()] == [5, 5]
    assert draw_trials(trials[::-1], RenderSettings(), 5, 1)[1] == texts
    assert draw_trials(trials, RenderSettings(), 5, 2)[1] != texts
