"""Agreement against scikit-learn and against Krippendorff's own worked example."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.web.annotations import agree, cohen_kappa, krippendorff_alpha


def test_alpha_is_that_of_the_published_example() -> None:
    # Krippendorff 2011, section C: four observers, twelve units, answers missing
    observers = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3",
                 ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")  # fmt: skip
    rows = [row.split() for row in observers]
    units = [[row[place] for row in rows if row[place] != "."] for place in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    from sklearn.metrics import cohen_kappa_score

    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns and gives nan where kappa is undefined
        expected = cohen_kappa_score(one, other)
    found = cohen_kappa(one, other)
    assert math.isnan(expected) if found is None else found == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), max_size=20))
def test_alpha_is_at_most_one_and_one_only_without_disagreement(units: list[list[bool]]) -> None:
    found = krippendorff_alpha(units)
    unequal = any(len(set(unit)) > 1 for unit in units)
    assert found is None or (found <= 1 and (found == 1) == (not unequal))


def test_only_shared_texts_count() -> None:
    yes, no = frozenset({"Money"}), frozenset[str]()
    answers = {
        "ann": {"a": yes, "b": yes, "c": no, "d": no, "only ann's": yes},
        "bob": {"a": yes, "b": no, "c": no, "d": no},
        "cyd": {"only cyd's": yes},
    }
    found = agree(answers, ("Money", "Science"))
    assert (found.annotators, found.texts, found.same) == (("ann", "bob"), 4, 3)
    money, science = found.labels
    assert money.given == 3
    assert money.kappa == pytest.approx(0.5)
    assert science.kappa is None and science.alpha is None
    assert found.alpha == money.alpha


def test_nobody_shares_anything() -> None:
    found = agree({"ann": {"a": frozenset()}, "bob": {}}, ("Money",))
    assert (found.texts, found.alpha, found.annotators) == (0, None, ())
