"""Staleness: advice that follows from the figures, and trials that are not read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trialese.errors import ArtifactError, RecordError
from trialese.pretrain.backbone import load_masked_lm
from trialese.pretrain.lora import attach_lora, save_lora
from trialese.pretrain.staleness import (
    Staleness,
    as_table,
    load_reader,
    measure_staleness,
    read_training,
)
from trialese.records import Corpus, Trial
from trialese.settings import BackboneSettings, LoraSettings


def trial(number: int, posted: str | None, text: str) -> Trial:
    """A trial with a summary of its own."""
    return Trial(
        nct_id=f"NCT{number:08}", first_posted=posted, brief_title=text, brief_summary=text * 2
    )


def measured(trials: list[Trial], backbone: Path, until: str, **more: Any) -> Staleness:
    """Staleness of the toy."""
    model, tokenizer = load_reader(BackboneSettings(name=str(backbone)), None)
    return measure_staleness(trials, model, tokenizer, trained_until=until, **more)


def test_rows_terms_and_advice(tiny_backbone: Path):
    old, new = "a study of the drug in women ", "covid vaccine xyzq trial in adults "
    trials = [trial(i, "2020-02-01", old) for i in range(30)]
    trials += [trial(100 + i, "2021-08-01", new) for i in range(12)]
    trials += [trial(200, None, new), trial(201, "2021", new)]
    made = measured(trials, tiny_backbone, "2020-12-31", sample=10, pll_sample=1)
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
    assert "posted after 2020Q4 (10 of 12 read)" in made.advice
    assert {"covid", "vaccine"} <= {term.word for term in made.rising}
    assert [(term.word, term.pieces) for term in made.broken] == [("xyzq", 4)]
    table = as_table(made)
    assert "2021Q3" in table and made.advice in table
    again = measured(trials[::-1], tiny_backbone, "2020-12-31", sample=10, pll_sample=1)
    assert again == made  # whatever the order


def test_what_the_model_learnt_from_is_not_read(tiny_backbone: Path):
    trials = [trial(i, "2020-02-01", "a study ") for i in range(9)]
    learnt = frozenset(t.nct_id for t in trials[:6])
    made = measured(trials, tiny_backbone, "2020-01-01", trained_on=learnt, pll_sample=0)
    assert [(row.trials, row.sampled) for row in made.quarters] == [(3, 3)]
    assert made.left_out == 6
    with pytest.raises(RecordError, match="did not learn from"):
        measured(trials[:6], tiny_backbone, "2020-01-01", trained_on=learnt)


def test_nothing_to_compare_and_nothing_dated(tiny_backbone: Path):
    trials = [trial(i, "2020-02-01", "a study ") for i in range(3)]
    made = measured(trials, tiny_backbone, "2030-01-01", pll_sample=0)
    assert made.difference is None and made.advice.startswith("No comparison")
    with pytest.raises(RecordError, match="no trial has a posting date"):
        measured([trial(1, None, "a")], tiny_backbone, "2030-01-01")


def test_an_adapter_is_merged_and_a_headless_backbone_refused(
    tiny_backbone: Path, headless_backbone: Path, tmp_path: Path
):
    ids = torch.arange(5, 20)[None]
    wrapped = attach_lora(
        load_masked_lm(tiny_backbone)[0], LoraSettings(rank=2), train_head=False, seed=1
    )
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.fill_(0.1)
    save_lora(wrapped, tmp_path, backbone="toy", revision=None)
    model, _ = load_reader(BackboneSettings(name=str(tiny_backbone)), tmp_path)
    torch.testing.assert_close(model(ids).logits, wrapped(ids).logits, atol=1e-4, rtol=1e-4)
    plain, _ = load_reader(BackboneSettings(name=str(tiny_backbone)), None)
    assert not torch.allclose(plain(ids).logits, model(ids).logits, atol=1e-2)
    with pytest.raises(ArtifactError, match="no masked-LM head"):
        load_reader(BackboneSettings(name=str(headless_backbone)), None)


def test_the_corpus_tells_what_was_read_and_until_when(toy: Any):
    from trialese.corpus.store import open_corpus, read_documents

    corpus: Corpus = open_corpus(Path(toy.folder) / "toy" / "corpus")
    learnt, newest = read_training(corpus)
    assert learnt == {document.nct_id for document in read_documents(corpus, split="train")}
    assert "2018-01-01" <= newest <= "2024-12-31"
