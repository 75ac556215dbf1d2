"""Staleness: scores against the stock model, and advice that follows from the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from trialese.errors import RecordError
from trialese.pretrain import load_tokenizer
from trialese.pretrain.backbone import load_masked_lm
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.staleness import as_table, measure_staleness, quarter_of, word_l2r_scores
from trialese.records import Trial
from trialese.settings import BackboneSettings


def trial(number: int, posted: str | None, text: str) -> Trial:
    """A trial with a summary of its own."""
    return Trial(
        nct_id=f"NCT{number:08}", first_posted=posted, brief_title=text, brief_summary=text * 2
    )


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


def test_rows_terms_and_advice(tiny_backbone: Path):
    old, new = "a study of the drug in women ", "covid vaccine trial in adults "
    trials = [trial(i, "2020-02-01", old) for i in range(30)]
    trials += [trial(100 + i, "2021-08-01", new) for i in range(12)]
    trials += [trial(200, None, new), trial(201, "2021", new)]
    made = measure_staleness(
        trials, tiny_backbone, trained_until="2020-12-31", sample=10, pll_sample=1
    )
    assert [(r.quarter, r.trials, r.sampled) for r in made.quarters] == [
        ("2020Q1", 30, 10), ("2021Q3", 12, 10),
    ]  # fmt: skip
    for row in made.quarters:
        assert row.loss.low <= row.loss.point <= row.loss.high
        assert 1 < row.pseudo_perplexity < 10**6 and row.pieces_per_word >= 1
    assert made.difference is not None
    gap = made.quarters[1].loss.point - made.quarters[0].loss.point
    assert made.difference.point == pytest.approx(gap)
    verb = "Adapt again" if made.difference.low > 0 else "No need yet"
    assert made.advice.startswith(verb) and f"{gap:+.3f}" in made.advice
    assert "12 trials posted after 2020Q4" in made.advice
    assert {"covid", "vaccine"} <= {term.word for term in made.rising}
    table = as_table(made)
    assert "2021Q3" in table and made.advice in table
    again = measure_staleness(
        trials[::-1], tiny_backbone, trained_until="2020-12-31", sample=10, pll_sample=1
    )
    assert again == made  # whatever the order


def test_nothing_to_compare_and_nothing_dated(tiny_backbone: Path):
    trials = [trial(i, "2020-02-01", "a study ") for i in range(3)]
    made = measure_staleness(trials, tiny_backbone, trained_until="2030-01-01", pll_sample=0)
    assert made.difference is None and made.advice.startswith("No comparison")
    with pytest.raises(RecordError, match="no trial has a posting date"):
        measure_staleness([trial(1, None, "a")], tiny_backbone, trained_until="2030-01-01")
