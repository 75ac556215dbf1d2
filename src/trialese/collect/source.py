"""The interface of a source of studies: raw studies out, rejects with reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from trialese.errors import RecordError

__all__ = [
    "SYNTHETIC_NOTICE",
    "Chunk",
    "Entry",
    "FileError",
    "RawStudy",
    "Reject",
    "Source",
    "SourceFacts",
    "StudyError",
    "StudyFormat",
    "TooLargeError",
    "decode_nearly",
]

T = TypeVar("T")

SYNTHETIC_NOTICE = "Synthetic studies made up by trialese; none of them is a registry record."

StudyFormat = Literal["v2", "xml", "csv", "aact", "text"]
"""API v2 JSON, legacy XML, a row of the website's CSV, joined AACT rows, a bare text."""


@dataclass(frozen=True, slots=True)
class RawStudy:
    """One study as its source holds it, unparsed.

    `data` is the bytes of one JSON or XML document, or a mapping: the decoded JSON of a study,
    or the cells of a table's row by column name. `origin` says where it came from, for messages.
    """

    origin: str
    format: StudyFormat
    data: bytes | Mapping[str, Any]


class Reject(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A record that could not become a `Trial`, and why; counted, never silent."""

    origin: str
    reason: str
    """A short snake_case word to count by."""
    detail: str = ""
    nct_id: str = ""


class StudyError(RecordError):
    """One record that cannot be understood: `reason` to count by, `detail` to read.

    `nct_id` is the record's number where one can be made out, else "".
    """

    def __init__(self, origin: str, reason: str, detail: str, *, nct_id: str = "") -> None:
        super().__init__(f"{origin}: {detail}")
        self.origin = origin
        self.reason = reason
        self.detail = detail
        self.nct_id = nct_id

    def reject(self) -> Reject:
        """The same as a value."""
        return Reject(
            origin=self.origin, reason=self.reason, detail=self.detail, nct_id=self.nct_id
        )


class FileError(RecordError):
    """One file that cannot be read: `reason` to count by where it is one of several."""

    def __init__(self, message: str, *, reason: str = "foreign") -> None:
        super().__init__(message)
        self.reason = reason


class TooLargeError(FileError):
    """A file, or something in it, beyond a limit; the message names the limit's setting."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="too_large")


@dataclass(slots=True)
class SourceFacts:
    """What a snapshot's manifest says of its source."""

    name: str
    data_timestamp: str | None = None
    """When the registry last refreshed what was collected, ISO 8601; None where unknown."""
    notes: dict[str, Any] = field(default_factory=dict)


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where one file lies in an archive."""

    name: str
    offset: int
    packed_bytes: int
    plain_bytes: int
    checksum: int
    method: int


class Chunk(msgspec.Struct, frozen=True):
    """Entries of one archive that one worker reads."""

    path: str
    entries: list[Entry]


class Source(Protocol):
    """Somewhere studies come from."""

    @property
    def total(self) -> int | None:
        """How many records there are, where that is known beforehand."""
        ...

    def studies(self) -> Iterator[RawStudy | Reject]:
        """The source's raw studies one at a time, and what could not even be read as one."""
        ...

    def parts(self) -> Iterator[Chunk | Iterator[RawStudy | Reject]]:
        """The same studies in parts: chunks of archives, which any process can read, and streams,
        which only this one can.
        """
        ...

    def facts(self) -> SourceFacts:
        """What is known of the source once `studies` has been read to its end."""
        ...

    def close(self) -> None:
        """Tell the source that its studies are safe on disk, so what it kept can go."""
        ...


_NO_JSON = re.compile(
    rb"(?P<word>(?<=[\s:,\[])(?:NaN|-?Infinity)(?=[\s,\]}]))|(?P<control>[\x00-\x1f])"
    rb"|\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<lone>u[dD][89a-fA-F]\w\w)|.)"
)


def decode_nearly(data: bytes, kind: type[T]) -> T:
    """The JSON as `kind`; NaN, lone surrogates and control characters, which JSON lacks though
    programs write them, are `null`, U+FFFD and blanks, in texts too: to find a record, not to read.

    Raises:
        msgspec.DecodeError: not even nearly JSON, or of another kind.
        UnicodeDecodeError: a text that was asked for is no UTF-8.
        RecursionError: nested too deeply.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        plain = _NO_JSON.sub(_as_json, data)
        if plain == data:
            raise
        return msgspec.json.decode(plain, type=kind)


def _as_json(found: re.Match[bytes]) -> bytes:
    put = {"word": b"null", "control": b" ", "lone": b"\\ufffd"}
    return put.get(found.lastgroup or "", found[0])
