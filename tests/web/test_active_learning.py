"""What comes first in the queue: doubt, novelty, duplicates; and what the queue hands out.

Labelled texts near a text: order, ties, examples of annotators, nothing to compare with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.records import Task
from trialese.web.active_learning import (
    Labelled,
    Neighbours,
    Queue,
    rank_texts,
    similarity,
    uncertainty,
)
from trialese.web.annotations import AnswerLog, Event, Member, key_of
from trialese.web.search_index import ScoredText

TASK = Task("toy", ("Enrollment", "Money"), "multilabel")


def test_doubt_is_greatest_at_the_cut_off() -> None:
    scores = np.linspace(0.01, 0.99, 99)[:, None]
    uncertainties = uncertainty(scores, "multilabel", [0.3])
    assert uncertainties.argmax() == 29 and uncertainties.max() == pytest.approx(1.0)
    assert uncertainty(np.full((1, 4), 0.25), "multiclass")[0] == pytest.approx(2.0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_doubt_is_scipys_entropy(row: list[float]) -> None:
    from scipy.stats import entropy

    mine = uncertainty(np.array([row]), "multilabel")[0]
    theirs = sum(entropy([p, 1 - p], base=2) for p in row)
    assert mine == pytest.approx(theirs, abs=1e-6)


def test_likes_of_what_is_chosen_wait() -> None:
    texts = ["slow accrual of patients", "slow accrual of patients!", "sponsor lacks money"]
    features = similarity(texts)
    same = np.ones(3)
    order = [r.row for r in rank_texts(same, np.ones(3, np.int64), features)]
    assert order == [0, 2, 1]
    assert [r.row for r in rank_texts(same, np.ones(3, np.int64), features, answered=[0])] == [2, 1]


def test_duplicates_and_doubt_weigh() -> None:
    texts = ["alpha beta", "gamma delta", "epsilon zeta"]
    ranked = rank_texts(np.array([1.0, 1.0, 2.1]), np.array([1, 7, 1]), similarity(texts))
    assert [r.row for r in ranked] == [1, 2, 0]
    assert ranked[0].worth == pytest.approx(math.log2(8))


@settings(deadline=None)
@given(st.lists(st.text(max_size=12), max_size=8))
def test_every_text_is_ranked_once(texts: list[str]) -> None:
    ranked = rank_texts(
        np.linspace(0, 1, len(texts)), np.ones(len(texts), np.int64), similarity(texts)
    )
    assert sorted(r.row for r in ranked) == list(range(len(texts)))
    assert all(r.worth >= 0 for r in ranked)


def readings() -> list[ScoredText]:
    texts = ["Slow accrual", "slow accrual.", "No money", "Toxic", "Moved away", "Drug withdrawn"]
    return [
        ScoredText(nct_id=f"NCT{n:08}", text=text, scores=(0.5, n / 10))
        for n, text in enumerate(texts)
    ]


def event(key: str, labels: tuple[str, ...], kind: str = "answer") -> Event:
    return Event(
        id=1, at="", task="toy", annotator="", kind=kind, key=key,  # type: ignore[arg-type]
        labels=labels, members=(Member("x", "x"),),
    )  # fmt: skip


def test_an_answer_takes_the_whole_cluster_out() -> None:
    queue = Queue(TASK, readings(), None)
    assert (len(queue), queue.texts) == (5, 6)
    first = next(item for item in queue.next({}, "ann", 5) if len(item.members) == 2)
    assert [member.id for member in first.members] == ["NCT00000000", "NCT00000001"]
    left = queue.next({"ann": {first.key: event(first.key, ())}}, "ann", 5)
    assert len(left) == 4 and first.key not in {item.key for item in left}


def test_every_fourth_text_is_a_second_opinion() -> None:
    queue = Queue(TASK, readings(), None)
    told = {"bob": {key: event(key, ("Money",)) for key in [i.key for i in queue.next({}, "b", 2)]}}
    items = queue.next(told, "ann", 5)
    assert [item.second for item in items] == [False, False, False, True, True]
    assert len({item.key for item in items}) == 5
    assert items[3].key in told["bob"]


def test_skipped_texts_do_not_come_back_to_who_skipped_them() -> None:
    queue = Queue(TASK, readings(), None)
    keys = [item.key for item in queue.next({}, "ann", 5)]
    told = {"ann": {key: event(key, (), "skip") for key in keys[:4]}}
    assert [item.key for item in queue.next(told, "ann", 5)] == keys[4:]
    assert len(queue.next(told, "bob", 5)) == 5


def test_a_cluster_keeps_its_name_when_other_texts_join_it(tmp_path_factory: object) -> None:
    known = event("f" * 32, ("Money",))
    renamed = Event(**{n: getattr(known, n) for n in Event.__struct_fields__} | {
        "members": (Member("old", "SLOW ACCRUAL"),)})  # fmt: skip
    queue = Queue(TASK, readings(), None, [renamed])
    assert queue.item("f" * 32) is not None
    assert queue.item(key_of("slow accrual")) is None


def test_answers_kept_are_found_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    log = AnswerLog(tmp_path / "a.sqlite")
    queue = Queue(TASK, readings(), None)
    item = queue.next({}, "ann", 1)[0]
    log.record("toy", "ann", item.members, ["Money"], key=item.key)
    assert item.key not in {i.key for i in queue.next(log.standing("toy"), "bob", 3)}
    again = Queue(TASK, readings()[1:], None, log.events())
    assert len(again.next(log.standing("toy"), "ann", 5)) == 4
    log.close()


TEXTS = ("Slow accrual", "Lack of funding", "slow accrual", "Toxicity of the drug")


def examples(texts: tuple[str, ...] = TEXTS) -> list[Labelled]:
    return [
        Labelled(id=f"row-{n}", text=text, labels=("L",), source="gold.tsv")
        for n, text in enumerate(texts)
    ]


def test_the_same_text_is_nearest_and_ties_keep_their_order() -> None:
    found = Neighbours(examples()).nearest("slow accrual", 4)
    assert [n.example.id for n in found] == ["row-0", "row-2"]
    assert [n.similarity for n in found] == [1.0, 1.0]


def test_likeness_is_scikit_learns_cosine() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    features = vectorizer.fit_transform(TEXTS)
    query = "funding was slow"
    near = cosine_similarity(vectorizer.transform([query]), features)[0]
    found = {n.example.id: n.similarity for n in Neighbours(examples()).nearest(query, 4)}
    expected = {f"row-{row}": near[row] for row in np.flatnonzero(near)}
    assert found == {name: pytest.approx(value, abs=1e-4) for name, value in expected.items()}


def test_answers_of_annotators_are_among_them_and_come_first_of_equals() -> None:
    mine = Labelled(id="NCT1", text="slow accrual", labels=(), source="labelled here by ann")
    found = Neighbours(examples()).nearest("slow accrual", 2, also=[mine])
    assert [n.example.source for n in found] == ["labelled here by ann", "gold.tsv"]
    assert [n.example.id for n in Neighbours([]).nearest("slow accrual", also=[mine])] == ["NCT1"]


@pytest.mark.parametrize("texts", [(), ("?", "!!")])
def test_nothing_to_compare_with(texts: tuple[str, ...]) -> None:
    assert Neighbours(examples(texts)).nearest("slow accrual") == []
    assert Neighbours(examples()).nearest("💊 \u202e") == []
