"""Behavioural tests: what passes, what is refused, and what the shipped ones hold."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from trialese.errors import RecordError
from trialese.records import Example, Task, Thresholds
from trialese.settings import DedupSettings
from trialese.tasks.behaviour import (
    BehaviourTest,
    behaviour_tests,
    check_behaviour,
    read_behaviour_tests,
    shipped_tests,
    without_near,
)
from trialese.tasks.scorer import Preprocessing
from trialese.tasks.stop_reasons import STOP_REASON_SENTENCES, STOP_REASONS

TASK = Task("toy", ("Slow", "Harm"), "multilabel")


class WordScorer:
    """Gives Slow where "slow" stands, and Harm where "harm" stands."""

    task = TASK
    preprocessing = Preprocessing(max_tokens=9)
    thresholds = Thresholds(labels=TASK.labels, values=(0.5, 0.5), chosen_on="tune")
    digest = "0" * 64
    engine = "words"

    def predict_proba(self, texts: Sequence[str], *, progress=None) -> np.ndarray:
        return np.array([["slow" in text, "harm" in text] for text in texts], np.float64)


def test_a_text_passes_with_all_that_it_must_and_nothing_that_it_must_not() -> None:
    tests = (
        BehaviourTest(group="plain", text="slow accrual", must=("Slow",)),
        BehaviourTest(group="plain", text="harm", must=("Harm",), must_not=("Slow",)),
        BehaviourTest(group="two", text="slow, and harm", must=("Slow", "Harm")),
        BehaviourTest(group="two", text="slow and toxic", must=("Slow", "Harm")),
        BehaviourTest(group="no", text="slow, no harm", must=("Slow",), must_not=("Harm",)),
    )
    report = check_behaviour(WordScorer(), tests)
    assert [(g.group, g.passed, g.texts) for g in report.groups] == [
        ("plain", 2, 2),
        ("two", 1, 2),
        ("no", 0, 1),
    ]
    assert (report.total.passed, report.total.texts) == (3, 5)
    assert [(f.text, f.missing, f.wrong) for f in report.failures] == [
        ("slow and toxic", ("Harm",), ()),
        ("slow, no harm", (), ("Harm",)),
    ]
    # Wilson's interval of 3 in 5 (Brown, Cai and DasGupta 2001).
    assert report.total.rate.low == pytest.approx(0.2307, abs=1e-4)
    assert report.total.rate.high == pytest.approx(0.8824, abs=1e-4)


def test_a_table_of_tests_names_all_bad_rows_at_once(tmp_path: Path) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text(
        "group\ttext\tmust\tmust_not\n"
        "a\tslow\tSlow\t\n"
        "a\tslow\tSlwo\t\n"
        "\tslow\tSlow\t\n"
        "a\tslow\t\t\n"
        "a\tslow\tSlow\tSlow\n"
        "all\tslow harm\tSlow\t\n"
        "b\tslow\t\tSlow\n"
    )
    with pytest.raises(RecordError) as error:
        read_behaviour_tests(table, TASK)
    message = str(error.value)
    assert "\n" not in message
    for part in ("line 3: toy has no label Slwo", "line 4", "line 5", "line 6"):
        assert part in message
    assert "line 7: 'all' is the name of the total" in message
    assert "line 8: the text of line 2 again" in message
    table.write_text('group\ttext\tmust\tmust_not\na\t"slow\tSlow|Harm\t\n')
    assert read_behaviour_tests(table, TASK)[0].must == ("Slow", "Harm")
    table.write_text("Group,Text,Must,Must Not\na,slow,slow,HARM\n")  # as people write them
    assert read_behaviour_tests(table, TASK) == (
        BehaviourTest(group="a", text="slow", must=("Slow",), must_not=("Harm",)),
    )
    table.write_text(
        '{"group":"a","text":"slow"}\n{"group":"b","text":7}\n{"group":"b","text":"\\ud800"}'
    )
    with pytest.raises(RecordError) as error:
        read_behaviour_tests(table, TASK)
    for part in ("line 1: no label that", "line 2: no group or no text", "line 3: no group or no"):
        assert part in str(error.value)
    table.write_text('{"group": "a", "text": "slow", "must": ["Slow"]}\n')
    (test,) = read_behaviour_tests(table, TASK)
    assert (test.must, test.must_not) == (("Slow",), ())
    table.write_text("group\ttext\tmust\tmust\tmust_not\na\tslow\tSlow\tHarm\t\n")
    with pytest.raises(RecordError, match=r"a column name twice \('must'\); name each"):
        read_behaviour_tests(table, TASK)
    for missing in (tmp_path / "none.tsv", tmp_path):
        with pytest.raises(RecordError, match=r": no such file; check the path$"):
            read_behaviour_tests(missing, TASK)
    table.write_text("text\nslow\n")
    with pytest.raises(RecordError, match="no column 'group'"):
        read_behaviour_tests(table, TASK)
    with pytest.raises(RecordError, match="ships no behavioural tests"):
        check_behaviour(WordScorer(), shipped_tests(TASK))


def test_tests_of_ones_own_stand_beside_the_shipped_ones_each_text_once(tmp_path: Path) -> None:
    shipped = shipped_tests(STOP_REASONS)
    table = tmp_path / "mine.tsv"  # a copy of the shipped table, a row changed, and one more
    lines = ["group\ttext\tmust\tmust_not"]
    lines += [f"{t.group}\t{t.text}\t{'|'.join(t.must)}\t{'|'.join(t.must_not)}" for t in shipped]
    lines[1] = f"mine\t{shipped[0].text}\tRegulatory\t"
    lines.append("mine\tslower than a snail\tInsufficient_Enrollment\t")
    table.write_text("\n".join(lines) + "\n")
    tests = behaviour_tests(STOP_REASONS, str(table))
    assert len(tests) == len(shipped) + 1 == len({test.text for test in tests})
    assert {test.text for test in tests if test.group == "mine"} == {
        shipped[0].text, "slower than a snail",
    }  # fmt: skip
    assert behaviour_tests(STOP_REASONS, None) == shipped


def test_the_shipped_tests_are_many_in_named_groups_and_no_sentence_of_ours() -> None:
    tests = shipped_tests(STOP_REASONS)
    assert len(tests) >= 150
    groups = collections.Counter(test.group for test in tests)
    assert {"negation", "two reasons", "no context", "other languages"} <= set(groups)
    assert all(times >= 7 for times in groups.values())
    assert all(len(test.must) == 2 for test in tests if test.group == "two reasons")
    assert {label for test in tests for label in test.must} == set(STOP_REASONS.labels) - {
        "Invalid_Reason"
    }
    sentences = [
        Example("", text, (label,))
        for label, texts in STOP_REASON_SENTENCES.items()
        for text in texts
    ]
    kept, left_out = without_near(sentences, tests, DedupSettings(shingle_words=1))
    assert len(kept) + left_out == len(sentences)


def test_what_is_near_a_test_is_left_out_of_training() -> None:
    tests = (BehaviourTest(group="g", text="Low enrolment in both arms.", must=("Slow",)),)
    examples = [
        Example("1", "low enrolment in both arms", ("Slow",)),
        Example("2", "sponsor decision", ("Harm",)),
    ]
    kept, left_out = without_near(examples, tests, DedupSettings(shingle_words=1))
    assert [example.example_id for example in kept] == ["2"] and left_out == 1
    assert without_near(examples, (), DedupSettings()) == (examples, 0)
