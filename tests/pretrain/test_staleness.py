"""Terms: pieces a word, and which words rose.

Quarters: their names, and scores by the definition with the stock model.

Staleness: advice that follows from the figures, and trials that are not read again.

The page: complete in itself, well-formed, and the same figures in JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from trialese.errors import ArtifactError, RecordError
from trialese.pretrain.backbone import load_masked_lm, load_tokenizer
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import read_losses, word_l2r_scores
from trialese.pretrain.lora import attach_lora, save_lora
from trialese.pretrain.masking import Vocabulary
from trialese.pretrain.staleness import (
    CAVEAT,
    BrokenTerm,
    Effect,
    QuarterRow,
    RisingTerm,
    Staleness,
    broken_terms,
    draw_trials,
    find_reference,
    load_reader,
    load_reference,
    measure_staleness,
    pieces_per_word,
    quarter_of,
    read_training,
    rising_terms,
)
from trialese.pretrain.staleness_page import as_table, write_page
from trialese.records import Corpus, Interval, Trial
from trialese.settings import BackboneSettings, LoraSettings, RenderSettings


@pytest.fixture(scope="module")
def tokenizer(tiny_backbone: Path):
    """The toy's tokenizer: its words are whole, others fall into letters."""
    return load_tokenizer(BackboneSettings(name=str(tiny_backbone)))


def test_pieces_per_word_counts_words_as_often_as_they_stand(tokenizer):
    assert pieces_per_word(["study of drug", "placebo dose"], tokenizer) == 1.0
    # "xyz" is three letters; 1 + 1 + 3 + 3 pieces over four words
    assert pieces_per_word(["study xyz", "drug XYZ"], tokenizer) == 2.0
    assert pieces_per_word(["1 2 3 ..."], tokenizer) == 0.0


def test_what_rose_is_found_and_what_fell_or_is_rare_is_not(tokenizer):
    before = ["placebo study of aspirin"] * 30 + ["study of drug"] * 30
    since = ["study of covid vaccine"] * 25 + ["study of aspirin once"] * 5 + ["zzq"] * 2
    rising = rising_terms(before, since, tokenizer)
    assert [term.word for term in rising] == ["covid", "vaccine", "once"]
    assert (rising[0].documents_before, rising[0].documents_since) == (0, 25)
    assert rising[0].z > rising[2].z > 0
    assert rising[0].pieces == 1 and rising[2].pieces == 4


def test_new_words_are_ranked_by_their_pieces(tokenizer):
    before = ["study of abcde"] * 3
    since = ["covid xyz wxyz abcde"] * 4 + ["qqqqqq once"] * 2 + ["lmn"] * 5
    found = [(t.word, t.documents_since, t.pieces) for t in broken_terms(before, since, tokenizer)]
    assert found == [("wxyz", 4, 4), ("lmn", 5, 3), ("xyz", 4, 3)]
    assert len(broken_terms(before, since, tokenizer, count=1)) == 1


def test_the_z_is_that_of_the_two_by_two_table(tokenizer):
    (term,) = rising_terms(["drug"] * 4 + ["study"] * 16, ["drug"] * 9 + ["study"], tokenizer)
    # log((9.5 x 16.5) / (1.5 x 4.5)) over sqrt(1/9.5 + 1/1.5 + 1/4.5 + 1/16.5)
    assert term.word == "drug" and term.z == pytest.approx(3.0624, abs=1e-4)


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
    assert made.effect is not None and made.effect.border == "2020Q4"
    assert f"{made.effect.loss.point:+.3f}" in made.advice
    loss = made.effect.loss.point
    assert f"{abs(loss):.3f} nats a token {'more' if loss >= 0 else 'less'} than" in made.advice
    # a single quarter before leaves no false border, so that a sure effect is no reason by itself
    verb = "Cannot tell" if made.effect.loss.low > 0 else "No need yet"
    assert made.advice.startswith(verb)
    assert "posted after 2020Q4 (10 of 12 read)" in made.advice
    assert {"covid", "vaccine"} <= {term.word for term in made.rising}
    assert [(term.word, term.pieces) for term in made.broken] == [("xyzq", 4)]
    table = as_table(made)
    assert "2021Q3" in table and made.advice in table
    again = measured(trials[::-1], tiny_backbone, "2020-12-31", sample=10, pll_sample=1)
    assert again == made  # whatever the order


