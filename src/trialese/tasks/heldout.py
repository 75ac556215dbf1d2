"""Test texts that are given, not drawn: those of a file of their own, or the latest trials."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trialese.errors import LeakageError, RecipeError
from trialese.records import Snapshot

if TYPE_CHECKING:
    from trialese.tasks.folds import ExampleSet

__all__ = ["check_held_out", "hold_out_late", "refuse_overlap"]

_SHOWN = 3


def check_held_out(name: str, section: Any) -> None:
    """Refuse a section (RecipeError) whose given test texts do not go with its other settings."""
    test_from = getattr(section, "test_from", None)
    if section.test_labelled is None and test_from is None:
        return
    if section.test_labelled is not None and test_from is not None:
        raise RecipeError(f"tasks, {name}: give either test_labelled or test_from")
    if section.labelled is not None and test_from is not None:
        raise RecipeError(
            f"tasks, {name}: test_from needs the dates of trials, which a labelled file lacks; "
            "take labels from a snapshot"
        )
    if section.labelled is None and section.test_labelled is not None:
        raise RecipeError(f"tasks, {name}: test_labelled needs labelled, to train on")
    if section.run_folds != 1:
        raise RecipeError(
            f"tasks, {name}: the test texts are given, so there is one fold; set run_folds = 1"
        )


def refuse_overlap(found: ExampleSet, *, allowed: bool) -> None:
    """Refuse test texts that stand among the others too, word for word or nearly.

    Raises:
        LeakageError: there are some, and `allowed` is False; with their count and examples.
    """
    known = {example.cluster for example in found.examples if example.split != "test"}
    tested = [example for example in found.examples if example.split == "test"]
    shared = [example.text for example in tested if example.cluster in known]
    if shared and not allowed:
        some = ", ".join(repr(text[:60]) for text in shared[:_SHOWN])
        raise LeakageError(
            f"{found.task.name}: {len(shared):,} of {len(tested):,} test texts are among the "
            f"training texts, word for word or nearly, such as {some}; take them out of either "
            "file, or allow it (--allow-overlap), which brands the report"
        )


def hold_out_late(found: ExampleSet, snapshot: Snapshot, test_from: str) -> ExampleSet:
    """The examples, those of clusters that began on or after `test_from` (ISO 8601) marked test.

    A cluster begins with the earliest `first_posted` among its trials; one without any date is not
    tested.
    """
    from trialese.collect import read_trials

    cluster_of = {example.example_id: example.cluster for example in found.examples}
    began: dict[str, str] = {}
    for trial in read_trials(snapshot):
        cluster = cluster_of.get(trial.nct_id)
        if cluster is not None and trial.first_posted:
            began[cluster] = min(began.get(cluster, "9999"), trial.first_posted)
    examples = tuple(
        replace(e, split="test") if began.get(e.cluster, "") >= test_from else e
        for e in found.examples
    )
    return replace(found, examples=examples)
