from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialese.artifacts import write_artifact
from trialese.errors import ArtifactError, RecordError
from trialese.records import Trial
from trialese.tasks.formats import TextToLabel, read_records, read_texts, texts_of
from trialese.tasks.scorer import Preprocessing

DATA = Path(__file__).parents[1] / "data"
REASONS = Preprocessing(max_tokens=8)
TITLES = Preprocessing(max_tokens=8, fields=("brief_title", "sex"), withhold=("sex",))


def read(path: Path, how: Preprocessing = REASONS) -> tuple[list[TextToLabel], dict[str, int]]:
    left_out: dict[str, int] = {}
    return texts_of(list(read_records(path)), 1, how, left_out), left_out


ROWS = [("7", "Slow accrual"), ("8", ""), ("", "No funds, none")]
EXPECTED = [TextToLabel(1, "7", "Slow accrual"), TextToLabel(3, "", "No funds, none")]


@pytest.mark.parametrize("column", ["text", "stop_reason", "why_stopped", "input"])
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_tables_of_texts(tmp_path: Path, kind: str, column: str) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"id": a, column: b}) + "\n" for a, b in ROWS))
    elif kind == "parquet":
        pq.write_table(pa.table({"id": [a for a, _ in ROWS], column: [b for _, b in ROWS]}), path)
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [f"id{mark}{column}", *(f'{a}{mark}"{b}"' for a, b in ROWS)]
        path.write_text("\n".join(lines) + "\n")
    assert read(path) == (EXPECTED, {"no_text": 1})


def test_a_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("\ufeffslow accrual \n\n  no funds\n", encoding="utf-8")
    assert [each.text for each in read(path)[0]] == ["slow accrual", "no funds"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="not UTF-8"):
        read(path)


def test_trials_give_the_fields_of_the_task_and_no_withheld_one() -> None:
    (found,), left_out = read(DATA / "study_v2.json", TITLES)
    assert found.from_trial and found.name.startswith("NCT") and not left_out
    trial = Trial(nct_id="NCT00000001", brief_title="Aspirin", sex="Male", why_stopped="No funds")
    assert texts_of([trial], 5, TITLES, {}) == [
        TextToLabel(5, "NCT00000001", "Title: Aspirin", True)
    ]
    assert texts_of([trial], 5, REASONS, {}) == [TextToLabel(5, "NCT00000001", "No funds", True)]


def test_what_is_no_record_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,good\n2,too,many\n3,fine\n")
    texts, left_out = read(path)
    assert [each.row for each in texts] == [1, 3]
    assert left_out == {"bad_row": 1}


def test_what_is_no_input_is_refused(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "corpus", kind="corpus"):
        pass
    with pytest.raises(ArtifactError, match="this is a corpus, but a snapshot is needed"):
        read(tmp_path / "corpus")
    with pytest.raises(RecordError, match="cannot be read"):
        read(tmp_path / "none.txt")
    with pytest.raises(RecordError, match="a table needs a column 'text'"):
        (tmp_path / "in.csv").write_text("a,b\n1,2\n")
        read(tmp_path / "in.csv")


def test_the_first_different_texts(toy_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a\nb\na\nc\n")
    assert read_texts(path, toy_folder, most=2) == ["a", "b"]
