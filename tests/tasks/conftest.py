"""Small labelled sets that a two-layer BERT can learn in seconds."""

from __future__ import annotations

import pytest

from trialese.records import Example, Task

TOY = Task("toy", ("Enrollment", "Money", "Science"), "multilabel")

_SENTENCES = {
    "Enrollment": ("low recruitment", "slow accrual", "low accrual", "slow recruitment"),
    "Money": ("lack of funding", "sponsor decision", "funding of the sponsor", "lack of sponsor"),
    "Science": ("futility analysis", "lack of efficacy", "interim futility", "interim analysis"),
}


def toy_examples(rows: int = 60) -> list[Example]:
    """Rows with one or two of three labels, each its own cluster."""
    examples = []
    names = list(_SENTENCES)
    for row in range(rows):
        labels = [names[row % 3]] + ([names[(row + 1) % 3]] if row % 5 == 0 else [])
        words = [_SENTENCES[label][row % 4] for label in labels]
        text = f"trial {row} stopped: {' and '.join(words)}"
        examples.append(Example(f"e{row:03d}", text, tuple(labels), f"e{row:03d}"))
    return examples


@pytest.fixture
def toy_task() -> Task:
    return TOY


@pytest.fixture
def toy_rows() -> list[Example]:
    return toy_examples()
