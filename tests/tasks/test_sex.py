from __future__ import annotations

import pytest

from trialese.records import Trial
from trialese.settings import SexSettings
from trialese.tasks.sex import examples_of_trials, task_for

TRIALS = [
    Trial(
        nct_id="NCT2", brief_title="Prostate cancer", sex="Male",
        gender_description="biological males with a prostate",
        eligibility_criteria="Inclusion: biological males with a prostate\nGender: Male\nAge 40",
    ),
    Trial(nct_id="NCT1", brief_title="Gout in adults", sex="All"),
    Trial(nct_id="NCT3", brief_title="Asthma", sex=None),
    Trial(nct_id="NCT4", sex="Female"),
]  # fmt: skip


def test_structured_answers_are_withheld_from_the_text() -> None:
    dropped: dict[str, int] = {}
    examples = examples_of_trials(TRIALS, SexSettings(), dropped)
    assert [(e.example_id, e.labels) for e in examples] == [("NCT1", ("All",)), ("NCT2", ("Male",))]
    text = examples[1].text
    assert "Prostate cancer" in text and "Age 40" in text
    assert "biological males" not in text and "Gender: Male" not in text
    assert dropped == {"no_sex": 1, "no_text": 1}


def test_a_missing_value_can_be_a_label() -> None:
    settings = SexSettings(missing="label")
    dropped: dict[str, int] = {}
    examples = examples_of_trials(TRIALS, settings, dropped)
    assert {e.example_id: e.labels for e in examples}["NCT3"] == ("None",)
    assert task_for(settings).labels == ("All", "Female", "Male", "None")
    assert task_for(SexSettings()).labels == ("All", "Female", "Male")
    assert dropped == {"no_text": 1}


@pytest.mark.parametrize("reverse", [False, True])
def test_max_trials_keeps_the_same_ones_in_any_order(reverse: bool) -> None:
    trials = [Trial(nct_id=f"NCT{i:03d}", brief_title=f"t {i}", sex="All") for i in range(50)]
    if reverse:
        trials.reverse()
    dropped: dict[str, int] = {}
    kept = [e.example_id for e in examples_of_trials(trials, SexSettings(max_trials=9), dropped)]
    more = [e.example_id for e in examples_of_trials(trials, SexSettings(max_trials=20), {})]
    assert len(kept) == 9 and set(kept) < set(more) and kept == sorted(kept)
    assert dropped == {"beyond_max_trials": 41}
