"""Guidelines of a task: Markdown in, harmless HTML out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.errors import RecordError
from trialese.web.guidelines import read_guidelines, render_markdown

ALLOWED = {
    "p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "em", "strong", "a", "code", "pre", "blockquote",
    "hr", "br", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(html)
    return parser.found


def test_what_annotators_need_is_rendered() -> None:
    html = render_markdown(
        "# When in doubt\n\nGive **Money** if *funds* ended.\n\n1. read\n2. decide\n\n"
        "| text | label |\n|:--|--:|\n| no funds | Money |\n\n[more](https://example.org/guide)\n"
    )
    tags = [tag for tag, _ in elements(html)]
    assert tags[0] == "h3" and {"strong", "em", "ol", "li", "table", "th", "a"} <= set(tags)
    assert "style" not in html and 'rel="noopener noreferrer"' in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b onclick='x()'>b</b>",
        "[x](javascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "![x](https://example.org/a.png)",
        "[x](<javascript:alert(1)>)",
        "<javascript:alert(1)>",
        "[x]: javascript:alert(1)\n\n[x]",
        "```<script>\nx\n```",
        "[x](JaVaScRiPt:alert(1))",
        "[x](\x01javascript:alert(1))",
        "[x](/v1/jobs)",
    ],
)
def test_what_could_do_harm_is_text(text: str) -> None:
    for tag, attributes in elements(render_markdown(text)):
        assert tag in ALLOWED
        assert attributes.keys() <= {"href", "title", "target", "rel", "start"}
        assert re.match("https?://|mailto:", attributes.get("href") or "https://")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([*"<>[]()!`\"'&:/#*|-\n= x", "script", "javascript:", "```"])))
def test_no_text_makes_other_elements(pieces: list[str]) -> None:
    text = "".join(pieces)
    for tag, attributes in elements(render_markdown(text)):
        assert tag in ALLOWED
        assert attributes.keys() <= {"href", "title", "target", "rel", "start"}
        assert re.match("https?://|mailto:", attributes.get("href") or "https://")


def test_a_file_that_cannot_be_guidelines_is_named(tmp_path: Path) -> None:
    wrong = {"missing.md": None, "latin.md": b"\xe9t\xe9", "long.md": b"x" * 1_000_001}
    for name, content in wrong.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RecordError, match=name):
            read_guidelines(path)
    with pytest.raises(RecordError, match="cannot be read"):
        read_guidelines(tmp_path)
