"""Generations on disk: numbers, the pointer, links, and what is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trialese.artifacts import write_artifact, write_bytes
from trialese.errors import ArtifactError
from trialese.generations import (
    KIND,
    Generation,
    current_generation,
    generation_bytes,
    generation_folder,
    hold_run,
    link_tree,
    list_generations,
    next_number,
    open_generation,
    promote,
    prune,
    read_pointer,
    roll_back,
    serving,
)


def make(run: Path, lineage: list[int], text: bytes = b"new") -> Generation:
    """A generation that takes `shared` over from the one before, and promoted."""
    number = lineage[-1]
    with write_artifact(generation_folder(run, number), kind=KIND) as draft:
        if len(lineage) > 1:
            before = generation_folder(run, lineage[-2])
            link_tree(before / "shared", draft.folder / "shared")
        else:
            (draft.folder / "shared").mkdir()
            (draft.folder / "shared" / "model").write_bytes(b"m" * 100_000)
        (draft.folder / "own").write_bytes(text)
        draft.notes |= {"lineage": lineage, "tasks": {}}
    found = open_generation(run, number)
    promote(run, found)
    return found


def test_a_run_without_generations(tmp_path: Path) -> None:
    assert current_generation(tmp_path) is None
    assert read_pointer(tmp_path) is None
    assert next_number(tmp_path) == 1
    assert prune(tmp_path, 6) == []
    with pytest.raises(ArtifactError, match="no generation yet"):
        roll_back(tmp_path)


def test_a_generation_costs_what_is_new_in_it(tmp_path: Path) -> None:
    make(tmp_path, [1])
    make(tmp_path, [1, 2])
    costs = generation_bytes(tmp_path)
    assert costs[1] > 100_000
    assert 0 < costs[2] < 10_000
    prune(tmp_path, 1)  # the one before is kept all the same
    assert list_generations(tmp_path) == [1, 2]


def test_pruning_keeps_the_newest_the_one_in_use_and_the_one_before(tmp_path: Path) -> None:
    for number in range(1, 7):
        make(tmp_path, list(range(1, number + 1)))
    roll_back(tmp_path, 3)
    assert prune(tmp_path, 2) == [1, 4]
    assert list_generations(tmp_path) == [2, 3, 5, 6]
    shared = generation_folder(tmp_path, 6) / "shared" / "model"
    assert shared.read_bytes() == b"m" * 100_000


def test_search_indices_of_those_that_nobody_serves_go(tmp_path: Path) -> None:
    for number in range(1, 6):
        made = make(tmp_path, list(range(1, number + 1)))
        (made.path / ".snapshot.shelf").write_bytes(b"an index")
        (made.path / ".snapshot.shelf-wal").write_bytes(b"and what it needs")
    roll_back(tmp_path, 3)
    prune(tmp_path, 6)
    left = sorted(file.parent.name for file in tmp_path.glob("generations/*/.snapshot.shelf*"))
    assert left == ["0002", "0002", "0003", "0003"]


def test_what_somebody_answers_from_stays(tmp_path: Path) -> None:
    first, *_ = made = [make(tmp_path, list(range(1, number + 1))) for number in range(1, 6)]
    (first.path / ".snapshot.shelf").write_bytes(b"an index")
    with serving(first), serving(made[-1]), serving(first):
        assert prune(tmp_path, 2) == [2, 3]
        assert (first.path / ".snapshot.shelf").is_file()
    assert prune(tmp_path, 2) == [1]


def test_what_was_half_removed_goes(tmp_path: Path) -> None:
    make(tmp_path, [1])
    left = tmp_path / "generations" / ".0009.gone"
    left.mkdir()
    prune(tmp_path, 2)
    assert not left.exists()


def test_numbers_are_given_once(tmp_path: Path) -> None:
    make(tmp_path, [1])
    make(tmp_path, [1, 2])
    assert roll_back(tmp_path).number == 1
    pointer = read_pointer(tmp_path)
    assert pointer is not None
    assert (pointer.generation, pointer.newest, pointer.rolled_back) == (1, 2, 2)
    assert next_number(tmp_path) == 3
    make(tmp_path, [1, 3])
    pointer = read_pointer(tmp_path)
    assert pointer is not None
    assert pointer.rolled_back is None


def test_rolling_back_needs_something_before(tmp_path: Path) -> None:
    make(tmp_path, [1])
    with pytest.raises(ArtifactError, match="none before it"):
        roll_back(tmp_path)
    with pytest.raises(ArtifactError, match="no generation 7; there are 1"):
        roll_back(tmp_path, 7)


def test_a_damaged_generation_is_neither_promoted_nor_used(tmp_path: Path) -> None:
    make(tmp_path, [1])
    made = make(tmp_path, [1, 2])
    (made.path / "own").unlink()
    write_bytes(made.path / "own", b"other")
    with pytest.raises(ArtifactError, match="not whole"):
        promote(tmp_path, made)
    roll_back(tmp_path)
    with pytest.raises(ArtifactError, match="damaged"):
        roll_back(tmp_path, 2)


def test_another_generation_than_was_promoted_is_refused(tmp_path: Path) -> None:
    make(tmp_path, [1])
    made = make(tmp_path, [1, 2])
    shutil.rmtree(made.path)
    with write_artifact(made.path, kind=KIND) as draft:
        draft.notes |= {"lineage": [1, 2], "tasks": {}}
    with pytest.raises(ArtifactError, match="not the generation that was promoted"):
        current_generation(tmp_path)


def test_a_damaged_pointer_says_what_mends_it(tmp_path: Path) -> None:
    make(tmp_path, [1])
    write_bytes(tmp_path / "current.json", b"{}")
    with pytest.raises(ArtifactError, match="rollback"):
        current_generation(tmp_path)
    assert roll_back(tmp_path, 1).number == 1
    assert current_generation(tmp_path) is not None


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        hold_run(tmp_path),
        pytest.raises(ArtifactError, match="another trialese is writing it"),
        hold_run(tmp_path),
    ):
        pass
    with pytest.raises(ArtifactError, match="no such folder"), hold_run(tmp_path / "none"):
        pass


def test_links_are_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("one")
    (tmp_path / "a" / ".hidden").write_text("a lock")
    link_tree(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b" / ".hidden").exists()
    with pytest.raises(FileExistsError):
        link_tree(tmp_path / "a", tmp_path / "b")
    write_bytes(tmp_path / "b" / "file", b"two")
    assert (tmp_path / "a" / "file").read_text() == "one"


def test_a_generation_that_lacks_a_file_says_what_mends_it(tmp_path: Path) -> None:
    make(tmp_path, [1])
    (make(tmp_path, [1, 2]).path / "shared" / "model").unlink()
    with pytest.raises(ArtifactError, match=r"0002/shared/model: missing; `trialese rollback"):
        current_generation(tmp_path)
    assert roll_back(tmp_path).number == 1
    assert current_generation(tmp_path) is not None


def test_a_generation_that_is_gone_says_what_mends_it(tmp_path: Path) -> None:
    make(tmp_path, [1])
    shutil.rmtree(make(tmp_path, [1, 2]).path)
    with pytest.raises(ArtifactError, match=r"no generation 2; there are 1: .* --to NUMBER"):
        current_generation(tmp_path)
    assert roll_back(tmp_path, 1).number == 1
    assert next_number(tmp_path) == 3
    shutil.rmtree(tmp_path / "generations")
    with pytest.raises(
        ArtifactError, match=r"there is none: without current\.json there, a refresh"
    ):
        current_generation(tmp_path)


def test_generations_that_nothing_points_to_are_not_made_again(tmp_path: Path) -> None:
    make(tmp_path, [1])
    (tmp_path / "current.json").unlink()
    assert current_generation(tmp_path) is None  # made, and never promoted
    make(tmp_path, [1])
    make(tmp_path, [1, 2])
    (tmp_path / "current.json").unlink()
    (tmp_path / "current.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"current\.json: missing, though .* 1, 2; `trialese"):
        current_generation(tmp_path)
    (tmp_path / "current.json").unlink()
    assert roll_back(tmp_path, 2).number == 2
    assert next_number(tmp_path) == 3


def test_a_folder_that_is_no_run_is_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no generation yet"), hold_run(tmp_path):
        roll_back(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_two_generations_share_is_what_it_was(tmp_path: Path) -> None:
    first = make(tmp_path, [1])
    (first.path / "shared" / "model").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="0001/shared/model: altered since"):
        first.refuse_altered(make(tmp_path, [1, 2]))
