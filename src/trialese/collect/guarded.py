"""Parquet, Arrow and Excel files read by a process of their own, with limits.

Their readers are native code that trusts what a file says of itself: a few hundred bytes can end
the process that reads them, or make it ask for all memory. So `python -m trialese.collect.guarded
FILE` reads the file, checks every value, and sends the rows on; what befalls it is one line here.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from trialese.errors import RecordError
from trialese.parallel import worker_environment

__all__ = [
    "MAX_CELL_CHARACTERS",
    "MAX_INFLATION",
    "MAX_WORKER_BYTES",
    "is_columnar",
    "is_workbook",
    "read_guarded",
    "serve",
]

logger = logging.getLogger(__name__)

MAX_CELL_CHARACTERS = 16 * 2**20
"""Locations of the largest trials exceed the csv module's 131,072 by far."""
MAX_WORKER_BYTES = 384 * 2**20
"""Of memory, beyond what the reading process has when it begins."""
MAX_INFLATION = 1000
"""So many times its size a file may unpack to: texts of a table compress about 5 : 1."""
FREE_INFLATED_BYTES = 256 * 2**20
"""Below so many bytes, it may unpack to anything."""
MAX_SILENT_SECONDS = 120.0
"""Between two answers of the reading process."""
_CELL_BYTES = 16
"""What a cell counts beside its text, so that rows of nothing end too."""
_BATCH_ROWS = 256
_FRAME_BYTES = 2**20
_PARQUET = b"PAR1"
_ARROW_FILE = b"ARROW1"
_ARROW_STREAM = b"\xff\xff\xff\xff"
"""The continuation marker that a stream of record batches, as `datasets` writes it, begins with."""
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Excel's older workbooks, and all else that Office wrote before 2007."""
_ZIP_FIRST = ("[Content_Types].xml", "mimetype", "_rels/", "docProps/", "xl/", "customXml/")
_WORKBOOKS = {"xl/workbook.xml", "xl/workbook.bin"}
_ODS = b"application/vnd.oasis.opendocument.spreadsheet"
_LENGTH = struct.Struct(">I")


def is_columnar(head: bytes) -> bool:
    """Whether a file that begins so is Parquet or Arrow."""
    return head.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM))


def is_workbook(path: Path) -> bool:
    """Whether the file is a workbook of Excel or LibreOffice (xlsx, xlsb, xls, ods)."""
    try:
        with path.open("rb") as file:
            head = file.read(128)
        if head.startswith(_OLE):
            return True
        # The first entry tells, so that an archive of 600,000 studies is not listed in vain.
        if not (head.startswith(b"PK\x03\x04") and head[30:].startswith(_FIRST_NAMES)):
            return False
        with zipfile.ZipFile(path) as archive:
            names = archive.NameToInfo
            if "mimetype" in names and names["mimetype"].file_size < 200:
                return archive.read("mimetype").startswith(_ODS)
            return not _WORKBOOKS.isdisjoint(names)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return False


_FIRST_NAMES = tuple(name.encode() for name in _ZIP_FIRST)


