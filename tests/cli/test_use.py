"""The verbs that use a finished classifier, as a user meets them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trialese.recipe import Recipe
from trialese.settings import ReadLimits
from trialese.tasks.predict import load_scorer
from trialese.tasks.shipped import shipped_folder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(toy: Recipe) -> Path:
    return Path(toy.folder) / "toy"


@pytest.fixture
def model(home: Path) -> Path:
    return home / "stop-reasons" / "adapted"


def test_predict_prints_a_line_a_text_or_json(run: Run, home: Path) -> None:
    model = home / "stop-reasons" / "adapted"
    status, out, _ = run("predict", model, "Slow accrual", "Lack of funding")
    assert status == 0
    assert len(out.splitlines()) == 2
    status, out, _ = run("predict", model, "Slow accrual", "--json")
    row = json.loads(out)
    assert row["text"] == "Slow accrual"
    assert len(row["scores"]) == 17


def test_lines_of_standard_input_keep_their_numbers(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = "Slow accrual\n\n\ncaf\xe9 closed\n".encode("latin-1")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    status, out, _ = run("predict", model, "-", "--json")
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["row"], row["text"]) for row in rows] == [(1, "Slow accrual"), (4, "café closed")]
    assert "2 records left out: blank_line" in caplog.text
    assert "line 4: not UTF-8, read as Windows-1252" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("to_file", [False, True])
def test_a_pipe_is_read_as_the_file_would_be(
    run: Run, model: Path, tmp_path: Path, to_file: bool
) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "labels.jsonl"
    os.mkfifo(pipe)
    table = gzip.compress(b"nct_id,our reason\nNCT00000042,Slow accrual\n")
    writer = threading.Thread(target=pipe.write_bytes, args=(table,))
    writer.start()
    more = ("-o", out) if to_file else ("--json",)
    status, printed, err = run("predict", model, pipe, "--column", "our reason", *more)
    writer.join()
    assert status == 0, err
    row = json.loads(out.read_text() if to_file else printed)
    assert {"NCT00000042", "Slow accrual"} <= {each for each in row.values() if each.__hash__}
    assert not list(tmp_path.glob(".*.piped")) and not list(tmp_path.glob(".*.spooled"))


def test_predict_takes_named_columns_of_a_table_alone(
    run: Run, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "own.csv"
    table.write_text("Key,Our Reason\nx7,Slow accrual\n")
    status, out, _ = run(
        "predict", model, table, "--column", "our reason", "--id-column", "key", "--json"
    )
    assert (status, json.loads(out)["nct_id"]) == (0, "x7")
    status, _, err = run("predict", model, "Slow accrual", "--column", "x")
    assert (status, "go with one file, a table" in err) == (2, True)


def test_predict_does_not_take_a_mistyped_path_for_a_text(run: Run, home: Path) -> None:
    status, _, err = run("predict", home / "sex" / "adapted", "trails.zip")
    assert status == 1
    assert "trails.zip: no such file" in err


def test_predict_writes_a_snapshot_s_labels(run: Run, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    model = home / "sex" / "adapted"
    status, said, _ = run("predict", model, home / "snapshot", "-o", out, "--precision", "fp32")
    assert status == 0
    assert said.startswith(f"{out}  160 texts of 160 records")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 160
    assert all(row["id"].startswith("NCT") and row["text"] == "" for row in rows)
    assert {row["labels"] for row in rows} <= {"All", "Female", "Male"}
    again, said_again, _ = run(
        "predict", model, home / "snapshot", "-o", out, "--precision", "fp32"
    )
    assert (again, said_again) == (0, said)


def test_predict_streams_a_format_to_stdout(
    run: Run, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "in.tsv"
    source.write_text("id\tstop_reason\n7\tSlow accrual\n8\t\n9\t=Lack of funding\n")
    status, said, _ = run("predict", model, source, "--format", "csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(said)))
    assert [(row["row"], row["id"], row["text"]) for row in rows] == [
        ("1", "7", "Slow accrual"),
        ("3", "9", "'=Lack of funding"),
    ]
    assert "in.tsv: 1 records left out: no_text" in caplog.text
    status, _, err = run("predict", model, source, "--format", "parquet")
    assert (status, "name a file with -o" in err) == (1, True)


def test_explain_prints_a_weight_a_word(run: Run, model: Path) -> None:
    status, said, _ = run("explain", model, "Slow accrual of patients", "--label", "Success")
    assert status == 0
    first, *words = said.splitlines()
    assert first.startswith("Success 0.")
    assert [line.split()[1] for line in words] == ["Slow", "accrual", "of", "patients"]
    status, said, _ = run("explain", model, "Slow accrual", "--json")
    assert [span["end"] for span in json.loads(said)["spans"]] == [4, 12]


def test_export_refuses_int8_without_texts(run: Run, model: Path, tmp_path: Path) -> None:
    status, _, err = run("export", model, "--to", "onnx-int8", "-o", tmp_path / "out")
    assert status == 1
    assert "0 different texts to check int8 with" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["export", "serve"])
def test_columns_of_texts_are_asked_for_and_taken(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    given: list[object] = []
    monkeypatch.setattr("trialese.web.app.serve", lambda served, *_, **__: given.append(served))
    table = tmp_path / "two.csv"
    table.write_text("text,why_stopped\na long summary,slow\n")
    more: tuple[object, ...] = ("--queue", table, "--labels", tmp_path / "answers.sqlite")
    alone: tuple[object, ...] = ()
    if verb == "export":
        more, alone = ("--texts", table, "-o", tmp_path / "x"), ("-o", tmp_path / "y")
    status, _, err = run(verb, model, *more)
    assert (status, "'text' or 'why_stopped'; name the column (--column NAME" in err) == (1, True)
    assert not given and not (tmp_path / "x").exists()
    status, _, err = run(verb, model, *more, "--column", "why_stopped")
    assert status == 0, err
    status, _, err = run(verb, model, *alone, "--column", "why_stopped")
    assert (status, "--column" in err and "with --" in err) == (2, True)


@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize(
    ("given", "options"),
    [
        (b"NCT Number;Why Stopped;Title\nNCT00000042;Slow accrual;x\n", ()),
        (b"why_stopped\nSlow accrual\n", ()),
        (b'{"id": "NCT00000042", "text": "Slow accrual"}\n', ()),
        (b"key,cause\nNCT00000042,Slow accrual\n", ("--column", "cause", "--id-column", "key")),
    ],
)
def test_a_table_on_standard_input_is_no_list_of_texts(
    run: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    given: bytes,
    options: tuple[str, ...],
    to_file: bool,
) -> None:
    caplog.set_level("INFO", "trialese")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    out = tmp_path / "labels.jsonl"
    more = ("-o", out) if to_file else ("--json",)
    status, printed, err = run("predict", model, "-", *options, *more)
    assert status == 0, err
    (row,) = map(json.loads, (out.read_text() if to_file else printed).splitlines())
    assert row.get("text", "Slow accrual") == "Slow accrual"
    if b"NCT" in given:
        assert "NCT00000042" in (row.get("nct_id"), row.get("id"))
    assert {each.name for each in tmp_path.iterdir()} <= {"labels.jsonl", "labels.jsonl.about.json"}


@pytest.mark.parametrize("to_file", [False, True])
def test_standard_input_without_end_is_refused_as_a_pipe_is(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to_file: bool
) -> None:
    monkeypatch.setattr("trialese.collect.files.ReadLimits", lambda: ReadLimits(unpacked_bytes=20))
    given = b"why_stopped\n" + b"Slow accrual\n" * 9
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    more = ("-o", tmp_path / "labels.jsonl") if to_file else ()
    status, out, err = run("predict", model, "-", *more)
    assert (status, out) == (1, "")
    assert "standard input: brings no end of bytes" in err
    assert list(tmp_path.iterdir()) == []


def test_a_header_on_standard_input_that_names_no_texts_is_refused(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"nct,cause,title\n1,slow,A\n")))
    status, out, err = run("predict", model, "-")
    assert (status, out) == (1, "")
    assert "standard input: a table needs a column 'text'" in err
    assert "--column NAME" in err


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("Slow accrual", "own.csv"), "own.csv: a file among texts"),
        (("my trials.xlsx",), "my trials.xlsx: no such file"),
        (("NCT04012345",), "NCT04012345: the number of a trial, not its text"),
        (("Slow accrual", "nct04012345"), "nct04012345: the number of a trial"),
    ],
)
@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_what_was_meant_otherwise_is_not_labelled_as_a_text(
    run: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    texts: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.csv").write_text("text\nslow\n")
    given = texts if verb == "predict" else texts[-1:]
    for more in ((), ("-o", "labels.csv")) if verb == "predict" else ((),):
        status, out, err = run(verb, model.resolve(), *given, *more)
        assert (status, out) == (1, "")
        assert told in err
        assert [each.name for each in tmp_path.iterdir() if each.name != "toy"] == ["own.csv"]


def test_no_option_of_predict_is_ignored_in_silence(run: Run, model: Path) -> None:
    status, out, _ = run("predict", model, "Slow accrual", "--json", "--top", "2")
    scores = json.loads(out)["scores"]
    assert status == 0
    assert len(scores) == 2
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    status, _, err = run("predict", model, "Slow accrual", "--json", "--format", "csv")
    assert (status, "--json and --format do not go together" in err) == (2, True)
    status, _, err = run("predict", model, "Slow accrual", "--format", "xlsx")
    assert (status, "xlsx cannot be streamed; name a file with -o" in err) == (1, True)
    status, _, err = run("predict", model, "Slow accrual", "--force")
    assert (status, "nothing is written without -o; leave --force out" in err) == (2, True)


@pytest.mark.parametrize(
    ("option", "status", "message"),
    [
        (("--prefer", "junk"), 1, "prefer 'junk': write f1"),
        (("--format", "junk"), 1, "format 'junk' is unknown"),
        (("-o", "x.junk"), 1, "extension '.junk' is unknown"),
        (("--top", 3), 2, "--dry-run labels nothing; leave --top out"),
        (("--all-scores",), 2, "--dry-run labels nothing; leave --all-scores out"),
    ],
)
def test_a_dry_run_refuses_what_predict_would(
    run: Run, tmp_path: Path, option: tuple[object, ...], status: int, message: str
) -> None:
    (tmp_path / "mine.txt").write_text("Pregnant women\n")
    told, out, err = run("predict", "sex", tmp_path / "mine.txt", "--dry-run", *option)
    assert (told, out, message in err) == (status, "", True), err


def test_usage_errors_say_what_is_meant(run: Run) -> None:
    status, _, err = run("predict", "Slow accrual")
    assert status == 2
    assert err.startswith("error: no text: 'Slow accrual' was taken for the classifier")
    status, _, err = run("predict", "stop-reasons", "slow", "-q")
    assert (status, "-q stands before the command" in err) == (2, True)


def test_scores_that_are_no_chances_are_told(
    run: Run, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trialese")
    run("predict", model, "Slow accrual")
    assert "its scores are not calibrated" in caplog.text
    caplog.clear()
    run("predict", "stop-reasons", "Slow accrual", "--model-size", "small")
    assert "calibrated" not in caplog.text


def test_a_linear_classifier_has_nothing_to_export_or_to_drop_in(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # which would not help
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shipped_folder("sex"), tmp_path / "stop-reasons")
    for call in (
        ("export", "sex", "-o", tmp_path / "out"),
        ("export", "stop-reasons", "-o", tmp_path / "out"),  # the folder here goes first
        ("check-dropin", "sex"),
        ("check-dropin", "stop-reasons"),
    ):
        status, _, err = run(*call)
        assert status == 1 and "TF-IDF with logistic regression, no network" in err, err
        assert "torch" not in err and "numpy alone" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "\n \n", "text,label\n"])
def test_an_input_without_a_text_is_refused_to_the_screen_as_to_a_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    given = tmp_path / ("given.csv" if "," in content else "given.txt")
    given.write_text(content)
    told = []
    to_file = ("-o", tmp_path / "out.csv")
    for more in ((), ("--json",), ("--format", "csv"), to_file, ("--dry-run",)):
        status, out, err = run("predict", "sex", given, *more)
        assert (status, out) == (1, ""), more
        told.append(err.splitlines()[-1])
    assert len(set(told)) == 1 and "no text for sex in " in told[0]
    for more in ((), ("-o", tmp_path / "out.csv")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        status, out, err = run("predict", "sex", "-", *more)
        assert (status, out) == (1, "") and "error: standard input: no text for sex" in err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Pregnant women\n")))
    assert run("predict", "sex", "-", "-o", tmp_path / "out.csv")[0] == 0
    about = json.loads((tmp_path / "out.csv.about.json").read_text())
    assert about["source"] == "standard input"


def test_an_argument_that_is_no_text_is_refused(run: Run) -> None:
    for text in ("bad \udcff byte", "lone \ud800"):
        for verb, more in (("predict", ()), ("predict", ("--json",)), ("explain", ())):
            status, out, err = run(verb, "sex", text, *more)
            assert (status, out) == (1, ""), verb
            assert "no UTF-8" in err


def test_each_line_of_json_names_what_answered(run: Run) -> None:
    _, out, _ = run("predict", "sex", "Pregnant women", "--json")
    row = json.loads(out)
    assert (row["model"], row["engine"]) == (
        load_scorer(shipped_folder("sex")).digest[:12],
        "linear fp32 weights",
    )
