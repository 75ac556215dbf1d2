"""Cleaning: what a reader sees on the website is what comes out, checked by eye and by property."""

from __future__ import annotations

import html
import re
import time
import unicodedata
from collections import Counter
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from trialese.collect.files import read_raw
from trialese.collect.parse import parse_trial
from trialese.collect.source import RawStudy
from trialese.corpus.clean import GLYPHS, clean_text, clean_text_published, repair_mojibake
from trialese.corpus.render import render_document
from trialese.settings import RenderSettings

KEPT_SIGNS = "≥≤<>=%()[]{}/+±×°µμαβγΔ²³½#@$^&*:;,.'\"–—“”’®é"
MISCHIEF = [
    "\\", "&", "amp;", "gt;", "lt;", "<", ">", "sup>", "b>", "br", "/", "~", "~~", "-", "*", "•",
    "1.", "o", "a)", "B.", " ", "\n", "\r\n", "\t", "A", "b", "Â", "°", "â", "‰", "¥", "Ã", "©",
    "(", ")", "x" * 40, "\u00ad", "\u200b", "\uf0b7", "é", "e\u0301", " - ", ",", "      ",
    "&#126;", "&#92;", "\u037e", "\ud800", "≥", "%",
]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "read"),
    [
        # API v2: Markdown escapes
        (r"Age \>= 18, INR \< 1.5, CD4 \> 200", "Age >= 18, INR < 1.5, CD4 > 200"),
        (r"\[18F\]FDG uptake", "[18F]FDG uptake"),
        (r"1\. Adults" + "\n" + r"2\. Written consent", "1. Adults\n2. Written consent"),
        (r"safety \& toleration, 18.0\~27.0 kg/m\^2", "safety & toleration, 18.0~27.0 kg/m^2"),
        (r"path C:\data stays", r"path C:\data stays"),
        ("* first\n* second\n\n  * nested", "- first\n- second\n- nested"),
        # legacy XML: carriage returns, hard wraps, indented items
        (
            "\r\n      The purpose of this research is to find out whether training at varied\r\n"
            "      intensities reduces the risk of developing disease.\r\n    ",
            "The purpose of this research is to find out whether training at varied "
            "intensities reduces the risk of developing disease.",
        ),
        (
            "\n        Inclusion Criteria:\n\n          -  Age ≥ 18 years\n\n"
            "          -  HbA1c > 7.5%\n\n        Exclusion Criteria:\n\n"
            "          -  Pregnancy\n      ",
            "Inclusion Criteria:\n- Age ≥ 18 years\n- HbA1c > 7.5%\n\n"
            "Exclusion Criteria:\n- Pregnancy",
        ),
        (
            "      Patients with chronic active infection by the virus of hepatitis A or hepatitis"
            "\n      B. Patients with cirrhosis are excluded from this part of the study, as are"
            "\n      those with ascites.",
            "Patients with chronic active infection by the virus of hepatitis A or hepatitis "
            "B. Patients with cirrhosis are excluded from this part of the study, as are those "
            "with ascites.",
        ),
        ("a long-\n      term trial of pre-\n      and post-operative care",
         "a long-term trial of pre- and post-operative care"),
        (
            "1. Diabetes mellitus treated with insulin for at least a year before the first visit\n"
            "2. Hypertension",
            "1. Diabetes mellitus treated with insulin for at least a year before the first visit\n"
            "2. Hypertension",
        ),
        # API v2: every line break is real, and lists are parted by comments
        (
            "Inclusion Criteria:\n\n1. Feet\n2. Cold, shown by:\n\n"
            "   * One visit to a warmer country within the last 12 months before the first one\n"
            "3. Current ownership of a sheep\n4. Consent",
            "Inclusion Criteria:\n1. Feet\n2. Cold, shown by:\n"
            "- One visit to a warmer country within the last 12 months before the first one\n"
            "3. Current ownership of a sheep\n4. Consent",
        ),
        (
            "Cohorts:\n\na. Those who have worn wool on every day of the year before this\n"
            "b. Those who have not\n\n   * and never will, as far as anybody can tell today\n"
            "c. Others",
            "Cohorts:\na. Those who have worn wool on every day of the year before this\n"
            "b. Those who have not\n- and never will, as far as anybody can tell today\n"
            "c. Others",
        ),
        (
            "Three kinds of wool are compared:\nmerino\nangora,\nalpaca\nNothing else is.",
            "Three kinds of wool are compared:\n\nmerino\n\nangora,\n\nalpaca\n\nNothing else is.",
        ),
        (
            "* Wool that has been worn for at least a year before the first visit to the shop\n"
            "5. Cotton",
            "- Wool that has been worn for at least a year before the first visit to the shop\n\n"
            "5. Cotton",
        ),
        (
            "Wool of \\>= 5 ply that has been worn on most days of the year before the visit to\n"
            "cotton shops",
            "Wool of >= 5 ply that has been worn on most days of the year before the visit to\n\n"
            "cotton shops",
        ),
        ("1. Wool\n\n<!-- -->\n\n1. Cotton", "1. Wool\n1. Cotton"),
        ("wool<!-- or not -->, cotton", "wool\n\n, cotton"),
        # AACT: ~ for newlines
        ("Inclusion Criteria:~~* Age > 18~* Consent", "Inclusion Criteria:\n- Age > 18\n- Consent"),
        ("aged 20~55 years", "aged 20~55 years"),
        # HTML left over
        ("BP &lt; 140&#47;90 &amp; pulse &gte; 60&#xD;", "BP < 140/90 & pulse ≥ 60"),
        ("R&D; AT&T;", "R&D; AT&T;"),
        ("Wool &Amp; Cotton &Lt; 5 &Nbsp;&Quot;x&Quot;", 'Wool & Cotton < 5 "x"'),
        (r"rate \&#8805; 100 \&amp; more", "rate ≥ 100 & more"),
        ("10<sup>9</sup>/L, CO<sub>2</sub><br/>next", "10^9/L, CO2\n\nnext"),
        ("<Tositumomab> if p<b and c>d", "<Tositumomab> if p<b and c>d"),
        # mojibake, symbol fonts, invisible characters
        ("score of â‰¤ 25, ViagraÂ® 5 Âµg, cafÃ©", "score of ≤ 25, Viagra® 5 µg, café"),
        ("TNF-\uf061 \uf0b3 5", "TNF-α ≥ 5"),
        ("zero\u200bwidth\u00ad, no\u00a0break, ﬁve（5）", "zerowidth, no break, five(5)"),
        ("≦ 40 ℃", "≤ 40 °C"),
        ("cafe\u0301 10² m", "café 10² m"),
        # bullets of every kind
        ("• one\n▪ two\n– three\n\uf0b7 four\n* • five", "- one\n- two\n- three\n- four\n- five"),
        ("(a) first\nii. second\n3) third", "(a) first\nii. second\n3) third"),
        ("-5 °C at night", "-5 °C at night"),
        ("", ""),
        (" \r\n \n", ""),
    ],
)  # fmt: skip
def test_what_sources_break_is_mended(broken: str, read: str) -> None:
    assert clean_text(broken) == read


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(MISCHIEF), max_size=14).map("".join), st.text()))
def test_idempotent(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abzABZ0159 \n" + KEPT_SIGNS))
@example("<A/>")
def test_every_letter_digit_and_sign_is_kept(text: str) -> None:
    """Of text without escapes, entities and tags, only bullets (as "*") and blanks may change."""
    assume(not re.search(r"</?[ab]\b[^<>]*>", text, re.IGNORECASE))  # <a>, </B>, <A/>
    kept = Counter("".join(clean_text(text).split()))
    given_ = Counter("".join(text.split()))
    for sign in "*–—-":
        kept.pop(sign, None)
        given_.pop(sign, None)
    assert kept == given_


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="abc 123(≥%)", min_size=1).filter(str.strip), max_size=5))
def test_paragraphs_stay_apart(paragraphs: list[str]) -> None:
    cleaned = clean_text("\n\n".join(paragraphs))
    assert len(cleaned.split("\n")) >= len(paragraphs) or not paragraphs


