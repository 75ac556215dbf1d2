"""A server over a run goes from one generation to the next without a restart or a mixed answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from trialese.artifacts import write_artifact
from trialese.collect.snapshot import open_snapshot, read_trials
from trialese.generations import (
    KIND,
    Generation,
    generation_folder,
    link_tree,
    open_generation,
    promote,
    prune,
    roll_back,
)
from trialese.records import Snapshot
from trialese.settings import ServeSettings
from trialese.tasks.classifier import Classifier
from trialese.tasks.history import extend_history
from trialese.tasks.predict import load_scorer
from trialese.tasks.scorer import named_results
from trialese.web import search_index
from trialese.web.app import create_app
from trialese.web.changeover import Changeover
from trialese.web.jobs import JobStore
from trialese.web.models import Served, ServedModel, open_served, open_served_generation
from trialese.web.search_index import Query
from trialese.web.state import SnapshotScoring, prepare_search

TEXTS = ["slow accrual", "funding"]


def make(run: Path, number: int, classifier: Path, snapshot: Snapshot) -> Generation:
    with write_artifact(generation_folder(run, number), kind=KIND) as draft:
        link_tree(classifier, draft.folder / "classifiers" / "reasons")
        link_tree(snapshot.path, draft.folder / "snapshot")
        draft.notes |= {"tasks": {"reasons": {}}, "lineage": list(range(1, number + 1))}
    return open_generation(run, number)


@pytest.fixture(scope="module")
def classifiers(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = Classifier.from_pretrained(classifier)
    weights: Any = made.model
    weights.classifier.bias.data.add_(1.0)
    other = tmp_path_factory.mktemp("other") / "toy"
    made.save_pretrained(other)
    return classifier, other


def with_layers(generation: Generation, *, engine: str = "", but: int = 0) -> Generation:
    """The generation with its model's predictions; of `but` trials they are another model's."""
    folder, work = generation.path.parent / "layers", generation.path.parent / "work"
    model, snapshot = generation.classifiers["reasons"], open_snapshot(generation.snapshot)
    extend_history(model, snapshot, folder, generation=generation.number, work=work)
    (layer,) = folder.glob("*.parquet")
    table = pq.read_table(layer)
    models = [
        "f" * 64 if row < but else name for row, name in enumerate(table["model"].to_pylist())
    ]
    table = table.set_column(3, "model", pa.array(models))
    about = json.loads(table.schema.metadata[b"trialese.layer"])
    about["engine"] = engine or about["engine"]
    table = table.replace_schema_metadata({b"trialese.layer": json.dumps(about)})
    with write_artifact(generation.path, kind=KIND) as draft:
        for name in ("classifiers", "snapshot"):
            link_tree(generation.path / name, draft.folder / name)
        (draft.folder / "predictions" / "reasons").mkdir(parents=True)
        pq.write_table(table, draft.folder / "predictions" / "reasons" / layer.name)
        draft.notes |= generation.manifest.notes
    return open_generation(generation.path.parents[1], generation.number)


def open_found(found: Generation, **more: Any) -> Served:
    folders = list(found.classifiers.values())
    return replace(open_served(folders, snapshot=found.snapshot, **more), generation=found.number)


@pytest.fixture
def client(
    classifiers: tuple[Path, Path], snapshot: Snapshot, tmp_path: Path
) -> Iterator[TestClient]:
    run, jobs = tmp_path / "run", tmp_path / "jobs"
    run.mkdir()
    for number, folder in enumerate(classifiers, start=1):
        promote(run, make(run, number, folder, snapshot))
    roll_back(run)
    store = JobStore(jobs)
    app = Changeover(
        run,
        partial(open_found, jobs=jobs),
        partial(create_app, settings=ServeSettings(), store=store),
        drain_seconds=10,
        poll_seconds=0.05,
    )
    with TestClient(app, base_url="http://127.0.0.1") as client:
        wait_for(client, 1)
        yield client
    store.close()


def wait_for(client: TestClient, generation: int) -> dict[str, Any]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        version: dict[str, Any] = client.get("/version").json()
        if version["generation"] == generation and version["models"]:
            return version
        time.sleep(0.02)
    raise AssertionError(f"generation {generation} never answered")


def expected(classifiers: tuple[Path, Path]) -> dict[str, list[float]]:
    """Digest -> scores of the first label."""
    found = {}
    for folder in classifiers:
        scorer = load_scorer(folder)
        found[scorer.digest] = [round(float(row[0]), 6) for row in scorer.predict_proba(TEXTS)]
    return found


def test_no_answer_is_mixed_and_none_fails(
    client: TestClient, classifiers: tuple[Path, Path], tmp_path: Path
) -> None:
    known = expected(classifiers)
    stop = threading.Event()
    answers: list[tuple[int, dict[str, Any]]] = []

    def ask() -> None:
        while not stop.is_set():
            answer = client.post("/v1/predict", json={"texts": TEXTS})
            answers.append((answer.status_code, answer.json()))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for each in askers:
        each.start()
    run = tmp_path / "run"
    for number in (2, 1, 2):
        promote(run, open_generation(run, number))
        wait_for(client, number)
    stop.set()
    for each in askers:
        each.join()
    assert {status for status, _ in answers} == {200}
    seen = set()
    for _, answer in answers:
        digest = answer["digest"]
        seen.add(digest)
        scores = [row["scores"]["Enrollment"] for row in answer["predictions"]]
        assert scores == pytest.approx(known[digest], abs=2e-6)
    assert seen == set(known)


@pytest.mark.parametrize(
    ("what", "scored"),
    [("whole", 0), ("another model", 4), ("another engine", 19), ("altered", 19), ("none", 19)],
)
def test_only_what_the_generation_did_not_bring_is_scored(
    what: str, scored: int, classifiers: tuple[Path, Path], snapshot: Snapshot, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    made = make(tmp_path / "run", 1, classifiers[0], snapshot)
    if what != "none":
        made = with_layers(
            made, engine="onnx" if what == "another engine" else "",
            but=4 if what == "another model" else 0,
        )  # fmt: skip
    if what == "altered":
        (layer,) = made.predictions("reasons")
        layer.write_bytes(layer.read_bytes() + b"\0")
    served = open_served_generation(made)
    served.load()
    prepare_search(served, threading.Event())
    asked: list[str] = []

    def score(model: ServedModel, texts: Sequence[str]) -> Any:
        asked.extend(texts)
        return model.scorer.predict_proba(list(texts))

    scoring = SnapshotScoring(served, score)
    scoring.start()
    digest = served.models["reasons"].scorer.digest
    until = time.monotonic() + 60
    while scoring.index is None or scoring.index.scored_until(digest) < 60:
        assert time.monotonic() < until and not scoring.failure, scoring.failure
        time.sleep(0.02)
    told = list(scoring.index.scored_texts(digest, most=100))
    hits = scoring.index.search(Query(model=digest), most=100)
    scoring.stop()
    assert (served.generation, len(asked), len(told)) == (1, scored, 19)
    scores = load_scorer(classifiers[0]).predict_proba([each.text for each in told])
    assert np.array([each.scores for each in told]) == pytest.approx(scores, abs=2e-6)
    given = named_results(load_scorer(classifiers[0]), scores)
    wanted = {each.nct_id: labels for each, (labels, _, _) in zip(told, given, strict=True)}
    labels = {hit.nct_id: hit.labels for hit in hits if hit.labels is not None}
    assert labels == wanted


def test_what_is_under_way_finishes_on_the_one_before(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = wait_for(client, 1)["models"]["reasons"]
    begun, go_on = threading.Event(), threading.Event()
    real = Classifier.predict_proba

    def slow(self: Classifier, texts: Any, **more: Any) -> Any:
        if "slow one" in texts:
            begun.set()
            go_on.wait(30)
        return real(self, texts, **more)

    monkeypatch.setattr(Classifier, "predict_proba", slow)
    found: list[Any] = []
    asked = threading.Thread(
        target=lambda: found.append(client.post("/v1/predict", json={"texts": ["slow one"]}))
    )
    asked.start()
    assert begun.wait(30)
    run = tmp_path / "run"
    promote(run, open_generation(run, 2))
    after = wait_for(client, 2)["models"]["reasons"]
    assert after != before
    assert not found
    now = client.post("/v1/predict", json={"texts": TEXTS})
    assert now.json()["digest"] == after
    go_on.set()
    asked.join()
    assert found[0].status_code == 200
    assert found[0].json()["digest"] == before


def test_a_generation_that_cannot_be_served_leaves_the_one_before(
    client: TestClient, snapshot: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with write_artifact(tmp_path / "empty", kind="classifier") as draft:
        (draft.folder / "nothing").write_text("")
    promote(run, make(run, 3, tmp_path / "empty", snapshot))
    until = time.monotonic() + 30
    while "goes on answering" not in caplog.text and time.monotonic() < until:
        time.sleep(0.02)
    assert caplog.text.count("goes on answering") == 1
    assert client.post("/v1/predict", json={"texts": TEXTS}).status_code == 200
    assert wait_for(client, 1)
    promote(run, open_generation(run, 2))
    assert wait_for(client, 2)


def test_search_goes_on_while_the_next_one_is_indexed(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status() -> int:
        return client.get("/v1/trials", params={"words": "study"}).status_code

    until = time.monotonic() + 30
    while status() != 200 and time.monotonic() < until:
        time.sleep(0.02)
    begun, go_on = threading.Event(), threading.Event()
    real = search_index._fill

    def slow(*given: Any) -> None:
        begun.set()
        go_on.wait(30)
        real(*given)

    monkeypatch.setattr(search_index, "_fill", slow)
    run = tmp_path / "run"
    promote(run, open_generation(run, 2))
    assert begun.wait(30)
    assert (status(), client.get("/version").json()["generation"]) == (200, 1)
    go_on.set()
    found = set()
    while client.get("/version").json()["generation"] == 1:
        found.add(status())
    assert found | {status()} == {200}


def test_an_index_that_cannot_be_made_beforehand_is_in_nobodys_way(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(search_index, "_fill", full)
    run = tmp_path / "run"
    promote(run, open_generation(run, 2))
    assert wait_for(client, 2)
    assert client.post("/v1/predict", json={"texts": TEXTS}).status_code == 200


def test_whatever_goes_wrong_the_next_one_is_seen(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Served) -> None:
        raise RuntimeError("a fault of ours")

    run = tmp_path / "run"
    begun = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(Served, "load", lambda _: begun.set() or fail(_))
        promote(run, open_generation(run, 2))
        assert begun.wait(30)
        assert wait_for(client, 1)
    assert wait_for(client, 2)


def test_many_generations_ahead_the_one_that_answers_is_not_pruned(
    client: TestClient, tmp_path: Path, snapshot: Snapshot, classifiers: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "run"

    def fail(_: Served) -> None:
        raise RuntimeError("cannot be served today")

    with monkeypatch.context() as patched:
        patched.setattr(Served, "load", fail)
        for number in range(3, 7):
            promote(run, make(run, number, classifiers[1], snapshot))
            prune(run, 2)
        trial = next(iter(read_trials(snapshot))).nct_id
        assert client.get(f"/v1/trials/{trial}").status_code == 200
        assert client.get("/version").json()["generation"] == 1
    assert wait_for(client, 6)
    until = time.monotonic() + 30
    while 1 not in prune(run, 2):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_jobs_are_taken_before_and_after(client: TestClient, tmp_path: Path) -> None:
    run = tmp_path / "run"
    promote(run, open_generation(run, 2))
    digest = wait_for(client, 2)["models"]["reasons"]
    sent = client.post("/v1/jobs", files={"file": ("a.csv", b"text\nslow accrual\n", "text/csv")})
    assert sent.status_code in {200, 201, 202}, sent.text
    until = time.monotonic() + 60
    while time.monotonic() < until:
        job = client.get(f"/v1/jobs/{sent.json()['id']}").json()
        if job["state"] in {"done", "failed"}:
            break
        time.sleep(0.1)
    assert (job["state"], job["digest"]) == ("done", digest)
