"""Cleaning of registry text: what a reader sees on the website is what every model reads.

Sources break text, each in its way: Markdown escapes (API v2), hard-wrapped lines and `&#xD;`
(legacy XML), `~` for newlines (AACT), HTML left over, mojibake, symbol fonts, invisible
characters. Nothing that carries meaning goes: units, inequalities, brackets, Greek, case.
"""

from __future__ import annotations

import html
import html.entities
import re
import unicodedata
from typing import Final

__all__ = ["GLYPHS", "clean_text", "clean_text_published", "repair_mojibake", "starts_with_item"]


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


_AMPERSANDS = re.compile(r"&(?:amp;|#0*38;|#[xX]0*26;){2,}")
_ENTITY = re.compile(r"\\?&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MISSPELT = {"gte": "≥", "lte": "≤", "nbsp": " ", "Lt": "<", "Gt": ">"}
"""Entities that HTML does not know, and two whose capital some program has added: HTML's `&Gt;`
is "much greater", which nobody types by name."""
_COMMENT = re.compile(r"<!--.{0,200}?-->", re.DOTALL)  # API v2 parts two lists by "<!-- -->"
_LINE_TAGS = r"br|p|div|li|ul|ol|tr|table|tbody|h[1-6]"
_INLINE_TAGS = r"b|i|u|em|strong|sub|span|font|small|big|a|td|th|tab|tt"
_ATTRIBUTES = r"""(?:\s+[A-Za-z-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+))*\s*/?"""
_LINE_TAG = re.compile(rf"</?(?:{_LINE_TAGS}){_ATTRIBUTES}>", re.IGNORECASE)
_RAISED = re.compile(rf"<sup{_ATTRIBUTES}>", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE_TAGS}|sup){_ATTRIBUTES}>", re.IGNORECASE)
_BLANK_TAG = re.compile(r"</?(?:tab|td|th)>", re.IGNORECASE)

_ESCAPE = re.compile(r"""(?<!\\)\\++(?=[!"#$%&'()*+,\-./:;<=>?@\[\]^_`{|}~])""")
_BACKSLASHES = re.compile(r"\\{2,}")
_AACT_BREAK = re.compile(r"(?<!\\)~")
_AACT_SIGN = re.compile(r"(?<!\\)~(?:\s*~|\s*[-*•]\s|\s*\d{1,2}[.)]\s)")

_BULLETS = "-*•·▪▫◦●○■□◆◇►▶‣⁃∙–—➢➤✓✔"
_BULLET = re.compile(rf"(?:[{_BULLETS}]+(?:\s+|$))+|[•▪◦●■‣⁃➢➤✓✔]+\s*|-(?=[A-Z])")
_NUMBER = re.compile(r"(?:\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{2,5})[.)]|o)(?:\s+|$)")
_PROSE_NUMBER = re.compile(r"(\d{1,3}|[A-Za-z]|[ivxIVX]{2,5})\.(?:\s|$)")
_WRAP_COLUMNS = 72
_WIDEST_WRAP = 100
"""No line of legacy XML is longer; measured: 93 columns, in 19,572 texts of 2023."""
_END_COLUMNS = 32
_DANGLING = re.compile(r"[a-z]-$")
_SUSPENDED = ("and", "or", "to", "und")
_BLANKS = re.compile(r"[ \t]+")


def clean_text(text: str) -> str:
    """The text as the website shows it: paragraphs apart by a blank line, list items by a newline.

    Idempotent; Unicode form NFC. Escapes, entities, tags and mojibake are undone, hard-wrapped
    lines joined, bullets made "- ", numbers of lists kept.
    """
    while True:
        cleaned = _clean_once(text)
        if cleaned == text or not _is_suspicious(cleaned):
            return cleaned
        text = cleaned  # "&amp;gt;" takes two rounds; each round shortens, so this ends


def clean_text_published(text: str) -> str:
    """The text as the prior art feeds it: `[](){}:@#$%^&*` deleted and nothing else done.

    Source: `clean_text` of LoRA_ClinicalBioBert.py in ilaananta/ClinicalTrialBioBert_FineTuned.
    """
    return re.sub(r"[\[\]{}():@#$%^&*]", "", text)


def starts_with_item(text: str) -> bool:
    """Whether the first line of clean text is a list item."""
    return _as_item(text.split("\n", 1)[0]) is not None


def _clean_once(text: str) -> str:
    if not text.isascii():
        text = repair_mojibake(text)
    if "&" in text:
        # one level of "&amp;amp;...amp;" a round would make the work grow with its square
        text = _ENTITY.sub(_character, _AMPERSANDS.sub("&amp;", text))
    if "<!--" in text:
        text = _COMMENT.sub("\n\n", text)
    if "<" in text:
        text = _RAISED.sub("^", _LINE_TAG.sub("\n\n", text))  # 10<sup>9</sup> is 10^9, not 109
        text = _INLINE_TAG.sub("", _BLANK_TAG.sub(" ", text))
    text = text.replace("\r\n", "\n").translate(GLYPHS)
    if "~" in text and "\n" not in text.strip() and _AACT_SIGN.search(text):
        text = _AACT_BREAK.sub("\n", text)
    escapes = 0
    if "\\" in text:
        text, escapes = _ESCAPE.subn("", text)
        text = _BACKSLASHES.sub(r"\\", text)
    return _join_lines(unicodedata.normalize("NFC", text), markdown=escapes > 0)


