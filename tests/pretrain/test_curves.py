"""Rows as files: read back, drawn, and understood by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trialese.pretrain.heldout import draw_curve, read_rows, write_events, write_rows

ROWS = [
    {"phase": phase, "step": step, "tokens": step * 1000, "era": era, "split": "tune",
     "loss": 5.0 - step / 10, "perplexity": 9.0, "top1": step / 50, "top5": step / 40,
     "masked_tokens": 7}
    for phase in ("head", "base") for step in (0, 5, 10) for era in ("new", "old")
]  # fmt: skip
ROWS.append({"phase": "base", "step": 10, "tokens": 10_000, "era": "", "split": "train",
             "loss": 3.25, "masked_tokens": 9, "lr": 0.5})  # fmt: skip


def test_rows_are_read_as_written(tmp_path: Path):
    write_rows(ROWS, tmp_path / "metrics.jsonl")
    assert read_rows(tmp_path / "metrics.jsonl") == ROWS


def test_the_picture_is_the_same_every_time_and_holds_the_curves(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw_curve(ROWS, tmp_path / name, title="toy")
    for file in ("curve.svg", "curve.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    svg = (tmp_path / "one" / "curve.svg").read_text()
    for word in ("new trials", "old trials", "training", "top-1", "toy"):
        assert word in svg
    assert "<dc:date>" not in svg


def test_tensorboard_reads_the_events(tmp_path: Path):
    write_events(ROWS, tmp_path)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    scalars = read.Scalars("base/new/tune/top1")
    assert [event.step for event in scalars] == [0, 5, 10]
    assert scalars[-1].value == pytest.approx(0.2)
    assert read.Scalars("base/train/loss")[0].value == pytest.approx(3.25)
    assert scalars[0].wall_time == 10_000  # phases follow one another
