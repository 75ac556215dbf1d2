"""Agreement with somebody else's labels, against counts made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.tasks.agreement import compare_labels, write_disagreements

SILVER = Path(__file__).parents[2].parent / "shared" / "data" / "stop_reasons" / "silver.tsv"


class Reader:
    """A classifier that finds its labels' words: A at "a", B at "b", both at "ab"."""

    task = Task("letters", ("A", "B", "C"), "multilabel")
    thresholds: Thresholds | None = None

    def predict(self, texts: Sequence[str], *, progress: Progress = silent) -> np.ndarray:
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
    with pytest.raises(RecordError, match="no row has a text and a label of letters"):
        compare_labels(Reader(), table, "prediction")  # type: ignore[arg-type]


@pytest.mark.skipif(not SILVER.is_file(), reason="../shared/data is not here")
def test_every_row_of_silver_is_used_or_counted() -> None:
    from trialese.tasks.stop_reasons import STOP_REASONS

    class Prior(Reader):
        task = STOP_REASONS

        def predict(self, texts: Sequence[str], *, progress: Progress = silent) -> np.ndarray:
            return np.tile(np.linspace(0, 0.4, 17), (len(texts), 1))

    found = compare_labels(Prior(), SILVER, "prediction")  # type: ignore[arg-type]
    assert found.rows + sum(found.left_out.values()) == 28_873
    assert found.left_out["no label"] == 39
    assert found.left_out["unknown label '13.06.2002'"] == 1  # NCT00560625, malformed
