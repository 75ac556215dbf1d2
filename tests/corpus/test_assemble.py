"""Trials become a corpus: filtered, clustered and split, in any order, by any processes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trialese.artifacts import is_complete, verify_files
from trialese.collect.collection import collect_snapshot
from trialese.collect.snapshot import read_trials
from trialese.corpus.assemble import (
    Intake,
    Prepared,
    PrepareParts,
    Preparer,
    assemble_corpus,
    build_corpus,
    era_of,
    join_prepared,
    keep_document,
    prepare_trials,
)
from trialese.corpus.dedup import Fingerprinter
from trialese.corpus.render import render_document
from trialese.corpus.split import assign_split
from trialese.corpus.store import open_corpus, read_documents, read_drops, read_stored
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.records import Corpus, Document, Drop, Snapshot, Trial
from trialese.settings import (
    CollectSettings,
    CorpusSettings,
    DedupSettings,
    FilterSettings,
    RenderSettings,
    SampleSettings,
    SplitSettings,
)

SETTINGS = FilterSettings(min_characters=10, max_characters=40, min_letters_share=0.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("nine char", "too_short"),
        ("x" * 41, "too_long"),
        ("1.2 3.4 5.6 abc", "few_letters"),
        ("ten chars!", None),
        ("≥ 18 years, α and β", None),
    ],
)
def test_reason(text: str, reason: str | None) -> None:
    document = Document("NCT1", text)
    expected = document if reason is None else Drop("NCT1", reason)
    assert keep_document(document, SETTINGS) == expected


PREPARED_AS = CorpusSettings()


def make_trials(number: int) -> list[Trial]:
    return [
        Trial(
            nct_id=f"NCT{place:08d}",
            brief_summary=" ".join(random.Random(place).choices(["α", "trial", "of", "b"], k=90)),
        )
        for place in range(number)
    ]


def test_prepared_is_rendered_and_fingerprinted() -> None:
    trial = make_trials(1)[0]
    prepared = Preparer(PREPARED_AS)(trial)
    text = render_document(trial, PREPARED_AS.render).text
    expected = Fingerprinter(PREPARED_AS.dedup)(text)
    found = prepared.fingerprint()
    assert prepared.text == text
    assert found.exact == expected.exact
    assert found.shingles.tolist() == expected.shingles.tolist()
    assert found.bands.tolist() == expected.bands.tolist()
    assert len(prepared.paragraph_hashes()) == 1


def test_what_is_dropped_carries_its_reason_alone() -> None:
    assert Preparer(PREPARED_AS)(Trial(nct_id="NCT1")) == Prepared("NCT1", None, "empty")


@pytest.mark.parametrize("number", [0, 700])
def test_two_processes_give_the_same_in_the_same_order(number: int) -> None:
    trials = make_trials(number)
    alone = list(prepare_trials(trials, PREPARED_AS))
    assert list(prepare_trials(iter(trials), PREPARED_AS, workers=2)) == alone
    assert [prepared.nct_id for prepared in alone] == [trial.nct_id for trial in trials]


def test_stopping_early_ends_the_workers() -> None:
    prepared = prepare_trials(make_trials(700), PREPARED_AS, workers=2)
    assert next(prepared).nct_id == "NCT00000000"
    prepared.close()  # warnings are errors: a child left running would be one


def test_a_worker_that_dies_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ArtifactError, match=r"a worker process ended early \(exit 1\)"):
        list(prepare_trials(make_trials(3), PREPARED_AS, workers=2))


def test_a_script_without_a_main_guard_may_use_workers(tmp_path: Path) -> None:
    import subprocess

    script = tmp_path / "script.py"
    script.write_text(
        "from trialese.corpus.assemble import prepare_trials\n"
        "from trialese.records import Trial\n"
        "from trialese.settings import CorpusSettings\n"
        "trials = [Trial(nct_id='NCT1', brief_summary='words of a trial ' * 20)]\n"
        "print(len(list(prepare_trials(trials, CorpusSettings(), workers=2))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("posted", "new_from", "era"),
    [
        ("2022-12-04", "2022-12-04", "new"),
        ("2022-12-03", "2022-12-04", "old"),
        ("2022-12", "2022-12-04", "old"),
        (None, "2022-12-04", "old"),
        ("1999-01-01", None, "new"),
        (None, None, "new"),
    ],
)
def test_era(posted: str | None, new_from: str | None, era: str) -> None:
    assert era_of(posted, new_from) == era


def test_texts_come_back_as_they_went_in(tmp_path: Path) -> None:
    settings = CorpusSettings(new_from="2020-01-01")
    prepare = Preparer(settings)
    texts = {f"NCT{row}": f"Summary: {'≥ é 東 word ' * 30}{row}" for row in range(9, 0, -1)}
    with Intake(settings, tmp_path) as intake:
        for nct_id, text in texts.items():
            summary = text.removeprefix("Summary: ")
            intake.take(prepare(Trial(nct_id=nct_id, brief_summary=summary)))
        intake.take(Prepared("NCT0", None, "empty"))
        clusters = intake.clusters()
        rows = intake.keep(clusters)
        stored = list(intake.stored(rows, clusters))
        assert intake.trials == 10
        assert [drop.reason for drop in intake.drops] == ["empty"]
    assert {row.nct_id: row.text for row in stored} == texts
    assert [row.nct_id for row in stored] == sorted(texts)
    assert list(tmp_path.iterdir()) == []  # the waiting files have no name


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
SETTINGS_OF_CORPUS = CorpusSettings(new_from="2022-01-01")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return assemble_corpus(ALL, SETTINGS_OF_CORPUS, tmp_path_factory.mktemp("run") / "corpus")


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
        assert row.split == assign_split(row.cluster, SETTINGS_OF_CORPUS.split)
        assert row.era == ("new" if row.first_posted >= "2022-01-01" else "old")
    assert list(rows) == sorted(rows)


def test_shuffled_trials_give_equal_bytes(corpus: Corpus, tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(ALL, len(ALL))
    again = assemble_corpus(shuffled, SETTINGS_OF_CORPUS, tmp_path / "corpus")
    assert again.manifest == corpus.manifest
    verify_files(again.path)


def test_workers_give_equal_bytes(corpus: Corpus, tmp_path: Path) -> None:
    """Two processes, and more trials than one chunk holds."""
    many = [*ALL, *(make_trial(number) for number in range(2000, 2600))]
    one = assemble_corpus(many, SETTINGS_OF_CORPUS, tmp_path / "one")
    two = assemble_corpus(many[::-1], SETTINGS_OF_CORPUS, tmp_path / "two", workers=2)
    assert two.manifest == one.manifest
    assert two.manifest.counts["documents"] == 661


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    settings = CollectSettings(source="sample", sample=SampleSettings(studies=300))
    return collect_snapshot(settings, tmp_path_factory.mktemp("prepared") / "snapshot")


def test_trials_prepared_anywhere_give_the_bytes_of_one_machine(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    alone = build_corpus(snapshot, SETTINGS_OF_CORPUS, tmp_path / "alone")
    rows = pq.read_table(snapshot.path / "trials.parquet")
    tables = [rows[start : start + 37] for start in range(0, len(rows), 37)]
    prepare = PrepareParts(SETTINGS_OF_CORPUS)
    parts = [prepare(table) for table in random.Random(3).sample(tables, len(tables))]
    joined = join_prepared(parts, snapshot, SETTINGS_OF_CORPUS, tmp_path / "joined")
    assert joined.manifest == alone.manifest
    verify_files(joined.path)
    first = min(trial.nct_id for trial in read_trials(snapshot))
    for wrong, told in (
        (parts[1:], r"NCT\d+: not prepared, as 37 in all"),
        ([*parts, parts[0]], "prepared twice"),
        ([*parts, prepare(rows[:1])], f"{first}: prepared twice"),
    ):
        with pytest.raises(RecordError, match=told):
            join_prepared(wrong, snapshot, SETTINGS_OF_CORPUS, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
    with pytest.raises(RecordError, match="no rows of a snapshot"):
        prepare(rows.drop_columns("brief_title"))


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.timeout(600)
def test_ray_data_prepares_the_bytes_of_one_machine(snapshot: Snapshot, tmp_path: Path) -> None:
    """The example of docs/refresh.md."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    alone = build_corpus(snapshot, SETTINGS_OF_CORPUS, tmp_path / "alone")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        parts = ray.data.read_parquet(str(snapshot.path / "trials.parquet")).map_batches(
            PrepareParts,
            fn_constructor_args=[SETTINGS_OF_CORPUS],
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        joined = join_prepared(
            parts.iter_batches(batch_format="pyarrow"),
            snapshot, SETTINGS_OF_CORPUS, tmp_path / "joined",
        )  # fmt: skip
    finally:
        ray.shutdown()
    assert joined.manifest == alone.manifest


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
    larger = assemble_corpus(more, SETTINGS_OF_CORPUS, tmp_path / "corpus")
    splits = {row.nct_id: row.split for row in read_stored(larger)}
    assert all(splits[row.nct_id] == row.split for row in read_stored(corpus))


