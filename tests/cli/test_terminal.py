"""What long work and manifests look like where there is no terminal."""

import pytest

from trialese.cli.terminal import _Pace, show_progress, tree_lines


def test_nested_counts_are_indented_and_long_lists_counted() -> None:
    tree = {"trials": 7417, "synthetic": True, "drops": {"too_short": 3}, "fits": [{"seed": 1}]}
    assert [line.split() for line in tree_lines(tree)] == [
        ["trials", "7,417"],
        ["synthetic", "True"],
        ["drops"],
        ["too_short", "3"],
        ["fits", "1", "entries;", "--json", "shows", "them"],
    ]
    assert list(tree_lines({"a": {"b": 1}}))[1].startswith("    b")


def test_without_a_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as progress:
        progress("records", 1, 3)  # too soon for a second line
        progress("records", 2, 3)
        progress("records", 3, 3)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["records: 3 of 3"]


@pytest.mark.parametrize(
    ("done", "total", "seconds", "told"),
    [
        (100, 1_000, 0.5, ""),  # too early to say
        (200, 1_000, 10.0, "20/s, 40 s left"),
        (1_000, 1_000_000, 10.0, "100/s, 2.8 h left"),
        (2_000, 100_000, 20.0, "100/s, 16 min left"),
        (5, 20, 10.0, "30/min, 30 s left"),
        (20, 20, 10.0, "120/min"),
        (300, None, 10.0, "30/s"),
        (2, 5, 600.0, "5 min each, 15 min left"),  # not "0/min"
    ],
)
def test_the_pace_and_the_time_left(
    done: int, total: int | None, seconds: float, told: str
) -> None:
    times = iter([100.0, 100.0 + seconds])
    pace = _Pace(lambda: next(times))
    assert pace("records", 0, total) == ""
    assert pace("records", done, total) == told


def test_what_counts_from_the_start_again_has_a_pace_of_its_own() -> None:
    times = iter([0.0, 60.0, 6_000.0, 6_020.0])
    pace = _Pace(lambda: next(times))
    told = [pace("epochs", done, 6) for done in (1, 6, 1, 2)]
    assert told == ["", "5/min", "", "3/min, 80 s left"]
