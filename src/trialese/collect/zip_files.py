"""Zip archives of studies: checked as a whole, then read entry by entry from any process.

The directory is read once; an entry is then a handful of numbers, so chunks of entries can be
handed to workers that read the file themselves. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from trialese.collect.source import Chunk, Entry, FileError, RawStudy, Reject, TooLargeError
from trialese.collect.vocabulary import nct_id_in
from trialese.errors import RecordError
from trialese.settings import ReadLimits

__all__ = [
    "DAMAGE",
    "is_clutter",
    "printable",
    "read_chunk",
    "read_large",
    "safe_entries",
    "split_entries",
]


DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, struct.error,
    ValueError, IndexError, OverflowError,
)  # fmt: skip
"""What zipfile and zlib raise over damaged archives. UnicodeDecodeError is a ValueError."""
RATIO_FREE_BYTES = 16 * 2**20
"""Smaller entries may unpack from anything: registry records deflate about 5 : 1."""
RATIO_FREE_BYTES_IN_ALL = 2**30
WHOLE_BYTES = 32 * 2**20
"""Larger entries are streamed by one process; no single study comes near."""
CHUNK_ENTRIES = 4_000
CHUNK_BYTES = 128 * 2**20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LIKELY_EXTRA_BYTES = 64
_PLAIN_STUDY = b'{"protocolSection"'


class _Reader(Protocol):
    """Reads one file's stream; the text names it in messages."""

    def __call__(
        self, stream: IO[bytes], origin: str, limits: ReadLimits
    ) -> Iterator[RawStudy | Reject]: ...


def printable(text: str) -> str:
    """The text with what cannot be written down or shown (bytes that are no UTF-8, ESC) escaped."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    )


def is_clutter(name: str) -> bool:
    """Whether the name is one that macOS or Windows gives to what it notes of other files."""
    parts = name.split("/")
    return (
        "__MACOSX" in parts
        or parts[-1].startswith("._")
        or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")
    )


def safe_entries(path: Path, limits: ReadLimits | None = None) -> list[Entry]:
    """The entries that are files, after checks that the archive is what it claims to be.

    Raises:
        RecordError: no whole zip, an entry outside the archive's folder, a name twice,
            encryption, entries that overlap, or one that would unpack beyond reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except DAMAGE as error:
        raise FileError(
            f"{path}: truncated or damaged zip ({error}); download it again",
            reason="damaged_file",
        ) from error
    limits = limits or ReadLimits()
    if len(infos) > limits.archive_entries:
        raise TooLargeError(
            f"{path}: over {limits.archive_entries:,} entries (`collect.limits.archive_entries`)"
        )
    names: set[str] = set()
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        complaint = _complaint(info, names, end, limits.unpacking_ratio)
        if complaint:
            message = f"{path}: entry {info.filename[:80]!a} {complaint}; not read"
            raise FileError(message, reason="unsafe_archive")
        names.add(info.filename)
        end = info.header_offset + info.compress_size
    packed = sum(info.compress_size for info in infos)
    plain = sum(info.file_size for info in infos)
    if plain > RATIO_FREE_BYTES_IN_ALL and plain > limits.unpacking_ratio * packed:
        raise TooLargeError(
            f"{path}: would unpack to {plain:,} bytes from {packed:,} "
            "(`collect.limits.unpacking_ratio`); not read"
        )
    return [
        Entry(
            info.filename,
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type,
        )
        for info in infos
    ]


def _complaint(info: zipfile.ZipInfo, names: set[str], end: int, ratio: int) -> str | None:
    name = info.filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or parts[0].endswith(":"):
        return "points outside the archive's folder"
    if name in names:
        return "stands twice in the archive"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.header_offset < end:
        return "overlaps another"
    if info.file_size > RATIO_FREE_BYTES and info.file_size > ratio * info.compress_size:
        return (
            f"would unpack to {info.file_size:,} bytes from {info.compress_size:,} "
            "(`collect.limits.unpacking_ratio`)"
        )
    return None


