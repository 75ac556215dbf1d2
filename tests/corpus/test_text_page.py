"""The tables of docs/text.md say what the code does."""

from pathlib import Path

import pytest

from trialese.corpus.clean import clean_text, clean_text_published

PAGE = Path(__file__).parents[2] / "docs" / "text.md"


def read_rows() -> list[tuple[str, str, str]]:
    lines = PAGE.read_text("utf-8").splitlines()
    start = lines.index("| source | prior art reads | trialese reads |") + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells = [cell.removeprefix("`").removesuffix("`").replace("⏎", "\n")
                 for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")]  # fmt: skip
        rows.append((cells[0], cells[1], cells[2]))
    return rows


@pytest.mark.parametrize(("source", "published", "ours"), read_rows())
def test_row(source: str, published: str, ours: str) -> None:
    assert clean_text_published(source) == published
    assert clean_text(source) == ours


def test_the_table_was_found() -> None:
    assert len(read_rows()) >= 8
