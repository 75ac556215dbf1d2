from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Task
from trialese.settings import DedupSettings, StopReasonsSettings, TasksSettings
from trialese.tasks.folds import build_examples, gather_examples, split_fold

TASK = Task("toy", ("a", "b"), "multilabel")
DEDUP = DedupSettings(shingle_words=1)


def examples_of(texts: list[str]) -> list[Example]:
    return [Example(f"e{row:03d}", text, ("a",)) for row, text in enumerate(texts)]


def test_duplicates_share_a_cluster_and_contradictions_are_counted() -> None:
    examples = [
        Example("1", "Low accrual.", ("a",)),
        Example("2", "low ACCRUAL", ("b",)),
        Example("3", "funding ended", ("a",)),
        Example("4", "Funding ended!", ("a",)),
        Example("5", "the drug was not safe", ()),
    ]
    found = gather_examples(TASK, examples, DEDUP, {})
    assert [e.cluster for e in found.examples] == ["1", "1", "3", "3", "5"]
    assert found.contradictions == 1
    assert found.counts["labels"] == {"a": 3, "b": 1}
    assert found.counts["clusters"] == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(0, 1000))
def test_no_cluster_is_divided_and_order_does_not_matter(fold: int, seed: int) -> None:
    examples = [Example(f"e{row:03d}", "x", ("a",), cluster=f"c{row // 3}") for row in range(300)]
    how = {"folds": 5, "fold": fold, "tune_share": 0.2, "seed": seed}
    divided = split_fold(examples, **how)  # type: ignore[arg-type]
    homes: dict[str, set[str | None]] = {}
    for example in divided:
        homes.setdefault(example.cluster, set()).add(example.split)
    assert all(len(splits) == 1 for splits in homes.values())
    shuffled = random.Random(seed).sample(examples, len(examples))
    again = split_fold(shuffled, **how)  # type: ignore[arg-type]
    assert {e.example_id: e.split for e in again} == {e.example_id: e.split for e in divided}


def test_every_example_is_tested_in_exactly_one_fold() -> None:
    examples = [Example(f"e{row}", "x", ("a",), cluster=f"e{row}") for row in range(400)]
    tested = [
        example.example_id
        for fold in range(5)
        for example in split_fold(examples, folds=5, fold=fold, tune_share=0.15, seed=7)
        if example.split == "test"
    ]
    assert sorted(tested) == sorted(e.example_id for e in examples)


def test_too_few_texts_for_a_fold_are_refused() -> None:
    examples = [Example("1", "x", ("a",), cluster="1"), Example("2", "y", ("a",), cluster="2")]
    with pytest.raises(RecordError, match=r"fold 0 of 5: .* give more texts or fewer folds"):
        split_fold(examples, folds=5, fold=0, tune_share=0.1, seed=7)


def test_nothing_usable_says_what_was_dropped() -> None:
    with pytest.raises(RecordError, match=r"0 usable examples \(dropped: 9 unlabelled\)"):
        gather_examples(TASK, [], DEDUP, {"unlabelled": 9})


def test_build_examples_from_a_labelled_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabels\nslow accrual\tInsufficient_Enrollment\ncovid\tCovid19\n")
    recipe = TasksSettings(stop_reasons=StopReasonsSettings(labelled=str(path)))
    found = build_examples("stop-reasons", recipe, None)
    assert [e.labels for e in found.examples] == [("Insufficient_Enrollment",), ("Covid19",)]
    assert found.digest == build_examples("stop-reasons", recipe, None).digest
    path.write_text("text\tlabels\nslow accrual\tInsufficient_Enrollment\ncovid\tSuccess\n")
    assert build_examples("stop-reasons", recipe, None).digest != found.digest


def test_build_examples_needs_a_source() -> None:
    with pytest.raises(RecipeError, match="no snapshot"):
        build_examples("sex", TasksSettings(), None)