def read_guarded(path: Path, *, sheet: int = 0) -> Iterator[list[Any] | str]:
    """The rows of a Parquet, Arrow or Excel file; the first is the names of the columns, of a
    workbook the first row of a sheet that has any; before it, what is odd as a line of text.

    `sheet` counts a workbook's sheets that are not empty, from 0; of one beyond the last, nothing.

    Raises:
        RecordError: damaged, beyond a limit, or the end of the process that read it.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "trialese.collect.guarded", str(path), str(sheet)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=worker_environment(),
    )
    assert process.stdout is not None
    try:
        while True:
            kind, value = _answer(process, process.stdout, path)
            if kind == "end":
                return
            if kind == "error":
                raise RecordError(f"{path}: {value}")
            if kind == "note":
                yield value
            else:
                yield from value
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _answer(process: subprocess.Popen[bytes], answers: IO[bytes], path: Path) -> tuple[str, Any]:
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(MAX_SILENT_SECONDS, stop)
    timer.daemon = True
    timer.start()
    try:
        head = answers.read(_LENGTH.size)
        data = answers.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
        kind, value = msgspec.msgpack.decode(data) if data else ("", None)
    except (msgspec.DecodeError, ValueError):
        kind, value = "", None
    finally:
        timer.cancel()
    if kind:
        return kind, value
    if late.is_set():
        raise RecordError(
            f"{path}: no row of it was read within {MAX_SILENT_SECONDS:.0f} seconds "
            "(MAX_SILENT_SECONDS); save it as CSV"
        )
    status = process.wait()
    how = f"signal {-status}" if status < 0 else f"status {status}"
    raise RecordError(
        f"{path}: the process that read it came to an end ({how}), as happens with files that are "
        f"damaged, made to do harm, or need over {MAX_WORKER_BYTES // 2**20} MiB of memory "
        "(MAX_WORKER_BYTES); make it again, or save it as CSV"
    )


# What the process of its own does ---------------------------------------------------------------


def serve(path: Path, answers: IO[bytes], sheet: int = 0) -> None:
    """Send the rows of the file as frames, each a length and MessagePack; at last `end`."""
    try:
        for kind, value in _frames(path, sheet):
            _send(answers, kind, value)
    except _LimitError as error:
        _send(answers, "error", str(error))
    except MemoryError:
        what = f"reading it needs over {MAX_WORKER_BYTES // 2**20} MiB of memory"
        _send(answers, "error", f"{what} (MAX_WORKER_BYTES); save it as CSV, or in smaller batches")
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        if "alloc" in detail:
            detail = f"{detail}; MAX_WORKER_BYTES is {MAX_WORKER_BYTES // 2**20} MiB"
        workbook = is_workbook(path)
        kind = "workbook" if workbook else "Parquet or Arrow file"
        cure = "save it as CSV" if workbook else "make it again"
        what = f"no readable {kind}: truncated or damaged ({detail}); {cure}"
        _send(answers, "error", what)
    else:
        _send(answers, "end", None)


class _LimitError(Exception):
    """A limit that the file goes beyond, by name."""


def _send(answers: IO[bytes], kind: str, value: Any) -> None:
    data = _encoded((kind, value))
    answers.write(_LENGTH.pack(len(data)) + data)
    answers.flush()


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value, enc_hook=str)
    except (OverflowError, ValueError, TypeError):  # an integer beyond 64 bits, say
        return msgspec.msgpack.encode(_plain(value), enc_hook=str)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    small = isinstance(value, int) and -(2**63) <= value < 2**63
    return value if small or isinstance(value, (str, float, bytes, type(None))) else str(value)


def _frames(path: Path, sheet: int) -> Iterator[tuple[str, Any]]:
    """The rows, some at a time, within the limits; and notes."""
    with path.open("rb") as file:
        head = file.read(8)
    budget = max(FREE_INFLATED_BYTES, MAX_INFLATION * path.stat().st_size)
    rows = _columnar_rows(path) if is_columnar(head) else _workbook_rows(path, sheet)
    held: list[list[Any]] = []
    held_bytes = position = 0
    for row in rows:
        if isinstance(row, str):
            yield "note", row
            continue
        position += 1
        size = _size(row, f"row {position}")
        held.append(row)
        held_bytes += size
        budget -= size
        if budget < 0:
            raise _LimitError(
                f"it unpacks to over {MAX_INFLATION:,} times its size (MAX_INFLATION) in "
                f"{position:,} rows; save it as CSV"
            )
        if held_bytes > _FRAME_BYTES:
            yield "rows", held
            held, held_bytes = [], 0
    yield "rows", held


def _size(value: Any, where: str) -> int:
    """About how many bytes a value has; refuses a text beyond the limit."""
    if isinstance(value, (str, bytes)):
        if len(value) > MAX_CELL_CHARACTERS:
            raise _LimitError(
                f"{where} has a cell of over {MAX_CELL_CHARACTERS:,} characters "
                "(MAX_CELL_CHARACTERS); leave it out"
            )
        return len(value) + _CELL_BYTES
    if isinstance(value, (list, tuple)):
        return _CELL_BYTES + sum(_size(each, where) for each in value)
    if isinstance(value, dict):
        return _CELL_BYTES + sum(_size(each, where) for each in value.values())
    return _CELL_BYTES


def _columnar_rows(path: Path) -> Iterator[list[Any]]:
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise _LimitError(
            "Parquet or Arrow; save it as CSV, or pip install 'trialese[data]' to read it as it is"
        ) from error

    names: list[str] | None = None
    for batch in _batches(path):
        if names is None:
            names = list(batch.schema.names)
            yield names
        elif list(batch.schema.names) != names:
            raise _LimitError("its batches have different columns; make it again")
        batch.validate(full=True)
        columns = [
            column.cast(pa.timestamp("us", column.type.tz), safe=False)
            if pa.types.is_timestamp(column.type) and column.type.unit == "ns"
            else column
            for column in batch.columns
        ]
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            cells = [column.slice(start, _BATCH_ROWS).to_pylist() for column in columns]
            for row in zip(*cells, strict=True):
                yield list(row)


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        head = file.read(len(_ARROW_FILE))
        file.seek(0)
        if head.startswith(_PARQUET):
            # Pages are read as they come, never a whole column of a row group.
            with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as parquet:
                yield pa.RecordBatch.from_pylist([], parquet.schema_arrow)
                yield from parquet.iter_batches(_BATCH_ROWS, use_threads=False)
        elif head.startswith(_ARROW_FILE):
            with pa.ipc.open_file(file) as reader:
                yield pa.RecordBatch.from_pylist([], reader.schema)
                for index in range(reader.num_record_batches):
                    yield reader.get_batch(index)
        else:
            with pa.ipc.open_stream(file) as reader:
                yield pa.RecordBatch.from_pylist([], reader.schema)
                yield from reader


def _workbook_rows(path: Path, sheet: int) -> Iterator[list[Any] | str]:
    try:
        from python_calamine import CalamineWorkbook
    except ModuleNotFoundError as error:
        raise _LimitError(
            "an Excel workbook; save it as CSV, or pip install 'trialese[xlsx]' to read it as it is"
        ) from error
    workbook = CalamineWorkbook.from_path(str(path))
    names = list(workbook.sheet_names)
    filled = 0
    for place, name in enumerate(names):
        rows = iter(workbook.get_sheet_by_name(name).to_python(skip_empty_area=False))
        first = next((row for row in rows if any(cell != "" for cell in row)), None)
        filled += first is not None
        if first is None or filled <= sheet:
            continue
        if others := [*names[:place], *names[place + 1 :]]:
            yield f"only the sheet {name!r} is read, not {', '.join(map(repr, others))}"
        yield list(map(_cell, first))
        for row in rows:
            yield list(map(_cell, row))
        return
    if not filled:
        raise _LimitError("a workbook whose sheets are all empty")


def _cell(value: Any) -> Any:
    """A cell as it is written in CSV: whole numbers without a fraction, dates as ISO 8601."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, datetime) and not (value.hour or value.minute or value.second):
        return value.date().isoformat()
    return value.isoformat(" ") if isinstance(value, datetime) else _iso(value)


def _iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _set_limits() -> None:
    """Bound this process: memory, no files written, no core dumped. Linux only; else as it is."""
    with contextlib.suppress(ModuleNotFoundError):  # a workbook is read without
        import pyarrow as pa
        import pyarrow.parquet

        pa.set_memory_pool(pa.system_memory_pool())
        pa.set_cpu_count(1)
    with contextlib.suppress(ImportError, OSError, ValueError):
        resource = importlib.import_module("resource")  # Windows has none
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MAX_WORKER_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends this process
    _set_limits()
    serve(Path(sys.argv[1]), sys.stdout.buffer, int(sys.argv[2]))