def test_published_deletes_what_the_prior_art_deletes() -> None:
    text = "Age ≥ 18 (HbA1c > 7.5%): [5-10] mg/m^2 & more* {x} $3 #4 @home"
    assert clean_text_published(text) == "Age ≥ 18 HbA1c > 7.5 5-10 mg/m2  more x 3 4 home"


@pytest.mark.parametrize("unit", ["\\", "&amp;", "amp;", "<p ", "word\n", "1.\n", "~ ", "\u2022"])
def test_work_grows_with_the_length_and_no_faster(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = "&" + unit * (characters // len(unit))
        started = time.process_time()
        clean_text(text)
        return time.process_time() - started

    # a quadratic step would take a hundred times as long for ten times the text
    assert seconds(500_000) < 40 * (seconds(50_000) + 0.01)


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


FOLDER = Path(__file__).parents[1] / "data" / "golden"
STUDIES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".txt")


def read_study(path: Path) -> RawStudy:
    if path.name.endswith(".aact.json"):
        return RawStudy(path.name, "aact", msgspec.json.decode(path.read_bytes()))
    return RawStudy(path.name, "xml" if path.suffix == ".xml" else "v2", path.read_bytes())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_study_becomes_its_document(path: Path) -> None:
    document = render_document(parse_trial(read_study(path)), RenderSettings())
    expected = (FOLDER / f"{path.name.split('.')[0]}.txt").read_text("utf-8")
    assert document.text + "\n" == expected
    assert clean_text(document.text) == document.text  # a whole document is clean text too


def test_there_are_twenty() -> None:
    assert len(STUDIES) == 20


AS_XML = """<clinical_study>
  <id_info><nct_id>NCT00000045</nct_id></id_info>
  <brief_title>Socks &amp; Sugar</brief_title>
  <brief_summary><textblock>
      Warm socks may lower sugar. This study asks whether they do, in people who&#xD;
      have worn none before.&#xD;
  </textblock></brief_summary>
  <eligibility><criteria><textblock>
        Inclusion Criteria:

          -  Age ≥ 18 years

          -  HbA1c &gt; 7.5% measured within the last four weeks before the first
             visit of the study

        Exclusion Criteria:

          -  Allergy to wool
  </textblock></criteria></eligibility>
</clinical_study>"""
AS_JSON = {
    "protocolSection": {
        "identificationModule": {"nctId": "NCT00000045", "briefTitle": "Socks & Sugar"},
        "descriptionModule": {
            "briefSummary": "Warm socks may lower sugar. This study asks whether they do, in "
            "people who have worn none before."
        },
        "eligibilityModule": {
            "eligibilityCriteria": "Inclusion Criteria:\n\n* Age ≥ 18 years\n* HbA1c \\> 7.5% "
            "measured within the last four weeks before the first visit of the study\n\n"
            "Exclusion Criteria:\n\n* Allergy to wool"
        },
    }
}


def test_one_study_told_in_both_formats_is_one_document() -> None:
    ways = (RawStudy("x", "xml", AS_XML.encode()), RawStudy("x", "v2", AS_JSON))
    texts = [render_document(parse_trial(way), RenderSettings()).text for way in ways]
    assert texts[0] == texts[1]
    assert "- HbA1c > 7.5% measured" in texts[0]


REGISTRY = Path(__file__).parents[3] / "shared" / "data" / "registry"


@pytest.mark.skipif(not REGISTRY.is_dir(), reason="needs the registry files beside the checkout")
@pytest.mark.parametrize("name", ["legacy-xml-2023-02-03.zip", "api-v2-2024-09-24.json.zip"])
def test_real_records_of_both_kinds_render_to_one_shape(name: str) -> None:
    order = ["Title", "Official title", "Summary", "Description", "Eligibility criteria"]
    trials = (parse_trial(raw) for raw in islice(read_raw(REGISTRY / name), 0, 600, 5))
    for trial in trials:
        text = render_document(trial, RenderSettings()).text
        sections = re.findall(rf"(?:^|\n\n)({'|'.join(order)}):", text)
        told = dict.fromkeys(section for section in sections)
        assert list(told) == [section for section in order if section in told], trial.nct_id
        assert {"Title", "Summary", "Eligibility criteria"} <= told.keys(), trial.nct_id
        assert not re.search(r"\\[*\[\]<>]|&[a-z]+;|&#|\r|\t|  |\n\n\n|^[*•]", text, re.MULTILINE)


def commonmark_lines(text: str) -> list[str]:
    """Every block of the text as markdown-it renders it, one line each, markers of lists kept."""
    lines, marker = [], ""
    for token in MarkdownIt("commonmark").parse(text):
        found: list[str] = []
        if token.type == "list_item_open":
            marker += f"{token.info}{token.markup} "
        elif token.type == "inline":
            pieces = [
                "\n" if child.type in ("softbreak", "hardbreak") else child.content
                for child in token.children or ()
            ]
            found = "".join(pieces).split("\n")
        elif token.type in ("code_block", "fence"):
            found = token.content.split("\n")
        for line in found:
            lines.append(marker + line)
            marker = ""
    return lines


def without_looks(line: str) -> str:
    """The line without blanks, leading bullets, full-width forms and entities typed by people."""
    plain = unicodedata.normalize("NFKC", html.unescape(html.unescape(line)))
    plain = plain.translate({ord("≦"): "≤", ord("≧"): "≥"}).translate(GLYPHS)
    return "".join(plain.split()).lstrip("-*•·●▪–")


@pytest.mark.skipif(not REGISTRY.is_dir(), reason="needs the registry files beside the checkout")
def test_v2_texts_are_those_of_an_independent_rendering_line_by_line() -> None:
    """1,178 trials of March 2026: 3,139 texts, none of which has a soft line break."""
    texts = 0
    for raw in read_raw(REGISTRY / "api-v2-2026-03.json.zip"):
        trial = parse_trial(raw)
        for text in (trial.brief_summary, trial.detailed_description, trial.eligibility_criteria):
            texts += bool(text)
            rendered = [without_looks(line) for line in commonmark_lines(text)]
            ours = [without_looks(line) for line in clean_text(text).split("\n")]
            assert list(filter(None, ours)) == list(filter(None, rendered)), trial.nct_id
    assert texts == 3139