def _is_suspicious(text: str) -> bool:
    """Whether a further round could change a text that has been through one."""
    return any(sign in text for sign in "&<\\~") or not text.isascii()


def _character(entity: re.Match[str]) -> str:
    name = entity[1]
    if name in _MISSPELT:
        return _MISSPELT[name]
    if name.startswith("#") or f"{name};" in html.entities.html5:
        return html.unescape(f"&{name};")
    if f"{name.lower()};" in html.entities.html5:  # "&Amp;": titles were capitalised by program
        return html.unescape(f"&{name.lower()};")
    return entity[0]


def _join_lines(text: str, *, markdown: bool) -> str:
    """Paragraphs and list items, each on a line of its own; hard-wrapped lines are joined.

    With `markdown` the text had escapes, as only API v2 writes them: its lines are not joined.
    """
    lines = text.split("\n")
    wrapped = not markdown and _is_hard_wrapped(lines)
    parts: list[str] = []
    before, before_columns = "", 0  # the paragraph or item so far
    number, starred = "", False  # how the last numbered item was marked; v2's own bullet
    last_columns, gap = 0, True
    for raw in lines:
        line = _BLANKS.sub(" ", raw).strip()
        if not line:
            gap = True
            continue
        item = _as_item(line)
        if (
            wrapped
            and not gap
            and not (starred and item)
            and _continues(before, last_columns, line, item, number)
        ):
            more = _glue(before, line)
            parts.append(more)
            before, before_columns = _ends(before + more), before_columns + len(more)
        else:
            # an item that without the blank line would read as prose is a paragraph
            in_list = item is not None and not _continues(
                before, before_columns, line, item, number
            )
            parts.append(f"\n{item}" if in_list else f"\n\n{item or line}")
            before, before_columns = _ends(item or line), len(item or line)
            marker = _PROSE_NUMBER.match(line)
            number = marker[1] if marker else number
            starred = line.startswith("* ")
        last_columns, gap = len(raw.rstrip()), False
    return "".join(parts).strip()


def _is_hard_wrapped(lines: list[str]) -> bool:
    """Whether a program may have broken these lines at a fixed width, as in legacy XML.

    It is not so where a line is longer than any such width, or ends before it was full though
    no word of the same sentence follows: then an author broke the lines, as in API v2, where
    every line break is real.
    """
    above = ""
    for raw in lines:
        line = raw.strip()
        if len(raw) > _WIDEST_WRAP and " " in line[:_WIDEST_WRAP]:
            return False
        if line and above:
            full = len(above) + 1 + len(line.split(" ", 1)[0]) > _WRAP_COLUMNS
            new = line[0].isupper() or line[0].isdecimal() or _as_item(line) is not None
            if not full and new and not _is_unfinished(above.strip()):
                return False
        above = raw.rstrip()
    return True


def _is_unfinished(line: str) -> bool:
    """Whether more must follow: a comma or hyphen, or a list marker without its item."""
    return line.endswith((",", "-")) or _NUMBER.fullmatch(line) is not None or line in _BULLETS


def _ends(text: str) -> str:
    """What may be asked of a paragraph: how it begins and ends. Holding all of it would make the
    work grow with the square of its length."""
    return text if len(text) <= 2 * _END_COLUMNS else text[:_END_COLUMNS] + text[-_END_COLUMNS:]


def _as_item(line: str) -> str | None:
    """The line as a list item, its bullet made "- ", or None where it is no item."""
    bullet = _BULLET.match(line)
    if bullet is not None:
        return f"- {line[bullet.end() :].lstrip()}".rstrip()
    return line if _NUMBER.match(line) else None


def _continues(before: str, columns: int, line: str, item: str | None, number: str) -> bool:
    """Whether `line`, right under `before` (whose last line had `columns`), goes on with it.

    `number` is the marker of the last numbered item above.
    """
    if not before:
        return False
    full = columns + 1 + len(line.split(" ", 1)[0]) > _WRAP_COLUMNS
    if item is not None:
        # In hard-wrapped prose a line may begin with the "B." of "hepatitis B." or the "2." of
        # "a score of 2."; a list would have said "A." or "1." just before.
        return full and before[-1] not in ".:;?!," and _is_word_of_prose(before, line, number)
    lone_marker = before == "-" or _NUMBER.fullmatch(before) is not None
    return full or lone_marker or line[0].islower() or before.endswith((",", "-"))


def _is_word_of_prose(before: str, line: str, number: str) -> bool:
    marker, previous = _PROSE_NUMBER.match(line), _PROSE_NUMBER.match(before)
    if marker is None or marker[1] == "1":
        return False
    # after the bullets inside item 2 comes item 3
    known = [one for one in (previous[1] if previous else "", number) if one]
    return not any(_follows(marker[1], one) for one in known)


def _follows(marker: str, previous: str) -> bool:
    """Whether the marker is the one after `previous`: 2 after 1, C after B, II after I."""
    if marker.isdecimal() and previous.isdecimal():
        return int(marker) == int(previous) + 1
    romans = ["", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii"]
    one, other = previous.lower(), marker.lower()
    in_roman = one in romans and other in romans and romans.index(other) == romans.index(one) + 1
    return in_roman or (len(one) == len(other) == 1 and ord(other) == ord(one) + 1)


def _glue(before: str, line: str) -> str:
    """The line as it stands after `before`."""
    word = line.split(" ", 1)[0]
    if _DANGLING.search(before) and line[0].islower() and word not in _SUSPENDED:
        return line  # "non-" + "small", but "pre-" + "and post-operative"
    return f" {line}"
