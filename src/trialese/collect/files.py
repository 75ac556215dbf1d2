"""Files and folders that people already have, read as raw studies.

The kind of a file is told from its content. Of a file no more is held than one document or some
rows of a table, and nothing is unpacked to disk but AACT's tables, whose rows must be joined, and
what comes through a pipe, which cannot be read twice.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from trialese.artifacts import digest_of_file
from trialese.collect.aact import aact_entries, aact_table, read_aact, read_aact_tables
from trialese.collect.guarded import is_columnar, is_workbook
from trialese.collect.json_files import read_json
from trialese.collect.parse import parse_study
from trialese.collect.parse_xml import XML_ROOT
from trialese.collect.source import (
    Chunk,
    FileError,
    RawStudy,
    Reject,
    SourceFacts,
    StudyError,
    TooLargeError,
)
from trialese.collect.tables import read_columnar, read_csv
from trialese.collect.vocabulary import nct_id_in
from trialese.collect.zip_files import (
    is_clutter,
    printable,
    read_chunk,
    read_large,
    safe_entries,
    split_entries,
)
from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.records import Trial
from trialese.settings import ReadLimits

__all__ = [
    "FilesSource",
    "digests_by_name",
    "is_pipe",
    "is_zip",
    "read_raw",
    "read_stream",
    "read_trials_from_file",
    "read_xml",
    "regular_files",
    "spool",
]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_DAMAGE: tuple[type[Exception], ...] = (EOFError, zlib.error, lzma.LZMAError, OSError)
_LAYERS = 3
"""So often a file may be compressed: a `.gz` of a `.gz` happens, more is made up."""
_FREE_BYTES = 64 * 2**20
"""Below so many bytes, a file may unpack to anything."""
_TAR_MAGIC_AT = 257

_AS_CSV, _AS_PARQUET = "save it as CSV", "save it as CSV or Parquet"
_ICTRP = "give it to --ids, which collects the studies whose NCT numbers stand in it"
_UNPACK = "unpack it and give the folder"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "a PDF", "download the record as JSON or XML"),
    (b"PK\x03\x04", "a zip inside another file", _UNPACK),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file", _AS_CSV),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x89PNG", "a picture", "leave it out"),
    (b"\xff\xd8\xff", "a picture", "leave it out"),
    (b"GIF87a", "a picture", "leave it out"),
    (b"GIF89a", "a picture", "leave it out"),
    (b"SQLite format 3\0", "an SQLite database", "export its table as CSV"),
    (b"\x93NUMPY", "a NumPy array", "save the texts as CSV"),
    *((bytes((0x80, n)), "a pickle, which is never read", _AS_PARQUET) for n in (2, 3, 4, 5)),
    (b"\x89HDF", "an HDF5 file", _AS_CSV),
    (b"\x00\x05\x16\x07", "macOS's notes on a file", "leave it out"),
    (b"{\\rtf", "a rich-text document", "save it as plain text or CSV"),
    (b"TY  - ", "a reference list (RIS)", "export the records as CSV or JSON"),
    (b"PMID- ", "a reference list (PubMed)", "export the records as CSV or JSON"),
    (b"@article", "a reference list (BibTeX)", "export the records as CSV or JSON"),
    (b"\x7fELF", "a program", "leave it out"),
    (b"MZ\x90\0", "a program", "leave it out"),
)
"""How files begin that are something else, what they are, and what to do."""
_FOREIGN_XML: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype html", "a web page", "download the record as JSON"),
    (b"<html", "a web page", "download the record as JSON"),
    (b"<trials_downloaded_from_ictrp", "WHO ICTRP's XML", _ICTRP),
    (b"<fullstudiesresponse", "API v1 in XML", "download it as JSON (fmt=json)"),
    (b"<studyfieldsresponse", "API v1 in XML", "download it as JSON (fmt=json)"),
    (b"<svg", "a picture", "leave it out"),
    (b"<xml><records", "a reference list (EndNote)", "export the records as CSV or JSON"),
)


def read_xml(
    stream: BufferedReader, origin: str, limits: ReadLimits | None = None
) -> Iterator[RawStudy | Reject]:
    """The one study of a legacy XML document, or a reject.

    Raises:
        TooLargeError: more bytes or tags than the limits allow.
    """
    limits = limits or ReadLimits()
    data = stream.read(limits.document_bytes + 1)
    if len(data) > limits.document_bytes:
        raise TooLargeError(
            f"{origin}: one document of over {limits.document_bytes:,} bytes "
            "(`collect.limits.document_bytes`)"
        )
    if XML_ROOT not in data:
        start = data[:4096].lower()
        known = next(
            (f": {what}; {cure}" for mark, what, cure in _FOREIGN_XML if mark in start), ""
        )
        yield Reject(
            origin=origin,
            reason="no_study",
            detail=f"no <clinical_study> in this XML{known}",
            nct_id=nct_id_in(data),
        )
    elif data.count(b"<") > limits.xml_tags:
        raise TooLargeError(f"{origin}: over {limits.xml_tags:,} tags (`collect.limits.xml_tags`)")
    else:
        yield RawStudy(origin, "xml", data)


class FilesSource:
    """Studies from files of any known kind, one after the other."""

    def __init__(
        self,
        paths: tuple[str, ...],
        *,
        limits: ReadLimits | None = None,
        progress: Progress = silent,
    ) -> None:
        if not paths:
            raise RecordError("no files to collect from; name some (`collect.paths` in the recipe)")
        self._limits = limits or ReadLimits()
        self._names = [Path(path).name for path in paths]
        self._progress = progress
        self.total: int | None = None
        read = []
        for name in paths:
            _check_name(name)
            path = Path(name)
            if is_pipe(path):  # it can be read once only, and its digest is needed too
                folder = Path(tempfile.mkdtemp(prefix="trialese-"))
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                path = spool(path, folder / path.name, self._limits)
            read.append(path)
        self.paths = tuple(read)

    def studies(self) -> Iterator[RawStudy | Reject]:
        for part in self.parts():
            if isinstance(part, Chunk):
                yield from read_chunk(part, read_stream, self._limits)
            else:
                yield from part

    def parts(self) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
        for path in self.paths:
            yield from _parts(path, self._limits)

    def facts(self) -> SourceFacts:
        return SourceFacts(name="files", notes={"paths": self._names})

    def close(self) -> None:
        """Nothing is kept."""


def read_raw(path: Path, limits: ReadLimits | None = None) -> Iterator[RawStudy | Reject]:
    """The raw studies in a file of any known kind, or in a folder of such files.

    `docs/collect.md` lists the kinds. In a folder, what is of no known kind, damaged or no
    regular file is a reject with its reason, and the rest is read.

    Raises:
        RecordError: the file as a whole cannot be read: truncated, encrypted, of no known kind.
    """
    yield from FilesSource((str(path),), limits=limits).studies()


def is_pipe(path: Path) -> bool:
    """Whether it is a pipe, such as `<(command)` or standard input as /dev/stdin."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or (stat.S_ISSOCK(mode) and str(path) == "/dev/stdin")


