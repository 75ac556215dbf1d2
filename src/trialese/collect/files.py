"""JSON and XML streams -> raw studies.

Files that people already have -> raw studies. The kind is told from the content.

Of a file no more is held than a document of at most `MAX_DOCUMENT_BYTES` or some rows of a table,
and nothing is unpacked to disk (but for AACT's tables, whose rows must be joined).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from trialese.collect.aact import is_aact, read_aact
from trialese.collect.guarded import is_columnar, is_workbook
from trialese.collect.parse import parse_study
from trialese.collect.parse_xml import XML_ROOT
from trialese.collect.source import RawStudy, Reject, SourceFacts, StudyError
from trialese.collect.tables import read_columnar, read_csv, text_cells
from trialese.collect.vocabulary import nct_id_in
from trialese.collect.zip_files import Chunk, read_chunk, read_large, safe_entries, split_entries
from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.records import Trial

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "FilesSource",
    "is_zip",
    "read_json",
    "read_raw",
    "read_stream",
    "read_trials_from_file",
    "read_xml",
    "split_page",
]


MAX_DOCUMENT_BYTES = 256 * 2**20
"""The largest JSON or XML document read whole; one study is at most a few MB."""


class _Envelope(msgspec.Struct, rename="camel"):
    """What tells a page of studies from one study."""

    studies: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    protocol_section: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def read_xml(stream: BufferedReader, origin: str) -> Iterator[RawStudy | Reject]:
    """The one study of a legacy XML document, or a reject."""
    data = _whole(stream, origin)
    if XML_ROOT not in data:
        yield Reject(origin=origin, reason="no_study", detail="no <clinical_study> in this XML")
    else:
        yield RawStudy(origin, "xml", data)


def read_json(stream: BufferedReader, origin: str) -> Iterator[RawStudy | Reject]:
    """The studies of a JSON document (one, an array, a page) or of JSON lines.

    JSON lines are told by their first line, which is a whole document with more behind it.
    """
    first = stream.readline(MAX_DOCUMENT_BYTES + 1)
    while first and not first.strip():
        first = stream.readline(MAX_DOCUMENT_BYTES + 1)
    if stream.peek(1) and first.lstrip(b"\xef\xbb\xbf").startswith(b"{") and _is_whole(first):
        number = 1
        line = first
        while line:
            if line.strip():
                yield from split_page(line, f"{origin}:{number}")
            number += 1
            line = stream.readline(MAX_DOCUMENT_BYTES + 1)
        return
    yield from split_page(first + _whole(stream, origin, held=len(first)), origin)


def split_page(data: bytes, origin: str) -> Iterator[RawStudy | Reject]:
    """The studies in one JSON document, as bytes each; or one reject that says why not."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        if data.lstrip().startswith(b"["):
            parts = _ARRAY.decode(data)
        else:
            envelope = _ENVELOPE.decode(data)
            if envelope.studies is msgspec.UNSET:
                if envelope.protocol_section is msgspec.UNSET:
                    if cells := text_cells(msgspec.json.decode(data)):
                        yield RawStudy(origin, "text", cells)
                        return
                    detail = "this JSON is no study (no protocolSection); pass v2 records"
                    yield Reject(origin=origin, reason="no_study", detail=detail)
                else:
                    yield RawStudy(origin, "v2", data)
                return
            parts = envelope.studies
    except msgspec.ValidationError as error:
        yield Reject(
            origin=origin,
            reason="no_study",
            detail=f"this JSON is no study ({error})",
            nct_id=nct_id_in(data),
        )
        return
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        yield Reject(
            origin=origin,
            reason="bad_json",
            detail=f"not valid JSON ({error})",
            nct_id=nct_id_in(data),
        )
        return
    except RecursionError:
        yield Reject(
            origin=origin,
            reason="too_deep",
            detail="nested too deeply to be a study",
            nct_id=nct_id_in(data),
        )
        return
    for position, part in enumerate(parts):
        yield RawStudy(f"{origin}#{position}", "v2", bytes(part))


def _is_whole(line: bytes) -> bool:
    try:
        msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _whole(stream: BufferedReader, origin: str, *, held: int = 0) -> bytes:
    data = stream.read(MAX_DOCUMENT_BYTES - held + 1)
    if len(data) + held > MAX_DOCUMENT_BYTES:
        raise RecordError(
            f"{origin}: one document of over {MAX_DOCUMENT_BYTES // 2**20} MiB; "
            "save it as JSON lines, one study a line"
        )
    return data


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
    if is_columnar(head) or is_workbook(path):
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


def read_trials_from_file(
    path: Path, *, on_reject: Callable[[Reject], None] | None = None
) -> Iterator[Trial]:
    """The trials in a file of any known kind, in its order.

    `on_reject` is told of every record that is no study; without it the first one raises.

    Raises:
        RecordError: the file or, without `on_reject`, a record in it cannot be understood.
    """
    for item in read_raw(path):
        try:
            if isinstance(item, RawStudy):
                yield parse_study(item).trial
                continue
            reject = item
        except StudyError as bad:
            if on_reject is None:
                raise
            reject = bad.reject()
        if on_reject is None:
            raise RecordError(f"{reject.origin}: {reject.detail or reject.reason}")
        on_reject(reject)
