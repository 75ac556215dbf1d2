""""""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.records import Example, Task, Thresholds
from trialese.settings import FinetuneSettings
from trialese.tasks.fit import fit_classifier
from trialese.tasks.formats import AskedColumns, read_records
from trialese.tasks.predict import (
    LabelledText,
    Share,
    divide_records,
    load_scorer,
    own_share,
    predict_file,
    predict_inputs,
)

from .toy_scorer import ToyScorer

STUDY = Path(__file__).parents[1] / "data" / "study_legacy.xml"


@pytest.fixture(scope="module")
def model(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = Task("toy", ("Enrollment", "Money"), "multilabel")
    rows = [Example("1", "slow accrual", ("Enrollment",)), Example("2", "funding", ("Money",))] * 4
    settings = FinetuneSettings(epochs=1, max_tokens=32)
    classifier = fit_classifier(task, rows, rows, tiny_backbone, settings, seed=1)[0]
    classifier.thresholds = Thresholds(
        labels=task.labels, values=(0.0, 1.0), chosen_on="tune", chosen_from=frozenset()
    )
    path = tmp_path_factory.mktemp("classifier") / "model"
    classifier.save_pretrained(path)
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
    assert [(row.row, row.text) for row in from_file] == [(1, "slow accrual"), (3, "funding")]


def test_columns_may_be_named(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text("Key,Our Reason\nx7,slow accrual\nx8,funding\n")
    columns = AskedColumns("our_reason", "key")
    rows = list(predict_inputs(model, [str(table)], columns=columns))
    assert [(row.row, row.nct_id, row.text) for row in rows] == [
        (1, "x7", "slow accrual"),
        (2, "x8", "funding"),
    ]
    about = predict_file(ToyScorer(), table, tmp_path / "out.csv", columns=columns)
    assert about is not None and about.texts == 2
    with pytest.raises(RecordError, match=r"a table needs a column 'text'.*--column NAME"):
        predict_file(ToyScorer(), table, tmp_path / "out.csv")


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


PROGRAM = Path(__file__).with_name("toy_scorer.py")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Fifty texts in a CSV file, every third of them again, one row empty."""
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for row in range(50):
            text = "" if row == 20 else f"slow accrual, case {row // 3 * 3}"
            writer.writerow([f"T{row}", text])
    return path


def start(
    table: Path, out: Path, *more: object, rank: int = 0, of: int = 1
) -> subprocess.Popen[str]:
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(of)}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(table), str(out), "7", *map(str, more)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_every_format_holds_the_same_rows_in_order(table: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        about = predict_file(ToyScorer(), table, tmp_path / f"out.{suffix}", window_records=7)
        assert about is not None
        assert (about.records, about.texts, about.left_out) == (50, 49, {"no_text": 1})
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [row for row in range(1, 51) if row != 21]
    assert [line["id"] for line in lines] == [f"T{row}" for row in range(50) if row != 20]
    scores = ToyScorer().predict_proba([line["text"] for line in lines])
    np.testing.assert_allclose(
        [list(line["scores"].values()) for line in lines], scores, atol=5e-7, rtol=0
    )
    parquet = pq.read_table(tmp_path / "out.parquet")
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"out.{suffix}").open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=delimiter))
        for row, line, packed in zip(rows, lines, parquet.to_pylist(), strict=True):
            assert row["labels"].split("|") == line["labels"] == packed["labels"]
            assert float(row["score_Long"]) == line["scores"]["Long"] == packed["score_Long"]
            assert row["text"] == line["text"] == packed["text"]
            assert row["thresholds"] == line["thresholds"] == packed["thresholds"] == "tune"
            assert row["model"] == line["model"] == packed["model"] == "0123456789ab"
    about = json.loads((tmp_path / "out.csv.about.json").read_text())
    assert about["thresholds"] == {"Long": 0.2, "Vowels": 0.3}
    assert about["model"] == ToyScorer().digest


def test_one_killed_goes_on_and_ends_with_the_same_bytes(table: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    end(start(table, whole))
    for calls in (2, 3):  # killed in its third window, then in its sixth
        process = start(table, broken, calls)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert not broken.exists()
    again = ToyScorer()
    predict_file(again, table, broken, window_records=7)
    assert len(again.seen) == 50 - 5 * 7
    assert broken.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*.work*"))


def test_windows_end_early_where_texts_are_long(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, divided = ToyScorer(), ToyScorer()
    predict_file(whole, table, tmp_path / "whole.csv")
    monkeypatch.setattr("trialese.tasks.predict.WINDOW_CHARACTERS", 100)
    windows = list(map(len, divide_records(read_records(table), 7)))
    assert max(windows) < 7 and sum(windows) == 50
    predict_file(divided, table, tmp_path / "divided.csv")
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "divided.csv").read_bytes()


def test_a_finished_file_is_left_alone_and_a_changed_one_made_again(
    table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    first = predict_file(ToyScorer(), table, out)
    again = ToyScorer()
    assert predict_file(again, table, out) == first
    assert not again.seen
    bytes_ = out.read_bytes()
    out.write_text("spoilt")
    predict_file(again, table, out)
    assert out.read_bytes() == bytes_
    table.write_text(table.read_text() + "T50,another\n")
    about = predict_file(again, table, out)
    assert about is not None and about.texts == 50


def test_two_processes_make_one_file_with_the_same_bytes(table: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone.parquet", tmp_path / "shared.parquet"
    end(start(table, alone))
    processes = [start(table, shared, rank=rank, of=2) for rank in (1, 0)]
    said = [end(process) for process in processes]
    assert said[0] == "" and said[1].startswith("49 ")
    assert shared.read_bytes() == alone.read_bytes()
    assert not list(tmp_path.glob(".*.work*"))


def test_each_process_does_its_share_and_the_first_what_a_lost_one_left(
    table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    process = start(table, out, 1, rank=0, of=2)  # begins, and is killed in its second window
    process.communicate(timeout=120)
    second = ToyScorer()
    assert predict_file(second, table, out, window_records=7, share=Share(1, 2)) is None
    assert len(second.seen) == 7 + 7 + 7 + 1  # windows 1, 3, 5 and 7
    first = ToyScorer()
    about = predict_file(first, table, out, window_records=7, share=Share(0, 2))
    assert about is not None and about.texts == 49
    assert len(first.seen) == 49 - 7 - len(second.seen)
    alone = ToyScorer()
    assert predict_file(alone, table, tmp_path / "lost.csv", window_records=7, share=Share(0, 2))
    assert (tmp_path / "lost.csv").read_bytes() == out.read_bytes()


def test_cells_that_a_spreadsheet_would_compute_are_made_text(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    texts = ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "fine = fine", 'a "quoted"\nline']
    source.write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in texts))
    predict_file(ToyScorer(), source, tmp_path / "out.csv")
    predict_file(ToyScorer(), source, tmp_path / "out.jsonl")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [f"'{text}" if text[0] in "=+-@" else text for text in texts]
    assert [row["text"] for row in rows] == [row["id"] for row in rows] == expected
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts


def test_a_workbook_holds_the_same_rows_as_text(tmp_path: Path) -> None:
    calamine = pytest.importorskip("python_calamine")
    source = tmp_path / "in.jsonl"
    texts = ["=1+1", "https://example.org", "plain too", "x" * 40_000, "plain"]
    source.write_text(
        "".join(json.dumps({"id": f"r{i}", "text": t}) + "\n" for i, t in enumerate(texts))
    )
    predict_file(ToyScorer(), source, tmp_path / "out.csv")
    predict_file(ToyScorer(), source, tmp_path / "out.xlsx", window_records=2)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    sheet = calamine.CalamineWorkbook.from_path(str(tmp_path / "out.xlsx")).get_sheet_by_index(0)
    found = sheet.to_python()
    assert found[0] == rows[0]
    cut = [t if len(t) < 32_768 else t[:32_766] + "…" for t in texts]
    assert [row[-1] for row in found[1:]] == cut
    assert [row[1:3] for row in found[1:]] == [row[1:3] for row in rows[1:]]
    assert [float(row[3]) for row in found[1:]] == [float(row[3]) for row in rows[1:]]
    before = (tmp_path / "out.xlsx").read_bytes()
    (tmp_path / "out.xlsx").unlink()
    predict_file(ToyScorer(), source, tmp_path / "out.xlsx")
    assert (tmp_path / "out.xlsx").read_bytes() == before


def test_bad_wishes(table: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        predict_file(ToyScorer(), tmp_path / "none.csv", tmp_path / "out.csv")
    with pytest.raises(RecipeError, match=r"extension '\.ods' is unknown"):
        predict_file(ToyScorer(), table, tmp_path / "out.ods")
    with pytest.raises(RecipeError, match="format 'html' is unknown"):
        predict_file(ToyScorer(), table, tmp_path / "out.csv", format_name="html")
    empty = tmp_path / "empty.csv"
    empty.write_text("text\n\n")
    with pytest.raises(RecordError, match="no text for toy in 0 records"):
        predict_file(ToyScorer(), empty, tmp_path / "out.csv")
    with pytest.raises(RecordError, match="RANK=2 does not go with WORLD_SIZE=2"):
        own_share({"RANK": "2", "WORLD_SIZE": "2"})
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        predict_file(ToyScorer(), table, tmp_path / "file" / "out.csv")
    assert not list(tmp_path.glob("out*"))


def test_a_real_classifier_in_bulk_scores_as_alone(toy_folder: Path, tmp_path: Path) -> None:
    scorer = load_scorer(toy_folder, precision="fp32")
    source = tmp_path / "in.txt"
    texts = ["slow accrual", "lack of funding", "SLOW  accrual", "interim futility analysis"] * 3
    source.write_text("\n".join(texts))
    about = predict_file(scorer, source, tmp_path / "out.jsonl", window_records=5)
    assert about is not None and about.engine == "torch fp32"
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    found = [list(json.loads(line)["scores"].values()) for line in lines]
    np.testing.assert_allclose(found, scorer.predict_proba(texts), atol=2e-6, rtol=0)


@pytest.mark.slow
def test_torchrun_divides_the_work(toy_folder: Path, table: Path, tmp_path: Path) -> None:
    command = ["-m", "trialese", "predict", str(toy_folder), str(table), "-o"]
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    subprocess.run([sys.executable, *command, alone], check=True, capture_output=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *torchrun, *command, shared], check=True, capture_output=True)
    assert shared.read_bytes() == alone.read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for texts in (20_000, 200_000):
        source = tmp_path / f"{texts}.txt"
        with source.open("w") as file:
            file.writelines(f"slow accrual in centre {row}\n" for row in range(texts))
        said = subprocess.run(
            [sys.executable, PROGRAM, source, tmp_path / f"{texts}.csv", "4096"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        peaks.append(int(said.split()[1]))
    assert peaks[1] < 1.1 * peaks[0]
