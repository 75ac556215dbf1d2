"""Batches labelled anywhere, joined to the bytes that one machine writes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings
from trialese.tasks.batches import LabelParts, join_parts
from trialese.tasks.fit import fit_classifier
from trialese.tasks.linear import fit_linear
from trialese.tasks.predict import load_scorer, predict_file

TEXTS = [
    f"slow accrual, {n} of {n * 7 % 13}" if n % 3 else f'no "money", {n}' for n in range(1, 60)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = Task("toy", ("Enrollment", "Money"), "multilabel")
    rows = [Example("1", "slow accrual", ("Enrollment",)), Example("2", "no money", ("Money",))] * 9
    fitted: Any = fit_linear(task, rows, rows)
    path = tmp_path_factory.mktemp("linear") / "model"
    fitted.save_pretrained(path)
    return path


def batches(size: int) -> list[dict[str, Any]]:
    """As an engine hands them over: columns of arrays."""
    rows = [(n, f"id{n}", text) for n, text in enumerate(TEXTS, start=1)]
    found = []
    for start in range(0, len(rows), size):
        row, name, text = zip(*rows[start : start + size], strict=True)
        found.append({"row": np.array(row), "id": np.array(name), "text": np.array(text, object)})
    return found


@pytest.mark.parametrize("format_name", ["csv", "tsv", "jsonl"])
def test_parts_in_any_order_are_the_bytes_of_one_machine(
    format_name: str, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "texts.csv"
    quoted = [f'id{n},"{text.replace(chr(34), chr(34) * 2)}"' for n, text in enumerate(TEXTS, 1)]
    table.write_text("id,text\n" + "\n".join(quoted) + "\n", encoding="utf-8")
    alone = tmp_path / f"alone.{format_name}"
    predict_file(load_scorer(model), table, alone, window_records=8)
    parts = [LabelParts(str(model), format_name=format_name)(batch) for batch in batches(8)]
    random.Random(7).shuffle(parts)
    out = tmp_path / f"out.{format_name}"
    assert join_parts(parts, str(model), out, format_name=format_name) == len(TEXTS)
    assert out.read_bytes() == alone.read_bytes()


def test_rows_of_a_batch_may_come_in_any_order_but_none_may_be_missing(model: Path) -> None:
    (batch,) = batches(len(TEXTS))
    order = np.array(random.Random(7).sample(range(len(TEXTS)), len(TEXTS)))
    mixed = {name: column[order] for name, column in batch.items()}
    label = LabelParts(str(model))
    assert label(mixed)["part"][0] == label(batch)["part"][0]
    for rows in (order[order != 5], np.append(order, 5)):
        with pytest.raises(RecordError, match="leaves rows out or has one twice"):
            label({name: column[rows] for name, column in batch.items()})


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.timeout(600)
def test_ray_data_gives_the_bytes_of_one_machine(tiny_backbone: Path, tmp_path: Path) -> None:
    """The example of docs/refresh.md, in smaller windows, with a model of PyTorch."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    rows = [Example("1", "slow accrual", ("Enrollment",)), Example("2", "no money", ("Money",))] * 4
    task = Task("toy", ("Enrollment", "Money"), "multilabel")
    settings = FinetuneSettings(epochs=1, max_tokens=32)
    path, folder = str(tmp_path / "model"), tmp_path / "texts"
    fit_classifier(task, rows, rows, tiny_backbone, settings, seed=1)[0].save_pretrained(path)
    texts = [f"{text}{' and more' * (n % 7)}" for n, text in enumerate(TEXTS * 20)]
    numbers = list(range(1, len(texts) + 1))
    table = pa.table({"row": numbers, "id": [str(n) for n in numbers], "text": texts})
    folder.mkdir()
    for start in range(0, len(texts), 250):  # files whose names do not tell their order
        pq.write_table(table[start : start + 250], folder / f"{9 - start // 250}.parquet")
    pq.write_table(table.drop_columns("row"), tmp_path / "all.parquet")
    alone, out = tmp_path / "alone.csv", tmp_path / "labels.csv"
    predict_file(load_scorer(Path(path)), tmp_path / "all.parquet", alone, window_records=64)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        given = ray.data.read_parquet(str(folder))
        given = given.add_column("window", lambda batch: (batch["row"] - 1) // 64)
        parts = given.groupby("window").map_groups(
            LabelParts,
            fn_constructor_kwargs={"model": path},
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        assert join_parts(parts.iter_batches(batch_size=1), path, out) == len(texts)
    finally:
        ray.shutdown()
    assert out.read_bytes() == alone.read_bytes()


def test_a_part_that_is_missing_or_came_twice_is_told(model: Path, tmp_path: Path) -> None:
    label = LabelParts(str(model))
    parts = [label(batch) for batch in batches(20)]
    for wrong in (parts[1:], [*parts, parts[0]]):
        with pytest.raises(RecordError, match="each part once"):
            join_parts(wrong, str(model), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    assert not list(tmp_path.glob(".*"))


def test_wrong_batches_and_formats(model: Path) -> None:
    with pytest.raises(RecordError, match="no column id"):
        LabelParts(str(model))({"row": np.array([1]), "text": np.array(["a"])})
    with pytest.raises(RecipeError, match="parquet"):
        LabelParts(str(model), format_name="parquet")
    blank = {"row": np.array([1]), "id": np.array(["a"]), "text": np.array([" "])}
    assert LabelParts(str(model))(blank)["part"][0] == b""
