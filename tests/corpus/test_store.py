"""A corpus on disk reads back by split and era; damage is told."""

from pathlib import Path

import pytest

from trialese.artifacts import write_artifact
from trialese.corpus.boilerplate import Boilerplate
from trialese.corpus.store import (
    StoredDocument,
    open_corpus,
    read_boilerplate,
    read_documents,
    read_drops,
    read_stored,
    write_boilerplate,
    write_documents,
    write_drops,
)
from trialese.errors import ArtifactError
from trialese.records import SPLITS, Corpus, Document, Drop

ROWS = [
    StoredDocument(
        nct_id=f"NCT{number:08d}",
        cluster=f"NCT{number // 2:08d}",
        split=SPLITS[number % 3],
        era="new" if number % 2 else "old",
        first_posted=None if number % 5 == 0 else "2020-01-01",
        text=f"Text ≥ {number}\nof two lines",
    )
    for number in range(9000)  # more than two row groups
]
DROPS = [Drop("NCT1", "too_short"), Drop("NCT2", "empty")]
LISTED = [Boilerplate(documents=70, text="Call the site.")]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    with write_artifact(tmp_path / "corpus", kind="corpus") as draft:
        draft.counts.update(write_documents(draft.folder, ROWS))
        write_drops(draft.folder, DROPS)
        write_boilerplate(draft.folder, LISTED)
    return open_corpus(tmp_path / "corpus")


def test_everything_reads_back(corpus: Corpus) -> None:
    assert list(read_stored(corpus)) == ROWS
    assert read_drops(corpus) == DROPS
    assert read_boilerplate(corpus) == LISTED
    assert corpus.manifest.counts["documents_by_split"] == {
        f"{era}-{split}": 1500 for era in ("old", "new") for split in SPLITS
    }
    assert corpus.manifest.counts["characters"] == sum(len(row.text) for row in ROWS)


def test_documents_of_one_era_and_split(corpus: Corpus) -> None:
    whole = [Document(row.nct_id, row.text) for row in ROWS]
    assert list(read_documents(corpus)) == whole
    wanted = [doc for doc, row in zip(whole, ROWS, strict=True) if row.split == "tune"]
    assert list(read_documents(corpus, split="tune")) == wanted
    wanted = [
        doc for doc, row in zip(whole, ROWS, strict=True) if (row.split, row.era) == ("test", "new")
    ]
    assert list(read_documents(corpus, split="test", era="new")) == wanted


def test_without_texts(corpus: Corpus) -> None:
    rows = list(read_stored(corpus, text=False))
    assert {row.text for row in rows} == {""}
    assert [row.cluster for row in rows] == [row.cluster for row in ROWS]


def test_damage_is_told_in_one_line(corpus: Corpus) -> None:
    (corpus.path / "documents.parquet").write_bytes(b"PAR1 no more")
    (corpus.path / "drops.parquet").unlink()
    for read in (lambda: list(read_documents(corpus)), lambda: read_drops(corpus)):
        with pytest.raises(ArtifactError, match="build the corpus again") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_bit_that_flipped_on_disk_is_found_before_a_document_is_read(corpus: Corpus) -> None:
    file = corpus.path / "documents.parquet"
    whole = file.read_bytes()
    place = len(whole) // 3
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ArtifactError, match="altered"):
        next(read_documents(corpus))
    file.write_bytes(whole)
    assert next(read_documents(corpus)).nct_id == "NCT00000000"
