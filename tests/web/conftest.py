"""A server over toys: a two-layer classifier and a synthetic snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from trialese.collect.collection import collect_snapshot
from trialese.records import Example, Snapshot, Task, Thresholds
from trialese.settings import CollectSettings, FinetuneSettings, SampleSettings, ServeSettings
from trialese.tasks.fit import fit_classifier
from trialese.web.app import create_app
from trialese.web.models import open_served

TASK = Task("reasons", ("Enrollment", "Money"), "multilabel", "Why a trial stopped.")


def save_classifier(backbone: Path, path: Path, task: Task = TASK) -> Path:
    """A classifier fitted for one epoch on eight rows."""
    rows = [
        Example("1", "slow accrual", task.labels[:1]),
        Example("2", "funding", task.labels[1:2]),
    ] * 4
    settings = FinetuneSettings(epochs=1, max_tokens=32)
    classifier = fit_classifier(task, rows, rows, backbone, settings, seed=1)[0]
    classifier.thresholds = Thresholds(
        labels=task.labels, values=(0.25, 0.5), chosen_on="tune", chosen_from=frozenset()
    )
    classifier.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def classifier(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a toy classifier of stop reasons; do not write to it."""
    return save_classifier(tiny_backbone, tmp_path_factory.mktemp("classifier") / "toy")


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Sixty synthetic trials; do not write to it."""
    settings = CollectSettings(sample=SampleSettings(studies=60))
    return collect_snapshot(settings, tmp_path_factory.mktemp("snapshots") / "sample")


@pytest.fixture
def client(classifier: Path, snapshot: Snapshot) -> Iterator[TestClient]:
    """A client of a server that is ready."""
    served = open_served([classifier], snapshot=snapshot.path)
    served.load()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        yield client
