"""Agreement with other labels against counts made by hand; among annotators against references."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.tasks.agreement import (
    annotator_agreement,
    cohen_kappa,
    compare_labels,
    krippendorff_alpha,
    write_disagreements,
)

SILVER = Path(__file__).parents[2].parent / "shared" / "data" / "stop_reasons" / "silver.tsv"


class Reader:
    """A classifier that finds its labels' words: A at "a", B at "b", both at "ab"."""

    task = Task("letters", ("A", "B", "C"), "multilabel")
    thresholds: Thresholds | None = None

    def predict_proba(self, texts: Sequence[str], *, progress: Progress = silent) -> np.ndarray:
        assert len(set(texts)) == len(texts), "a text is predicted once"
        return np.array([[0.9 * ("a" in t), 0.8 * ("b" in t), 0.1] for t in texts])


def write(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    path.write_text("stop_reason\tprediction\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    return path


def test_agreement_by_class_and_the_surest_disagreements_first(tmp_path: Path) -> None:
    rows = [("a", "A"), ("a", "A"), ("ab", "B"), ("b", "A"), ("a", "C"), ("a", "C"), ("q", "C"),
            ("", "A"), ("a", ""), ("a", "13.06.2002")]  # fmt: skip
    found = compare_labels(Reader(), write(tmp_path / "t.tsv", rows), "prediction")  # type: ignore[arg-type]
    assert (found.rows, found.texts) == (7, 4)
    assert found.left_out == {"no text": 1, "no label": 1, "unknown label '13.06.2002'": 1}
    assert (found.given_too, found.first_too) == (3, 3)
    theirs, first = list("AABACCC"), list("AAABAAC")
    assert found.kappa == pytest.approx(cohen_kappa_score(theirs, first), abs=1e-6)
    by_label = {each.label: each for each in found.labels}
    assert (by_label["A"].theirs, by_label["A"].given_too, by_label["A"].ours) == (3, 2, 5)
    assert (by_label["B"].given_too, by_label["B"].first_too) == (1, 0)
    assert [(d.text, d.theirs, d.rows) for d in found.disagreements] == [
        ("a", "C", 2), ("b", "A", 1), ("q", "C", 1)
    ]  # fmt: skip
    write_disagreements(tmp_path / "out.tsv", found)
    lines = (tmp_path / "out.tsv").read_text().splitlines()
    assert lines[1].split("\t")[1:] == ["2", "C", "A", "A", "0.9000", "0.1000", "a"]
    assert len(lines) == 4


def test_a_missing_column_and_an_empty_table_are_one_line(tmp_path: Path) -> None:
    table = write(tmp_path / "t.tsv", [("a", "Z")])
    with pytest.raises(RecordError, match="no column 'label'; the table has stop_reason, pred"):
        compare_labels(Reader(), table, "label")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="name that of the labels with --label-column NAME"):
        compare_labels(Reader(), table, "label")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="no row has a text and a label of letters"):
        compare_labels(Reader(), table, "prediction")  # type: ignore[arg-type]


def test_a_table_of_which_most_is_left_out_says_so_first(tmp_path: Path) -> None:
    rows = [("a", "A")] * 7 + [("a", "Z")] * 50 + [("", "A")] * 3
    table = write(tmp_path / "t.tsv", rows)
    message = r"53 of 60 rows are left out \(50 unknown label 'Z', 3 no text\).*7 with --allow"
    with pytest.raises(RecordError, match=message):
        compare_labels(Reader(), table, "prediction")  # type: ignore[arg-type]
    found = compare_labels(Reader(), table, "prediction", allow_missing=True)  # type: ignore[arg-type]
    assert (found.rows, sum(found.left_out.values())) == (7, 53)


def test_columns_of_texts_and_ids_may_be_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("key,said,verdict\nx1,b,a\n")
    found = compare_labels(
        Reader(),
        table,
        "Verdict",
        text_column="Said",
        id_column="KEY",  # type: ignore[arg-type]
    )
    assert [each.example_id for each in found.disagreements] == ["x1"]


@pytest.mark.skipif(not SILVER.is_file(), reason="../shared/data is not here")
def test_every_row_of_silver_is_used_or_counted() -> None:
    from trialese.tasks.stop_reasons import STOP_REASONS

    class Prior(Reader):
        task = STOP_REASONS

        def predict_proba(self, texts: Sequence[str], *, progress: Progress = silent) -> np.ndarray:
            return np.tile(np.linspace(0, 0.4, 17), (len(texts), 1))

    found = compare_labels(Prior(), SILVER, "prediction")  # type: ignore[arg-type]
    assert found.rows + sum(found.left_out.values()) == 28_873
    assert found.left_out["no label"] == 39
    assert found.left_out["unknown label '13.06.2002'"] == 1  # NCT00560625, malformed


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
    found = annotator_agreement(answers, ("Money", "Science"))
    assert (found.annotators, found.texts, found.same) == (("ann", "bob"), 4, 3)
    money, science = found.labels
    assert money.given == 3
    assert money.kappa == pytest.approx(0.5)
    assert science.kappa is None and science.alpha is None
    assert found.alpha == money.alpha


def test_nobody_shares_anything() -> None:
    found = annotator_agreement({"ann": {"a": frozenset()}, "bob": {}}, ("Money",))
    assert (found.texts, found.alpha, found.annotators) == (0, None, ())
