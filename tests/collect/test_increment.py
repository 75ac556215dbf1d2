"""The next snapshot from the last one and what changed equals one collected afresh."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pyarrow as pa
import pytest

from tests.loopback import Registry, id_of, make_study
from trialese.artifacts import MANIFEST_NAME, write_bytes
from trialese.collect import diff
from trialese.collect import increment as module
from trialese.collect.collection import collect_snapshot
from trialese.collect.diff import compare_snapshots
from trialese.collect.increment import collect_increment, merge_increment
from trialese.collect.merge import ROW_COLUMNS
from trialese.collect.snapshot import (
    OVERLAY_NAME,
    TRIALS_NAME,
    find_trials,
    open_snapshot,
    read_rejects,
    read_rows,
    read_trials,
)
from trialese.errors import RecipeError, RegistryError
from trialese.records import Snapshot
from trialese.settings import CollectSettings, SampleSettings


def settings_for(registry: Registry, **more: Any) -> CollectSettings:
    return CollectSettings(
        source="registry",
        url=registry.url,
        query="asthma",
        pause_seconds=0.0,
        **{"page_size": 10, "retries": 0, **more},
    )


def rows_of(snapshot: Snapshot) -> pa.Table:
    tables = [table.cast(ROW_COLUMNS) for table in read_rows(snapshot, ROW_COLUMNS.names)]
    return pa.concat_tables([ROW_COLUMNS.empty_table(), *tables]).combine_chunks()


def assert_same(merged: Snapshot, fresh: Snapshot) -> None:
    assert rows_of(merged).equals(rows_of(fresh))
    assert read_rejects(merged) == read_rejects(fresh)
    for name in ("trials", "rejects"):
        assert merged.manifest.counts[name] == fresh.manifest.counts[name], name
    for name in ("data_timestamp", "source"):
        assert merged.manifest.notes[name] == fresh.manifest.notes[name], name
    assert [t.nct_id for t in read_trials(merged)] == [t.nct_id for t in read_trials(fresh)]
    assert not compare_snapshots(merged, fresh).changed


def update(study: dict[str, Any], day: str, **texts: str) -> None:
    """A new version of the study, posted on that day."""
    status = study["protocolSection"]["statusModule"]
    status["lastUpdatePostDateStruct"] = {"date": day, "type": "ACTUAL"}
    if "why" in texts:
        status |= {"overallStatus": "TERMINATED", "whyStopped": texts["why"]}
    if "title" in texts:
        study["protocolSection"]["identificationModule"]["briefTitle"] = texts["title"]


class World:
    """A registry with a calendar, the run's snapshot of it, and the next one by increment."""

    def __init__(self, registry: Registry, folder: Path, **more: Any) -> None:
        self.registry, self.folder = registry, folder
        registry.day = "2024-09-24"
        for study in registry.studies:
            update(study, "2024-06-01")
        self.settings = settings_for(registry, **more)
        self.day = 0
        self.held = collect_snapshot(self.settings, folder / "held-0")

    def next(self, day: str, **more: Any) -> tuple[Snapshot, Snapshot]:
        """(by increment, afresh) with data of that day; the first is held from now on."""
        self.registry.day = day
        self.day += 1
        asked = len(self.registry.asked)
        found = collect_increment(
            self.settings, self.held, self.folder / f"work-{self.day}", overlap_days=14, **more
        )
        merged = merge_increment(self.settings, self.held, found, self.folder / f"held-{self.day}")
        self.requests = len(self.registry.asked) - asked
        fresh = collect_snapshot(self.settings, self.folder / f"fresh-{self.day}")
        # What lies over a file that both share is compared alone, and tells the same.
        told = compare_snapshots(merged, self.held)
        with mock.patch.object(diff, "_not_shared", return_value=None):
            assert told == compare_snapshots(merged, self.held)
        self.found, self.held = found, merged
        return merged, fresh


