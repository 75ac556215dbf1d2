from __future__ import annotations

from pathlib import Path

import pytest

from trialese.errors import RecordError
from trialese.records import Example
from trialese.settings import DedupSettings, SilverSettings
from trialese.tasks.labelled import read_silver, silver_examples
from trialese.tasks.stop_reasons import STOP_REASONS

DEDUP = DedupSettings(shingle_words=1)
ROWS = (
    ("slow accrual", "Insufficient_Enrollment"),
    ("the sponsor ran out of money", "Business_Administrative"),
    ("The sponsor ran out of money.", "Business_Administrative"),
    ("the sponsor ran out of  MONEY", "Negative"),
    ("investigator left for another hospital", "Study_Staff_Moved|Negative"),
    ("a date got here", "13.06.2002"),
    ("", "Negative"),
    ("nobody said why", ""),
)


def written(folder: Path, rows: tuple[tuple[str, str], ...] = ROWS) -> Path:
    path = folder / "silver.tsv"
    lines = ["stop_reason\tprediction", *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows, left_out = read_silver(written(tmp_path), "prediction", STOP_REASONS)
    assert [row.labels for row in rows][-1] == ("Study_Staff_Moved", "Negative")
    assert len(rows) == 5
    assert left_out == {"unknown label '13.06.2002'": 1, "no text": 1, "no label": 1}
    with pytest.raises(RecordError, match=r"no column 'labels'; the table has stop_reason, pred"):
        read_silver(tmp_path / "silver.tsv", "labels", STOP_REASONS)


def test_labels_may_be_lists(tmp_path: Path) -> None:
    path = tmp_path / "silver.jsonl"
    path.write_text('{"text": "slow accrual", "found": ["Insufficient_Enrollment", "Negative"]}\n')
    rows, _ = read_silver(path, "found", STOP_REASONS)
    assert [row.labels for row in rows] == [("Insufficient_Enrollment", "Negative")]


def test_each_text_once_with_what_most_rows_say_and_none_near_a_labelled_one(
    tmp_path: Path,
) -> None:
    settings = SilverSettings(table=str(written(tmp_path)), column="prediction", epochs=3)
    labelled = [Example("row-000001", "Slow accrual!", ("Insufficient_Enrollment",))]
    silver = silver_examples(STOP_REASONS, settings, labelled, DEDUP)
    told = {example.text: example.labels for example in silver.examples}
    assert told == {
        "the sponsor ran out of money": ("Business_Administrative",),
        "investigator left for another hospital": ("Study_Staff_Moved", "Negative"),
    }
    assert silver.settings.epochs == 3
    assert silver.left_out["near a labelled text"] == 1
    assert silver.left_out["the text of another row"] == 2
    written(tmp_path, (*ROWS, ("&nbsp;", "Negative")))  # nothing is left of it when clean
    again = silver_examples(STOP_REASONS, settings, labelled, DEDUP)
    assert again.digest == silver.digest
    assert again.left_out["no text"] == silver.left_out["no text"] + 1
    near = [Example(f"row-{n}", text, ()) for n, (text, _) in enumerate(ROWS) if text]
    with pytest.raises(RecordError, match="every text is near a labelled one"):
        silver_examples(STOP_REASONS, settings, near, DEDUP)


def test_the_digest_follows_texts_and_labels(tmp_path: Path) -> None:
    settings = SilverSettings(table=str(written(tmp_path)), column="prediction")
    one, same = (silver_examples(STOP_REASONS, settings, [], DEDUP) for _ in range(2))
    written(tmp_path, (*ROWS, ("nobody said why", "No_Context")))
    two = silver_examples(STOP_REASONS, settings, [], DEDUP)
    assert one.digest == same.digest != two.digest
