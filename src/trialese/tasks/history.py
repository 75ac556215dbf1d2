"""Predictions of a snapshot's trials, kept from generation to generation with their models.

A *layer* is a Parquet file with one row for each trial that a generation scored anew: one that is
new, whose text changed, or, after a change of the model, every one. A row never changes; the
prediction that holds is that of the latest layer. So a trial's history is its rows, and scoring
again what did not change is never needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialese.collect.snapshot import find_trials
from trialese.errors import ArtifactError
from trialese.generations import link_file
from trialese.progress import Progress, silent
from trialese.records import Snapshot
from trialese.tasks.formats import text_of_trial
from trialese.tasks.predict import load_scorer, predict_file
from trialese.tasks.scorer import (
    Preprocessing,
    Scorer,
    model_folder,
    named_results,
    read_description,
)

__all__ = [
    "MOST_LAYERS",
    "ChangedPrediction",
    "HeldPrediction",
    "Layer",
    "extend_history",
    "predictions_changed_since",
    "read_held",
    "read_history",
    "read_said",
]

MOST_LAYERS = 40
"""Of more, all but the last are put into one file; no row is lost."""
_TEXTS = 4096

State = Literal["scored", "no_text", "gone"]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer's file says of itself."""

    generation: int
    model: str
    """sha256 that names the model's files."""
    engine: str
    labels: tuple[str, ...]
    whole_at: int | None = None
    """The generation, if it is in this layer, that scored every trial that had a text: no earlier
    layer matters for what holds."""


class HeldPrediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row: what a model said of a trial when a generation was made."""

    nct_id: str
    generation: int
    state: State
    model: str
    labels: tuple[str, ...] = ()
    scores: dict[str, float] = {}


class ChangedPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A trial whose prediction is not what it was."""

    nct_id: str
    before: HeldPrediction | None
    """None: there was none."""
    now: HeldPrediction


