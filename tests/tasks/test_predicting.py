from __future__ import annotations

from pathlib import Path

import pytest

from trialese.errors import ArtifactError, RecordError
from trialese.records import Example, Task, Thresholds
from trialese.settings import FinetuneSettings
from trialese.tasks.classifier import Classifier
from trialese.tasks.predict import LabelledText, predict_inputs

STUDY = Path(__file__).parents[1] / "data" / "study_legacy.xml"


@pytest.fixture(scope="module")
def model(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = Task("toy", ("Enrollment", "Money"), "multilabel")
    rows = [Example("1", "slow accrual", ("Enrollment",)), Example("2", "funding", ("Money",))] * 4
    settings = FinetuneSettings(epochs=1, max_tokens=32)
    classifier = Classifier.fit(task, rows, rows, tiny_backbone, settings, seed=1)
    classifier.thresholds = Thresholds(
        labels=task.labels, values=(0.0, 1.0), chosen_on="tune", chosen_from=frozenset()
    )
    path = tmp_path_factory.mktemp("classifier") / "model"
    classifier.save(path)
    return path


def test_texts_come_back_in_order_with_labels_by_threshold(model: Path) -> None:
    texts = ["a much longer text about slow accrual", "x", "lack of funding"]
    rows = list(predict_inputs(model, texts))
    assert [row.text for row in rows] == texts
    assert all(row.labels == ("Enrollment",) for row in rows)  # cut-offs 0 and 1
    assert rows[0].as_line().startswith("Enrollment 0.")
    assert set(rows[0].scores) == {"Enrollment", "Money"}


def test_lines_of_a_file_and_of_stdin(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "reasons.txt"
    path.write_text("slow accrual\n\nfunding\n")
    from_file = list(predict_inputs(model, [str(path)]))
    with path.open() as stream:
        from_stdin = list(predict_inputs(model, ["-"], stdin=stream))
    assert from_file == from_stdin
    assert [row.text for row in from_file] == ["slow accrual", "funding"]


def test_bad_inputs(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="text 2 is empty"):
        list(predict_inputs(model, ["x", " "]))
    with pytest.raises(ArtifactError, match="no classifier here"):
        list(predict_inputs(tmp_path, ["x"]))


def test_a_text_without_label_names_the_nearest() -> None:
    row = LabelledText(text="a\nb" * 60, labels=(), scores={"A": 0.1, "B": 0.2}, nct_id="NCT1")
    number, labels, text = row.as_line().split("\t")
    assert (number, labels) == ("NCT1", "no label (nearest: B 0.200)")
    assert len(text) == 80
