""""""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from trialese.collect.api import DOWNLOAD_BYTES, RefusedError
from trialese.collect.collection import collect_snapshot
from trialese.collect.crawl import RegistrySource, WholeRegistrySource
from trialese.collect.parse import parse_trial
from trialese.collect.snapshot import read_trials
from trialese.collect.source import RawStudy
from trialese.errors import RecipeError, RegistryError
from trialese.settings import CollectSettings


def settings_for(registry, **changes):
    return CollectSettings(
        source="registry",
        url=registry.url,
        page_size=5,
        pause_seconds=0.0,
        timeout_seconds=5,
        **changes,
    )


def crawl(registry, work=None, **changes):
    source = RegistrySource(settings_for(registry, **changes), work=work)
    trials = [parse_trial(raw) for raw in source.studies()]
    facts = source.facts()
    source.close()
    return trials, facts


def test_every_study_arrives_once(registry):
    trials, facts = crawl(registry)
    ids = [trial.nct_id for trial in trials]
    assert len(ids) == len(set(ids)) == 25
    assert set(ids) == registry.ids
    assert facts.data_timestamp == "2024-09-24T09:00:05"
    pages = [query for _, path, query in registry.asked if path.endswith("/studies")]
    assert len(pages) == 6  # five full ones and the empty last one
    assert [query.get("countTotal") for query in pages] == ["true"] + [None] * 5


def test_a_date_window_is_asked_for(registry):
    trials, _ = crawl(registry, since="2014-01-01")
    assert 0 < len(trials) < 25
    assert all((trial.first_posted or "") >= "2014-01-01" for trial in trials)


# Request 0 is /version, 1 to 6 are pages, 7 is /version again.
@pytest.mark.parametrize("request_number", [0, 1, 3, 6, 7])
@pytest.mark.parametrize("fault", ["429", "500", "html", "truncate", "reset"])
def test_passing_faults_lose_nothing(registry, request_number, fault):
    registry.faults = {request_number: fault}
    trials, _ = crawl(registry)
    assert sorted(trial.nct_id for trial in trials) == sorted(registry.ids)


@pytest.mark.parametrize(
    "faults",
    [{3: "repeat"}, {4: "expire"}, {4: "refresh"}, {7: "refresh"}, {2: "expire", 9: "repeat"}],
)
def test_what_moved_is_started_over(registry, faults):
    registry.faults = dict(faults)
    trials, facts = crawl(registry)
    assert sorted(trial.nct_id for trial in trials) == sorted(registry.ids)
    assert facts.data_timestamp == registry.timestamp
    assert len(registry.asked) > 8


def test_a_registry_that_never_stands_still_is_given_up(registry):
    registry.faults = dict.fromkeys(range(1, 200), "refresh")
    with pytest.raises(RegistryError, match="did not stand still in 5 attempts"):
        crawl(registry)


def test_an_unstable_order_within_a_day_loses_nothing(registry, study_maker):
    registry.studies = [study_maker(20 * number) for number in range(1, 31)]
    for study in registry.studies:
        status = study["protocolSection"]["statusModule"]
        status["studyFirstPostDateStruct"]["date"] = "2014-01-01"
    registry.unstable_ties = True
    trials, _ = crawl(registry)
    assert sorted(trial.nct_id for trial in trials) == sorted(registry.ids)
    versions = [path for _, path, _ in registry.asked if path.endswith("/version")]
    assert len(registry.asked) > 9 + len(versions)  # one pass was not enough


def test_a_registry_that_never_gives_all_is_given_up(registry, monkeypatch):
    monkeypatch.setattr(type(registry), "announced", 26)
    with pytest.raises(RegistryError, match="25 distinct studies where 26 were announced"):
        crawl(registry)


def test_a_refused_query_is_the_users_to_mend(registry):
    registry.faults = {}
    settings = settings_for(registry)
    source = RegistrySource(settings)
    source._query["pageToken"] = "8-5"
    with pytest.raises(RefusedError, match="Page token"):
        list(source.studies())


def test_an_interrupted_crawl_goes_on_where_it_was(registry, tmp_path):
    work = tmp_path / "work"
    registry.faults = dict.fromkeys(range(4, 20), "500")
    with pytest.raises(RegistryError, match="is kept"):
        crawl(registry, work, retries=1)
    registry.faults = {}
    before = len(registry.asked)
    trials, _ = crawl(registry, work)
    assert sorted(trial.nct_id for trial in trials) == sorted(registry.ids)
    paths = [path for _, path, _ in registry.asked[before:]]
    assert len(paths) == 5  # /version, the three pages that were missing, /version
    assert not work.exists()