_SCHEMA = pa.schema(
    [
        ("nct_id", pa.string()),
        ("generation", pa.int32()),
        ("state", pa.string()),
        ("model", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
    ]
)
_ABOUT = b"trialese.layer"
_Row = tuple[State, tuple[str, ...], list[float]]


def extend_history(
    model: Path,
    snapshot: Snapshot,
    folder: Path,
    *,
    generation: int,
    work: Path,
    before: Sequence[Path] = (),
    older: Snapshot | None = None,
    changed: Collection[str] = (),
    gone: Collection[str] = (),
    progress: Progress = silent,
) -> int:
    """How many texts were scored for the layers in `folder`, which hold for `snapshot`.

    `model` is a classifier's folder. `before` are the layers that hold for `older`; `changed` and
    `gone` say how the two differ: NCT ids that are new or have some field different, and those that
    are no more. Without them, or where another model made them, every trial is scored; that goes on
    in `work` after an interruption. Whatever stands in `folder` is replaced.

    Raises:
        ArtifactError: a snapshot, a layer or the classifier is damaged, or the disk refused.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    work.mkdir(parents=True, exist_ok=True)
    for layer in before:
        link_file(layer, folder / layer.name)
    known = read_description(model_folder(model))
    last = _read_about(before[-1]) if before and older is not None else None
    path = folder / f"{generation:06d}.parquet"
    if last is not None and (last.model, last.labels) == (known.digest, known.task.labels):
        assert older is not None
        found, texts = _read_differently(known.preprocessing, snapshot, older, changed, gone)
        scorer = load_scorer(model) if texts else None
        if scorer is None or scorer.engine == last.engine:
            if scorer is not None:
                found |= _score(scorer, texts, progress)
            if found:
                about = msgspec.structs.replace(last, generation=generation, whole_at=None)
                _write(path, about, ((name, *found[name]) for name in sorted(found)))
            _join_layers(folder)
            return len(texts)
    scored = _score_all(load_scorer(model), snapshot, generation, path, work, gone, progress)
    _join_layers(folder)
    return scored


def _score_all(
    scorer: Scorer,
    snapshot: Snapshot,
    generation: int,
    path: Path,
    work: Path,
    gone: Collection[str],
    progress: Progress,
) -> int:
    """Score every trial; windows that are done stay in `work`."""
    out = work / f"{scorer.task.name}.parquet"
    told = predict_file(scorer, snapshot.path, out, progress=progress)
    assert told is not None
    columns = [f"score_{label}" for label in scorer.task.labels]

    def rows() -> Iterator[tuple[str, State, tuple[str, ...], list[float]]]:
        yield from ((name, "gone", (), []) for name in sorted(gone))
        with pq.ParquetFile(out) as parquet:
            for batch in parquet.iter_batches(_TEXTS, columns=["id", "labels", *columns]):
                scores = np.column_stack([batch[name].to_numpy() for name in columns]).tolist()
                ids, labels = batch["id"].to_pylist(), batch["labels"].to_pylist()
                for name, given, chances in zip(ids, labels, scores, strict=True):
                    yield name, "scored", tuple(given), chances

    about = Layer(
        generation=generation,
        model=scorer.digest,
        engine=scorer.engine,
        labels=scorer.task.labels,
        whole_at=generation,
    )
    _write(path, about, rows())
    return told.texts


def _read_differently(
    how: Preprocessing,
    snapshot: Snapshot,
    older: Snapshot,
    changed: Collection[str],
    gone: Collection[str],
) -> tuple[dict[str, _Row], dict[str, str]]:
    """(rows of trials that have no text any more, texts to be scored), by NCT id."""

    def texts_of(source: Snapshot, names: Collection[str]) -> dict[str, str]:
        found = find_trials(source, names).items()
        return {name: text_of_trial(trial, how) for name, trial in found}

    texts, had = texts_of(snapshot, changed), texts_of(older, {*changed, *gone})
    lost: dict[str, _Row] = {
        name: ("no_text", (), []) for name, text in texts.items() if not text and had.get(name)
    }
    lost |= {name: ("gone", (), []) for name in gone if had.get(name)}
    return lost, {name: text for name, text in texts.items() if text and text != had.get(name)}


def _score(scorer: Scorer, texts: Mapping[str, str], progress: Progress) -> dict[str, _Row]:
    found: dict[str, _Row] = {}
    ordered = sorted(texts)
    for start in range(0, len(ordered), _TEXTS):
        names = ordered[start : start + _TEXTS]
        scores = scorer.predict_proba([texts[name] for name in names])
        given = [labels for labels, _, _ in named_results(scorer, scores)]
        chances = np.round(scores, 6).tolist()  # as `predict_file` rounds
        for name, labels, row in zip(names, given, chances, strict=True):
            found[name] = ("scored", labels, row)
        progress("predict: changed trials", len(found), len(texts))
    return found


def read_held(layers: Sequence[Path]) -> dict[str, HeldPrediction]:
    """NCT id -> the prediction that holds, of the trials that have a text for the task."""
    held: dict[str, HeldPrediction] = {}
    done: set[str] = set()
    for layer in reversed(layers):
        about = _read_about(layer)
        for row in reversed(list(_rows_of(layer, about))):
            if row.nct_id not in done:
                done.add(row.nct_id)
                if row.state == "scored":
                    held[row.nct_id] = row
        if about.whole_at is not None:
            break
    return dict(sorted(held.items()))


def read_said(layers: Sequence[Path], scorer: Scorer) -> dict[str, HeldPrediction]:
    """NCT id -> the prediction that holds, as far as this very model on this engine made it.

    Raises:
        ArtifactError: a layer is damaged.
    """
    last = _read_about(layers[-1]) if layers else None
    if last is None or (last.engine, last.labels) != (scorer.engine, scorer.task.labels):
        return {}  # a whole scoring by another engine is a layer of its own
    held = read_held(layers)
    return {name: row for name, row in held.items() if row.model == scorer.digest}


def read_history(layers: Sequence[Path], nct_id: str) -> list[HeldPrediction]:
    """Every row of one trial, oldest first.

    Raises:
        ArtifactError: a layer is damaged.
    """
    only = pc.field("nct_id") == nct_id
    return [row for layer in layers for row in _rows_of(layer, _read_about(layer), only)]


def predictions_changed_since(layers: Sequence[Path], generation: int) -> list[ChangedPrediction]:
    """Trials whose labels, scores or model are not what they were in that generation, by NCT id.

    Raises:
        ArtifactError: a layer is damaged.
    """
    before: dict[str, HeldPrediction] = {}
    now: dict[str, HeldPrediction] = {}
    for layer in layers:
        about = _read_about(layer)
        rows = {row.nct_id: row for row in _rows_of(layer, about) if row.generation > generation}
        if (
            about.whole_at is not None and about.whole_at > generation
        ):  # whoever has no row there has no text any more
            for name in before.keys() - rows.keys():
                rows[name] = HeldPrediction(
                    nct_id=name, generation=about.whole_at, state="no_text", model=about.model
                )
        now |= rows
        before |= {
            row.nct_id: row for row in _rows_of(layer, about) if row.generation <= generation
        }
    found = []
    for name, row in sorted(now.items()):
        was = before.get(name)
        was = None if was is None or was.state != "scored" else was
        if was is None and row.state != "scored":
            continue
        if was is None or (was.state, was.model, was.labels, was.scores) != (
            row.state, row.model, row.labels, row.scores,
        ):  # fmt: skip
            found.append(ChangedPrediction(nct_id=name, before=was, now=row))
    return found


def _write(
    path: Path, about: Layer, rows: Iterable[tuple[str, State, tuple[str, ...], list[float]]]
) -> None:
    schema = _SCHEMA.with_metadata({_ABOUT: msgspec.json.encode(about)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        held: list[dict[str, Any]] = []

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(held, schema))
            held.clear()

        for name, state, labels, scores in rows:
            held.append(
                {
                    "nct_id": name,
                    "generation": about.generation,
                    "state": state,
                    "model": about.model,
                    "labels": list(labels),
                    "scores": scores,
                }
            )
            if len(held) == _TEXTS:
                flush()
        flush()


def _read_about(layer: Path) -> Layer:
    try:
        metadata = pq.read_schema(layer).metadata or {}
        return msgspec.json.decode(metadata[_ABOUT], type=Layer)
    except (pa.ArrowException, OSError, KeyError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{layer}: damaged ({error}); roll back, then refresh again") from error


def _rows_of(layer: Path, about: Layer, only: Any = None) -> Iterator[HeldPrediction]:
    try:
        table = pq.read_table(layer, filters=only)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{layer}: damaged ({error}); roll back, then refresh again") from error
    for batch in table.to_batches():
        columns = [batch[name].to_pylist() for name in _SCHEMA.names]
        for name, generation, state, model, labels, scores in zip(*columns, strict=True):
            yield HeldPrediction(
                nct_id=name,
                generation=generation,
                state=state,
                model=model,
                labels=tuple(labels),
                scores=dict(zip(about.labels, scores, strict=bool(scores))),
            )


def _join_layers(folder: Path) -> None:
    """Put the earlier ones of very many layers into one file, as long as their labels agree."""
    layers = sorted(folder.glob("*.parquet"))
    if len(layers) <= MOST_LAYERS:
        return
    *earlier, _ = layers
    abouts = [_read_about(layer) for layer in earlier]
    if len({(about.labels, about.model) for about in abouts}) > 1:
        # Of several models: those of the last one are joined, so that each file tells its labels.
        first = next(
            place for place in reversed(range(len(abouts))) if abouts[place].whole_at is not None
        )
        earlier, abouts = earlier[first:], abouts[first:]
    if len(earlier) < 2:
        return
    about = msgspec.structs.replace(abouts[-1], whole_at=abouts[0].whole_at)
    table = pa.concat_tables([pq.read_table(layer) for layer in earlier])
    joined = folder / f".{earlier[-1].name}.partial"
    schema = _SCHEMA.with_metadata({_ABOUT: msgspec.json.encode(about)})
    pq.write_table(table.cast(schema), joined, compression="zstd")
    for layer in earlier:
        layer.unlink()
    joined.replace(earlier[-1])