@pytest.fixture(params=["listed", "counted", "overlaid"])
def world(
    request: pytest.FixtureRequest,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Each of the ways that small and large collections go."""
    if request.param == "overlaid":
        monkeypatch.setattr(module, "WHOLE_TRIALS", 0)
        monkeypatch.setattr(module, "OVERLAY_SHARE", 10.0)
    return World(registry, tmp_path, **({"page_size": 1} if request.param == "counted" else {}))


def test_new_changed_and_late_updates(world: World) -> None:
    studies = world.registry.studies
    studies.append(make_study(99))
    update(studies[-1], "2024-09-25")
    update(studies[3], "2024-09-25", why="Slow accrual")
    update(studies[4], "2024-09-15", title="Dated before the last data")
    merged, fresh = world.next("2024-09-25")
    assert_same(merged, fresh)
    assert find_trials(merged, ["NCT00000004"])["NCT00000004"].why_stopped == "Slow accrual"


def test_nothing_new_asks_for_the_version_alone(world: World) -> None:
    merged, fresh = world.next("2024-09-24")
    assert_same(merged, fresh)
    assert world.requests == 1


def test_what_is_gone_and_what_came_back_with_an_old_date(world: World) -> None:
    gone = world.registry.studies.pop(7)
    assert_same(*world.next("2024-09-25"))
    world.registry.studies.append(gone)
    assert_same(*world.next("2024-09-26"))
    assert id_of(gone) in {trial.nct_id for trial in read_trials(world.held)}


def test_one_gone_and_another_back_on_the_same_day(world: World) -> None:
    first = world.registry.studies.pop(7)
    assert_same(*world.next("2024-09-25"))
    world.registry.studies.pop(11)
    world.registry.studies.append(first)
    assert_same(*world.next("2024-09-26"))


def merge_two(world: World) -> tuple[Any, Any, Any]:
    """A study with the number of another as an alias from the 25th on, the other, and what
    identifies the first."""
    kept, obsolete = world.registry.studies[2], world.registry.studies[5]
    identity = kept["protocolSection"]["identificationModule"]
    identity["nctIdAliases"] = [id_of(obsolete)]
    update(kept, "2024-09-25")
    world.registry.studies.remove(obsolete)
    assert_same(*world.next("2024-09-25"))
    return kept, obsolete, identity


def test_numbers_that_are_merged_and_parted_again(world: World) -> None:
    kept, obsolete, identity = merge_two(world)
    identity["nctIdAliases"] = []
    update(kept, "2024-09-26")
    world.registry.studies.append(obsolete)
    assert_same(*world.next("2024-09-26"))


def test_an_alias_that_the_registry_still_lists_is_dropped_as_ever(world: World) -> None:
    kept, obsolete = world.registry.studies[2], world.registry.studies[5]
    kept["protocolSection"]["identificationModule"]["nctIdAliases"] = [id_of(obsolete)]
    update(kept, "2024-09-25")
    assert_same(*world.next("2024-09-25"))
    update(obsolete, "2024-09-26")
    assert_same(*world.next("2024-09-26"))
    assert id_of(obsolete) not in {trial.nct_id for trial in read_trials(world.held)}


def test_a_record_that_breaks_and_is_mended(world: World) -> None:
    broken = world.registry.studies[6]["protocolSection"]
    module_, broken["eligibilityModule"] = broken["eligibilityModule"], ["no module"]
    update(world.registry.studies[6], "2024-09-25")
    merged, fresh = world.next("2024-09-25")
    assert_same(merged, fresh)
    broken["eligibilityModule"] = module_
    update(world.registry.studies[6], "2024-09-26")
    assert_same(*world.next("2024-09-26"))


def test_an_obsolete_number_that_stands_alone_again(world: World) -> None:
    kept, obsolete, identity = merge_two(world)
    world.registry.studies.remove(kept)  # and the other comes back on the day on which it goes
    world.registry.studies.append(obsolete)
    assert_same(*world.next("2024-09-26"))
    identity["nctIdAliases"] = [id_of(world.registry.studies[0])]
    world.registry.studies.append(kept)  # back, as the later number of another one
    first = world.registry.studies.pop(0)
    assert_same(*world.next("2024-09-27"))
    identity["nctIdAliases"] = []
    update(kept, "2024-09-28")  # parted again, and the other comes with an old date
    world.registry.studies.append(first)
    assert_same(*world.next("2024-09-28"))


def test_a_study_that_lost_its_number_is_gone(world: World) -> None:
    identity = world.registry.studies[4]["protocolSection"]["identificationModule"]
    lost, identity["nctId"] = identity["nctId"], ""
    merged, fresh = world.next("2024-09-25", list_from="2024-09-25")
    assert rows_of(merged).equals(rows_of(fresh))
    assert lost not in {trial.nct_id for trial in read_trials(merged)}


def test_data_older_than_those_held_are_not_taken(world: World) -> None:
    update(world.registry.studies[3], "2024-09-25", why="Slow accrual")
    world.next("2024-09-25")
    world.registry.studies.pop()
    with pytest.raises(RegistryError, match=r"2024-09-24T.*, older than those held \(2024-09-25T"):
        world.next("2024-09-24")
    world.settings = msgspec.structs.replace(world.settings, ids=None, page_size=7)
    assert_same(*world.next("2024-09-26"))


@pytest.mark.parametrize("day", ["", "soon"])
def test_an_answer_without_a_time_is_told(world: World, day: str) -> None:
    with pytest.raises(RegistryError, match=r"is no time; check `collect\.url`"):
        world.next(day)


def test_a_field_that_came_to_the_schema(world: World) -> None:
    study = world.registry.studies[6]
    study["protocolSection"]["identificationModule"]["nobodyKnowsIt"] = {"a": [1, 2]}
    update(study, "2024-09-25", title="With a new field")
    assert_same(*world.next("2024-09-25"))


def test_a_study_without_a_date(world: World) -> None:
    study = make_study(77)
    del study["protocolSection"]["statusModule"]["studyFirstPostDateStruct"]
    del study["protocolSection"]["statusModule"]["lastUpdatePostDateStruct"]
    world.registry.studies.append(study)
    assert_same(*world.next("2024-09-25"))


def test_a_date_that_is_none(world: World) -> None:
    odd = [None, [], "2024-09-25", {}, {"date": None}, {"date": 20240925}, {"date": "2024-09"}]
    dates = ("lastUpdatePostDateStruct", "studyFirstPostDateStruct")
    for study, (date, name) in zip(world.registry.studies, product(odd, dates), strict=False):
        update(study, "2024-09-25", title="Of another kind since")
        study["protocolSection"]["statusModule"][name] = date
    assert_same(*world.next("2024-09-25", list_from="2024-09-25"))
    update(world.registry.studies[20], "2024-09-26", title="And on it goes")
    assert_same(*world.next("2024-09-26"))


def test_a_study_that_moved_to_another_day_of_first_posting_is_not_gone(world: World) -> None:
    days = ["1998-01-01", "2005-06-01", "2030-01-01", "2024-09"]
    for study, posted in zip(world.registry.studies, days, strict=False):
        status = study["protocolSection"]["statusModule"]
        status["studyFirstPostDateStruct"] = {"date": posted}  # and no update tells of it
    assert_same(*world.next("2024-09-25"))


def test_a_study_that_moved_in_place_of_another_is_not_gone(
    registry: Registry, tmp_path: Path
) -> None:
    world = World(registry, tmp_path, page_size=1)
    moved, gone = registry.studies[4], registry.studies[5]
    posted = gone["protocolSection"]["statusModule"]["studyFirstPostDateStruct"]
    registry.studies.remove(gone)  # so the year that it moved to counts as many as ever
    moved["protocolSection"]["statusModule"]["studyFirstPostDateStruct"] = posted
    merged, _ = world.next("2024-09-25")
    assert id_of(moved) in {trial.nct_id for trial in read_trials(merged)}


BROKEN = ["a \ud800 lone surrogate", float("nan"), {"deep": []}]


def test_records_that_cannot_be_read_cost_neither_their_page_nor_the_day(world: World) -> None:
    broken = list(zip(world.registry.studies[4:], BROKEN, strict=False))
    for study, value in broken:
        study["protocolSection"]["identificationModule"]["briefTitle"] = value
        update(study, "2024-09-25")  # no other one is new
    assert_same(*world.next("2024-09-25"))
    update(world.registry.studies[0], "2024-09-26", title="Another")
    assert_same(*world.next("2024-09-26"))
    for study, _ in broken:
        update(study, "2024-09-27", title="Mended")
    assert_same(*world.next("2024-09-27"))


def test_what_could_never_be_read_is_in_nobodys_way(registry: Registry, tmp_path: Path) -> None:
    identity = registry.studies[4]["protocolSection"]["identificationModule"]
    identity["briefTitle"] = BROKEN[0]
    world = World(registry, tmp_path)
    assert [each.nct_id for each in read_rejects(world.held)] == ["NCT00000005"]
    for day in ("2024-09-25", "2024-09-26"):  # the listing shows it, and it alone is fetched
        assert_same(*world.next(day))


def test_many_days_in_a_row_end_in_the_same(world: World) -> None:
    for day in range(25, 30):
        study = make_study(100 + day)
        update(study, f"2024-09-{day}")
        world.registry.studies.append(study)
        update(world.registry.studies[day % 7], f"2024-09-{day}", why=f"Reason of the {day}th")
        del world.registry.studies[day % 5]
        assert_same(*world.next(f"2024-09-{day}"))


def test_whole_files_are_the_bytes_of_a_fresh_collection(
    registry: Registry, tmp_path: Path
) -> None:
    world = World(registry, tmp_path)
    update(registry.studies[3], "2024-09-25", why="Slow accrual")
    merged, fresh = world.next("2024-09-25")
    both = [(each.path / TRIALS_NAME).read_bytes() for each in (merged, fresh)]
    assert both[0] == both[1]


def test_an_overlay_leaves_the_trials_as_they_are(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_TRIALS", 20)
    monkeypatch.setattr(module, "OVERLAY_SHARE", 0.1)
    world = World(registry, tmp_path)
    first = (world.held.path / TRIALS_NAME).stat().st_ino
    update(registry.studies[3], "2024-09-25", why="Slow accrual")
    world.next("2024-09-25")
    assert (world.held.path / TRIALS_NAME).stat().st_ino == first
    assert (world.held.path / OVERLAY_NAME).is_file()
    for study in registry.studies[:9]:
        update(study, "2024-09-26", title="Over a tenth of them")
    assert_same(*world.next("2024-09-26"))
    assert (world.held.path / TRIALS_NAME).stat().st_ino != first
    assert not (world.held.path / OVERLAY_NAME).exists()


def test_a_late_update_beyond_the_overlap_is_found_by_the_monthly_listing(
    registry: Registry, tmp_path: Path
) -> None:
    world = World(registry, tmp_path, page_size=1)  # too many pages to be listed every day
    update(registry.studies[4], "2024-07-01", title="Very late")
    merged, fresh = world.next("2024-09-25", list_from="2024-09-26")
    assert not world.found.listed
    assert not rows_of(merged).equals(rows_of(fresh))
    assert_same(*world.next("2024-09-26", list_from="2024-09-26"))
    assert world.found.listed


def test_a_large_collection_is_counted_and_only_differing_years_listed(
    registry: Registry, tmp_path: Path
) -> None:
    world = World(registry, tmp_path, page_size=1)
    gone = registry.studies.pop(7)
    asked = len(registry.asked)
    assert_same(*world.next("2024-09-25"))
    listing = [
        query["filter.advanced"]
        for _, _, query in registry.asked[asked:]
        if query.get("fields", "").startswith("NCTId|") and query.get("pageSize") == "1"
        and "pageToken" not in query
    ]  # fmt: skip
    year = gone["protocolSection"]["statusModule"]["studyFirstPostDateStruct"]["date"][:4]
    assert len(listing) == 1
    assert f"RANGE[{year}-01-01,{year}-12-31]" in listing[0]


def test_a_day_without_an_answer_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    world = World(registry, tmp_path)
    before = (world.held.path / MANIFEST_NAME).read_bytes()
    registry.silent = True
    with pytest.raises(RegistryError, match="503"):
        world.next("2024-09-25")
    registry.silent = False
    update(registry.studies[4], "2024-09-25", title="Of the silent day")
    assert (world.held.path / MANIFEST_NAME).read_bytes() == before
    assert_same(*world.next("2024-09-26"))


def test_a_registry_that_is_refreshed_meanwhile_is_an_error(
    registry: Registry, tmp_path: Path
) -> None:
    world = World(registry, tmp_path)
    update(registry.studies[4], "2024-09-25", title="Changed")
    listed = []

    def renew(number: int) -> None:
        if registry.asked[-1][2].get("fields", "").startswith("NCTId|") and not listed:
            listed.append(number)
            registry.day = "2024-09-26"

    registry.on_request = renew
    with pytest.raises(RegistryError, match="meanwhile"):
        world.next("2024-09-25")
    registry.on_request = None
    assert_same(*world.next("2024-09-26"))


def test_a_list_of_numbers_is_read_as_a_whole(registry: Registry, tmp_path: Path) -> None:
    write_bytes(tmp_path / "ids.txt", b"NCT00000003\nNCT00000004\nNCT00000777\n")
    world = World(registry, tmp_path, ids=str(tmp_path / "ids.txt"))
    update(registry.studies[3], "2024-06-01", title="With the old date")
    assert_same(*world.next("2024-09-25"))


def test_a_folder_where_files_arrive(tmp_path: Path) -> None:
    folder = tmp_path / "arrivals"
    study = make_study(1)
    write_bytes(folder / "a.json", msgspec.json.encode([study, make_study(2)]))
    settings = CollectSettings(source="files", paths=(str(folder),))
    older = collect_snapshot(settings, tmp_path / "older")
    same = collect_increment(settings, older, tmp_path / "work", overlap_days=0)
    assert not same.collected
    newer = copy.deepcopy(study)
    update(newer, "2026-01-01", why="No funds")
    write_bytes(folder / "b.json", msgspec.json.encode([newer, make_study(3)]))
    found = collect_increment(settings, older, tmp_path / "work", overlap_days=0)
    merged = merge_increment(settings, older, found, tmp_path / "merged")
    assert_same(merged, collect_snapshot(settings, tmp_path / "fresh"))
    (folder / "a.json").unlink()
    found = collect_increment(settings, merged, tmp_path / "work2", overlap_days=0)
    merged = merge_increment(settings, merged, found, tmp_path / "merged2")
    assert [trial.nct_id for trial in read_trials(merged)] == ["NCT00000001", "NCT00000003"]


def test_the_sample_goes_on_by_a_month(tmp_path: Path) -> None:
    settings = CollectSettings(source="sample", sample=SampleSettings(studies=300))
    older = collect_snapshot(settings, tmp_path / "older")
    found = collect_increment(settings, older, tmp_path / "work", overlap_days=0)
    merged = merge_increment(settings, older, found, tmp_path / "merged")
    changes = compare_snapshots(merged, older)
    assert len(changes.new) == 4
    assert 0 < len(changes.changed) < 15
    assert not changes.vanished
    again = collect_increment(settings, merged, tmp_path / "work2", overlap_days=0)
    assert again.data_timestamp == "2025-03-01"
    assert merged.manifest.notes["data_timestamp"] == "2025-01-30"
    assert all(t.first_posted > "2024-12-31" for t in find_trials(merged, changes.new).values())


def test_there_must_be_something_to_collect(tmp_path: Path) -> None:
    sample = CollectSettings(source="sample", sample=SampleSettings(studies=5))
    older = collect_snapshot(sample, tmp_path / "older")
    with pytest.raises(RecipeError, match="none"):
        collect_increment(CollectSettings(source="none"), older, tmp_path / "w", overlap_days=0)


def test_readers_of_an_overlaid_snapshot_agree(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_TRIALS", 0)
    monkeypatch.setattr(module, "OVERLAY_SHARE", 10.0)
    world = World(registry, tmp_path)
    registry.studies.append(make_study(990))
    update(registry.studies[-1], "2024-09-25")
    update(registry.studies[3], "2024-09-25", why="Slow accrual")
    del registry.studies[8]
    world.next("2024-09-25")
    held = open_snapshot(world.held.path)
    read = {trial.nct_id: trial for trial in read_trials(held)}
    assert find_trials(held, [*read, "NCT00000009"]) == read
    assert len(read) == held.manifest.counts["trials"] == 25