@pytest.mark.parametrize("killed_in", ["removing the pages", "somebody's tidying up"])
def test_pages_that_are_gone_are_fetched_again(registry, tmp_path, monkeypatch, killed_in):
    work = tmp_path / "work"
    source = RegistrySource(settings_for(registry), work=work)
    list(source.studies())

    def killed(folder, **_):
        (folder / "page-000002.json.gz").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        if killed_in == "removing the pages":
            with pytest.raises(KeyboardInterrupt):
                source.close()
        else:
            (work / "page-000002.json.gz").unlink()
    trials, _ = crawl(registry, work)
    assert sorted(trial.nct_id for trial in trials) == sorted(registry.ids)


def test_a_crawl_for_something_else_is_not_gone_on_with(registry, tmp_path):
    work = tmp_path / "work"
    registry.faults = dict.fromkeys(range(4, 20), "500")
    with pytest.raises(RegistryError):
        crawl(registry, work, retries=0)
    registry.faults = {}
    trials, _ = crawl(registry, work, since="2014-01-01")
    assert all((trial.first_posted or "") >= "2014-01-01" for trial in trials)


def test_a_damaged_state_file_starts_afresh(registry, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "state.json").write_text(json.dumps({"query": 1}))
    trials, _ = crawl(registry, work)
    assert len(trials) == 25


def test_a_large_study_arrives_whole(registry, study_maker):
    registry.studies.append(study_maker(99, padding=10 * 2**20))
    trials, _ = crawl(registry)
    (large,) = [trial for trial in trials if trial.nct_id == "NCT00000099"]
    assert len(large.detailed_description) == 10 * 2**20 // 5 * 5


def test_a_list_of_numbers_with_an_alias_and_a_stranger(registry, tmp_path, monkeypatch):
    monkeypatch.setattr("trialese.collect.crawl.IDS_A_QUERY", 3)
    registry.aliases = {"NCT00000901": "NCT00000007", "NCT00000902": "NCT00000004"}
    wanted = tmp_path / "ids.txt"
    numbers = [f"NCT{number:08d}" for number in (3, 4, 5, 6, 901, 902, 999)]
    wanted.write_text("these, please:\n" + "\n".join([*numbers, numbers[0]]) + "\nNCT123")
    source = RegistrySource(settings_for(registry, ids=str(wanted)), work=tmp_path / "work")
    items = list(source.studies())
    found = [parse_trial(item).nct_id for item in items if isinstance(item, RawStudy)]
    assert found == [f"NCT{number:08d}" for number in (3, 4, 5, 6, 7)]
    (reject,) = [item for item in items if not isinstance(item, RawStudy)]
    assert (reject.nct_id, reject.reason) == ("NCT00000999", "not_in_registry")
    assert source.facts().notes["ids"] == 7


def test_all_faults_in_one_crawl(registry):
    registry.faults = {
        0: "429", 2: "500", 4: "html", 6: "truncate", 8: "reset", 9: "repeat", 12: "expire",
        15: "refresh", 18: "500", 20: "html",
    }  # fmt: skip
    trials, facts = crawl(registry)
    assert sorted(trial.nct_id for trial in trials) == sorted(registry.ids)
    assert facts.data_timestamp == registry.timestamp
    assert not registry.faults


def settings_for_whole(registry, **changes):
    return CollectSettings(
        source="registry", url=registry.url, page_size=5, pause_seconds=0.0, timeout_seconds=5,
        whole=True, **changes,
    )  # fmt: skip


