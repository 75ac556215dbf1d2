"""Labelled texts near a text: order, ties, examples of annotators, nothing to compare with."""

from __future__ import annotations

import numpy as np
import pytest

from trialese.web.active_learning import Labelled, Neighbours

TEXTS = ("Slow accrual", "Lack of funding", "slow accrual", "Toxicity of the drug")


def examples(texts: tuple[str, ...] = TEXTS) -> list[Labelled]:
    return [
        Labelled(id=f"row-{n}", text=text, labels=("L",), source="gold.tsv")
        for n, text in enumerate(texts)
    ]


def test_the_same_text_is_nearest_and_ties_keep_their_order() -> None:
    found = Neighbours(examples()).nearest("slow accrual", 4)
    assert [n.example.id for n in found] == ["row-0", "row-2"]
    assert [n.likeness for n in found] == [1.0, 1.0]


def test_likeness_is_scikit_learns_cosine() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    features = vectorizer.fit_transform(TEXTS)
    query = "funding was slow"
    near = cosine_similarity(vectorizer.transform([query]), features)[0]
    found = {n.example.id: n.likeness for n in Neighbours(examples()).nearest(query, 4)}
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