def test_one_id_with_two_texts_keeps_one_of_them(tmp_path: Path) -> None:
    twice = [make_trial(1), make_trial(2, nct_id="NCT00000001")]
    one = assemble_corpus(twice, SETTINGS_OF_CORPUS, tmp_path / "one")
    other = assemble_corpus(twice[::-1], SETTINGS_OF_CORPUS, tmp_path / "other")
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
    corpus = assemble_corpus(undated, SETTINGS_OF_CORPUS, tmp_path / "corpus")
    assert corpus.manifest.counts["first_posted_missing"] == 3
    assert {row.era for row in read_stored(corpus)} == {"old"}


def test_no_trials_make_an_empty_corpus(tmp_path: Path) -> None:
    corpus = assemble_corpus([], SETTINGS_OF_CORPUS, tmp_path / "corpus")
    assert list(read_documents(corpus)) == []
    assert corpus.manifest.counts["documents"] == 0


def test_an_error_midway_leaves_the_earlier_corpus(tmp_path: Path) -> None:
    before = assemble_corpus(TRIALS[:5], SETTINGS_OF_CORPUS, tmp_path / "corpus")

    def breaking() -> object:
        yield from TRIALS
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        assemble_corpus(breaking(), SETTINGS_OF_CORPUS, tmp_path / "corpus")  # type: ignore[arg-type]
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


