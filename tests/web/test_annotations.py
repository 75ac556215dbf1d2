"""The log of answers: what stands, what was undone, and that nothing is lost or altered."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.errors import ArtifactError
from trialese.records import Task
from trialese.tasks.labelled import read_labelled
from trialese.web.annotations import (
    AnswerLog,
    Member,
    as_tsv,
    disagreements,
    disagreements_tsv,
    key_of,
    settle,
)

TASK = Task("toy", ("Enrollment", "Money"), "multilabel")
SLOW = (Member("NCT00000002", "Slow accrual"), Member("NCT00000009", "slow accrual."))
POOR = (Member("NCT00000003", 'No "funding"\tat all, see\nnote'),)


@pytest.fixture
def log(tmp_path: Path) -> AnswerLog:
    return AnswerLog(tmp_path / "deep" / "answers.sqlite")


def test_one_answer_serves_every_duplicate_and_finetune_reads_it(
    log: AnswerLog, tmp_path: Path
) -> None:
    log.record("toy", "ann", SLOW, ["Enrollment", "Money"])
    log.record("toy", "ann", POOR, [])
    text, rows, disputed = as_tsv(log.standing("toy"))
    assert (rows, disputed) == (3, 0)
    (tmp_path / "labelled.tsv").write_text(text, encoding="utf-8")
    examples = read_labelled(tmp_path / "labelled.tsv", TASK)
    assert [(e.example_id, e.labels) for e in examples] == [
        ("NCT00000002", ("Enrollment", "Money")),
        ("NCT00000003", ()),
        ("NCT00000009", ("Enrollment", "Money")),
    ]
    assert examples[1].text.startswith('No "funding"')


def test_undo_is_an_event_and_brings_the_earlier_answer_back(log: AnswerLog) -> None:
    first = log.record("toy", "ann", SLOW, ["Money"])
    log.record("toy", "bob", SLOW, ["Enrollment"])
    log.record("toy", "ann", SLOW, ["Enrollment"])
    undone = log.undo("toy", "ann")
    assert undone and undone.labels == ("Enrollment",)
    assert log.standing("toy")["ann"][first.key].labels == ("Money",)
    assert log.undo("toy", "ann") == first
    assert log.undo("toy", "ann") is None
    assert list(log.standing("toy")) == ["bob"]
    assert [event.kind for event in log.events()] == [*["answer"] * 3, "undo", "undo"]


def test_skips_are_answers_to_nobody(log: AnswerLog) -> None:
    skipped = log.record("toy", "ann", SLOW, None)
    assert skipped.kind == "skip"
    assert as_tsv(log.standing("toy"))[1] == 0
    log.record("toy", "bob", SLOW, ["Money"])
    assert as_tsv(log.standing("toy"))[1:] == (2, 0)


def test_disputed_texts_are_left_out_and_counted(log: AnswerLog) -> None:
    log.record("toy", "ann", SLOW, ["Money"])
    log.record("toy", "bob", SLOW, ["Enrollment"])
    log.record("toy", "bob", POOR, ["Money"])
    assert as_tsv(log.standing("toy"))[1:] == (1, 1)
    assert as_tsv(log.standing("toy"), "ann")[1:] == (2, 0)


def test_tasks_do_not_mix(log: AnswerLog) -> None:
    log.record("toy", "ann", SLOW, ["Money"])
    assert log.standing("sex") == {}
    assert log.undo("sex", "ann") is None


def test_nobody_can_change_or_delete_an_event(log: AnswerLog) -> None:
    log.record("toy", "ann", SLOW, ["Money"])
    with sqlite3.connect(log.path) as other:
        for statement in ("UPDATE events SET labels = '[]'", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                other.execute(statement)
    other.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, None])
def test_a_file_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "other.sqlite"
    if content is None:
        with sqlite3.connect(path) as base:
            base.execute("CREATE TABLE mine (a)")
        base.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="--labels"):
        AnswerLog(path)
    assert path.read_bytes() == content


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=5, unique_by=key_of))
def test_any_text_comes_back_from_the_log(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = AnswerLog(tmp_path_factory.mktemp("log") / "answers.sqlite")
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    for number, text in enumerate(texts):
        log.record("toy", "ann", [Member(f"e{number}", text)], ["Money"])
    held = log.standing("toy")["ann"]
    assert [event.members[0].text for event in held.values()] == texts
    log.close()


_WRITER = """
import sys
from pathlib import Path
from trialese.web.annotations import AnswerLog, Member
log = AnswerLog(Path(sys.argv[1]))
for number in range(100_000):
    log.record("toy", "ann", [Member(f"e{number}", f"text {number}")], ["Money"])
    print(number, flush=True)
