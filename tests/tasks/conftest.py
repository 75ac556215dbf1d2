"""Small labelled sets that a two-layer BERT can learn in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trialese.records import Example, Task, Thresholds
from trialese.settings import FinetuneSettings

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


@pytest.fixture(scope="session")
def toy_folder(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a classifier that has learnt the toy task, with thresholds; read only."""
    from trialese.tasks.fit import fit_classifier

    rows = toy_examples()
    settings = FinetuneSettings(
        epochs=16, patience=16, lr=5e-3, head_lr=2e-2, batch_texts=8, max_tokens=32, dropout=0.0,
        precision="fp32",
    )  # fmt: skip
    classifier = fit_classifier(TOY, rows[:45], rows[45:], tiny_backbone, settings, seed=1)[0]
    classifier.thresholds = Thresholds(labels=TOY.labels, values=(0.4, 0.5, 0.6), chosen_on="tune")
    folder = tmp_path_factory.mktemp("toy-classifier") / "model"
    classifier.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_classifier(toy_folder: Path) -> Any:
    """The classifier of `toy_folder`, loaded in fp32."""
    from trialese.tasks.classifier import Classifier

    return Classifier.from_pretrained(toy_folder)