BUILD = """
import os, random, resource, signal, sys
from pathlib import Path
from trialese.corpus.assemble import assemble_corpus
from trialese.errors import TrialeseError
from trialese.records import Trial
from trialese.settings import CorpusSettings

path, phase, most_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if most_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

def trials():
    for number in range(600):
        words = random.Random(number).choices([f"word{n}" for n in range(500)], k=150)
        yield Trial(nct_id=f"NCT{number:08d}", brief_summary=" ".join(words))

def progress(what, done, total):
    if what == phase:
        os.kill(os.getpid(), signal.SIGKILL)

try:
    assemble_corpus(trials(), CorpusSettings(), path, workers=int(sys.argv[4]), progress=progress)
except TrialeseError as error:
    sys.exit(str(error))
"""


def build(path: Path, phase: str = "", most_bytes: int = 0, workers: int = 1) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(path), phase, str(most_bytes), str(workers)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def one_trial(nct_id: str) -> list[Trial]:
    return [Trial(nct_id=nct_id, brief_summary=f"A corpus of one trial called {nct_id}. " * 9)]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return assemble_corpus(one_trial("NCT1"), CorpusSettings(), tmp_path / "corpus").path


def check_whole(path: Path, nct_id: str) -> None:
    verify_files(path)
    assert [document.nct_id for document in read_documents(open_corpus(path))] == [nct_id]


@pytest.mark.parametrize(
    ("phase", "workers"),
    [("corpus: trials rendered", 2), ("corpus: writing documents", 1)],
)
def test_sigkill(earlier: Path, phase: str, workers: int) -> None:
    assert build(earlier, phase, workers=workers)[0] == -signal.SIGKILL
    check_whole(earlier, "NCT1")
    assemble_corpus(one_trial("NCT2"), CorpusSettings(), earlier)
    check_whole(earlier, "NCT2")
    assert [path.name for path in earlier.parent.iterdir() if path.is_dir()] == ["corpus"]


@pytest.mark.parametrize("most_bytes", [50_000, 500_000])
def test_a_file_that_cannot_grow(earlier: Path, most_bytes: int) -> None:
    """A limit on file size stands for a full disk; the second one hits when most is done."""
    code, told = build(earlier, most_bytes=most_bytes)
    assert code == 1
    assert told.count("\n") == 1
    assert "free some space" in told
    check_whole(earlier, "NCT1")
    assemble_corpus(one_trial("NCT2"), CorpusSettings(), earlier)
    check_whole(earlier, "NCT2")


def test_passages_of_one_study_are_never_divided(tmp_path: Path) -> None:
    names = [f"NCT0000{number:04d}{tail}" for number in range(60) for tail in ("", "-0a1b2c")]
    passages = [
        Trial(nct_id=name, detailed_description=f"Words of {name} about cold feet alone. " * 9)
        for name in names
    ]
    corpus = assemble_corpus(passages, SETTINGS_OF_CORPUS, tmp_path / "corpus")
    rows = {row.nct_id: row for row in read_stored(corpus)}
    assert rows.keys() == set(names)
    assert {row.split for row in rows.values()} == {"train", "tune", "test"}
    for name, row in rows.items():
        assert (row.cluster, row.split) == (name[:11], rows[name[:11]].split)
