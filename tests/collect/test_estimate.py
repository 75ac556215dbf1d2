import zipfile
from pathlib import Path

import pytest

from trialese.collect.collection import SAMPLE_BYTES, estimate_collection
from trialese.errors import RecordError
from trialese.settings import CollectSettings, SampleSettings

STUDY = (Path(__file__).parents[1] / "data" / "study_v2.json").read_bytes()


def test_a_sample():
    estimate = estimate_collection(CollectSettings(sample=SampleSettings(studies=100)))
    assert (estimate.studies, estimate.json_bytes) == (100, 100 * SAMPLE_BYTES)


def test_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", STUDY)
        archive.writestr("b.json", STUDY)
    settings = CollectSettings(source="files", paths=(str(tmp_path / "two.zip"),))
    assert estimate_collection(settings).studies == 2
    assert estimate_collection(settings).json_bytes == 2 * len(STUDY)
    (tmp_path / "one.json").write_bytes(STUDY)
    folder = estimate_collection(CollectSettings(source="files", paths=(str(tmp_path),)))
    assert folder.studies is None  # a JSON file may hold any number
    assert folder.json_bytes == 3 * len(STUDY)
    with pytest.raises(RecordError, match="no such file"):
        estimate_collection(CollectSettings(source="files", paths=("nowhere",)))


def test_the_registry_is_asked_two_small_questions(registry, tmp_path):
    def estimate(**changes):
        return estimate_collection(
            CollectSettings(
                source="registry", url=registry.url, page_size=5, pause_seconds=0.01, **changes
            )
        )

    everything = estimate()
    assert everything.studies == 25
    assert everything.requests == 8
    assert len(registry.asked) == 2
    assert 0 < estimate(since="2014-01-01").studies < 25
    assert estimate(whole=True).json_bytes == 25 * 17_000
    (tmp_path / "ids.txt").write_text("NCT00000001 NCT00000002")
    assert estimate(ids=str(tmp_path / "ids.txt")).studies == 2
