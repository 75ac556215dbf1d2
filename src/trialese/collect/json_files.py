"""JSON documents and JSON lines, however wrapped, read as studies and texts in bounded memory.

Studies are found at any shallow depth: one, an array, pages, arrays of pages, a mapping by NCT
number, `{"study": ...}`, values one after the other. Of a document no more is held than the limit
for one value; what is larger is entered and read value by value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BufferedReader, BytesIO
from typing import IO, Any, cast

import msgspec

from trialese.collect.delimited import TEXT_COLUMNS, find_column
from trialese.collect.parse_v2 import study_from_v1
from trialese.collect.source import (
    FileError,
    RawStudy,
    Reject,
    TooLargeError,
    decode_nearly,
)
from trialese.collect.tables import text_cells
from trialese.collect.vocabulary import nct_id_in
from trialese.errors import RecordError
from trialese.settings import ReadLimits

__all__ = ["read_json", "split_page"]

_BOM = b"\xef\xbb\xbf"
_SEPARATOR = b"\x1e"  # begins a value in RFC 7464
_PIECE_BYTES = 2**20
_DEPTH = 6  # so deep a study may lie: v1's FullStudiesResponse is five
_TEXT_DEPTH = 2  # deeper, a key such as "text" is no column of a table
_NESTED = {"data", "fields", "inputs"}  # where label tools put a row's own columns
_AT_ONCE_BYTES = 8 * 2**20
"""An array of at most so many bytes is split at once, which takes 300 MB at worst."""
_DECODED_BYTES = 16 * 2**20
"""A row of texts or a study of API v1 is decoded as a whole: no larger one is."""
_MOST_KEYS = 10_000
_MOST_FOREIGN = 1_000
"""Values that are no studies, before the first one that is: then it is the wrong file."""
_NCT_KEY = re.compile(rb"NCT[0-9]{8}\Z")

_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"|\{\}|\[\])*+([\[\]{}])', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BLANK = re.compile(rb"[\s,\x1e]*+")
_SCALAR = re.compile(rb"[-+.\w]++")
_SCALARS = re.compile(rb"(?:[-+.\w]++\s*+,\s*+)++")


class _Envelope(msgspec.Struct):
    """The keys that tell a study from what wraps it."""

    v2: msgspec.Raw | msgspec.UnsetType = msgspec.field(
        name="protocolSection", default=msgspec.UNSET
    )
    v1: msgspec.Raw | msgspec.UnsetType = msgspec.field(
        name="ProtocolSection", default=msgspec.UNSET
    )
    studies: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Study(msgspec.Struct, gc=False):
    """An object that has the key of a study."""

    v2: msgspec.Raw = msgspec.field(name="protocolSection")


_STUDIES = msgspec.json.Decoder(list[_Study])
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


class _BrokenError(Exception):
    """The JSON ends, or goes wrong, in the middle."""


def read_json(
    stream: BufferedReader, origin: str, limits: ReadLimits | None = None
) -> Iterator[RawStudy | Reject]:
    """The studies of a JSON document, of several in a row, or of JSON lines.

    JSON lines are told by their first line, which is a whole document with more behind it.

    Raises:
        RecordError: no study among many values, or one value beyond `limits.document_bytes`.
    """
    limits = limits or ReadLimits()
    most = limits.document_bytes
    first = stream.readline(most + 1)
    while first and not first.strip():
        first = stream.readline(most + 1)
    begins = first.removeprefix(_BOM).lstrip(_SEPARATOR)
    if stream.peek(1) and begins.startswith(b"{") and _is_whole(begins):
        yield from _read_lines(stream, first, origin, limits)
    else:
        yield from _read_values(stream, first.removeprefix(_BOM), origin, limits)


def split_page(
    data: bytes, origin: str, limits: ReadLimits | None = None
) -> Iterator[RawStudy | Reject]:
    """The studies in one JSON document, as bytes each; or one reject that says why not."""
    data = data.removeprefix(_BOM).lstrip(_SEPARATOR)
    yield from _Finder(origin, limits or ReadLimits()).whole(data)


def _read_lines(
    stream: BufferedReader, line: bytes, origin: str, limits: ReadLimits
) -> Iterator[RawStudy | Reject]:
    number = 1
    while line:
        where = f"{origin}:{number}"
        if len(line) > limits.document_bytes:
            yield Reject(origin=where, reason="too_large", detail=_too_large(limits))
            while line and not line.endswith(b"\n"):
                line = stream.readline(_PIECE_BYTES)
        elif line.strip():
            yield from split_page(line, where, limits)
        number += 1
        line = stream.readline(limits.document_bytes + 1)


def _read_values(
    stream: IO[bytes], held: bytes, origin: str, limits: ReadLimits
) -> Iterator[RawStudy | Reject]:
    """The studies of one document, or of several one after the other."""
    finder = _Finder(origin, limits)
    held += stream.read(max(limits.document_bytes + 1 - len(held), 0))
    if len(held) <= limits.document_bytes and _is_whole(held):
        yield from finder.whole(held)
        return
    values = _Values(stream, held, limits, origin)
    beginning = b""
    try:
        first = values.take(0)
        if first is not None and values.peek() is None:
            yield from finder.whole(first)
            return
        if first is not None:  # more follow
            yield from finder.each(first, 0)
        beginning = values.beginning()
        yield from _read_each(values, finder, [values.enter()] if first is None else [])
    except _BrokenError as error:
        yield finder.broken(beginning or values.beginning(), error)


def _read_each(values: _Values, finder: _Finder, entered: list[int]) -> Iterator[RawStudy | Reject]:
    """The studies of what follows, within the arrays and objects entered (what closes them)."""
    scalars = 0
    while (char := values.peek()) is not None:
        if entered and char == entered[-1]:
            entered.pop()
            values.skip(1)
            continue
        key = values.key() if entered and entered[-1] == _CLOSES[_OBJECT] else b""
        if skipped := values.skip_scalars():
            if _NCT_KEY.match(key):
                yield finder.reject(key, "a number of a study without the study")
            elif not key:
                scalars += skipped
            continue
        value = values.take(len(entered))
        if key in _STUDY_KEYS and not values.cut_off:  # the study itself could not be held
            yield finder.reject(value or b"", _too_large(values.limits), "too_large")
        if value is None:
            entered.append(values.enter())
        elif key not in _STUDY_KEYS:
            yield from finder.each(value, len(entered), key)
    if entered:
        raise _BrokenError(_CUT_OFF)
    if scalars:
        yield finder.reject(b"", f"{scalars:,} numbers in it are no studies")
    elif not finder.found and not finder.refused:
        yield finder.reject(b"", "this JSON is no study (no protocolSection); pass v2 records")


_STUDY_KEYS = (b"protocolSection", b"ProtocolSection")
_CUT_OFF = "it ends in the middle; download it again"
_OBJECT, _ARRAY_OPENS, _QUOTE = b"{"[0], b"["[0], b'"'[0]
_CLOSES = {_OBJECT: b"}"[0], _ARRAY_OPENS: b"]"[0]}


class _Values:
    """A stream of JSON of which the part that is being looked at is held."""

    def __init__(
        self, stream: IO[bytes], held: bytes, limits: ReadLimits, origin: str = ""
    ) -> None:
        self._stream = stream
        self._origin = f"{origin}: " if origin else ""
        self._held = bytearray(held)
        self._at = 0
        self.limits = limits
        self.cut_off = False
        """The JSON ends in the middle of a value that has been entered."""

    def peek(self) -> int | None:
        """The next byte that is no blank and no comma; None at the end."""
        while True:
            self._at = cast(re.Match[bytes], _BLANK.match(self._held, self._at)).end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return None

    def beginning(self) -> bytes:
        """Some of what comes next."""
        return bytes(self._held[self._at : self._at + 2**16])

    def skip(self, count: int) -> None:
        self._at += count

    def enter(self) -> int:
        """Go into the array or object that begins here; the byte that will close it."""
        self._at += 1
        return _CLOSES[self._held[self._at - 1]]

    def key(self) -> bytes:
        """The key that stands here, with its colon taken too."""
        key = self._string()
        while self.peek() is not None:
            if self._held[self._at] != b":"[0]:
                break
            self._at += 1
            self.peek()
            return key[1:-1]
        raise _BrokenError("a key without a value")

    def skip_scalars(self) -> int:
        """How many numbers, `true`, `false` and `null` in a row are skipped here."""
        count = 0
        while self.peek() is not None:
            run = _SCALARS.match(self._held, self._at)
            if run:
                count += run[0].count(b",")
                self._at = run.end()
                continue
            one = _SCALAR.match(self._held, self._at)
            if one is None:
                break
            if one.end() == len(self._held) and self._more():
                continue  # it may go on
            count += 1
            self._at = one.end()
        return count

    def take(self, depth: int) -> bytes | None:
        """The string, array or object that begins here; None if it must be entered.

        Raises:
            TooLargeError: it is beyond the limit, and nothing that can be entered.
        """
        char = self.peek()
        if char == _QUOTE:
            return self._string()
        if char not in _CLOSES:
            if char is not None and (one := _SCALAR.match(self._held, self._at)):
                self._at = one.end()
                return one[0]
            raise _BrokenError(f"unexpected {bytes(self._held[self._at : self._at + 20])!r}")
        level, at = 1, self._at + 1
        while True:
            # `match` and not `finditer`, which would look for a start within an unfinished string.
            while found := _TO_BRACKET.match(self._held, at):
                at = found.end()
                level += 1 if found[1] in b"{[" else -1
                if level > self.limits.nesting:
                    raise FileError(
                        f"{self._origin}nested over {self.limits.nesting:,} deep "
                        "(`collect.limits.nesting`)",
                        reason="too_deep",
                    )
                if at - self._at > self.limits.document_bytes:
                    break
                if level == 0:
                    value = bytes(self._held[self._at : at])
                    self._at = at
                    return value
            if len(self._held) - self._at > self.limits.document_bytes:
                if depth < _DEPTH:
                    return None
                raise TooLargeError(f"{self._origin}{_too_large(self.limits)}")
            at -= self._at
            more = self._more()
            at += self._at
            if not more:
                if depth < _DEPTH and level:
                    self.cut_off = True
                    return None  # what is whole of it can still be read
                raise _BrokenError(_CUT_OFF)

    def _string(self) -> bytes:
        while True:
            found = _STRING.match(self._held, self._at)
            if found:
                self._at = found.end()
                return found[0]
            if self._held[self._at : self._at + 1] != b'"':
                raise _BrokenError(f"unexpected {bytes(self._held[self._at : self._at + 20])!r}")
            if len(self._held) - self._at > self.limits.document_bytes:
                raise TooLargeError(f"{self._origin}{_too_large(self.limits)}")
            if not self._more():
                raise _BrokenError(_CUT_OFF)

    def _more(self) -> bool:
        """Hold a piece more, and no longer what has been read."""
        del self._held[: self._at]
        self._at = 0
        piece = self._stream.read(_PIECE_BYTES)
        self._held += piece
        return bool(piece)


class _Finder:
    """Finds studies and texts in JSON values, and numbers them."""

    def __init__(self, origin: str, limits: ReadLimits) -> None:
        self._origin = origin
        self._limits = limits
        self._number = 0
        self.found = 0
        self.refused = 0

    def whole(self, data: bytes) -> Iterator[RawStudy | Reject]:
        """The studies of a document that is one value."""
        yield from self._in(data, 0, lambda: self._origin)

    def each(self, data: bytes, depth: int, key: bytes = b"") -> Iterator[RawStudy | Reject]:
        """The studies of one of several values; `key` is the one it has in an object."""
        if key and data[:1] not in (b"{", b"[") and not _NCT_KEY.match(key):
            return
        if not key:
            yield from self._in(data, depth, self._next, array=depth == 1)
        elif _NCT_KEY.match(key):
            for item in self._in(data, depth, self._next):
                if isinstance(item, Reject) and not item.nct_id:
                    yield msgspec.structs.replace(item, nct_id=key.decode())
                else:
                    yield item
        else:  # only if there is a study in it is all of it records
            before = self.found
            held: list[Reject] = []
            for item in self._in(data, depth, self._next, row=False):
                if isinstance(item, Reject) and self.found == before:
                    held.append(item)
                    continue
                yield from held
                held.clear()
                yield item

    def reject(
        self,
        data: bytes,
        detail: str,
        reason: str = "no_study",
        name: Callable[[], str] | None = None,
    ) -> Reject:
        """The reject of a value.

        Raises:
            RecordError: so many and no study yet: it is the wrong file.
        """
        self.refused += 1
        if self.refused > _MOST_FOREIGN and not self.found:
            raise RecordError(
                f"{self._origin}: no study among its first {_MOST_FOREIGN:,} values; "
                "is it the right file?"
            )
        origin = (name or self._next)()
        return Reject(origin=origin, reason=reason, detail=detail, nct_id=nct_id_in(data))

    def broken(self, data: bytes, error: Exception) -> Reject:
        """The reject of what cannot be read of a document, which begins or goes on with `data`."""
        if self.found or self._number:
            # once a study was found, the number in what it begins with is that one's
            begins = b"" if self.found else data
            return self.reject(begins, f"not valid JSON ({error})", "bad_json")
        return self.reject(data, f"not valid JSON ({error})", "bad_json", lambda: self._origin)

    def _next(self) -> str:
        self._number += 1
        return f"{self._origin}#{self._number - 1}"

    def _in(
        self,
        data: bytes,
        depth: int,
        name: Callable[[], str],
        *,
        array: bool = False,
        row: bool = True,
    ) -> Iterator[RawStudy | Reject]:
        """The studies in a value, or one reject.

        `array`: it stands in a document's array, so that a string is a text. `row`: it may be a
        row of texts; what an object holds under a key is none.
        """
        first = data.lstrip()[:1]
        if first == b"[":
            yield from self._in_array(data, depth, name, texts=depth == 0)
        elif first == b"{":
            yield from self._in_object(data, depth, name, row=row)
        elif first == b'"' and array and (text := _string_in(data)):
            self.found += 1
            yield RawStudy(name(), "text", {"text": text})
        else:
            shown = data[:40].decode("utf-8", "replace")
            yield self.reject(data, f"{shown!r} is no study", name=name)

    def _in_array(
        self, data: bytes, depth: int, name: Callable[[], str], *, texts: bool
    ) -> Iterator[RawStudy | Reject]:
        if depth >= _DEPTH:
            yield self.reject(data, "no study within so many brackets", name=name)
            return
        try:
            if len(data) <= _AT_ONCE_BYTES or _holds_studies_only(data):
                parts: Iterator[bytes] = (bytes(part) for part in _ARRAY.decode(data))
            else:
                parts = (value for _, value in self._members(data))
            for part in parts:
                yield from self._in(part, depth + 1, self._next, array=texts)
        except FileError as error:
            yield self.reject(data, str(error), error.reason, name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _BrokenError) as error:
            if len(data) <= _AT_ONCE_BYTES and _is_whole(data):
                for _, part in self._members(data):
                    yield from self._in(part, depth + 1, self._next, array=texts)
            else:
                yield self._bad(data, error, name)

    def _in_object(
        self, data: bytes, depth: int, name: Callable[[], str], *, row: bool
    ) -> Iterator[RawStudy | Reject]:
        try:
            envelope = _ENVELOPE.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if not _is_whole(data):
                yield self._bad(data, error, name)
                return
            # Where its studies lie is looked for in the data as they are.
            nearly = decode_nearly(data, _Envelope)
            envelope = msgspec.structs.replace(nearly, studies=msgspec.UNSET)
        if envelope.v2 is not msgspec.UNSET:
            self.found += 1
            yield RawStudy(name(), "v2", data)
            return
        if envelope.studies is not msgspec.UNSET and bytes(envelope.studies)[:1] == b"[":
            yield from self._in_array(bytes(envelope.studies), depth, name, texts=False)
            return
        try:
            keys = self._keys(data)
            rows: list[RawStudy] = []
            if envelope.v1 is not msgspec.UNSET:
                rows = [RawStudy("", "v2", study_from_v1(_decoded(data)))]
            elif row and depth <= _TEXT_DEPTH and _may_hold_text(keys):
                tables = map(text_cells, _rows_of(_decoded(data)))
                rows = [RawStudy("", "text", cells) for cells in tables if cells]
            elif b"NCTId" in keys:  # API v1's StudyFields
                rows = [RawStudy("", "v2", study_from_v1(_decoded(data)))]
            if not rows:
                yield from self._in_members(data, depth, name, keys)
            for each in rows:
                self.found += 1
                yield replace(each, origin=name() if len(rows) == 1 else self._next())
        except FileError as error:
            yield self.reject(data, str(error), error.reason, name)
        except (_BrokenError, ValueError, RecursionError) as error:
            yield self._bad(data, error, name)

    def _in_members(
        self, data: bytes, depth: int, name: Callable[[], str], keys: list[bytes]
    ) -> Iterator[RawStudy | Reject]:
        """The studies that an object wraps; what else it holds is no record."""
        before = self.found
        refused = False
        if depth < _DEPTH:
            for key, value in self._members(data):
                for item in self.each(value, depth + 1, key):
                    refused |= isinstance(item, Reject)
                    yield item
        if self.found == before and not refused:
            shown = ", ".join(key.decode("utf-8", "replace") for key in keys[:8])[:80]
            detail = "this JSON is no study (no protocolSection); pass v2 records"
            yield self.reject(data, f"{detail}; it has {shown!r}" if shown else detail, name=name)

    def _bad(self, data: bytes, error: Exception, name: Callable[[], str]) -> Reject:
        if isinstance(error, RecursionError):
            return self.reject(data, "nested too deeply to be a study", "too_deep", name)
        return self.reject(data, f"not valid JSON ({error})", "bad_json", name)

    def _members(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Key ("" in an array) and value of each member of a whole array or object."""
        values = _Values(BytesIO(data), b"", self._limits)
        values.peek()
        closes = values.enter()
        while (char := values.peek()) is not None and char != closes:
            key = values.key() if closes == _CLOSES[_OBJECT] else b""
            value = values.take(_DEPTH)
            assert value is not None  # only what is beyond the limit is entered
            yield key, value

    def _keys(self, data: bytes) -> list[bytes]:
        keys = []
        for key, _ in self._members(data):
            keys.append(key)
            if len(keys) >= _MOST_KEYS:
                break
        return keys


