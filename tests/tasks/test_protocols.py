from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from trialese.records import Example
from trialese.settings import DedupSettings, StopReasonsSettings, TasksSettings
from trialese.tasks import STOP_REASONS, build_examples
from trialese.tasks.folds import ExampleSet, gather_examples
from trialese.tasks.protocols import published_sex_rows, run_published, split_published

GOLD = Path(__file__).parents[2].parent / "shared" / "data" / "stop_reasons" / "gold.tsv"


def repeated_rows(copies: int) -> ExampleSet:
    """Forty texts whose labels cannot be learnt, each `copies` times."""
    generator = np.random.default_rng(3)
    letters = [chr(c) for c in range(97, 123)]
    rows = []
    for text in range(40):
        words = " ".join("".join(generator.choice(letters, 6)) for _ in range(5))
        label = ("Negative", "Success", "Regulatory")[int(generator.integers(3))]
        rows += [
            Example(f"t{text:02d}-{copy}", words + "." * copy, (label,)) for copy in range(copies)
        ]
    return gather_examples(STOP_REASONS, rows, DedupSettings(shingle_words=1), {})


@pytest.mark.parametrize("rows", [10, 375, 3747])
def test_the_split_is_scikit_learns(rows: int) -> None:
    examples = [Example(str(row), "x", ()) for row in range(rows)]
    divided = split_published(examples)
    train, test = train_test_split(np.arange(rows), test_size=0.1, random_state=42)
    assert {int(e.example_id) for e in divided if e.split == "test"} == set(test.tolist())
    assert {int(e.example_id) for e in divided if e.split == "train"} == set(train.tolist())


def test_noise_scores_well_the_published_way_and_the_overlap_says_why() -> None:
    found = run_published(repeated_rows(5), "tfidf", None)
    assert found.all_rows[0] > 0.9  # labels drawn at random: an honest score is about a third
    assert (found.rows, found.held_out_rows, found.scored_rows_trained_on) == (200, 20, 180)
    assert found.held_out_exact == found.held_out_near == 20


def test_without_copies_nothing_overlaps() -> None:
    found = run_published(repeated_rows(1), "tfidf", None)
    assert found.held_out_exact == found.held_out_near == 0
    assert found.held_out[0] < found.all_rows[0]


def test_every_published_sex_row_was_trained_on() -> None:
    examples = [Example(str(row), "x", ("All",)) for row in range(1000)]
    train, test = published_sex_rows(examples)
    assert len(train) == 1000 and len(test) == 111
    assert {e.example_id for e in test} < {e.example_id for e in train}


@pytest.mark.skipif(not GOLD.is_file(), reason="../shared/data is not here")
def test_a_random_split_of_gold_leaks() -> None:
    settings = TasksSettings(stop_reasons=StopReasonsSettings(labelled=str(GOLD)))
    found = run_published(build_examples("stop-reasons", settings, None), "keywords", None)
    assert (found.rows, found.held_out_rows) == (3372, 338)
    assert 30 < found.held_out_exact < found.held_out_near