def spool(pipe: Path | BinaryIO, target: Path, limits: ReadLimits | None = None) -> Path:
    """Write all that comes through a pipe, or standard input, to `target`, which is returned.

    Raises:
        RecordError: more than `limits.unpacked_bytes`, or the disk is full.
    """
    most = (limits or ReadLimits()).unpacked_bytes
    name = pipe if isinstance(pipe, Path) else "standard input"
    try:
        if not isinstance(pipe, Path):
            opened: AbstractContextManager[BinaryIO] = nullcontext(pipe)  # the caller's to close
        else:
            opened = os.fdopen(os.dup(0), "rb") if str(pipe) == "/dev/stdin" else pipe.open("rb")
        with opened as source, target.open("wb") as file:
            while piece := source.read(2**20):
                most -= len(piece)
                if most < 0:
                    raise TooLargeError(
                        f"{name}: brings no end of bytes (`collect.limits.unpacked_bytes`)"
                    )
                file.write(piece)
    except OSError as error:
        raise RecordError(f"{name}: cannot be read to its end ({error.strerror})") from error
    return target


def _check_name(name: str) -> None:
    """Do nothing if something is there that can be read, and whose name can be written down."""
    shown = printable(name)
    if not name:
        raise RecordError("an empty name instead of a file's; check the command's variables")
    if shown != name:
        raise RecordError(f"{shown}: a name that is no UTF-8 text; rename the file")
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
            at = Path(name).absolute()  # from cron, it may be looked for elsewhere
            raise RecordError(f"{name}: no such file; check `collect.paths` ({at})") from error
        raise RecordError(f"{name}: cannot be read ({error.strerror})") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or is_pipe(Path(name))):
        raise RecordError(f"{name}: a device or a socket, no file; give a file or a pipe")


def _parts(path: Path, limits: ReadLimits) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
    if path.is_dir():
        yield from _folder_parts(path, limits)
        return
    head = _head(path)
    if is_columnar(head) or is_workbook(path):
        yield read_columnar(path)
    elif not head.startswith(_ZIP):
        yield _read_file(path, limits)
    else:
        yield from _zip_parts(path, limits)


