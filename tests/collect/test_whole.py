import io
import json
import zipfile

import pytest

from trialese.collect.api import DOWNLOAD_BYTES
from trialese.collect.collection import collect_snapshot
from trialese.collect.crawl import WholeRegistrySource
from trialese.collect.parse import parse_trial
from trialese.collect.snapshot import read_trials
from trialese.errors import RecipeError, RegistryError
from trialese.settings import CollectSettings


def settings_for(registry, **changes):
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
    source = WholeRegistrySource(settings_for(archived), work=tmp_path / "work")
    assert ids(source) == archived.ids
    assert source.facts().data_timestamp == archived.timestamp
    assert archived.downloaded == len(archived.archive)
    source.close()
    assert not (tmp_path / "work").exists()


def test_a_broken_download_is_continued(archived, tmp_path):
    archived.faults = {1: "truncate", 2: "truncate", 3: "reset", 4: "500"}
    source = WholeRegistrySource(settings_for(archived), work=tmp_path / "work")
    assert ids(source) == archived.ids
    # Each request began about where the one before had broken off.
    assert archived.downloaded < 2 * len(archived.archive) + 2 * DOWNLOAD_BYTES


def test_a_download_goes_on_in_another_process(archived, tmp_path):
    archived.faults = {1: "truncate", 2: "500", 3: "500", 4: "500"}
    first = WholeRegistrySource(settings_for(archived, retries=1), work=tmp_path / "work")
    with pytest.raises(RegistryError, match="is kept"):
        list(first.studies())
    archived.faults = {}
    before = archived.downloaded
    second = WholeRegistrySource(settings_for(archived), work=tmp_path / "work")
    assert ids(second) == archived.ids
    assert archived.downloaded - before <= len(archived.archive) // 2 + 1 + DOWNLOAD_BYTES


def test_another_file_is_not_glued_to_the_first(archived, tmp_path):
    archived.faults = {1: "truncate", 2: "refresh"}
    source = WholeRegistrySource(settings_for(archived), work=tmp_path / "work")
    assert ids(source) == archived.ids
    assert source.facts().data_timestamp == archived.timestamp != "2024-09-24T09:00:05"


def test_an_archive_that_lacks_studies_is_refused(archived, tmp_path, study_maker):
    archived.studies.append(study_maker(99))
    source = WholeRegistrySource(settings_for(archived), work=tmp_path / "work")
    with pytest.raises(RegistryError, match="25 studies where 26 were announced"):
        list(source.studies())


def test_a_file_that_is_no_zip_is_refused(archived, tmp_path):
    archived.archive = b"<html>maintenance</html>"
    source = WholeRegistrySource(settings_for(archived), work=tmp_path / "work")
    with pytest.raises(RegistryError, match="was not whole in 3 downloads"):
        list(source.studies())


def windows_of(registry):
    return [
        query.get("filter.advanced")
        for _, path, query in registry.asked
        if path.endswith("/studies") and "pageToken" not in query
    ]


def test_without_the_zip_it_goes_year_by_year(registry, tmp_path):
    snapshot = collect_snapshot(settings_for(registry), tmp_path / "snapshot")
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
    snapshot = collect_snapshot(settings_for(registry), tmp_path / "snapshot")
    assert {trial.nct_id for trial in read_trials(snapshot)} == registry.ids
    assert windows_of(registry)[-1] is None


def test_a_snapshot_of_the_whole_registry(archived, tmp_path):
    snapshot = collect_snapshot(settings_for(archived), tmp_path / "snapshot")
    assert {trial.nct_id for trial in read_trials(snapshot)} == archived.ids
    assert snapshot.manifest.notes["source"] == "registry"
    assert "paths" not in snapshot.manifest.notes


def test_the_whole_is_not_a_part(registry, tmp_path):
    with pytest.raises(RecipeError, match=r"collect\.whole: takes every study"):
        WholeRegistrySource(settings_for(registry, since="2020-01-01"), work=tmp_path / "work")
