"""Files that people already have -> raw studies. The kind is told from the content.

Of a file no more is held than a document of at most `MAX_DOCUMENT_BYTES` or some rows of a table,
and nothing is unpacked to disk (but for AACT's tables, whose rows must be joined).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from trialese.collect.aact import is_aact, read_aact
from trialese.collect.columnar import is_columnar, read_columnar
from trialese.collect.documents import read_json, read_xml
from trialese.collect.source import RawStudy, Reject, SourceFacts
from trialese.collect.tables import read_csv
from trialese.collect.zipped import Chunk, read_chunk, read_large, safe_entries, split_entries
from trialese.errors import RecordError
from trialese.progress import Progress, silent

__all__ = ["FilesSource", "is_zip", "read_raw", "read_stream"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


class FilesSource:
    """Studies from files of any known kind, one after the other."""

    def __init__(self, paths: tuple[str, ...], *, progress: Progress = silent) -> None:
        if not paths:
            raise RecordError("no files to collect from; name some (`collect.paths` in the recipe)")
        self.paths = tuple(Path(path) for path in paths)
        for path in self.paths:
            if not path.exists():
                raise RecordError(f"{path}: no such file; check `collect.paths`")
        self._progress = progress
        self.total: int | None = None

    def studies(self) -> Iterator[RawStudy | Reject]:
        for part in self.parts():
            yield from read_chunk(part, read_stream) if isinstance(part, Chunk) else part

    def parts(self) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
        for path in self.paths:
            yield from _parts(path)

    def facts(self) -> SourceFacts:
        return SourceFacts(name="files", notes={"paths": [path.name for path in self.paths]})

    def close(self) -> None:
        """Nothing is kept."""


def read_raw(path: Path) -> Iterator[RawStudy | Reject]:
    """The raw studies in a file of any known kind, or in a folder of such files.

    Known are API v2 JSON (one study, an array, `{"studies": [...]}`, JSON lines), legacy XML,
    the website's CSV, tables with a text column, each of them bare, gzip, zstd or zip; AACT's zip
    of tables; texts in Parquet or in a folder that `datasets` saved.

    Raises:
        RecordError: the file as a whole cannot be read: truncated, encrypted, of no known kind.
    """
    for part in _parts(path):
        yield from read_chunk(part, read_stream) if isinstance(part, Chunk) else part


def _parts(path: Path) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
    if path.is_dir():
        # A `datasets` folder describes itself in JSON files that are no studies.
        pattern = "*.arrow" if (path / "dataset_info.json").is_file() else "*"
        for child in sorted(path.glob(pattern)):
            if not child.name.startswith(".") and child.name != "dataset_dict.json":
                yield from _parts(child)
        return
    head = _head(path)
    if is_columnar(head):
        yield read_columnar(path)
    elif not head.startswith(_ZIP):
        yield _read_file(path)
    else:
        entries = safe_entries(path)
        if is_aact(entries):
            yield read_aact(path)
            return
        chunks, large = split_entries(path, entries)
        yield from chunks
        yield read_large(path, large, read_stream)


def _read_file(path: Path) -> Iterator[RawStudy | Reject]:
    try:
        with path.open("rb") as file:
            yield from read_stream(file, path.name)
    except (EOFError, zlib.error, OSError) as error:
        raise RecordError(f"{path}: truncated or damaged ({error}); download it again") from error


def is_zip(path: Path) -> bool:
    """Whether the file begins as a zip does.

    Raises:
        RecordError: it cannot be opened.
    """
    return _head(path).startswith(_ZIP)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the name") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error


def read_stream(stream: IO[bytes], origin: str) -> Iterator[RawStudy | Reject]:
    """The raw studies in a stream of bytes; `origin` names it in messages.

    Raises:
        RecordError: of no known kind.
    """
    buffered: Any = io.BufferedReader(cast(io.RawIOBase, stream), 2**16)
    try:
        head = buffered.peek(8)
        if head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=buffered) as unpacked:
                yield from read_stream(cast(IO[bytes], unpacked), origin)
        elif head.startswith(b"\x28\xb5\x2f\xfd"):
            import pyarrow as pa

            with pa.CompressedInputStream(buffered, "zstd") as unpacked:
                yield from read_stream(unpacked, origin)
        else:
            yield from _read_plain(buffered, origin)
    finally:
        if not buffered.closed:
            buffered.detach()  # the stream is the caller's to close


def _read_plain(stream: io.BufferedReader, origin: str) -> Iterator[RawStudy | Reject]:
    first = stream.peek(2**12).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if first == b"<":
        yield from read_xml(stream, origin)
    elif first in (b"{", b"["):
        yield from read_json(stream, origin)
    elif first == b"":
        raise RecordError(f"{origin}: empty; download it again")
    else:
        yield from read_csv(stream, origin)
