"""Files that people already have -> raw studies. The kind is told from the content.

Nothing is ever unpacked to disk, and no more of a file is held than one document of at most
`MAX_DOCUMENT_BYTES` or one row of a table.
"""

from __future__ import annotations

import gzip
import io
import logging
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from trialese.collect.documents import read_json, read_xml
from trialese.collect.source import RawStudy, Reject, SourceFacts
from trialese.collect.tables import read_csv
from trialese.errors import RecordError
from trialese.progress import Progress, silent

__all__ = ["FilesSource", "read_raw", "read_stream"]

MAX_RATIO = 200
"""Registry records deflate about 5 : 1; an entry beyond this ratio is made to fill a memory."""
RATIO_FREE_BYTES = 16 * 2**20

log = logging.getLogger(__name__)


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
        for path in self.paths:
            yield from read_raw(path)

    def facts(self) -> SourceFacts:
        return SourceFacts(name="files", notes={"paths": [path.name for path in self.paths]})

    def close(self) -> None:
        """Nothing is kept."""


def read_raw(path: Path) -> Iterator[RawStudy | Reject]:
    """The raw studies in a file of any known kind, or in a folder of such files.

    Known are API v2 JSON (one study, an array, `{"studies": [...]}`, JSON lines), legacy XML,
    the website's CSV, tables with a text column, each of them bare, gzip, zstd or zip.

    Raises:
        RecordError: the file as a whole cannot be read: truncated, encrypted, of no known kind.
    """
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if child.is_file() and not child.name.startswith("."):
                yield from read_raw(child)
        return
    try:
        with path.open("rb") as file:
            if file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"):
                yield from _read_zip(path)
            else:
                file.seek(0)
                yield from read_stream(file, path.name)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file") from error
    except (EOFError, zlib.error, OSError) as error:
        raise RecordError(f"{path}: truncated or damaged ({error}); download it again") from error


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


def _read_zip(path: Path) -> Iterator[RawStudy | Reject]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = safe_entries(archive, path)
            for entry in entries:
                yield from _read_entry(archive, entry, f"{path.name}:{entry.filename}")
    except zipfile.BadZipFile as error:
        raise RecordError(
            f"{path}: truncated or damaged zip ({error}); download it again"
        ) from error


def _read_entry(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, origin: str
) -> Iterator[RawStudy | Reject]:
    """One entry's studies; a damaged or foreign entry is a reject, the rest is still read."""
    try:
        with archive.open(entry) as stream:
            yield from read_stream(stream, origin)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        yield Reject(origin=origin, reason="damaged_entry", detail=f"{error}")
    except NotImplementedError as error:
        yield Reject(origin=origin, reason="unknown_compression", detail=f"{error}")
    except RecordError as error:
        yield Reject(origin=origin, reason="no_study", detail=f"{error}")


def safe_entries(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The entries that are files, after checks that the archive is what it claims to be.

    Raises:
        RecordError: an entry outside the archive's folder, a name twice, encryption, entries that
            overlap, or one that would unpack beyond reason.
    """
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    names: set[str] = set()
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename
        parts = name.replace("\\", "/").split("/")
        complaint = None
        if name.startswith(("/", "\\")) or ".." in parts or parts[0].endswith(":"):
            complaint = "points outside the archive's folder"
        elif name in names:
            complaint = "stands twice in the archive"
        elif entry.flag_bits & 0x1:
            complaint = "is encrypted"
        elif entry.header_offset < end:
            complaint = "overlaps another"
        elif (
            entry.file_size > RATIO_FREE_BYTES and entry.file_size > MAX_RATIO * entry.compress_size
        ):
            complaint = f"would unpack to {entry.file_size:,} bytes from {entry.compress_size:,}"
        if complaint:
            raise RecordError(f"{path}: entry {name[:80]!r} {complaint}; not read")
        names.add(name)
        end = entry.header_offset + entry.compress_size
    return entries
