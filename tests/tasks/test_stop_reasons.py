""""""

from __future__ import annotations

import re

from trialese.records import Example, Trial
from trialese.settings import DedupSettings
from trialese.tasks.behaviour import shipped_tests
from trialese.tasks.stop_reasons import (
    STOP_REASON_SENTENCES,
    STOP_REASON_WORDS,
    STOP_REASONS,
    examples_of_trials,
    written_sentences,
)
from trialese.tasks.task import encode_labels, sentence_examples


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


def test_the_table_adds_sentences_with_several_labels_and_denied_reasons() -> None:
    found = written_sentences()
    texts = [text for written in found.values() for text in written]
    assert len(texts) == len(set(texts)) > 480
    assert all(found[label][: len(own)] == own for label, own in STOP_REASON_SENTENCES.items())
    both = [each for each in sentence_examples(found, [], DEDUP, times=1) if len(each.labels) == 2]
    assert len(both) > 60
    encode_labels(STOP_REASONS, both)
    assert any("no safety" in text.lower() for text in found["Business_Administrative"])


def test_no_sentence_shares_more_than_half_of_its_words_with_a_behavioural_test() -> None:
    def words(text: str) -> set[str]:
        return set(re.findall(r"\w+", text.lower()))

    tests = [words(test.text) for test in shipped_tests(STOP_REASONS)]
    for written in written_sentences().values():
        for text in written:
            own = words(text)
            nearest = max(len(own & other) / len(own | other) for other in tests)
            assert nearest <= 0.5, text
