"""Blocks on disk: what is written reads back, memory-mapped; damage is told."""

from pathlib import Path

import numpy as np
import pytest

from trialese.corpus.blocks import BlockWriter, open_block_folder, read_facts
from trialese.errors import ArtifactError

COUNTS = {"tokens": 30}


def write(folder: Path, kind: type = np.uint16) -> None:
    """Thirty tokens, the first and the last special, in blocks of eight."""
    with BlockWriter(folder, 8, np.dtype(kind)) as writer:
        for start in (0, 10, 20):  # whatever block limits
            ids = np.arange(start, start + 10).astype(kind)
            writer.append(ids, (ids == 0) | (ids == 29))
        writer.pad(0)
        writer.finish(["NCT1", "NCT2"], np.array([0, 0, 1, 1]), 0, COUNTS)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_what_is_written_reads_back(tmp_path: Path, kind: type) -> None:
    write(tmp_path, kind)
    blocks = open_block_folder(tmp_path)
    assert isinstance(blocks.ids, np.memmap)
    assert blocks.ids.dtype == kind
    assert blocks.ids.tolist() == [
        [*range(8)], [*range(8, 16)], [*range(16, 24)], [*range(24, 30), 0, 0],
    ]  # fmt: skip
    assert np.flatnonzero(blocks.special).tolist() == [0, 29, 30, 31]
    assert blocks.owner.tolist() == [0, 0, 1, 1]
    assert blocks.nct_ids == ("NCT1", "NCT2")
    assert blocks.pad_id == 0
    facts = read_facts(tmp_path)
    assert (facts.blocks, facts.padding_tokens, facts.counts) == (4, 2, COUNTS)
    assert np.array_equal(np.load(tmp_path / "ids.npy"), blocks.ids)  # a plain .npy file


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    digests = []
    for name, kind in (("a", np.uint16), ("b", np.uint16), ("c", np.uint32)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, kind)
        digests.append(open_block_folder(tmp_path / name).digest)
    assert digests[0] == digests[1] != digests[2]


def test_no_blocks_at_all(tmp_path: Path) -> None:
    with BlockWriter(tmp_path, 8, np.dtype(np.uint16)) as writer:
        writer.finish([], np.empty(0, np.int64), 0, {"tokens": 0})
    assert open_block_folder(tmp_path).ids.shape == (0, 8)


@pytest.mark.parametrize("name", ["ids.npy", "special.npy", "owner.npy", "blocks.json"])
def test_damage_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[:-7], b"", whole[:20]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="build them again"):
            open_block_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match="build them again"):
        open_block_folder(tmp_path)


def test_arrays_of_differing_length_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / "owner.npy", np.array([0, 0, 1]))
    with pytest.raises(ArtifactError, match="differ in length"):
        open_block_folder(tmp_path)
