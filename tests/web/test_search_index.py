"""The snapshot to look things up in: against a plain pass over all trials."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.artifacts import work_folder
from trialese.collect.snapshot import open_snapshot, read_trials
from trialese.errors import ArtifactError
from trialese.records import Snapshot, Trial
from trialese.web.search_index import Query, SearchIndex, build_index, match_of


@pytest.fixture(scope="module")
def trials(snapshot: Snapshot) -> list[Trial]:
    return list(read_trials(snapshot))


@pytest.fixture(scope="module")
def index(snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    index = SearchIndex(snapshot)
    some = list(read_trials(snapshot))[:10]
    readings = [
        (trial.nct_id, f"text {number}", np.array([0.9, number / 10]), ["Money"][: number < 4])
        for number, trial in enumerate(some)
    ]
    index.add_scores("m", readings, until=10)
    return index


def year_of(trial: Trial) -> int:
    return int((trial.first_posted or "0")[:4])


def ids(index: SearchIndex, **asked: object) -> list[str]:
    return [found.nct_id for found in index.search(Query(**asked), most=100)]  # type: ignore[arg-type]


def test_words_are_found_wherever_they_stand(index: SearchIndex, trials: list[Trial]) -> None:
    for word in ("asthma", "pregnant"):
        held = {
            trial.nct_id
            for trial in trials
            if word in " ".join((*trial.conditions, *trial.keywords, *trial.interventions,
                                 trial.brief_title, trial.official_title, trial.brief_summary,
                                 trial.detailed_description, trial.eligibility_criteria,
                                 trial.why_stopped)).lower()
        }  # fmt: skip
        assert held, "the sample no longer has this word; choose another"
        assert set(ids(index, words=word)) >= held


def test_nct_numbers_are_found(index: SearchIndex, trials: list[Trial]) -> None:
    first, second = (trial.nct_id for trial in trials[:2])
    assert ids(index, words=first) == [first]
    assert set(ids(index, words=f"{second.lower()} {first}")) == {first, second}
    assert ids(index, words=f"{first} nowhere") == []
    assert len(ids(index, words=first[:-1])) >= 1 and first in ids(index, words=first[:-1])
    assert index.counts(Query(words=first)).total == 1
    assert ids(index, words="NCT99999999") == []
    index._base().execute("INSERT INTO aliases VALUES ('NCT77777777', ?)", (second,))
    assert ids(index, words="nct77777777") == [second]
    index._base().execute("DELETE FROM aliases WHERE alias = 'NCT77777777'")


def test_filters_and_counts_are_those_of_a_plain_pass(
    index: SearchIndex, trials: list[Trial]
) -> None:
    phase = next(phase for trial in trials for phase in trial.phases)
    asked = Query(phase=phase, sex="All", year_from=2005)
    kept = [
        trial
        for trial in trials
        if phase in trial.phases and trial.sex == "All" and year_of(trial) > 2004
    ]
    assert sorted(ids(index, phase=phase, sex="All", year_from=2005)) == [t.nct_id for t in kept]
    counts = index.counts(asked)
    assert counts.total == len(kept)
    assert counts.sexes == Counter(
        t.sex or "" for t in trials if phase in t.phases and year_of(t) > 2004
    )  # what other choices of the same filter would give
    assert sum(index.counts(Query()).years.values()) == len(trials)


def test_without_words_the_youngest_come_first_and_pages_join(
    index: SearchIndex, trials: list[Trial]
) -> None:
    pages = [
        found.nct_id
        for skip in range(0, len(trials), 7)
        for found in index.search(Query(), most=7, skip=skip)
    ]
    ordered = sorted(trials, key=lambda t: (t.first_posted or "", t.nct_id), reverse=True)
    assert pages == [trial.nct_id for trial in ordered]


def test_predicted_labels_filter_and_count(index: SearchIndex, trials: list[Trial]) -> None:
    money = {trial.nct_id for trial in trials[:4]}
    assert set(ids(index, model="m", label="Money")) == money
    assert set(ids(index, model="m", label="")) == {trial.nct_id for trial in trials[4:10]}
    assert index.counts(Query(model="m")).labels == {"": 6, "Money": 4}
    told = {found.nct_id: found.labels for found in index.search(Query(model="m"), most=100)}
    assert told[trials[0].nct_id] == ("Money",)
    assert told[trials[5].nct_id] == ()
    assert told[trials[20].nct_id] is None


def test_readings_come_back_and_counts_know_of_new_ones(snapshot: Snapshot, tmp_path: Path) -> None:
    shutil.copytree(snapshot.path, tmp_path / "copy")
    snapshot = open_snapshot(tmp_path / "copy")
    index = SearchIndex(snapshot)
    (first, second) = (trial.nct_id for trial in list(read_trials(snapshot))[:2])
    index.add_scores("n", [(first, "one", np.array([0.25]), ["A"])], until=1)
    assert index.counts(Query(model="n")).labels == {"A": 1}
    index.add_scores("n", [(second, "two", np.array([0.5]), ["A"])], until=2)
    assert index.counts(Query(model="n")).labels == {"A": 2}
    again = SearchIndex(snapshot)
    assert again.scored_until("n") == 2
    assert [(r.nct_id, r.text, r.scores) for r in again.scored_texts("n", most=10)] == [
        (first, "one", (0.25,)),
        (second, "two", (0.5,)),
    ]
    assert len(list(again.scored_texts("n", most=1))) == 1
    index.close()
    again.close()


def test_an_index_of_another_snapshot_or_a_broken_one_is_made_anew(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    shutil.copytree(snapshot.path, tmp_path / "copy")
    snapshot = open_snapshot(tmp_path / "copy")
    path = build_index(snapshot)
    assert path == work_folder(snapshot.path).with_suffix(".shelf")
    path.write_bytes(b"half an index")
    assert build_index(snapshot) == path
    index = SearchIndex(snapshot)
    assert index.trials == 60
    index.close()
    assert not list(snapshot.path.parent.glob("*.partial"))


@pytest.fixture
def read_only(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Snapshot]:
    """A copy of the snapshot on a file system on which nothing can be made."""
    folder = tmp_path / "mount"
    folder.mkdir()
    if (
        shutil.which("mount")
        and subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("file systems cannot be mounted here")
    try:
        shutil.copytree(snapshot.path, folder / "snapshot")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield open_snapshot(folder / "snapshot")
    finally:
        subprocess.run(["umount", folder], check=True)


def test_the_index_of_a_snapshot_that_cannot_be_written_goes_to_the_cache(
    read_only: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_index(read_only)
    assert path.parent == tmp_path / "cache" / "trialese"
    assert build_index(read_only) == path
    monkeypatch.setenv("XDG_CACHE_HOME", str(read_only.path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    index = SearchIndex(read_only)
    assert index.trials == 60
    (temporary,) = tmp_path.glob("trialese-index-*")
    index.close()
    assert not temporary.exists()
    monkeypatch.setattr("tempfile.tempdir", str(read_only.path))
    with pytest.raises(ArtifactError, match="no room for its search index"):
        build_index(read_only)


def test_the_index_of_another_user_is_not_trusted(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(snapshot.path, tmp_path / "copy")
    snapshot = open_snapshot(tmp_path / "copy")
    path = build_index(snapshot)
    with sqlite3.connect(path) as base:
        base.execute("UPDATE trials SET title = 'planted'")
    base.close()
    assert build_index(snapshot) == path
    try:
        os.chown(path, 12345, 12345)
    except (AttributeError, OSError):
        pytest.skip("only root gives files away")
    assert build_index(snapshot) == path
    index = SearchIndex(snapshot)
    assert all(hit.title != "planted" for hit in index.search(Query(), most=5))
    index.close()


def test_rests_of_a_killed_server_go(snapshot: Snapshot, tmp_path: Path) -> None:
    shutil.copytree(snapshot.path, tmp_path / "copy")
    beside = work_folder(tmp_path / "copy").with_suffix(".shelf")
    rests = [beside.with_name(f"{beside.name}.77.partial{end}") for end in ("", "-journal")]
    for rest in rests:
        rest.touch()
    build_index(open_snapshot(tmp_path / "copy"))
    assert not any(rest.exists() for rest in rests)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("", ""),
        ("!?", ""),
        ("breast canc", '"breast" AND "canc"*'),
        ("breast cancer ", '"breast" AND "cancer"'),
        ('"breast cancer', '"breast cancer"'),
        ("lung -small", '"lung" NOT "small"'),
        ("HER2-positive", '"HER2-positive"*'),
        ("-only", ""),
    ],
)
def test_what_is_typed_becomes_a_query(words: str, match: str) -> None:
    assert match_of(words) == match


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_words_break_the_search(words: str) -> None:
    base = sqlite3.connect(":memory:")
    base.execute("CREATE VIRTUAL TABLE words USING fts5 (a, tokenize='porter unicode61')")
    match = match_of(words)
    if match:
        found = base.execute("SELECT * FROM words WHERE words MATCH ?", (match,)).fetchall()
        assert found == []
    base.close()
