"""Predictions kept from generation to generation: only what reads differently is scored again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trialese.artifacts import write_bytes
from trialese.collect.collection import collect_snapshot
from trialese.collect.diff import compare_snapshots
from trialese.errors import ArtifactError
from trialese.records import Snapshot
from trialese.settings import CollectSettings
from trialese.tasks import history as module
from trialese.tasks.history import (
    extend_history,
    predictions_changed_since,
    read_held,
    read_history,
)
from trialese.tasks.scorer import Description, Preprocessing, write_description

from .toy_scorer import TASK, ToyScorer


class World:
    """Snapshots of made-up studies with reasons for stopping, and layers over them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.number = 0
        self.layers: tuple[Path, ...] = ()
        self.older: Snapshot | None = None
        self.model = folder / "model"
        self.model.mkdir()
        self.describe("one")
        self.scorer = ToyScorer()
        monkeypatch.setattr(module, "load_scorer", self._load)

    def _load(self, _: Path) -> ToyScorer:
        from trialese.tasks.scorer import read_description

        self.scorer = ToyScorer(digest=read_description(self.model).digest)
        return self.scorer

    def describe(self, weights: str) -> None:
        write_description(self.model, Description(TASK, Preprocessing(max_tokens=9)))
        (self.model / "weights").write_text(weights)

    def next(self, reasons: dict[int, str]) -> int:
        """Texts scored for a snapshot of these studies, number -> reason for stopping."""
        self.number += 1
        place = self.folder / str(self.number)
        studies = [
            {"protocolSection": {
                "identificationModule": {"nctId": f"NCT{n:08d}", "briefTitle": f"Study {n}"},
                "statusModule": {"overallStatus": "TERMINATED" if why else "COMPLETED",
                                 **({"whyStopped": why} if why else {})},
            }}
            for n, why in reasons.items()
        ]  # fmt: skip
        write_bytes(place / "s.json", msgspec.json.encode(studies))
        settings = CollectSettings(source="files", paths=(str(place / "s.json"),))
        snapshot = collect_snapshot(settings, place / "snapshot")
        more: dict[str, Any] = {}
        if self.older is not None:
            found = compare_snapshots(snapshot, self.older)
            more = {
                "before": self.layers, "older": self.older, "gone": found.vanished,
                "changed": [*found.new, *found.changed],
            }  # fmt: skip
        scored = extend_history(
            self.model, snapshot, place / "layers", generation=self.number,
            work=place / "work", **more,
        )  # fmt: skip
        self.layers = tuple(sorted((place / "layers").glob("*.parquet")))
        self.older = snapshot
        return scored

    def held(self) -> dict[str, float]:
        return {name[-1]: row.scores["Long"] for name, row in read_held(self.layers).items()}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def lengths(reasons: dict[str, str]) -> dict[str, float]:
    return {name: len(text) / 50 for name, text in reasons.items()}


def test_only_what_reads_differently_is_scored(world: World) -> None:
    assert world.next({1: "slow", 2: "money", 3: "", 4: "gone soon"}) == 3
    assert world.next({1: "slow", 2: "no money", 3: "", 5: "new"}) == 2
    assert world.scorer.seen == ["no money", "new"]
    assert world.held() == lengths({"1": "slow", "2": "no money", "5": "new"})
    states = [(row.generation, row.state) for row in read_history(world.layers, "NCT00000004")]
    assert states == [(1, "scored"), (2, "gone")]
    assert world.next({1: "slow", 2: "", 3: "", 5: "new"}) == 0
    assert world.held() == lengths({"1": "slow", "5": "new"})


def test_what_changed_since_a_generation(world: World) -> None:
    world.next({1: "slow", 2: "money", 4: "gone soon"})
    world.next({1: "slow", 2: "no money", 5: "new"})
    world.next({1: "slow", 2: "no money at all", 5: "new"})
    since = {c.nct_id[-1]: c for c in predictions_changed_since(world.layers, 1)}
    assert sorted(since) == ["2", "4", "5"]
    assert since["2"].before is not None
    assert since["2"].before.scores["Long"] == 0.1
    assert since["2"].now.generation == 3
    assert (since["4"].now.state, since["5"].before) == ("gone", None)
    assert [c.nct_id[-1] for c in predictions_changed_since(world.layers, 2)] == ["2"]
    assert predictions_changed_since(world.layers, 3) == []


def test_another_model_scores_everything_and_the_history_stays(world: World) -> None:
    world.next({1: "slow", 2: "money"})
    world.describe("two")
    assert world.next({1: "slow"}) == 1
    history = read_history(world.layers, "NCT00000001")
    assert [row.generation for row in history] == [1, 2]
    assert history[0].model != history[1].model
    assert sorted(world.held()) == ["1"]
    changed = {c.nct_id[-1]: c.now.state for c in predictions_changed_since(world.layers, 1)}
    assert changed == {"1": "scored", "2": "gone"}
    assert world.next({1: "slower"}) == 1


def test_another_engine_scores_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.next({1: "slow", 2: "money"})
    real = world._load

    def load(path: Path) -> ToyScorer:
        scorer = real(path)
        scorer.engine = "other"
        return scorer

    monkeypatch.setattr(module, "load_scorer", load)
    assert world.next({1: "slow", 2: "no money"}) == 2


def test_many_layers_become_few_and_lose_no_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LAYERS", 4)
    for number in range(1, 12):
        if number == 6:
            world.describe("two")
        world.next({1: f"text {number}", 2: "as ever"})
        assert world.held() == lengths({"1": f"text {number}", "2": "as ever"})
    assert len(world.layers) <= 5
    rows = read_history(world.layers, "NCT00000001")
    assert [row.generation for row in rows] == list(range(1, 12))
    assert [row.generation for row in read_history(world.layers, "NCT00000002")] == [1, 6]
    changed = predictions_changed_since(world.layers, 8)
    assert [c.nct_id[-1] for c in changed] == ["1"]
    assert changed[0].before is not None
    assert changed[0].before.generation == 8


def test_a_damaged_layer_is_named(world: World) -> None:
    world.next({1: "slow"})
    write_bytes(world.layers[0], b"no parquet")
    with pytest.raises(ArtifactError, match=r"000001\.parquet: damaged"):
        read_held(world.layers)


def test_scores_do_not_depend_on_which_others_are_scored(
    tmp_path: Path, tiny_backbone: Path
) -> None:
    """Of a real model: a batch of one and of many agree to the six places that are kept."""
    from trialese.records import Example, Task
    from trialese.settings import FinetuneSettings
    from trialese.tasks.fit import fit_classifier

    task = Task("toy", ("A", "B"), "multilabel")
    rows = [Example(str(n), f"slow accrual {n}", ("A",)) for n in range(4)]
    settings = FinetuneSettings(epochs=1, max_tokens=32)
    scorer = fit_classifier(task, rows, rows, tiny_backbone, settings, seed=1)[0]
    texts: Sequence[str] = [f"{'funding ' * (n % 9)}text {n}" for n in range(50)]
    together = scorer.predict_proba(texts)
    alone = np.concatenate([scorer.predict_proba([text]) for text in texts])
    assert np.abs(together - alone).max() < 2e-6