def _holds_studies_only(data: bytes) -> bool:
    """Whether each member of an array is a study: then there cannot be too many to be held."""
    try:
        _STUDIES.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _may_hold_text(keys: list[bytes]) -> bool:
    """Whether a row with these columns may be one of texts, nested as label tools do or not."""
    names = [key.decode("utf-8", "replace") for key in keys]
    return find_column(names, TEXT_COLUMNS) is not None or not _NESTED.isdisjoint(names)


def _decoded(data: bytes) -> dict[str, Any]:
    """The object as Python has it.

    Raises:
        TooLargeError: it would take too much memory.
        ValueError: no JSON.
    """
    if len(data) > _DECODED_BYTES:
        raise TooLargeError(f"over {_DECODED_BYTES // 2**20} MiB, too large for a row")
    row: dict[str, Any] = json.loads(data)
    return row


def _rows_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table of texts: one, or several that pandas wrote column by column."""
    column = find_column(list(row), TEXT_COLUMNS)
    text = row[column] if column is not None else None
    if isinstance(text, dict) and text and all(isinstance(each, dict) for each in row.values()):
        return [{name: each.get(key) for name, each in row.items()} for key in text]
    if isinstance(text, list) and text:
        several = all(isinstance(each, list) for each in row.values())
        if several and all(len(each) == len(text) for each in row.values()):
            return [dict(zip(row, each, strict=True)) for each in zip(*row.values(), strict=True)]
        # A list of one is what it holds, as converters from XML write it.
        return [
            {
                name: each[0] if isinstance(each, list) and len(each) == 1 else each
                for name, each in row.items()
            }
        ]
    return [row]


def _string_in(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _is_whole(line: bytes) -> bool:
    try:
        decode_nearly(line.removeprefix(_BOM), msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _too_large(limits: ReadLimits) -> str:
    return (
        f"one value of over {limits.document_bytes:,} bytes (`collect.limits.document_bytes`); "
        "save it as JSON lines, one study a line"
    )
