"""Rows of metrics as files: metrics.jsonl, a picture of the curve, TensorBoard events.

None of them holds a wall-clock time: equal runs give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trialese.artifacts import write_bytes

__all__ = ["draw_curve", "read_rows", "write_events", "write_rows"]

_STYLES = {"new": ("#0b6e99", "new trials"), "old": ("#b5651d", "old trials")}


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one JSON object a line."""
    write_bytes(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl."""
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line]


def draw_curve(rows: Sequence[Mapping[str, Any]], folder: Path, *, title: str) -> None:
    """Write `curve.svg` and `curve.png`: loss and top-1 accuracy against tokens seen.

    Steps of several phases follow one another on the axis.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "trialese", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        placed = _place(rows)
        for era, (colour, label) in _STYLES.items():
            points = [(x, row) for x, row in placed if row["era"] == era and row["split"] == "tune"]
            if not points:
                continue
            x = [position / 1e6 for position, _ in points]
            for axes, key in ((left, "loss"), (right, "top1")):
                y = [row[key] for _, row in points]
                axes.plot(x, y, color=colour, marker="o", markersize=3, label=label)
        train = [(x / 1e6, row["loss"]) for x, row in placed if row["split"] == "train"]
        if train:
            left.plot(*zip(*train, strict=True), color="#999999", linewidth=0.8, label="training")
        left.set_ylabel("masked-LM loss (nats)")
        right.set_ylabel("top-1 accuracy on hidden tokens")
        for axes in (left, right):
            axes.set_xlabel("million tokens seen")
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(frameon=False)
        figure.suptitle(title)
        for name, options in (("svg", {"metadata": {"Date": None, "Creator": None}}), ("png", {})):
            buffer = io.BytesIO()
            figure.savefig(
                buffer,
                format=name,
                dpi=150,
                metadata=options.get("metadata", {"Software": None}),
            )
            write_bytes(folder / f"curve.{name}", buffer.getvalue())


def write_events(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write TensorBoard scalars under `folder`; the time of an event is its step in seconds."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.out.tfevents.0.trialese").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for position, row in _place(rows):
            where = "/".join(filter(None, (row["phase"], row["era"], row["split"])))
            values = [
                Summary.Value(tag=f"{where}/{key}", simple_value=float(row[key]))
                for key in ("loss", "perplexity", "top1", "top5", "lr")
                if key in row
            ]
            event = Event(
                wall_time=float(position), step=int(row["step"]), summary=Summary(value=values)
            )
            writer.write(event.SerializeToString())
        writer.flush()


def _place(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """Each row with its place on the axis of tokens, phases one after another."""
    placed: list[tuple[int, Mapping[str, Any]]] = []
    offset = longest = 0
    phase = None
    for row in rows:
        if row["phase"] != phase:
            phase, offset = row["phase"], offset + longest
            longest = 0
        longest = max(longest, int(row["tokens"]))
        placed.append((offset + int(row["tokens"]), row))
    return placed
