"""What long work and manifests look like where there is no terminal."""

import pytest

from trialese.cli.terminal import show_progress, tree_lines


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
