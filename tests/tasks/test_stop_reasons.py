""""""

from __future__ import annotations

from trialese.records import Example, Trial
from trialese.settings import DedupSettings
from trialese.tasks.stop_reasons import (
    STOP_REASON_SENTENCES,
    STOP_REASON_WORDS,
    STOP_REASONS,
    examples_of_trials,
)
from trialese.tasks.task import sentence_examples


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


DEDUP = DedupSettings(shingle_words=1)


def test_every_label_has_sentences_of_its_own() -> None:
    assert set(STOP_REASON_SENTENCES) == set(STOP_REASONS.labels)
    texts = [text for texts in STOP_REASON_SENTENCES.values() for text in texts]
    assert len(set(texts)) == len(texts)


def test_they_come_so_many_times_under_their_label() -> None:
    once, twice = (
        sentence_examples(STOP_REASON_SENTENCES, [], DEDUP, times=times) for times in (1, 2)
    )
    assert len(twice) == 2 * len(once) > 60
    assert len({example.example_id for example in twice}) == len(twice)
    assert all(e.text in STOP_REASON_SENTENCES[e.labels[0]] for e in twice)


def test_none_is_near_a_labelled_text() -> None:
    labelled = [Example("a", "ethical REASONS", ("Ethical_Reason",))]
    texts = [e.text for e in sentence_examples(STOP_REASON_SENTENCES, labelled, DEDUP, times=1)]
    assert "Ethical reasons." not in texts
    assert len(texts) == sum(map(len, STOP_REASON_SENTENCES.values())) - 1
    assert sentence_examples(STOP_REASON_SENTENCES, [], DEDUP, times=0) == []
    assert sentence_examples({}, [], DEDUP, times=1) == []
