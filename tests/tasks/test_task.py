from __future__ import annotations

import numpy as np
import pytest

from trialese.errors import RecipeError, RecordError
from trialese.records import Example, Task
from trialese.tasks.sex import SEX
from trialese.tasks.stop_reasons import STOP_REASONS
from trialese.tasks.task import encode_labels, task_named


def test_task_named_returns_the_declared_tasks() -> None:
    assert task_named("stop-reasons") is STOP_REASONS
    assert task_named("sex") is SEX
    assert (STOP_REASONS.kind, len(STOP_REASONS.labels)) == ("multilabel", 17)
    assert (SEX.kind, SEX.labels) == ("multiclass", ("All", "Female", "Male"))


def test_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'phase' is unknown; use one of stop-reasons, sex"):
        task_named("phase")


def test_encode_labels_keeps_the_order_of_the_task() -> None:
    task = Task("t", ("b", "a", "c"), "multilabel")
    examples = [Example("1", "x", ("a", "b")), Example("2", "y", ()), Example("3", "z", ("c",))]
    expected = [[True, True, False], [False, False, False], [False, False, True]]
    np.testing.assert_array_equal(encode_labels(task, examples), expected)


def test_encode_labels_names_the_example_with_an_unknown_label() -> None:
    task = Task("t", ("a",), "multilabel")
    with pytest.raises(RecordError, match=r"example 7: unknown label 'A'; t knows a"):
        encode_labels(task, [Example("7", "x", ("A",))])


def test_multiclass_takes_exactly_one_label() -> None:
    with pytest.raises(RecordError, match="2 labels, but sex takes exactly one"):
        encode_labels(SEX, [Example("7", "x", ("Male", "Female"))])
    with pytest.raises(RecordError, match="0 labels"):
        encode_labels(SEX, [Example("7", "x", ())])