"""


def test_a_killed_process_loses_no_acknowledged_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        for _ in range(50):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split())])
    log = AnswerLog(path)
    held = log.standing("toy")["ann"].values()
    assert [e.members[0].id for e in held][: last + 1] == [f"e{n}" for n in range(last + 1)]
    assert len(held) <= last + 2  # at most the one that was committed but not yet told
    log.close()


def test_a_decision_settles_what_annotators_dispute_and_says_who_decided(log: AnswerLog) -> None:
    log.record("toy", "ann", SLOW, ["Money"])
    key = log.record("toy", "bob", SLOW, ["Enrollment"]).key
    log.record("toy", "bob", POOR, ["Money"])
    found = disagreements(log.standing("toy"), log.decisions("toy"))
    assert [(each.key, each.answers, each.decision) for each in found] == [
        (key, {"ann": ("Money",), "bob": ("Enrollment",)}, None)
    ]
    log.decide("toy", "eve", key, ["Money"])
    log.decide("toy", "eve", key, ["Enrollment"])
    text, rows, disputed = as_tsv(log.standing("toy"), decisions=log.decisions("toy"))
    assert (rows, disputed) == (3, 0)
    assert text.splitlines()[0] == "id\ttext\tlabels\tdecided_by"
    assert "NCT00000002\tSlow accrual\tEnrollment\teve" in text
    assert as_tsv(log.standing("toy"), "ann", log.decisions("toy"))[0].endswith("\tMoney\n")
    found = disagreements(log.standing("toy"), log.decisions("toy"))
    table = disagreements_tsv(found).splitlines()
    assert table[0] == "id\ttext\tann\tbob\tdecision\tdecided_by\tdecided_at"
    assert table[1].startswith("NCT00000002\tSlow accrual\tMoney\tEnrollment\tEnrollment\teve\t20")
    log.decide("toy", "bob", key, None)
    assert as_tsv(log.standing("toy"), decisions=log.decisions("toy"))[1:] == (1, 1)
    assert log.decisions("other") == {}


def test_a_decision_counts_only_while_annotators_disagree(log: AnswerLog) -> None:
    log.record("toy", "ann", SLOW, ["Money"])
    key = log.record("toy", "bob", SLOW, ["Enrollment"]).key
    log.decide("toy", "eve", key, ["Enrollment"])
    log.record("toy", "bob", SLOW, ["Money"])
    assert disagreements(log.standing("toy"), log.decisions("toy")) == []
    assert settle(log.standing("toy"), log.decisions("toy"))[0][0].labels == ("Money",)


def test_decisions_are_never_changed_and_old_files_take_them(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old = AnswerLog(path)
    old.record("toy", "ann", SLOW, ["Money"])
    old.close()
    with sqlite3.connect(path) as base:  # as a file of before decisions
        base.execute("DROP TABLE decisions")
    base.close()
    log = AnswerLog(path)
    log.decide("toy", "eve", key_of("Slow accrual"), [])
    with sqlite3.connect(path) as base:
        for statement in ("UPDATE decisions SET labels = '[]'", "DELETE FROM decisions"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                base.execute(statement)
    base.close()
    log.close()


def test_an_id_of_two_files_keeps_both_texts(log: AnswerLog) -> None:
    log.record("toy", "ann", [Member("row 1", "Slow accrual")], ["Enrollment"])
    log.record("toy", "ann", [Member("row 1", "No funds")], ["Money"])
    text, rows, _ = as_tsv(log.standing("toy"))
    assert rows == 2 and "Slow accrual\tEnrollment" in text and "No funds\tMoney" in text
