"""A corpus from trials: what is kept, dropped and counted; equal bytes whatever the order."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from trialese.artifacts import is_complete, verify_files
from trialese.corpus.assemble import assemble_corpus, build_corpus
from trialese.corpus.split import assign_split
from trialese.corpus.store import open_corpus, read_documents, read_drops, read_stored
from trialese.errors import RecipeError
from trialese.records import Corpus, Drop, Trial
from trialese.settings import CorpusSettings, DedupSettings, RenderSettings, SplitSettings

WORDS = [f"word{number}" for number in range(2000)]


def make_trial(number: int, **changes: object) -> Trial:
    rng = random.Random(number)
    values = {
        "nct_id": f"NCT{number:08d}",
        "brief_title": f"Trial of {' '.join(rng.choices(WORDS, k=6))}",
        "brief_summary": " ".join(rng.choices(WORDS, k=80)),
        "first_posted": f"20{15 + number % 10}-06-01",
    }
    return Trial(**(values | changes))  # type: ignore[arg-type]


TRIALS = [make_trial(number) for number in range(60)]
COPY = make_trial(7, nct_id="NCT00000900", first_posted=None)
NEAR_COPY = make_trial(8, nct_id="NCT00000901", brief_title="Another title")
SHORT = Trial(nct_id="NCT00000902", brief_title="Too little to read")
ALL = [*TRIALS, COPY, NEAR_COPY, SHORT]
SETTINGS = CorpusSettings(new_from="2022-01-01")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return assemble_corpus(ALL, SETTINGS, tmp_path_factory.mktemp("run") / "corpus")


def test_what_is_dropped_has_its_reason(corpus: Corpus) -> None:
    assert read_drops(corpus) == [
        Drop("NCT00000900", "exact_duplicate"),
        Drop("NCT00000902", "too_short"),
    ]
    counts = corpus.manifest.counts
    assert counts["trials"] == 63
    assert counts["documents"] == 61
    assert counts["drops"] == {"exact_duplicate": 1, "too_short": 1}
    assert counts["clusters"] == 60
    assert counts["clusters_of_several"] == 2
    assert sum(counts["documents_by_split"].values()) == 61


def test_rows_carry_cluster_split_and_era(corpus: Corpus) -> None:
    rows = {row.nct_id: row for row in read_stored(corpus)}
    assert rows["NCT00000901"].cluster == rows["NCT00000008"].cluster == "NCT00000008"
    for row in rows.values():
        assert row.split == assign_split(row.cluster, SETTINGS.split)
        assert row.era == ("new" if row.first_posted >= "2022-01-01" else "old")
    assert list(rows) == sorted(rows)


def test_shuffled_trials_give_equal_bytes(corpus: Corpus, tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(ALL, len(ALL))
    again = assemble_corpus(shuffled, SETTINGS, tmp_path / "corpus")
    assert again.manifest == corpus.manifest
    verify_files(again.path)


def test_workers_give_equal_bytes(corpus: Corpus, tmp_path: Path) -> None:
    """Two processes, and more trials than one chunk holds."""
    many = [*ALL, *(make_trial(number) for number in range(2000, 2600))]
    one = assemble_corpus(many, SETTINGS, tmp_path / "one")
    two = assemble_corpus(many[::-1], SETTINGS, tmp_path / "two", workers=2)
    assert two.manifest == one.manifest
    assert two.manifest.counts["documents"] == 661


def test_by_date_a_whole_cluster_goes_by_its_first_trial(tmp_path: Path) -> None:
    split = SplitSettings(by="date", tune_from="2022-01-01", test_from="2023-01-01")
    trials = [
        make_trial(1, first_posted="2021-12-31"),
        make_trial(2, first_posted="2022-01-01"),
        make_trial(3, first_posted="2023-05-01"),
        make_trial(4, first_posted=None),
        make_trial(5, first_posted="2024-01-01"),
        make_trial(5, nct_id="NCT00000900", first_posted="2020-01-01", acronym="COPY"),
    ]
    corpus = assemble_corpus(trials, CorpusSettings(split=split), tmp_path / "corpus")
    splits = {row.nct_id: row.split for row in read_stored(corpus)}
    assert splits == {
        "NCT00000001": "train",
        "NCT00000002": "tune",
        "NCT00000003": "test",
        "NCT00000004": "train",
        "NCT00000005": "train",  # its copy was there in 2020
    }


def test_more_trials_move_none_of_the_old_ones(corpus: Corpus, tmp_path: Path) -> None:
    more = [*ALL, *(make_trial(number) for number in range(1000, 1060))]
    larger = assemble_corpus(more, SETTINGS, tmp_path / "corpus")
    splits = {row.nct_id: row.split for row in read_stored(larger)}
    assert all(splits[row.nct_id] == row.split for row in read_stored(corpus))


def test_one_id_with_two_texts_keeps_one_of_them(tmp_path: Path) -> None:
    twice = [make_trial(1), make_trial(2, nct_id="NCT00000001")]
    one = assemble_corpus(twice, SETTINGS, tmp_path / "one")
    other = assemble_corpus(twice[::-1], SETTINGS, tmp_path / "other")
    assert one.manifest.counts["drops"] == {"repeated_id": 1}
    assert one.manifest.files == other.manifest.files


@pytest.mark.parametrize(
    ("drop", "dropped"),
    [("none", {}), ("exact", {"exact_duplicate": 1}), ("near", {"near_duplicate": 2})],
)
def test_which_copies_go_is_a_setting(drop: str, dropped: dict[str, int], tmp_path: Path) -> None:
    settings = CorpusSettings(dedup=DedupSettings(drop=drop))  # type: ignore[arg-type]
    corpus = assemble_corpus(ALL, settings, tmp_path / "corpus")
    assert corpus.manifest.counts["drops"] == {"too_short": 1, **dropped}


def test_missing_dates_are_counted(tmp_path: Path) -> None:
    undated = [make_trial(number, first_posted=None) for number in range(3)]
    corpus = assemble_corpus(undated, SETTINGS, tmp_path / "corpus")
    assert corpus.manifest.counts["first_posted_missing"] == 3
    assert {row.era for row in read_stored(corpus)} == {"old"}


def test_no_trials_make_an_empty_corpus(tmp_path: Path) -> None:
    corpus = assemble_corpus([], SETTINGS, tmp_path / "corpus")
    assert list(read_documents(corpus)) == []
    assert corpus.manifest.counts["documents"] == 0


def test_an_error_midway_leaves_the_earlier_corpus(tmp_path: Path) -> None:
    before = assemble_corpus(TRIALS[:5], SETTINGS, tmp_path / "corpus")

    def breaking() -> object:
        yield from TRIALS
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        assemble_corpus(breaking(), SETTINGS, tmp_path / "corpus")  # type: ignore[arg-type]
    assert open_corpus(tmp_path / "corpus").manifest.digest == before.manifest.digest
    verify_files(tmp_path / "corpus")


def test_an_unknown_field_is_refused_before_any_work(tmp_path: Path) -> None:
    settings = CorpusSettings(render=RenderSettings(fields=("titel",)))
    with pytest.raises(RecipeError, match="titel"):
        assemble_corpus([], settings, tmp_path / "corpus")
    assert not is_complete(tmp_path / "corpus")


def test_from_a_snapshot(tmp_path: Path) -> None:
    from trialese.collect.collection import collect_snapshot
    from trialese.settings import CollectSettings, SampleSettings

    collected = collect_snapshot(
        CollectSettings(sample=SampleSettings(studies=80)), tmp_path / "snapshot"
    )
    settings = CorpusSettings(split=SplitSettings(tune_share=0.2, test_share=0.2))
    corpus = build_corpus(collected, settings, tmp_path / "corpus")
    assert corpus.manifest.inputs == {"snapshot": collected.manifest.digest}
    assert corpus.manifest.counts["trials"] == 80
    assert corpus.manifest.counts["documents"] > 40
    assert corpus.manifest.notes == collected.manifest.notes


def test_importing_the_room_loads_no_torch() -> None:
    code = (
        "import sys, trialese.corpus.assemble, trialese.corpus.packing;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
