"""The leakage table finds copies across splits, and nothing in a corpus split by cluster."""

import random
from pathlib import Path

from trialese.corpus.assemble import assemble_corpus
from trialese.corpus.split import find_leaks, leakage_table
from trialese.corpus.store import StoredDocument, read_stored, write_documents
from trialese.records import Split, Trial
from trialese.settings import CorpusSettings, DedupSettings, SplitSettings

WORDS = [f"word{number}" for number in range(2000)]
SETTINGS = CorpusSettings(
    dedup=DedupSettings(drop="none"), split=SplitSettings(tune_share=0.2, test_share=0.3)
)


def make_trials() -> list[Trial]:
    """A hundred texts, each with a copy and a near-copy."""
    trials = []
    for number in range(100):
        words = random.Random(number).choices(WORDS, k=120)
        for copy in range(3):
            words[5] = "edited" if copy == 2 else words[5]
            trials.append(
                Trial(nct_id=f"NCT{number + 1000 * copy:08d}", brief_summary=" ".join(words))
            )
    return trials


def test_split_by_cluster_leaks_nothing_where_a_random_one_would(tmp_path: Path) -> None:
    corpus = assemble_corpus(make_trials(), SETTINGS, tmp_path / "corpus")
    rows = {(row.held_out, row.kind): row for row in leakage_table(corpus)}
    assert len(rows) == 4
    assert all(row.leaked == 0 and row.documents > 20 for row in rows.values())
    # Of three copies, both others land in the same split with probability 0.09: 91 % leak.
    near, exact = rows["test", "near"], rows["test", "exact"]
    assert 0.8 < near.random_leaked / near.random_documents < 0.99
    assert 0.3 < exact.random_leaked / exact.random_documents < 0.65  # two of three have a copy


def test_a_leak_is_found(tmp_path: Path) -> None:
    """A corpus whose splits were assigned by id, as if by a careless tool."""
    corpus = assemble_corpus(make_trials(), SETTINGS, tmp_path / "corpus")
    splits: dict[str, Split] = {"0": "train", "1": "test", "2": "tune"}
    careless = [
        StoredDocument(
            nct_id=row.nct_id,
            cluster=row.nct_id,
            split=splits[row.nct_id[7]],
            era=row.era,
            first_posted=row.first_posted,
            text=row.text,
        )
        for row in read_stored(corpus)
    ]
    write_documents(corpus.path, careless)
    rows = {(row.held_out, row.kind): row.leaked for row in leakage_table(corpus)}
    assert rows == {
        ("test", "exact"): 100,
        ("test", "near"): 100,
        ("tune", "exact"): 0,
        ("tune", "near"): 100,
    }


def test_find_leaks_names_the_ids() -> None:
    clusters = {"a": "a", "b": "a", "c": "c", "d": "c", "e": "e"}
    splits: dict[str, Split] = {"a": "train", "b": "test", "c": "test", "d": "test", "e": "test"}
    assert find_leaks(clusters, splits, "test") == ["b"]
