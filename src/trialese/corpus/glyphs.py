"""Characters that are not what they look like, and what they stand for.

Everything here is one character in, its readable equivalent (or nothing) out; nothing that a
reader sees on the registry's website is lost.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["GLYPHS", "repair_mojibake"]


def _symbol_font() -> dict[int, str]:
    """Private-use characters that Word leaves behind for its Symbol font (U+F000 + its code).

    Source: the Symbol encoding (Adobe, symbol.txt at unicode.org/Public/MAPPINGS); bullets and
    check marks are those of Wingdings, which shares the range.
    """
    table = {0xF000 + code: chr(code) for code in range(0x20, 0x40)}  # digits, signs, < > = %
    upper = "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ"
    lower = "αβχδεφγηιϕκλμνοπθρστυϖωξψζ"
    table |= {0xF041 + place: letter for place, letter in enumerate(upper)}
    table |= {0xF061 + place: letter for place, letter in enumerate(lower)}
    table |= {
        0xF02D: "−", 0xF0A3: "≤", 0xF0A5: "∞", 0xF0AC: "←", 0xF0AD: "↑", 0xF0AE: "→",
        0xF0AF: "↓", 0xF0B0: "°", 0xF0B1: "±", 0xF0B3: "≥", 0xF0B4: "×", 0xF0B9: "≠",
        0xF0BB: "≈", 0xF0D2: "®", 0xF0D3: "©", 0xF0D4: "™", 0xF0D6: "√", 0xF0E5: "∑",
        0xF0A7: "•", 0xF0A8: "•", 0xF0B7: "•", 0xF0D8: "•", 0xF0E0: "→", 0xF0FC: "•",
    }  # fmt: skip
    return table


def _table() -> dict[int, str]:
    table = _symbol_font()
    spaces = (0x09, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)
    breaks = (0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029)
    control = (*range(0x20), *range(0x7F, 0xA0))
    invisible = (0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070))
    table |= dict.fromkeys((*control, *invisible, 0xFEFF, *range(0xFFF9, 0xFFFC)), "")
    table |= dict.fromkeys(spaces, " ") | dict.fromkeys(breaks, "\n")
    table |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
    table |= {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl"}
    table |= {ord("≦"): "≤", ord("≧"): "≥", ord("⩽"): "≤", ord("⩾"): "≥", ord("℃"): "°C"}
    table |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # lone surrogates have no UTF-8
    return table


GLYPHS: Final = _table()
"""For `str.translate`. Carriage returns become newlines: join "\\r\\n" before."""


def _latin_bytes() -> dict[str, int]:
    """Characters that Windows-1252 reads the bytes 0x80 ... 0xBF as, back to those bytes."""
    table = {chr(code): code for code in range(0x80, 0xC0)}
    for code in range(0x80, 0xA0):
        table[bytes([code]).decode("cp1252", "replace")] = code
    table.pop("\ufffd")  # the five codes that Windows-1252 does not define
    return table


_BYTE_OF = _latin_bytes()
_TAIL = "[" + "".join(map(re.escape, _BYTE_OF)) + "]"
_MOJIBAKE = re.compile(f"[ÂÃÄÅÎÏ]{_TAIL}|[âï]{_TAIL}{{2}}")
"""UTF-8 of accented Latin, Greek, and U+2xxx or U+Fxxx signs, read as Windows-1252."""


def repair_mojibake(text: str) -> str:
    """The text with UTF-8 that was read as Windows-1252 ("â‰¥", "Â°", "Ã©") read rightly."""
    return _MOJIBAKE.sub(_reread, text)


def _reread(found: re.Match[str]) -> str:
    signs = found[0]
    try:
        return bytes([ord(signs[0]), *(_BYTE_OF[sign] for sign in signs[1:])]).decode("utf-8")
    except UnicodeDecodeError:
        return found[0]
