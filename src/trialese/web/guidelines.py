"""The guidelines of a task: the user's Markdown file as HTML that holds nothing but text and marks.

What annotators are told comes from a file, so it may come from a stranger. Raw HTML is shown as
the text that it is, pictures become links, and only links to web pages, mail and parts of the
page itself stay links. No style stands in an element, so that the page's policy holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialese.errors import RecordError

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["read_guidelines", "render_markdown"]

_MOST_BYTES = 1_000_000
_LINKS = ("https://", "http://", "mailto:")
_RAISED = 2
"""Headings go down by so many levels: the page has its own first and second."""


def read_guidelines(path: Path) -> str:
    """The Markdown file as HTML.

    Raises:
        RecordError: it cannot be read, is no UTF-8 text, or has more than a megabyte.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RecordError(f"{path}: guidelines of more than 1 MB; give a shorter file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be read ({error.strerror}); give --guidelines a Markdown file"
        ) from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text; save the guidelines as UTF-8") from error
    return render_markdown(text)


def render_markdown(text: str) -> str:
    """CommonMark with tables as HTML: no raw HTML, no picture, no style, no script."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable("image")
    parser.validateLink = lambda url: url.lower().startswith(_LINKS)  # type: ignore[method-assign]
    tokens = parser.parse(text)
    for token in tokens:
        _tame(token)
    return str(parser.renderer.render(tokens, parser.options, {}))


def _tame(token: Token) -> None:
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(6, int(token.tag[1]) + _RAISED)}"
    attributes: dict[str, Any] = {
        name: value for name, value in token.attrs.items() if name in ("href", "title", "start")
    }
    if token.type == "link_open":
        attributes |= {"target": "_blank", "rel": "noopener noreferrer"}
    token.attrs = attributes
    if token.type == "fence":
        token.info = ""  # would become a class
    for child in token.children or ():
        _tame(child)
