"""`refresh`, `rollback` and what goes with them, at the command line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from trialese.artifacts import write_bytes
from trialese.collect.collection import collect_snapshot
from trialese.pipeline import refresh as keeping
from trialese.recipe import parse_recipe
from trialese.tasks.finetune import finetune
from trialese.web.annotations import AnswerLog, Member

Run = Callable[..., tuple[int, str, str]]

RECIPE = """
name = "run"
folder = "{folder}"
[collect.sample]
studies = 300
from_date = "2024-10-01"
[tasks]
names = ["sex"]
[tasks.sex]
run_folds = 1
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A finished run over the sample, with a linear classifier."""
    recipe = parse_recipe(RECIPE.format(folder=tmp_path))
    home = tmp_path / "run"
    snapshot = collect_snapshot(recipe.collect, home / "snapshot")
    finetune("sex", "tfidf", snapshot=snapshot, settings=recipe.tasks, path=home / "sex" / "tfidf")
    write_bytes(home / "recipe.json", msgspec.json.encode(recipe))
    return home


def test_months_go_by(home: Path, run: Run) -> None:
    status, out, _ = run("refresh", home)
    assert status == 0
    assert out.count("\n") == 1
    assert "generation 2 is in use" in out
    status, out, _ = run("refresh", home, "--json", "--keep", 2)
    assert status == 0
    told = json.loads(out)
    assert (told["outcome"], told["generation"], told["gone"]) == ("promoted", 3, 0)
    assert told["new"] > 50
    status, out, _ = run("predict", home, "--changed-since", 2)
    assert status == 0
    assert len(out.splitlines()) == told["scored"]
    assert all(line.startswith("sex\tNCT9") and "->" in line for line in out.splitlines())
    status, out, _ = run("predict", home, "--changed-since", 2, "--json")
    first = json.loads(out.splitlines()[0])
    assert first["now"]["generation"] == 3
    status, out, _ = run("rollback", home)
    assert (status, "generation 2 is in use" in out) == (0, True)
    status, _, err = run("predict", home, "--changed-since", 3)
    assert (status, "it comes from 1, 2" in err) == (1, True)
    feed = (home / "feed.xml").read_text("utf-8")  # of trials that no registry knows
    assert feed.count("<entry>") == feed.count("<content>NCT9")
    assert "clinicaltrials.gov" not in feed.lower()
    log = [json.loads(line) for line in (home / "refresh.jsonl").read_text().splitlines()]
    assert [line["generation"] for line in log] == [2, 3]


@pytest.mark.parametrize(
    "option",
    [
        ("--format", "csv"), ("--column", "x"), ("--id-column", "x"), ("--top", 2),
        ("--all-scores",), ("--precision", "bf16"), ("--prefer", "f1"), ("--model-size", "small"),
        ("--dry-run",), ("--force",), ("-o", "x.csv"),
    ],
)  # fmt: skip
def test_what_changed_takes_no_option_of_predictions(
    run: Run, tmp_path: Path, option: tuple[object, ...]
) -> None:
    status, out, err = run("predict", tmp_path, "--changed-since", 1, *option)
    assert (status, out) == (2, "")
    name = "--out" if option[0] == "-o" else option[0]
    assert f"--changed-since takes the folder of a run, and --json alone; leave {name} out" in err


def test_a_run_that_is_served_has_its_own_snapshot_and_sizes(home: Path, run: Run) -> None:
    assert run("refresh", home)[0] == 0
    for option in (("--snapshot", home / "snapshot"), ("--model-size", "small")):
        status, _, err = run("serve", home, *option)
        assert status == 2
        assert f"a run's generation has its own; leave {option[0]} out" in err


def test_a_refused_challenger_ends_with_3(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = keeping.Outcome(
        run="run", outcome="refused", generation=2, data_timestamp=None, decision="refused",
        reason="worse",
    )  # fmt: skip
    monkeypatch.setattr(keeping, "refresh", lambda *_, **__: refused)
    status, out, _ = run("refresh", home)
    assert status == 3
    assert "refused: worse" in out


def test_mistakes_are_one_line(home: Path, run: Run, tmp_path: Path) -> None:
    for arguments, said in (
        (("refresh", tmp_path / "none"), "no finished run"),
        (("refresh", home, "--force", "--never"), "do not go together"),
        (("refresh", home, "--notify", "http://example.org"), "https"),
        (("refresh", home, "--labels", tmp_path / "none.sqlite"), "no such file of answers"),
        (("refresh", home / "recipe.json"), "no finished run"),
        (("refresh", home, "--launcher", "torchrun '"), "--launcher torchrun ': No closing quot"),
        (("rollback", home), "no generation yet"),
        (("predict", home, "--changed-since", 1), "no generation yet"),
        (("predict", home, "--changed-since", 1, "--format", "csv"), "and --json alone"),
        (("predict", home, "--changed-since", 1, "--top", 3), "and --json alone"),
        (("predict", home, "--changed-since", 1, "--dry-run"), "and --json alone"),
        (("predict", home), "no text"),
    ):
        status, _, err = run(*arguments)
        assert status in {1, 2}
        assert said in err
        assert err.count("\n") == 1


def test_a_failure_is_told_too(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, object]] = []
    monkeypatch.setattr(keeping, "notify", lambda _, payload: heard.append(payload))
    (home / "snapshot" / "trials.parquet").unlink()
    status, _, err = run("refresh", home, "--notify", "http://127.0.0.1:9/hook")
    assert status == 1
    assert "trials.parquet" in err
    assert heard[0]["outcome"] == "failed"
    line = json.loads((home / "refresh.jsonl").read_text())
    assert (line["outcome"], line["reason"]) == ("failed", heard[0]["reason"])
    (home / "recipe.json").unlink()
    status, out, _ = run("refresh", home, "--json", "--notify", "http://127.0.0.1:9/hook")
    assert (status, json.loads(out)) == (1, heard[1])
    assert "no finished run" in str(heard[1]["reason"])


def test_answers_of_annotators_are_handed_over(
    home: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = AnswerLog(tmp_path / "answers.sqlite")
    log.record("sex", "ann", [Member("NCT1", "Women with breast cancer")], ["Female"])
    for name, text in (("NCT2", "Men only"), ("NCT3", "Adults of any age")):
        for who, label in (("ann", "Male"), ("bea", "All")):
            key = log.record("sex", who, [Member(name, text)], [label]).key
        if name == "NCT2":
            log.decide("sex", "cid", key, ["Male"])
    log.close()
    found: list[str] = []
    real = keeping.refresh

    def spy(*given: object, answers: dict[str, Path], **more: object) -> object:
        found.extend(path.read_text() for path in answers.values())
        return real(*given, answers=answers, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(keeping, "refresh", spy)
    assert run("refresh", home, "--labels", tmp_path / "answers.sqlite")[0] == 0
    assert found == [
        "id\ttext\tlabels\tdecided_by\nNCT1\tWomen with breast cancer\tFemale\t\n"
        "NCT2\tMen only\tMale\tcid\n"
    ]
    assert "the answers wait for the next challenger" in caplog.text
    assert "as long as annotators disagree and nobody decides: 1" in caplog.text
    with sqlite3.connect(tmp_path / "answers.sqlite") as base:
        assert base.execute("SELECT count(*) FROM events").fetchone() == (5,)
