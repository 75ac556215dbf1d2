"""The page: complete in itself, well-formed, and the same figures in JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

from trialese.pretrain.staleness import BrokenTerm, QuarterRow, RisingTerm, Staleness
from trialese.pretrain.staleness_page import write_page
from trialese.records import Interval


def made() -> Staleness:
    """Three quarters around the end of training, and words that need escaping."""
    quarters = tuple(
        QuarterRow(f"2020Q{n}", 50, 10 * n, Interval(2.0 + n, 1.8 + n, 2.2 + n), 0.4, 9.0 + n, 1.5)
        for n in (1, 2, 4)
    )
    return Staleness(
        "2020-06-30", quarters, (RisingTerm("a<b", 1, 9, 3.2, 4),), (BrokenTerm("x&y", 5, 6),),
        Interval(0.5, 0.2, 0.8), 7, "Adapt again: loss is +0.500 & more.",
    )  # fmt: skip


def test_the_page_stands_alone_and_says_what_was_measured(tmp_path: Path):
    write_page(made(), tmp_path, reader="base + <adapter>", snapshot="june")
    page = (tmp_path / "staleness.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//|@import|url\((?!#)""", page)
    for text in ("a&lt;b", "x&amp;y", "&lt;adapter&gt;", "2020Q4", "+0.500 &amp; more", "june"):
        assert text in page, text
    picture = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    words = " ".join("".join(text.itertext()) for text in picture.iter() if "text" in text.tag)
    assert {"loss,", "pseudo-perplexity"} <= set(words.split())


def test_equal_figures_give_equal_bytes_and_the_json_holds_them(tmp_path: Path):
    for name in ("one", "two"):
        write_page(made(), tmp_path / name, reader="base", snapshot="june")
    for file in ("staleness.html", "staleness.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    told = json.loads((tmp_path / "one" / "staleness.json").read_text())
    assert told["model"] == "base" and told["advice"].startswith("Adapt again")
    assert [row["quarter"] for row in told["quarters"]] == ["2020Q1", "2020Q2", "2020Q4"]
    assert told["difference"] == {"point": 0.5, "low": 0.2, "high": 0.8}
