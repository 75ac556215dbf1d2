"""Characters become what they show."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.corpus.clean import GLYPHS, repair_mojibake

SIGNS = "≥≤±°µ×²³½éüñßαβγΔ–—’“”•€™®∞√→"


@given(st.text(alphabet=SIGNS + "abc 19"))
def test_text_read_with_the_wrong_encoding_is_read_rightly(text: str) -> None:
    """UTF-8 read as Windows-1252, as web forms of the 2000s did."""
    raw = text.encode("utf-8")
    wrong = "".join(
        bytes([byte]).decode("cp1252") if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(byte)
        for byte in raw
    )
    assert repair_mojibake(wrong) == text


@pytest.mark.parametrize("text", ["Â", "naïve café", "Ångström", "â la carte", "ÅÄÖ", "Tanzânia"])
def test_real_letters_are_left_alone(text: str) -> None:
    assert repair_mojibake(text) == text


def test_symbol_font_agrees_with_unicode_names() -> None:
    assert "".join(map(chr, range(0xF061, 0xF065))).translate(GLYPHS) == "αβχδ"
    assert chr(0xF053).translate(GLYPHS) == "Σ"
    assert unicodedata.name(chr(0xF06D).translate(GLYPHS)) == "GREEK SMALL LETTER MU"
    assert "\uf03c5 \uf025".translate(GLYPHS) == "<5 %"


def test_no_control_character_is_left() -> None:
    every = "".join(map(chr, range(0x3000)))
    left = {unicodedata.category(sign) for sign in every.translate(GLYPHS)} & {"Cc", "Cs", "Zl"}
    assert left == {"Cc"}  # the newline
    assert {sign for sign in every.translate(GLYPHS) if unicodedata.category(sign) == "Cc"} == {
        "\n"
    }
