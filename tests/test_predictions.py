from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.errors import ArtifactError, RecordError
from trialese.predictions import load_predictions, save_predictions
from trialese.records import Predictions


def make_run(
    rows: int = 4,
    labels: tuple[str, ...] = ("a", "b", "c"),
    *,
    seed: int = 1,
    fold: int = 0,
    kind: str = "multilabel",
    trained_on: frozenset[str] = frozenset({"c9", "c8"}),
) -> Predictions:
    random = np.random.default_rng(seed)
    truth = random.random((rows, len(labels))) < 0.4
    if kind == "multiclass":
        truth = np.eye(len(labels), dtype=bool)[random.integers(0, len(labels), rows)]
    return Predictions(
        task="toy",
        kind=kind,  # type: ignore[arg-type]
        labels=labels,
        system="base",
        split="test",
        seed=seed,
        fold=fold,
        ids=tuple(f"t{i}" for i in range(rows)),
        clusters=tuple(f"c{i // 2}" for i in range(rows)),
        scores=random.random((rows, len(labels))),
        truth=truth,
        trained_on=trained_on,
        model_digest="d" * 8,
    )


def same(one: Predictions, other: Predictions) -> bool:
    fields = [name for name in Predictions.__slots__ if name not in ("scores", "truth")]
    return (
        all(getattr(one, name) == getattr(other, name) for name in fields)
        and np.array_equal(one.scores, other.scores)
        and np.array_equal(one.truth, other.truth)
    )


names = st.text(min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(0, 6),
    labels=st.lists(names, min_size=1, max_size=4, unique=True),
    sets=st.lists(st.frozensets(names, max_size=12), min_size=1, max_size=3),
)
def test_what_is_loaded_is_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    labels: list[str],
    sets: list[frozenset[str]],
) -> None:
    path = tmp_path_factory.mktemp("p") / "predictions.parquet"
    runs = [make_run(rows, tuple(labels), seed=n, trained_on=s) for n, s in enumerate(sets)]
    runs.append(make_run(3, ("x", "y"), kind="multiclass"))
    save_predictions(path, runs)
    loaded = load_predictions(path)
    assert len(loaded) == len(runs)
    assert all(same(one, other) for one, other in zip(runs, loaded, strict=True))


def test_equal_predictions_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_predictions(
            tmp_path / name, [make_run(trained_on=frozenset(f"c{i}" for i in range(99)))]
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_no_runs_are_a_file_too(tmp_path: Path) -> None:
    save_predictions(tmp_path / "none", [])
    assert load_predictions(tmp_path / "none") == []


def test_altered_score_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    save_predictions(path, [make_run()])
    table = pq.read_table(path)
    scores = table["scores"].to_pylist()
    scores[2][1] = 0.123
    column = pa.array(scores, pa.list_(pa.float64()))
    pq.write_table(table.set_column(3, "scores", column), path)
    with pytest.raises(ArtifactError, match="do not fit the stored digest"):
        load_predictions(path)


def test_dropped_row_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    save_predictions(path, [make_run(), make_run(seed=2)])
    pq.write_table(pq.read_table(path).slice(0, 7), path)
    with pytest.raises(ArtifactError, match=r"damaged|do not fit"):
        load_predictions(path)


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_truncated_file_is_one_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "predictions.parquet"
    save_predictions(path, [make_run()])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ArtifactError, match="damaged or no Parquet") as caught:
        load_predictions(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_foreign_parquet(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        load_predictions(tmp_path / "nothing")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign")
    with pytest.raises(RecordError, match="no predictions"):
        load_predictions(tmp_path / "foreign")


def altered(**changes: object) -> Predictions:
    run = make_run()
    values = {name: getattr(run, name) for name in Predictions.__slots__} | changes
    return Predictions(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.full((4, 3), 1.5)}, "probabilities"),
        ({"scores": np.full((4, 3), np.nan)}, "probabilities"),
        ({"scores": np.zeros((4, 2))}, "shape"),
        ({"truth": np.zeros((3, 3), bool)}, "shape"),
        ({"clusters": ("a",)}, "4 ids but 1 clusters"),
        ({"ids": ("a", "a", "b", "c")}, "'a' stands twice"),
        ({"labels": ("a", "a", "b")}, "labels are missing or repeated"),
        ({"split": "val"}, "no such split"),
        ({"kind": "multiclass", "truth": np.ones((4, 3), bool)}, "exactly one true label"),
    ],
)
def test_run_that_disagrees_with_itself_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        save_predictions(tmp_path / "p", [altered(**changes)])
    assert not (tmp_path / "p").exists()
