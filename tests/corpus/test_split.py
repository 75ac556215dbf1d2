"""Splits and folds depend on cluster and seed alone; the leakage table finds copies across."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from trialese.artifacts import write_artifact
from trialese.corpus.assemble import assemble_corpus
from trialese.corpus.split import (
    assign_fold,
    assign_split,
    check_split,
    find_leaks,
    leakage_table,
    overlap_table,
)
from trialese.corpus.store import (
    Era,
    StoredDocument,
    open_corpus,
    read_overlap,
    read_stored,
    write_documents,
)
from trialese.errors import RecipeError
from trialese.records import Split, Trial
from trialese.settings import CorpusSettings, DedupSettings, SplitSettings

CLUSTERS = [f"NCT{number:08d}" for number in range(20_000)]


def test_shares_come_out_as_stated() -> None:
    settings = SplitSettings(tune_share=0.05, test_share=0.10, seed=3)
    counts = Counter(assign_split(cluster, settings) for cluster in CLUSTERS)
    assert counts["test"] == pytest.approx(2000, abs=150)  # 3.5 standard deviations
    assert counts["tune"] == pytest.approx(1000, abs=110)
    assert sum(counts.values()) == len(CLUSTERS)


def test_folds_are_balanced_and_independent_of_the_split() -> None:
    folds = [assign_fold(cluster, folds=5, seed=7) for cluster in CLUSTERS]
    counts = Counter(folds)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert max(counts.values()) - min(counts.values()) < 400
    test = [assign_split(cluster, SplitSettings(seed=7)) == "test" for cluster in CLUSTERS]
    in_test = Counter(fold for fold, held_out in zip(folds, test, strict=True) if held_out)
    assert min(in_test.values()) > 320  # 2,000 over five folds


def test_another_seed_gives_another_assignment() -> None:
    one = [assign_split(cluster, SplitSettings(seed=1)) for cluster in CLUSTERS[:500]]
    two = [assign_split(cluster, SplitSettings(seed=2)) for cluster in CLUSTERS[:500]]
    assert one != two


def test_another_process_agrees() -> None:
    """Python's own hash differs from process to process; ours must not."""
    code = (
        "from trialese.corpus.split import assign_fold;"
        "print([assign_fold(f'c{n}', folds=7, seed=1) for n in range(50)])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.strip() == str([assign_fold(f"c{n}", folds=7, seed=1) for n in range(50)])


def test_no_folds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        assign_fold("c", folds=0, seed=1)


@pytest.mark.parametrize(
    "settings",
    [
        SplitSettings(tune_share=0.5, test_share=0.5),
        SplitSettings(tune_share=-0.1),
        SplitSettings(by="date"),
        SplitSettings(test_from="2024-01-01"),
        SplitSettings(by="date", tune_from="2024-02-01", test_from="2024-01-01"),
    ],
)
def test_settings_that_make_no_split_are_refused(settings: SplitSettings) -> None:
    with pytest.raises(RecipeError, match=r"corpus\.split: "):
        check_split(settings)


@pytest.mark.parametrize(
    ("posted", "split"),
    [(None, "train"), ("2023-12-31", "train"), ("2024-01-01", "test"), ("2024-01", "train")],
)
def test_by_date_without_a_tune_date(posted: str | None, split: str) -> None:
    settings = SplitSettings(by="date", test_from="2024-01-01")
    assert assign_split("c", settings, first_posted=posted) == split


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


def test_passages_that_stand_in_training_documents_are_measured(tmp_path: Path) -> None:
    passage = " ".join(f"shared{number}" for number in range(28))  # 21 runs of eight words

    def document(
        name: str, split: Split, era: Era, own: str, *, with_passage: bool
    ) -> StoredDocument:
        words = " ".join(f"{own}{number}" for number in range(28))
        text = f"{passage} {words}" if with_passage else words
        return StoredDocument(
            nct_id=name, cluster=name, split=split, era=era, first_posted=None, text=text
        )

    rows = [
        document("NCT00000001", "train", "old", "a", with_passage=True),
        document("NCT00000002", "train", "new", "b", with_passage=False),
        document("NCT00000003", "test", "new", "c", with_passage=True),
        document("NCT00000004", "tune", "old", "b", with_passage=False),
        document("NCT00000005", "test", "old", "d", with_passage=False),
    ]
    with write_artifact(tmp_path / "corpus", kind="corpus") as draft:
        draft.counts.update(write_documents(draft.folder, rows))
    corpus = open_corpus(tmp_path / "corpus")
    table = {row.nct_id: row for row in overlap_table(corpus)}
    assert list(table) == ["NCT00000003", "NCT00000004", "NCT00000005"]
    found = {name[-1]: (row.old, row.new, row.train) for name, row in table.items()}
    part = 21 / 49
    assert found == {"3": (part, 0.0, part), "4": (0.0, 1.0, 1.0), "5": (0.0, 0.0, 0.0)}
    assert overlap_table(corpus, nct_ids={"NCT00000005"}) == [table["NCT00000005"]]
    assert overlap_table(corpus.path, most_documents=2) in (
        [each for each in table.values() if each.nct_id != left] for left in table
    )


def test_a_corpus_keeps_how_much_of_held_out_text_stands_in_training_text(tmp_path: Path) -> None:
    def trial(number: int, title: str) -> Trial:
        summary = " ".join(f"word{number}x{place}" for place in range(60))
        return Trial(
            nct_id=f"NCT{number:08}", brief_title=title, brief_summary=summary,
            eligibility_criteria=" ".join(f"criterion{place}" for place in range(40)),
        )  # fmt: skip

    settings = CorpusSettings(new_from=None, split=SplitSettings(test_share=0.3))
    trials = [trial(number, "A study") for number in range(1, 41)]
    corpus = assemble_corpus(trials, settings, tmp_path / "corpus")
    rows = read_overlap(corpus)
    assert rows == overlap_table(corpus) and rows
    assert all(0.2 < row.train < 0.5 for row in rows)  # the criteria, word for word
    told = corpus.manifest.counts["passages_shared"]
    assert set(told) == {f"{row.era}-{row.split}" for row in rows}
    tested = told["new-test"]
    assert tested["documents"] == sum(row.split == "test" for row in rows)
    assert 0.2 < tested["mean"] < 0.5 and tested["over_half"] == 0
    (corpus.path / "overlap.parquet").unlink()
    assert read_overlap(corpus) is None  # an older corpus has none