def _zip_parts(path: Path, limits: ReadLimits) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
    entries = safe_entries(path, limits)
    names = {entry.name for entry in entries}
    if "[Content_Types].xml" in names:
        raise FileError(f"{path}: an Office document; {_AS_CSV}")
    clutter = [entry for entry in entries if is_clutter(entry.name)]
    if clutter:
        yield iter(
            [
                Reject(
                    origin=f"{printable(path.name)}:{printable(entry.name)}",
                    reason="foreign",
                    detail="what an operating system notes of its files",
                )
                for entry in clutter
            ]
        )
        entries = [entry for entry in entries if not is_clutter(entry.name)]
    tables, unused = aact_entries(path, entries)
    if tables:
        yield read_aact(path, tables)
        entries = [entry for entry in entries if entry.name not in tables | unused]
    chunks, large = split_entries(path, entries)
    yield from chunks
    yield read_large(path, large, read_stream, limits)


def _folder_parts(
    folder: Path, limits: ReadLimits
) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
    tables: dict[Path, list[tuple[str, Path]]] = {}
    for child in _walk(folder, limits):
        if isinstance(child, Reject):
            yield iter([child])
            continue
        try:
            if (table := _aact_table_of(child)) is not None:
                tables.setdefault(child.parent, []).append((table, child))
                continue
            for part in _parts(child, limits):
                yield part if isinstance(part, Chunk) else _or_reject(part, child, folder)
        except RecordError as error:
            yield iter([_file_reject(error, child, folder)])
    for place, named in sorted(tables.items()):
        needed = [(table, path) for table, path in named if table]
        if needed:
            yield _or_reject(read_aact_tables(needed, printable(place.name)), place, folder)
        else:
            unneeded = FileError("an AACT table of which nothing is needed, without any that is")
            yield iter([_file_reject(unneeded, path, folder) for _, path in named])


def _or_reject(
    items: Iterator[RawStudy | Reject], child: Path, folder: Path
) -> Iterator[RawStudy | Reject]:
    """The items, and a reject for what stopped them."""
    try:
        yield from items
    except RecordError as error:
        yield _file_reject(error, child, folder)


def _file_reject(error: RecordError, child: Path, folder: Path) -> Reject:
    origin = printable(child.relative_to(folder).as_posix())
    return Reject(
        origin=origin,
        reason=error.reason if isinstance(error, FileError) else "foreign",
        detail=printable(str(error)),
        nct_id=nct_id_in(origin.encode()),  # most files of one study are named after it
    )


def _aact_table_of(path: Path) -> str | None:
    """Which of AACT's tables the file is; "" for one that is not needed, None for another file."""
    if path.suffix.lower() != ".txt":
        return None
    with _opened(path) as file:
        return aact_table(path.name, file.readline(2**16), unused=True)


def digests_by_name(path: Path) -> dict[str, str]:
    """sha256 of the file, or of every file below the folder, by its name."""
    files = [path] if path.is_file() else regular_files(path)
    digests = {}
    for file in files:
        try:
            digest = digest_of_file(file)
        except OSError:
            continue  # a reject of the collection, which reads what can be read
        digests[printable(file.relative_to(path.parent).as_posix())] = digest
    return digests


def regular_files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, hidden ones too, in order; links that loop are left."""
    for child in _walk(folder, ReadLimits(), hidden=True):
        if isinstance(child, Path):
            yield child


def _walk(
    root: Path,
    limits: ReadLimits,
    *,
    hidden: bool = False,
    below: str = "",
    above: tuple[tuple[int, int], ...] = (),
) -> Iterator[Path | Reject]:
    """The regular files below `root` by name, and a reject for what else there is.

    `below` is the folder in it that is being looked at, `above` what tells those above that.
    """
    folder = root / below

    def reject(path: Path, reason: str, detail: str) -> Reject:
        origin = printable(path.relative_to(root).as_posix())
        return Reject(origin=origin, reason=reason, detail=detail)

    try:
        here = folder.stat()
        above = (*above, (here.st_dev, here.st_ino))
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        yield reject(folder, "unreadable", f"the folder cannot be read ({error.strerror})")
        return
    # A `datasets` folder describes itself in JSON files that are no studies.
    arrow_only = not hidden and "dataset_info.json" in names
    for name in names:
        child = folder / name
        if not hidden and (name.startswith(".") or name == "dataset_dict.json"):
            continue
        if arrow_only and not name.endswith(".arrow"):
            continue
        try:
            found = child.stat()
        except OSError as error:
            yield reject(child, "not_a_file", f"leads nowhere ({error.strerror})")
            continue
        if stat.S_ISREG(found.st_mode):
            yield child
        elif not stat.S_ISDIR(found.st_mode):
            yield reject(child, "not_a_file", "a pipe, socket or device; not read")
        elif is_clutter(name) and not hidden:
            yield reject(child, "foreign", "what an operating system notes of its files")
        elif (found.st_dev, found.st_ino) in above:
            yield reject(child, "not_a_file", "a link back to a folder above it")
        elif len(above) > limits.folder_depth:
            yield reject(child, "too_deep", "a folder too deep (`collect.limits.folder_depth`)")
        else:
            inner = child.relative_to(root).as_posix()
            yield from _walk(root, limits, hidden=hidden, below=inner, above=above)


def _read_file(path: Path, limits: ReadLimits) -> Iterator[RawStudy | Reject]:
    with _opened(path) as file:
        try:
            yield from read_stream(file, printable(path.name), limits)
        except OSError as error:
            raise _damaged(path, error) from error


def _damaged(what: object, error: Exception) -> FileError:
    return FileError(
        f"{what}: truncated or damaged ({error}); download it again", reason="damaged_file"
    )


def is_zip(path: Path) -> bool:
    """Whether the file begins as a zip does.

    Raises:
        RecordError: it cannot be opened.
    """
    return _head(path).startswith(_ZIP)


def _head(path: Path) -> bytes:
    with _opened(path) as file:
        try:
            return file.read(8)
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror})") from error


def _opened(path: Path) -> IO[bytes]:
    """The regular file, opened. What has become a pipe or device since is not waited for.

    Raises:
        RecordError: it cannot be opened, or is no regular file.
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the name") from error
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise FileError(message, reason="unreadable") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileError(f"{path}: no regular file; not read", reason="not_a_file")
    return file


