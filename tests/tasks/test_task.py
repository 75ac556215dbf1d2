""""""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trialese.errors import RecipeError, RecordError
from trialese.recipe import parse_recipe
from trialese.records import Example, Task, Trial
from trialese.settings import DeclaredTaskSettings, TasksSettings
from trialese.tasks.folds import build_examples, task_named
from trialese.tasks.sex import SEX, cut_sex_words
from trialese.tasks.stop_reasons import STOP_REASONS
from trialese.tasks.task import declared_task, encode_labels, examples_of_declared


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


TRIALS = [
    Trial(nct_id="NCT1", brief_title="First in man", phases=("PHASE1",), healthy_volunteers=True),
    Trial(nct_id="NCT2", brief_title="Seamless", phases=("PHASE1", "PHASE2")),
    Trial(nct_id="NCT3", brief_title="Observed", healthy_volunteers=False),
    Trial(nct_id="NCT4", phases=("PHASE2",)),
]
RECIPE = """
[tasks]
names = ["phase"]

[[tasks.declared]]
name = "phase"
kind = "multilabel"
labels = ["PHASE1", "PHASE2"]
field = "phases"
"""


def test_a_task_in_ten_lines() -> None:
    settings = parse_recipe(RECIPE).tasks
    assert task_named("phase", settings) == Task("phase", ("PHASE1", "PHASE2"), "multilabel")
    dropped: dict[str, int] = {}
    examples = examples_of_declared(TRIALS, settings.declared[0], dropped)
    assert [(e.example_id, e.labels) for e in examples] == [
        ("NCT1", ("PHASE1",)), ("NCT2", ("PHASE1", "PHASE2")),
    ]  # fmt: skip
    assert dropped == {"no_phases": 1, "no_text": 1}


def test_truth_values_are_yes_and_no() -> None:
    settings = DeclaredTaskSettings(
        name="healthy", kind="multiclass", labels=("Yes", "No"), field="healthy_volunteers"
    )
    examples = examples_of_declared(TRIALS, settings, {})
    assert [e.labels for e in examples] == [("Yes",), ("No",)]


def test_the_field_itself_is_not_read() -> None:
    settings = DeclaredTaskSettings(
        name="phase", kind="multilabel", labels=("PHASE1", "PHASE2"), field="phases",
        fields=("brief_title", "phases"),
    )  # fmt: skip
    examples = examples_of_declared(TRIALS, settings, {})
    assert all("PHASE" not in example.text for example in examples)


def test_a_task_from_a_labelled_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nmice,animal\nmen,human\n")
    own = DeclaredTaskSettings(
        name="who", kind="multiclass", labels=("animal", "human"),
        labelled=str(tmp_path / "a.csv"),
    )  # fmt: skip
    found = build_examples("who", TasksSettings(declared=(own,)), None)
    assert [e.labels for e in found.examples] == [("animal",), ("human",)]


def test_an_undeclared_value_names_the_trial() -> None:
    settings = DeclaredTaskSettings(
        name="phase", kind="multilabel", labels=("PHASE1",), field="phases"
    )
    with pytest.raises(RecordError, match=r"NCT2: unknown label 'PHASE2'; phase knows PHASE1"):
        examples_of_declared(TRIALS, settings, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ()}, "labels are missing or repeated"),
        ({"labels": ("a", "a")}, "labels are missing or repeated"),
        ({"field": None}, "give either `field` or `labelled`"),
        ({"labelled": "x.tsv"}, "give either `field` or `labelled`"),
        ({"field": "phase"}, "a trial has no field 'phase'"),
    ],
)
def test_a_wrong_declaration(changes: dict[str, object], message: str) -> None:
    given = {"name": "t", "kind": "multilabel", "labels": ("a",), "field": "phases"} | changes
    with pytest.raises(RecipeError, match=message):
        declared_task(DeclaredTaskSettings(**given))  # type: ignore[arg-type]


def test_names_of_the_house_are_taken() -> None:
    own = DeclaredTaskSettings(name="sex", kind="multilabel", labels=("a",), field="phases")
    with pytest.raises(RecipeError, match="'sex' is taken"):
        task_named("sex", TasksSettings(declared=(own,)))


def test_sentences_with_sex_words_go_and_the_rest_stays() -> None:
    text = (
        "Gout in adults. Women may enrol.\n\nInclusion:\n* Age 40; not pregnant\n"
        "* Management of others\n* Men"
    )
    assert cut_sex_words(text) == "Gout in adults.\n\nInclusion:\n* Age 40;\n* Management of others"
