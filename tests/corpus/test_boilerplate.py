"""Paragraphs that stand in many trials are counted, and on request capped."""

from pathlib import Path

import numpy as np

from trialese.corpus.assemble import assemble_corpus
from trialese.corpus.boilerplate import ParagraphLedger, cut_paragraphs
from trialese.corpus.dedup import paragraph_hash, paragraph_keys
from trialese.corpus.store import read_boilerplate, read_documents, read_drops
from trialese.records import Drop, Trial
from trialese.settings import BoilerplateSettings, CorpusSettings, DedupSettings, FilterSettings

CONTACT = "Please call the toll free number of the study site for more information."
OWN = [
    "Metformin against placebo for two years in adults with prediabetes and hypertension alike.",
    "Cognitive therapy by telephone for veterans who sleep badly after their return from duty.",
    "Radiotherapy in fewer fractions after surgery of early cancer in women older than seventy.",
    "A vaccine against malaria in infants of three countries with seasonal rains and mosquitoes.",
]
TRIALS = [
    Trial(nct_id=f"NCT0000000{number}", brief_summary=f"{own}\n\n{CONTACT}")
    for number, own in enumerate(OWN)
] + [Trial(nct_id="NCT00000009", brief_summary=f"Too short a text.\n\n{CONTACT.upper()}")]


def settings_with(cap: int | None) -> CorpusSettings:
    return CorpusSettings(
        filters=FilterSettings(min_characters=60),
        dedup=DedupSettings(near=False),
        boilerplate=BoilerplateSettings(min_documents=3, cap_documents=cap),
    )


def test_frequent_paragraphs_are_listed_with_their_counts(tmp_path: Path) -> None:
    corpus = assemble_corpus(TRIALS, settings_with(None), tmp_path / "corpus")
    assert [(row.documents, row.text) for row in read_boilerplate(corpus)] == [(5, CONTACT)]
    assert corpus.manifest.counts["boilerplate_paragraphs"] == 1
    assert corpus.manifest.counts["boilerplate_cut"] == 0
    assert all(CONTACT.casefold() in doc.text.casefold() for doc in read_documents(corpus))


def test_capped_paragraphs_stay_in_the_first_documents_only(tmp_path: Path) -> None:
    corpus = assemble_corpus(TRIALS[::-1], settings_with(2), tmp_path / "corpus")
    holding = [doc.nct_id for doc in read_documents(corpus) if "toll free" in doc.text]
    assert holding == ["NCT00000000", "NCT00000001"]
    assert read_drops(corpus) == [Drop("NCT00000009", "boilerplate_only")]
    texts = {doc.nct_id: doc.text for doc in read_documents(corpus)}
    assert texts["NCT00000002"] == f"Summary:\n\n{OWN[2]}"
    assert corpus.manifest.counts["boilerplate_cut"] == 3


def test_counts_equal_a_plain_count() -> None:
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, 30, size=rng.integers(0, 12)).astype(np.uint64)
                 for _ in range(200)]  # fmt: skip
    ledger = ParagraphLedger(BoilerplateSettings(min_documents=1, listed=0, cap_documents=5))
    for row, hashes in enumerate(documents):
        ledger.add(row, hashes)
    order = list(range(0, 200, 3))  # the others were dropped
    total, _, cuts = ledger.frequent(order, lambda row: "")
    seen: dict[int, int] = {}
    expected: dict[int, set[int]] = {}
    for row in order:
        for value in sorted(set(documents[row].tolist())):
            seen[value] = seen.get(value, 0) + 1
            if seen[value] > 5:
                expected.setdefault(row, set()).add(value)
    assert total == len(seen)
    assert {row: set(values) for row, values in cuts.items()} == expected


def test_cutting_leaves_no_gap() -> None:
    text = "Summary:\n\nOne paragraph.\n\nAnother one.\n\nLast."
    wanted = frozenset({paragraph_hash(paragraph_keys("another ONE")[0])})
    assert cut_paragraphs(text, wanted) == "Summary:\n\nOne paragraph.\n\nLast."
