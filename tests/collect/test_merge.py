import random

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.collect import merge
from trialese.collect.merge import TRIAL_COLUMNS, RunWriter, TrialMerger
from trialese.collect.parse import Parsed
from trialese.records import Trial


def parsed(trial):
    return Parsed(trial, None, msgspec.msgpack.encode(trial))


def sort(trials, folder, *, prefix="run"):
    runs = RunWriter(folder, prefix)
    for trial in trials:
        runs.add(parsed(trial))
    runs.flush()
    merger = TrialMerger(folder)
    merger.adopt(runs.runs, runs.renamed)
    path = folder / "trials.parquet"
    assert merger.write(path) == pq.read_metadata(path).num_rows
    return path, merger


def stored(path):
    rows = pq.read_table(path, columns=TRIAL_COLUMNS.names).to_pylist()
    return msgspec.convert(rows, list[Trial])


def plainly(trials):
    """What the sorter must give, the slow way; and how many duplicates it drops."""
    best = {}
    for trial in trials:
        packed = msgspec.msgpack.encode(trial)
        rank = (trial.last_update_posted or "", len(packed))
        if trial.nct_id not in best or rank > best[trial.nct_id][0]:
            best[trial.nct_id] = (rank, trial)
    return [best[nct_id][1] for nct_id in sorted(best)], len(trials) - len(best)


ids = st.integers(0, 12).map(lambda n: f"NCT{n:08d}")
dates = st.sampled_from([None, "2020", "2020-01", "2020-01-02", "2021-05-05"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(ids, dates), max_size=60), st.randoms(use_true_random=False))
def test_sorting_agrees_with_the_slow_way(tmp_path_factory, rows, rng):
    trials = [
        Trial(nct_id=nct_id, last_update_posted=date, brief_title="x" * position)
        for position, (nct_id, date) in enumerate(rows)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "RUN_TRIALS", 7)
        patch.setattr(merge, "BATCH_TRIALS", 2)
        patch.setattr(merge, "ROW_GROUP_TRIALS", 5)
        path, sorter = sort(trials, tmp_path_factory.mktemp("a"))
        expected, duplicates = plainly(trials)
        assert stored(path) == expected
        assert sorter.duplicates == duplicates
        groups = pq.read_metadata(path)
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        assert all(size == 5 for size in sizes[:-1])
        shuffled = list(trials)
        rng.shuffle(shuffled)
        again, _ = sort(shuffled, tmp_path_factory.mktemp("b"))
        assert again.read_bytes() == path.read_bytes()


def test_the_size_of_runs_does_not_show(tmp_path, monkeypatch):
    rng = random.Random(7)
    trials = [
        Trial(nct_id=f"NCT{rng.randrange(300):08d}", keywords=("a", str(i)), enrollment=i)
        for i in range(700)
    ]
    (tmp_path / "one").mkdir()
    whole, _ = sort(trials, tmp_path / "one")
    monkeypatch.setattr(merge, "RUN_BYTES", 900)
    monkeypatch.setattr(merge, "BATCH_TRIALS", 3)
    (tmp_path / "many").mkdir()
    pieces, _ = sort(trials, tmp_path / "many")
    assert pieces.read_bytes() == whole.read_bytes()


def test_an_obsolete_number_gives_way_to_the_study_that_lists_it(tmp_path):
    trials = [
        Trial(nct_id="NCT00000001"),
        Trial(nct_id="NCT00000002", nct_id_aliases=("NCT00000001",)),
        # Two that name each other: neither is obsolete, and neither may get lost.
        Trial(nct_id="NCT00000003", nct_id_aliases=("NCT00000004",)),
        Trial(nct_id="NCT00000004", nct_id_aliases=("NCT00000003",)),
        Trial(nct_id="NCT00000005", nct_id_aliases=("NCT00000005",)),
    ]
    path, sorter = sort(trials, tmp_path)
    assert [trial.nct_id[-1] for trial in stored(path)] == ["2", "3", "4", "5"]
    assert sorter.aliases == 1


def test_nothing_at_all_is_an_empty_table(tmp_path):
    path, _ = sort([], tmp_path)
    assert stored(path) == []
    assert pq.read_schema(path).names[: len(TRIAL_COLUMNS)] == list(Trial.__struct_fields__)