def split_entries(path: Path, entries: list[Entry]) -> tuple[list[Chunk], list[Entry]]:
    """Chunks for workers, and the entries that must be streamed because they are large."""
    chunks: list[Chunk] = []
    large: list[Entry] = []
    held: list[Entry] = []
    held_bytes = 0
    for entry in entries:
        if entry.plain_bytes > WHOLE_BYTES:
            large.append(entry)
            continue
        held.append(entry)
        held_bytes += entry.plain_bytes
        if len(held) >= CHUNK_ENTRIES or held_bytes >= CHUNK_BYTES:
            chunks.append(Chunk(str(path), held))
            held, held_bytes = [], 0
    if held:
        chunks.append(Chunk(str(path), held))
    return chunks, large


def read_large(
    path: Path, entries: list[Entry], read: _Reader, limits: ReadLimits
) -> Iterator[RawStudy | Reject]:
    """The raw studies of entries too large to be held; `read` understands one file's stream."""
    if not entries:
        return  # a directory of 600,000 entries takes seconds to read
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            origin = printable(f"{path.name}:{entry.name}")
            try:
                with archive.open(entry.name) as stream:
                    yield from read(stream, origin, limits)
            except (*DAMAGE, RecordError) as error:
                yield _entry_reject(origin, error)


def read_chunk(
    chunk: Chunk, read: _Reader, limits: ReadLimits | None = None
) -> Iterator[RawStudy | Reject]:
    """The raw studies of the chunk's entries.

    A damaged or foreign entry is a reject; the rest is still read.
    """
    folder = Path(chunk.path).name
    limits = limits or ReadLimits()
    with Path(chunk.path).open("rb", buffering=0) as file:
        for entry in chunk.entries:
            origin = printable(f"{folder}:{entry.name}")
            try:
                data = _unpacked(file, entry)
                # The usual entry is one study, written without line breaks: no need to look twice.
                if data.startswith(_PLAIN_STUDY) and b"\n{" not in data:
                    yield RawStudy(origin, "v2", data)
                else:
                    yield from read(io.BytesIO(data), origin, limits)
            except (*DAMAGE, RecordError) as error:
                yield _entry_reject(origin, error)


def _entry_reject(origin: str, error: Exception) -> Reject:
    reason = "damaged_entry"
    if isinstance(error, RecordError):
        reason = error.reason if isinstance(error, FileError) else "foreign"
        reason = reason.replace("damaged_file", "damaged_entry")
    nct_id = nct_id_in(origin.encode())  # most entries are named after their study
    return Reject(origin=origin, reason=reason, detail=printable(f"{error}"), nct_id=nct_id)


def _unpacked(file: IO[bytes], entry: Entry) -> bytes:
    """The entry's bytes, never more than its directory says, checked against its checksum.

    Layout: PKWARE's APPNOTE.TXT, 4.3.7. One read takes header and data.
    """
    likely = _LOCAL_HEADER.size + len(entry.name) + _LIKELY_EXTRA_BYTES + entry.packed_bytes
    file.seek(entry.offset)
    record = file.read(likely)
    if len(record) < _LOCAL_HEADER.size:
        raise zipfile.BadZipFile("no local header")
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(record)
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    start = _LOCAL_HEADER.size + name_bytes + extra_bytes
    if start + entry.packed_bytes > len(record):
        file.seek(entry.offset)
        record = file.read(start + entry.packed_bytes)
    packed = memoryview(record)[start : start + entry.packed_bytes]
    if entry.method == zipfile.ZIP_STORED:
        data = bytes(packed)
    elif entry.method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, entry.plain_bytes + 1)
    else:
        raise zipfile.BadZipFile(f"compression method {entry.method} is not supported")
    if len(data) != entry.plain_bytes or zlib.crc32(data) != entry.checksum:
        raise zipfile.BadZipFile("the checksum does not fit")
    return data
