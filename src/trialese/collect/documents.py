"""JSON and XML streams -> raw studies."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader

import msgspec

from trialese.collect.parse_table import TEXT_COLUMNS
from trialese.collect.parse_xml import XML_ROOT
from trialese.collect.source import RawStudy, Reject
from trialese.errors import RecordError

__all__ = ["MAX_DOCUMENT_BYTES", "read_json", "read_xml", "split_page"]

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
                    if cells := _text_cells(data):
                        yield RawStudy(origin, "text", cells)
                        return
                    detail = "this JSON is no study (no protocolSection); pass v2 records"
                    yield Reject(origin=origin, reason="no_study", detail=detail)
                else:
                    yield RawStudy(origin, "v2", data)
                return
            parts = envelope.studies
    except msgspec.ValidationError as error:
        yield Reject(origin=origin, reason="no_study", detail=f"this JSON is no study ({error})")
        return
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        yield Reject(origin=origin, reason="bad_json", detail=f"not valid JSON ({error})")
        return
    except RecursionError:
        yield Reject(origin=origin, reason="too_deep", detail="nested too deeply to be a study")
        return
    for position, part in enumerate(parts):
        yield RawStudy(f"{origin}#{position}", "v2", bytes(part))


def _text_cells(data: bytes) -> dict[str, str]:
    """The cells of a JSON object that is the row of a table of texts; {} if it is none."""
    row = msgspec.json.decode(data)
    if not any(name.strip().lower() in TEXT_COLUMNS for name in row):
        return {}
    return {name: "" if value is None else str(value) for name, value in row.items()}


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