OLD_WORDS = ("study", "drug", "patients", "cancer", "placebo", "dose", "safety", "women")
NEW_WORDS = ("covid", "vaccine", "pandemic", "futility", "interim", "phase", "asthma", "age")


def by_quarter(trials_a_quarter: int, share_of_new: Any) -> list[Trial]:
    """Six years of trials of forty words; `share_of_new(year)` of them are about a virus."""
    generator = np.random.default_rng(3)
    made = []
    for quarter in range(24):
        year, month = 2018 + quarter // 4, 3 * (quarter % 4) + 2
        for _ in range(trials_a_quarter):
            new = generator.random() < share_of_new(year)
            made.append(
                Trial(
                    nct_id=f"NCT{len(made):08}",
                    first_posted=f"{year}-{month:02}-01",
                    brief_summary=" ".join(generator.choice(NEW_WORDS if new else OLD_WORDS, 40)),
                    conditions=("viral infection",) if new else ("solid tumour",),
                )
            )
    return made


@pytest.fixture(scope="module")
def readers(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two toys of equal compute: one taught the old words, the other the new ones as well."""
    taught = {}
    tokenizer = load_tokenizer(BackboneSettings(name=str(tiny_backbone)))
    for name, words in (("control", OLD_WORDS), ("adapted", OLD_WORDS + 3 * NEW_WORDS)):
        model = load_masked_lm(tiny_backbone)[0].train(False)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        generator = np.random.default_rng(5)
        for _ in range(60):
            texts = [" ".join(generator.choice(words, 30)) for _ in range(8)]
            ids = torch.tensor([tokenizer(text).input_ids for text in texts])
            shown, hidden = ids.clone(), torch.rand(ids.shape) < 0.15
            hidden[:, [0, -1]] = False
            shown[hidden] = tokenizer.mask_token_id
            loss = torch.nn.functional.cross_entropy(model(shown).logits[hidden], ids[hidden])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        taught[name] = model
    return taught | {"tokenizer": tokenizer}


def test_new_words_after_the_border_are_found_and_only_by_who_does_not_know_them(
    readers: dict[str, Any],
):
    trials = by_quarter(8, lambda year: 0.0 if year < 2022 else 1.0)

    def asked(model: str, reference: str | None) -> Staleness:
        return measure_staleness(
            trials, readers[model], readers["tokenizer"], trained_until="2021-12-31",
            reference=readers[reference] if reference else None,
            reference_name=reference or "", pll_sample=0, sample=8,
        )  # fmt: skip

    stale = asked("control", "adapted")
    assert stale.effect is not None and stale.least_effect is not None
    assert stale.advice.startswith("Adapt again") and "against adapted" in stale.advice
    assert stale.effect.loss.low > stale.least_effect
    assert len(stale.false_borders) >= 8
    fresh = asked("adapted", "control")
    assert fresh.effect is not None and fresh.effect.loss.high < 0
    assert fresh.advice.startswith("No need yet")
    alone = asked("control", None)  # no reference at hand: matched by condition
    assert alone.advice.startswith("Adapt again") and "matched by condition" in alone.advice


def test_a_change_of_subject_is_no_reason(readers: dict[str, Any]):
    """The rule before asked whether trials since are harder to read, whatever they are about."""
    shares = {2018: 0.2, 2019: 0.6, 2020: 0.2, 2021: 0.2, 2022: 0.3, 2023: 0.8}
    trials = by_quarter(8, shares.__getitem__)
    made = measure_staleness(
        trials, readers["control"], readers["tokenizer"], trained_until="2022-12-31",
        pll_sample=0, sample=8,
    )  # fmt: skip
    assert made.difference is not None and made.difference.low > 0  # the old rule: adapt again
    assert made.effect is not None and made.effect.loss.point < made.difference.point / 4
    assert made.advice.startswith("No need yet"), made.advice


def test_whole_documents_are_read(readers: dict[str, Any]):
    encoder = MaskedEncoder(readers["control"])
    beginning = " ".join(OLD_WORDS * 5)
    short, long = beginning, beginning + " " + " ".join(NEW_WORDS * 50)
    sums = read_losses([short, long], encoder, readers["tokenizer"], 7)
    assert sums[0, 2] < 10 and 40 < sums[1, 2] < 70  # 15 % of 40 and of 440 words, 80 % as [MASK]
    mean = sums[:, 0] / sums[:, 2]
    assert mean[1] > mean[0] + 0.5  # what comes late is strange, and is seen
    assert np.array_equal(sums, read_losses([short, long], encoder, readers["tokenizer"], 7))


def test_the_reference_is_the_other_model_of_the_run(toy: Any, tmp_path: Path, tiny_backbone: Path):
    home = Path(toy.folder) / "toy"
    for stage, has_adapter, other, era in (
        ("base", False, "adapter", "old"),
        ("base", True, "control", ""),
        ("adapter", False, "control", ""),
        ("control", False, "adapter", "old"),
    ):
        found, which = find_reference(home / stage / "model", has_adapter=has_adapter)
        assert (found, which) == ((home / other / "model").resolve(), era)
    assert find_reference(tiny_backbone, has_adapter=False) == (None, "")
    tokenizer = load_tokenizer(BackboneSettings(name=str(tiny_backbone)))
    load_reference(str(home / "control" / "model"), tokenizer)
    other_words = tokenizer.__class__.from_pretrained(tiny_backbone)
    other_words.add_tokens(["xyzq"])
    with pytest.raises(ArtifactError, match="another tokenizer"):
        load_reference(str(home / "control" / "model"), other_words)


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
    assert made.difference is None and made.effect is None
    assert made.advice.startswith("No need yet: no trial here was posted after 2030Q1")
    assert "newest that was read is of 2020Q1" in made.advice
    made = measured(trials, tiny_backbone, "2019-01-01", pll_sample=0)
    assert made.advice.startswith("No comparison: every trial that may be read was posted after")
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


def made() -> Staleness:
    """Three quarters around the end of training, and words that need escaping."""
    quarters = tuple(
        QuarterRow(f"2020Q{n}", 50, 10 * n, Interval(2.0 + n, 1.8 + n, 2.2 + n), 0.4, 9.0 + n, 1.5)
        for n in (1, 2, 4)
    )
    return Staleness(
        "2020-06-30", quarters, (RisingTerm("a<b", 1, 9, 3.2, 4),), (BrokenTerm("x&y", 5, 6),),
        Interval(0.5, 0.2, 0.8), 7, "Adapt again: loss is +0.500 & more.",
        Effect("2020Q2", 30, 40, Interval(0.6, 0.5, 0.7)),
        (Effect("2020Q1", 10, 20, Interval(0.01, -0.1, 0.12)),), 0.01, "the control",
    )  # fmt: skip


def test_the_page_stands_alone_and_says_what_was_measured(tmp_path: Path):
    write_page(made(), tmp_path, reader="base + <adapter>", snapshot="june")
    page = (tmp_path / "staleness.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//|@import|url\((?!#)""", page)
    for text in ("a&lt;b", "x&amp;y", "&lt;adapter&gt;", "2020Q4", "+0.500 &amp; more", "june"):
        assert text in page, text
    picture = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    words = " ".join("".join(text.itertext()) for text in picture.iter() if "text" in text.tag)
    assert {"loss,", "pseudo-perplexity"} <= set(words.split())
    assert "false borders" in words and "end of training" in words
    for told in (CAVEAT.split(".")[0], "+0.600", "+0.010", "false border", "the control loses"):
        assert told in page, told


def test_equal_figures_give_equal_bytes_and_the_json_holds_them(tmp_path: Path):
    for name in ("one", "two"):
        write_page(made(), tmp_path / name, reader="base", snapshot="june")
    for file in ("staleness.html", "staleness.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    told = json.loads((tmp_path / "one" / "staleness.json").read_text())
    assert told["model"] == "base" and told["advice"].startswith("Adapt again")
    assert [row["quarter"] for row in told["quarters"]] == ["2020Q1", "2020Q2", "2020Q4"]
    assert told["difference"] == {"point": 0.5, "low": 0.2, "high": 0.8}
