"""Looking into what was made, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trialese.artifacts import read_manifest
from trialese.recipe import Recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(toy: Recipe) -> Path:
    return Path(toy.folder) / "toy"


def test_show_tells_of_a_snapshot_what_is_in_it(run: Run, home: Path) -> None:
    status, out, _ = run("show", home / "snapshot")
    assert status == 0
    assert "synthetic_notice" in out
    assert "statuses" in out
    assert "TERMINATED" in out


def test_show_tells_of_a_corpus_what_leaks(run: Run, home: Path) -> None:
    status, out, _ = run("show", home / "corpus")
    assert status == 0
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["tune"], ["test"])]
    assert len(rows) == 4
    assert [row[3] for row in rows] == ["0"] * 4
    assert "passages: of held-out documents" in out
    passages = [line.split() for line in out.splitlines() if line.split()[:2] == ["old", "test"]]
    assert passages and passages[0][-1].endswith("%")


def test_show_tells_of_a_verdict_the_tables(run: Run, home: Path) -> None:
    status, out, _ = run("show", home / "verdict")
    assert status == 0
    assert "stop-reasons|test:" in out
    assert "macro avg" in out


def test_diff_lists_what_is_new_changed_and_gone(run: Run, tmp_path: Path) -> None:
    for name, studies in (("old", 30), ("new", 33)):
        run("collect", "-o", tmp_path / name, "-s", f"collect.sample.studies={studies}")
    status, out, _ = run("diff", tmp_path / "old", tmp_path / "new", "--ids", tmp_path / "ids")
    assert status == 0
    assert len((tmp_path / "ids" / "new.txt").read_text().split()) == 3
    assert (tmp_path / "ids" / "vanished.txt").read_text() == ""
    assert out.count("new       NCT9") == 3
    status, out, _ = run("diff", tmp_path / "new", tmp_path / "old", "--json")
    assert len(json.loads(out)["changes"]["vanished"]) == 3


def test_quality_names_each_doubt_with_its_count(run: Run, home: Path) -> None:
    status, out, _ = run("quality", home / "snapshot", "--json")
    assert status == 0
    findings = [json.loads(line) for line in out.splitlines()]
    assert findings
    assert all({"name", "meaning", "trials"} <= set(finding) for finding in findings)


def test_collect_says_how_much_it_would_read(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("collect", "-o", tmp_path / "x", "--dry-run")
    assert status == 0
    assert out.startswith("2,000 studies, about ")
    assert not (tmp_path / "x").exists()


def test_files_and_questions_to_the_registry_do_not_go_together(run: Run, tmp_path: Path) -> None:
    status, _, err = run("collect", "a.zip", "--since", "2024-01-01", "-o", tmp_path / "x")
    assert status == 2
    assert "FILES do not go with --since" in err
    status, _, err = run("collect", "--since", "yesterday", "-o", tmp_path / "x")
    assert (status, err.strip()) == (
        1,
        "error: --set: collect.since: write a date as YYYY-MM-DD",
    )


def test_dropin_check_passes_on_a_classifier(run: Run, home: Path) -> None:
    status, out, _ = run("check-dropin", home / "stop-reasons" / "adapted")
    assert status == 0
    assert "FAILED" not in out
    assert "passed" in out


def test_staleness_prints_its_table_and_writes_its_page(
    run: Run, toy: Recipe, tmp_path: Path
) -> None:
    home = Path(toy.folder) / "toy"
    command = ("staleness", home / "snapshot", "--backbone", home / "base" / "model")
    command += ("--adapter", home / "adapter" / "adapter", "--sample", 2, "--pll-sample", 1)
    status, _, err = run(*command)
    assert status == 2 and "--trained-until" in err
    for wrong in ("2021-13-01", "2021", "summer"):
        status, _, err = run(*command, "--trained-until", wrong)
        assert (status, f"--trained-until {wrong}: no date; write YYYY-MM-DD" in err) == (2, True)
    command += ("--corpus", home / "corpus", "--trained-until", "2021-12-31")
    status, out, err = run(*command, "-o", tmp_path / "page")
    assert status == 0, err
    assert "2018Q" in out and ("\nAdapt again" in out or "\nNo need yet" in out)
    assert max(map(len, out.splitlines())) <= 80
    assert (tmp_path / "page" / "staleness.html").is_file()
    status, out, _ = run(*command, "--json")
    assert json.loads(out)["left_out"] > 50


@pytest.mark.parametrize(
    ("artifact", "held"),
    [("snapshot", "summary"), ("corpus", "leakage"), ("verdict", "verdicts"), ("base", None)],
)
def test_show_gives_machines_what_it_prints(
    run: Run, home: Path, artifact: str, held: str | None
) -> None:
    status, out, _ = run("show", home / artifact, "--json")
    found = json.loads(out)
    assert (status, found["digest"]) == (0, read_manifest(home / artifact).digest)
    assert held is None or found[held]
    _, out, _ = run("show", home / artifact)
    wide = [line for line in out.splitlines() if len(line) > 80]
    assert [line for line in wide if max(map(len, line.split())) < 40] == []  # digests, paths


def test_what_ships_is_shown_verified_and_published_by_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for verb, more in (("show", ()), ("verify", ()), ("publish", ("--to", "me/x", "--dry-run"))):
        status, out, err = run(verb, "sex", *more)
        assert (status, bool(out)) == (0, True), err
    status, _, err = run("predict", "stop-reason", "slow")
    assert (status, err.rstrip()) == (
        1,
        "error: stop-reason: no classifier here: no such folder; did you mean stop-reasons?",
    )


def test_the_overview_tells_each_command_whole_and_tables_fit(
    run: Run, home: Path, tmp_path: Path
) -> None:
    status, out, _ = run("--help")
    commands = out.partition("Commands:")[2]
    assert (status, "..." in commands) == (0, False)
    table = tmp_path / "theirs.tsv"
    table.write_text(f"text\tprediction\n{'slow accrual ' * 20}\tNegative\n")
    for command in (
        ("quality", home / "snapshot"),
        ("agree", "stop-reasons", table, "--model-size", "small"),
        ("check-behaviour", "stop-reasons", "--model-size", "small"),
    ):
        status, out, err = run(*command)
        assert status == 0, err
        assert [line for line in out.splitlines() if len(line) > 80] == []


def test_what_a_shipped_classifier_was_fitted_on_is_told_where_it_is_tested(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "theirs.csv"
    table.write_text(
        "group,text,must,must_not,prediction\n"
        "a,SLOW ACCRUAL,Insufficient_Enrollment,,Insufficient_Enrollment\n"  # in gold.tsv
        "a,Two wards were flooded by the river,Logistics_Resources,,Logistics_Resources\n"
    )
    status, out, err = run("check-behaviour", "stop-reasons", "--tests", table, "--json")
    assert (status, json.loads(out)["fitted_on"]) == (0, ["SLOW ACCRUAL"]), err
    assert "fitted on 1 of the texts, which tell nothing: 'SLOW ACCRUAL'" in caplog.text
    status, out, err = run("agree", "stop-reasons", table, "--json")
    assert (status, json.loads(out)["fitted_on"]) == (0, 1), err
    assert "fitted on 1 of the 2 rows' texts, so it agrees too well" in caplog.text