@pytest.fixture
def archived(registry):
    """The registry with its studies in a zip, one JSON a study, in folders."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for study in registry.studies:
            study["protocolSection"]["descriptionModule"]["detailedDescription"] = "x" * 30_000
            nct_id = study["protocolSection"]["identificationModule"]["nctId"]
            archive.writestr(f"{nct_id[:7]}xxxx/{nct_id}.json", json.dumps(study))
    registry.archive = sink.getvalue()
    return registry


def ids(source):
    return {parse_trial(raw).nct_id for raw in source.studies()}


def test_the_zip_is_downloaded_and_checked(archived, tmp_path):
    source = WholeRegistrySource(settings_for_whole(archived), work=tmp_path / "work")
    assert ids(source) == archived.ids
    assert source.facts().data_timestamp == archived.timestamp
    assert archived.downloaded == len(archived.archive)
    source.close()
    assert not (tmp_path / "work").exists()


def test_a_broken_download_is_continued(archived, tmp_path):
    archived.faults = {1: "truncate", 2: "truncate", 3: "reset", 4: "500"}
    source = WholeRegistrySource(settings_for_whole(archived), work=tmp_path / "work")
    assert ids(source) == archived.ids
    # Each request began about where the one before had broken off.
    assert archived.downloaded < 2 * len(archived.archive) + 2 * DOWNLOAD_BYTES


def test_a_download_goes_on_in_another_process(archived, tmp_path):
    archived.faults = {1: "truncate", 2: "500", 3: "500", 4: "500"}
    first = WholeRegistrySource(settings_for_whole(archived, retries=1), work=tmp_path / "work")
    with pytest.raises(RegistryError, match="is kept"):
        list(first.studies())
    archived.faults = {}
    before = archived.downloaded
    second = WholeRegistrySource(settings_for_whole(archived), work=tmp_path / "work")
    assert ids(second) == archived.ids
    assert archived.downloaded - before <= len(archived.archive) // 2 + 1 + DOWNLOAD_BYTES


def test_another_file_is_not_glued_to_the_first(archived, tmp_path):
    archived.faults = {1: "truncate", 2: "refresh"}
    source = WholeRegistrySource(settings_for_whole(archived), work=tmp_path / "work")
    assert ids(source) == archived.ids
    assert source.facts().data_timestamp == archived.timestamp != "2024-09-24T09:00:05"


def test_an_archive_that_lacks_studies_is_refused(archived, tmp_path, study_maker):
    archived.studies.append(study_maker(99))
    source = WholeRegistrySource(settings_for_whole(archived), work=tmp_path / "work")
    with pytest.raises(RegistryError, match="25 studies where 26 were announced"):
        list(source.studies())


def test_a_file_that_is_no_zip_is_refused(archived, tmp_path):
    archived.archive = b"<html>maintenance</html>"
    source = WholeRegistrySource(settings_for_whole(archived), work=tmp_path / "work")
    with pytest.raises(RegistryError, match="was not whole in 3 downloads"):
        list(source.studies())


def windows_of(registry):
    return [
        query.get("filter.advanced")
        for _, path, query in registry.asked
        if path.endswith("/studies") and "pageToken" not in query
    ]


def test_without_the_zip_it_goes_year_by_year(registry, tmp_path):
    snapshot = collect_snapshot(settings_for_whole(registry), tmp_path / "snapshot")
    assert {trial.nct_id for trial in read_trials(snapshot)} == registry.ids
    assert snapshot.manifest.notes["data_timestamp"] == registry.timestamp
    assert not (tmp_path / ".snapshot.work").exists()
    windows = windows_of(registry)
    assert len(windows) == 2024 - 1999 + 1
    assert windows[0] == "AREA[StudyFirstPostDate]RANGE[MIN,1999-12-31]"
    assert windows[-1] == "AREA[StudyFirstPostDate]RANGE[2024-01-01,MAX]"


def test_a_study_outside_every_year_is_asked_for_too(registry, tmp_path):
    status = registry.studies[3]["protocolSection"]["statusModule"]
    status["studyFirstPostDateStruct"]["date"] = ""
    snapshot = collect_snapshot(settings_for_whole(registry), tmp_path / "snapshot")
    assert {trial.nct_id for trial in read_trials(snapshot)} == registry.ids
    assert windows_of(registry)[-1] is None


def test_a_snapshot_of_the_whole_registry(archived, tmp_path):
    snapshot = collect_snapshot(settings_for_whole(archived), tmp_path / "snapshot")
    assert {trial.nct_id for trial in read_trials(snapshot)} == archived.ids
    assert snapshot.manifest.notes["source"] == "registry"
    assert "paths" not in snapshot.manifest.notes


def test_the_whole_is_not_a_part(registry, tmp_path):
    with pytest.raises(RecipeError, match=r"collect\.whole: takes every study"):
        WholeRegistrySource(
            settings_for_whole(registry, since="2020-01-01"), work=tmp_path / "work"
        )
