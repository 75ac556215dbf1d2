"""Predictions on disk: one Parquet file, the same bytes for the same predictions.

Schema: a row for each text of each run, in the order of the runs, with the columns

- `run` (int32): position in the `runs` list of the file's metadata,
- `id`, `cluster` (string),
- `scores` (list of double, one a label), `truth` (list of bool, one a label).

The file's metadata holds, under `trialese.predictions`, JSON: `format`, `digest` (sha256 of the
contents, so that damage is noticed), `runs` (task, kind, labels, system, split, seed, fold, rows,
model_digest, and `trained_on`: a position in `sets`), and `sets`. The clusters that systems were
trained on overlap almost wholly between runs, so each name is stored once, sorted and compressed
under `trialese.clusters` (zlib over JSON), and each set is a bit mask over those names (zlib,
base64; bit i of byte i // 8, least significant first).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from trialese.artifacts import write_bytes
from trialese.errors import ArtifactError, RecordError
from trialese.records import SPLITS, Predictions, Split

__all__ = ["check_predictions", "load_predictions", "save_predictions", "take_rows"]

_FORMAT = 1
_HEADER = b"trialese.predictions"
_NAMES = b"trialese.clusters"


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: tuple[str, ...]
    system: str
    split: Split
    seed: int
    fold: int
    rows: int
    model_digest: str
    trained_on: int


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    digest: str
    runs: list[_Run]
    sets: list[str]


def check_predictions(run: Predictions) -> None:
    """Return nothing if the run agrees with itself.

    Raises:
        RecordError: shapes that differ, a score outside [0, 1], a repeated id, an unknown split,
            or a row of a multiclass task without exactly one true label.
    """
    import numpy as np

    name = f"predictions of {run.system} on {run.task} ({run.split}, seed {run.seed}, {run.fold=})"
    rows, labels = len(run.ids), len(run.labels)
    if run.split not in SPLITS:
        raise RecordError(f"{name}: no such split; use one of {', '.join(SPLITS)}")
    if not labels or len(set(run.labels)) != labels:
        raise RecordError(f"{name}: labels are missing or repeated; declare each label once")
    if len(run.clusters) != rows:
        raise RecordError(f"{name}: {rows} ids but {len(run.clusters)} clusters; give one a row")
    for part, array in (("scores", run.scores), ("truth", run.truth)):
        if array.shape != (rows, labels):
            raise RecordError(f"{name}: {part} has shape {array.shape}, needs {(rows, labels)}")
    if len(set(run.ids)) != rows:
        repeated = Counter(run.ids).most_common(1)[0][0]
        raise RecordError(f"{name}: id {repeated!r} stands twice; keep one row a text")
    low, high = run.scores.min(initial=0.0), run.scores.max(initial=1.0)
    if not (np.isfinite(run.scores).all() and low >= 0.0 and high <= 1.0):
        raise RecordError(f"{name}: scores must be probabilities in [0, 1]")
    if run.kind == "multiclass" and not (run.truth.sum(axis=1) == 1).all():
        raise RecordError(f"{name}: each row of a multiclass task needs exactly one true label")


def save_predictions(path: str | Path, runs: Sequence[Predictions]) -> None:
    """Write the runs to one Parquet file at `path` (schema: see the module), at once.

    Raises:
        RecordError: a run does not agree with itself (see `check_predictions`).
        ArtifactError: the disk refused.
    """
    path = Path(path)
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for run in runs:
        check_predictions(run)
    names = sorted({name for run in runs for name in run.trained_on})
    position = {name: place for place, name in enumerate(names)}
    sets: dict[frozenset[str], int] = {}
    masks: list[str] = []
    described = []
    for run in runs:
        if run.trained_on not in sets:
            sets[run.trained_on] = len(masks)
            masks.append(_mask(run.trained_on, position))
        described.append(_describe(run, sets[run.trained_on]))
    header = _Header(
        format=_FORMAT, digest=_digest(described, runs, names, masks), runs=described, sets=masks
    )
    rows = [len(run.ids) for run in runs]
    lengths = np.repeat([len(run.labels) for run in runs], rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    scores = [np.asarray(run.scores, np.float64).ravel() for run in runs]
    truth = [np.asarray(run.truth, np.bool_).ravel() for run in runs]
    table = pa.table(
        {
            "run": pa.array(np.repeat(np.arange(len(runs), dtype=np.int32), rows), pa.int32()),
            "id": pa.array([i for run in runs for i in run.ids], pa.string()),
            "cluster": pa.array([c for run in runs for c in run.clusters], pa.string()),
            "scores": pa.ListArray.from_arrays(
                offsets, pa.array(np.concatenate([*scores, np.empty(0)]), pa.float64())
            ),
            "truth": pa.ListArray.from_arrays(
                offsets, pa.array(np.concatenate([*truth, np.empty(0, np.bool_)]), pa.bool_())
            ),
        }
    ).replace_schema_metadata(
        {_HEADER: msgspec.json.encode(header), _NAMES: zlib.compress(msgspec.json.encode(names), 6)}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def load_predictions(path: str | Path) -> list[Predictions]:
    """The runs in a file that `save_predictions` wrote, in their order.

    Raises:
        ArtifactError: no such file, no Parquet, or contents that do not fit the stored digest.
        RecordError: a Parquet file of something else, or a run that does not agree with itself.
    """
    path = Path(path)
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; `trialese finetune` writes predictions")
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        table.validate(full=True)  # what lies outside its data must not come out as text
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: damaged or no Parquet file; run the stage again") from error
    if _HEADER not in metadata:
        raise RecordError(f"{path}: Parquet, but no predictions; give a predictions.parquet")
    try:
        header = msgspec.json.decode(metadata[_HEADER], type=_Header)
        names = msgspec.json.decode(zlib.decompress(metadata[_NAMES]), type=list[str])
        trained_on = [_unmask(mask, names) for mask in header.sets]
        scores = table["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        truth = table["truth"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        ids, clusters = table["id"].to_pylist(), table["cluster"].to_pylist()
        runs, row, cell = [], 0, 0
        for run in header.runs:
            shape = (run.rows, len(run.labels))
            end_row, end_cell = row + run.rows, cell + shape[0] * shape[1]
            runs.append(
                Predictions(
                    task=run.task,
                    kind=run.kind,
                    labels=run.labels,
                    system=run.system,
                    split=run.split,
                    seed=run.seed,
                    fold=run.fold,
                    ids=tuple(ids[row:end_row]),
                    clusters=tuple(clusters[row:end_row]),
                    scores=np.asarray(scores[cell:end_cell], np.float64).reshape(shape).copy(),
                    truth=np.asarray(truth[cell:end_cell], np.bool_).reshape(shape).copy(),
                    trained_on=trained_on[run.trained_on],
                    model_digest=run.model_digest,
                )
            )
            row, cell = end_row, end_cell
    except (
        msgspec.DecodeError, KeyError, IndexError, ValueError, TypeError, zlib.error, binascii.Error
    ) as error:  # fmt: skip
        raise ArtifactError(f"{path}: damaged ({error}); run the stage again") from error
    if _digest(header.runs, runs, names, header.sets) != header.digest or row != len(ids):
        raise ArtifactError(
            f"{path}: contents do not fit the stored digest, so the file was altered; "
            "run the stage again"
        )
    for loaded in runs:
        check_predictions(loaded)
    return runs


def _describe(run: Predictions, trained_on: int) -> _Run:
    return _Run(
        task=run.task,
        kind=run.kind,
        labels=run.labels,
        system=run.system,
        split=run.split,
        seed=run.seed,
        fold=run.fold,
        rows=len(run.ids),
        model_digest=run.model_digest,
        trained_on=trained_on,
    )


def _mask(members: frozenset[str], position: dict[str, int]) -> str:
    import numpy as np

    bits = np.zeros(len(position), np.bool_)
    bits[[position[name] for name in members]] = True
    packed = np.packbits(bits, bitorder="little").tobytes()
    return base64.b64encode(zlib.compress(packed, 6)).decode("ascii")


def _unmask(mask: str, names: list[str]) -> frozenset[str]:
    import numpy as np

    packed = np.frombuffer(zlib.decompress(base64.b64decode(mask, validate=True)), np.uint8)
    bits = np.unpackbits(packed, count=len(names), bitorder="little")
    return frozenset(names[place] for place in np.flatnonzero(bits))


def _digest(
    described: Sequence[_Run], runs: Sequence[Predictions], names: list[str], masks: list[str]
) -> str:
    import numpy as np

    total = hashlib.sha256(msgspec.json.encode([described, names, masks]))
    for run in runs:
        total.update(msgspec.json.encode([run.ids, run.clusters]))
        total.update(np.ascontiguousarray(run.scores, np.float64).tobytes())
        total.update(np.ascontiguousarray(run.truth, np.bool_).tobytes())
    return total.hexdigest()


def take_rows(run: Predictions, rows: Sequence[int]) -> Predictions:
    """The predictions of these rows alone, in this order."""
    import numpy as np

    rows = list(rows)
    return replace(
        run,
        ids=tuple(run.ids[row] for row in rows),
        clusters=tuple(run.clusters[row] for row in rows),
        scores=np.asarray(run.scores[rows], np.float64),
        truth=np.ascontiguousarray(run.truth[rows], np.bool_),
    )