class _Counted(io.RawIOBase):
    """A stream that counts what is read of it, and refuses to go on beyond `most`."""

    def __init__(self, stream: IO[bytes], most: Callable[[int], str]) -> None:
        self._stream = stream
        self._complaint = most
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        piece = self._stream.read(len(target))
        target[: len(piece)] = piece
        self.count += len(piece)
        if complaint := self._complaint(self.count):
            raise TooLargeError(complaint)
        return len(piece)


def read_stream(
    stream: IO[bytes], origin: str, limits: ReadLimits | None = None, *, layer: int = 0
) -> Iterator[RawStudy | Reject]:
    """The raw studies in a stream of bytes; `origin` names it in messages.

    Raises:
        RecordError: of no known kind, damaged, or beyond a limit.
    """
    limits = limits or ReadLimits()
    packed = _Counted(stream, lambda count: "")
    buffered: Any = io.BufferedReader(packed, 2**16)
    try:
        unpack = _unpacker(buffered.peek(8))
        if unpack is None:
            yield from _read_plain(buffered, origin, limits)
            return
        if layer == _LAYERS:
            raise FileError(f"{origin}: compressed over {_LAYERS} times; unpack it first")
        most = limits.unpacked_bytes
        ratio = limits.unpacking_ratio

        def complaint(count: int) -> str:
            if count > _FREE_BYTES and count > ratio * packed.count:
                return (
                    f"{origin}: unpacks to over {ratio} times its size "
                    "(`collect.limits.unpacking_ratio`); not read"
                )
            if count > most:
                return f"{origin}: unpacks to over {most:,} bytes (`collect.limits.unpacked_bytes`)"
            return ""

        with unpack(buffered) as unpacked:
            counted = _Counted(unpacked, complaint)
            yield from read_stream(cast(IO[bytes], counted), origin, limits, layer=layer + 1)
    except _damage() as error:
        raise _damaged(origin, error) from error


def _damage() -> tuple[type[Exception], ...]:
    """What a damaged stream raises; of zstd's, only where pyarrow was needed at all."""
    arrow = sys.modules.get("pyarrow")
    return (*_DAMAGE, arrow.ArrowException) if arrow else _DAMAGE


def _unpacker(head: bytes) -> Callable[[Any], Any] | None:
    """What unpacks a file that begins so; None for one that is not compressed."""
    if head.startswith(b"\x1f\x8b"):
        return lambda packed: gzip.GzipFile(fileobj=packed)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        return lambda packed: pa.CompressedInputStream(packed, "zstd")
    if head.startswith(b"BZh") and head[4:8] == b"1AY&":
        return bz2.BZ2File
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile
    return None


def _read_plain(
    stream: io.BufferedReader, origin: str, limits: ReadLimits
) -> Iterator[RawStudy | Reject]:
    head = stream.peek(2**12)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n\x1e")
    header = start.partition(b"\n")[0]
    for mark, what, cure in _FOREIGN:
        if start.startswith(mark):
            raise FileError(f"{origin}: {what}; {cure}")
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        raise FileError(f"{origin}: a tar archive; {_UNPACK}")
    if start[:1] == b"<":
        yield from read_xml(stream, origin, limits)
    elif start[:1] in (b"{", b"["):
        yield from read_json(stream, origin, limits)
    elif start == b"" and len(head) < 2**12:
        raise FileError(f"{origin}: empty; download it again", reason="empty")
    elif b"TrialID" in header and b"cientific" in header:
        raise FileError(f"{origin}: WHO ICTRP's table; {_ICTRP}")
    elif table := aact_table(origin.rpartition(":")[2], header):
        yield from read_aact_tables([(table, stream)], origin)
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
