from __future__ import annotations

from trialese.records import Trial
from trialese.tasks.stop_reasons import STOP_REASON_WORDS, STOP_REASONS, examples_of_trials


def test_labels_come_from_synthetic_trials_only_and_the_rest_is_counted() -> None:
    trials = [
        Trial(
            nct_id="NCT1", why_stopped="Slow accrual\r\n", synthetic=True,
            synthetic_stop_reasons=("Insufficient_Enrollment",),
        ),
        Trial(nct_id="NCT2", why_stopped="Funding ended"),
        Trial(nct_id="NCT3"),
        Trial(nct_id="NCT4", why_stopped="  "),
    ]  # fmt: skip
    dropped: dict[str, int] = {}
    (example,) = examples_of_trials(trials, dropped)
    assert (example.example_id, example.text) == ("NCT1", "Slow accrual")
    assert example.labels == ("Insufficient_Enrollment",)
    assert dropped == {"unlabelled": 1, "no_stop_reason": 2}


def test_every_label_has_keywords_in_lower_case() -> None:
    assert set(STOP_REASON_WORDS) == set(STOP_REASONS.labels)
    words = [word for words in STOP_REASON_WORDS.values() for word in words]
    assert all(word == word.casefold() and word for word in words)
