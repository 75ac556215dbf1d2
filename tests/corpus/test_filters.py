"""Documents are kept, or dropped with a reason."""

import pytest

from trialese.corpus.assemble import keep_document
from trialese.records import Document, Drop
from trialese.settings import FilterSettings

SETTINGS = FilterSettings(min_characters=10, max_characters=40, min_letters_share=0.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("nine char", "too_short"),
        ("x" * 41, "too_long"),
        ("1.2 3.4 5.6 abc", "few_letters"),
        ("ten chars!", None),
        ("≥ 18 years, α and β", None),
    ],
)
def test_reason(text: str, reason: str | None) -> None:
    document = Document("NCT1", text)
    expected = document if reason is None else Drop("NCT1", reason)
    assert keep_document(document, SETTINGS) == expected
