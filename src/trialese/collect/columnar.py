"""Parquet and Arrow files (a `datasets` folder saved to disk) with texts -> raw studies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trialese.collect.source import RawStudy
from trialese.collect.tables import format_of_columns
from trialese.errors import RecordError

__all__ = ["is_columnar", "read_columnar"]

_BATCH_ROWS = 500
_PARQUET = b"PAR1"
_ARROW_FILE = b"ARROW1"
_ARROW_STREAM = b"\xff\xff\xff\xff"
"""The continuation marker that a stream of record batches, as `datasets` writes it, begins with."""


def is_columnar(head: bytes) -> bool:
    """Whether a file that begins so is Parquet or Arrow."""
    return head.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM))


def read_columnar(path: Path) -> Iterator[RawStudy]:
    """The rows of the file, as mappings from column name to text; other cells become text.

    Raises:
        RecordError: damaged, or without a text column.
    """
    import pyarrow as pa

    position = 0
    try:
        for batch in _batches(path):
            kind = format_of_columns(batch.schema.names, path.name)
            for row in batch.to_pylist():
                position += 1
                cells = {name: _text(value) for name, value in row.items()}
                yield RawStudy(f"{path.name}:{position}", kind, cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: truncated or damaged ({error}); make it again") from error


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        head = file.read(len(_ARROW_FILE))
        file.seek(0)
        if head.startswith(_PARQUET):
            with pq.ParquetFile(file) as parquet:
                format_of_columns(parquet.schema_arrow.names, path.name)
                yield from parquet.iter_batches(_BATCH_ROWS)
        elif head.startswith(_ARROW_FILE):
            with pa.ipc.open_file(file) as reader:
                for index in range(reader.num_record_batches):
                    yield reader.get_batch(index)
        else:
            with pa.ipc.open_stream(file) as reader:
                yield from reader


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
