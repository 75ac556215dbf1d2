"""Token blocks on disk: arrays that grow while they are written and are memory-mapped when read.

A folder holds `ids.npy` (blocks, block_tokens), `special.npy` of the same shape, `owner.npy`
(blocks,), `nct_ids.txt` (one a line) and `blocks.json` (padding id, counts, digest).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.lib import format as npy

from trialese.artifacts import digest_of, digest_of_file, read_manifest
from trialese.corpus.store import Era
from trialese.errors import ArtifactError
from trialese.records import Split, TokenBlocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BlockFacts", "BlockWriter", "open_block_folder", "open_blocks", "read_facts"]


_IDS, _SPECIAL, _OWNER, _NCT_IDS = "ids.npy", "special.npy", "owner.npy", "nct_ids.txt"
_FACTS = "blocks.json"


class BlockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `blocks.json` holds."""

    pad_id: int
    blocks: int
    block_tokens: int
    padding_tokens: int
    counts: dict[str, int]
    digest: str
    isolated: bool = False


class BlockWriter:
    """Appends tokens to the arrays of a folder; their length is known only at the end."""

    def __init__(self, folder: Path, block_tokens: int, id_type: np.dtype[Any]) -> None:
        self.folder = folder
        self.block_tokens = block_tokens
        self._types = (id_type, np.dtype(np.bool_))
        self._files: tuple[IO[bytes], IO[bytes]] = (
            (folder / _IDS).open("wb"),
            (folder / _SPECIAL).open("wb"),
        )
        self._written = 0
        self._write_headers()

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def append(self, ids: NDArray[Any], special: NDArray[np.bool_]) -> None:
        """Add tokens to the end, wherever block limits lie."""
        for file, values in zip(self._files, (ids, special), strict=True):
            file.write(values.tobytes())
        self._written += len(ids)

    def pad(self, pad_id: int) -> None:
        """Fill up the last block."""
        missing = -self._written % self.block_tokens
        self.append(np.full(missing, pad_id, self._types[0]), np.ones(missing, np.bool_))

    def finish(
        self,
        nct_ids: Sequence[str],
        owners: NDArray[np.int64],
        pad_id: int,
        counts: dict[str, int],
        *,
        isolated: bool = False,
    ) -> BlockFacts:
        """Write what stands beside the tokens, and the right lengths into the headers."""
        assert self._written % self.block_tokens == 0
        assert self._written // self.block_tokens == len(owners)
        self._write_headers()
        for file in self._files:
            file.close()
        np.save(self.folder / _OWNER, owners.astype(np.int64))
        (self.folder / _NCT_IDS).write_text("".join(f"{name}\n" for name in nct_ids), "utf-8")
        digests = {
            name: digest_of_file(self.folder / name) for name in (_IDS, _SPECIAL, _OWNER, _NCT_IDS)
        }
        facts = BlockFacts(
            pad_id=pad_id,
            blocks=len(owners),
            block_tokens=self.block_tokens,
            padding_tokens=self._written - counts["tokens"],
            counts=counts,
            digest=digest_of({"files": digests, "pad_id": pad_id}),
            isolated=isolated,
        )
        (self.folder / _FACTS).write_bytes(msgspec.json.encode(facts, order="sorted") + b"\n")
        return facts

    def _write_headers(self) -> None:
        """numpy leaves room in a header for its first axis to grow, so the length stays."""
        blocks = self._written // self.block_tokens
        for file, kind in zip(self._files, self._types, strict=True):
            file.seek(0)
            header = {
                "descr": npy.dtype_to_descr(kind),
                "fortran_order": False,
                "shape": (blocks, self.block_tokens),
            }
            npy.write_array_header_1_0(file, header)


def read_facts(folder: Path) -> BlockFacts:
    """What stands in the folder's `blocks.json`.

    Raises:
        ArtifactError: missing or damaged.
    """
    try:
        return msgspec.json.decode((folder / _FACTS).read_bytes(), type=BlockFacts)
    except (OSError, msgspec.DecodeError) as error:
        raise _damaged(folder, error) from error


def open_block_folder(folder: Path) -> TokenBlocks:
    """The folder's blocks, memory-mapped.

    Raises:
        ArtifactError: a file is missing, damaged or of another length than the others.
    """
    facts = read_facts(folder)
    shape = (facts.blocks, facts.block_tokens)
    try:
        nct_ids = tuple((folder / _NCT_IDS).read_text("utf-8").splitlines())
        ids, special, owner = (
            # An array without elements cannot be memory-mapped.
            np.load(folder / name, mmap_mode="r" if facts.blocks else None)
            for name in (_IDS, _SPECIAL, _OWNER)
        )
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error
    if ids.shape != shape or special.shape != shape or owner.shape != shape[:1]:
        raise _damaged(folder, "its arrays differ in length")
    return TokenBlocks(ids, special, owner, nct_ids, facts.pad_id, facts.digest, facts.isolated)


def _damaged(folder: Path, why: object) -> ArtifactError:
    return ArtifactError(f"{folder}: blocks missing or damaged ({why}); build them again")


def open_blocks(path: str | Path, *, era: Era, split: Split) -> TokenBlocks | None:
    """The memory-mapped blocks of one era and split, or None where the corpus has no such trials.

    Raises:
        ArtifactError: nothing at `path`, something else than blocks, or damaged.
    """
    path = Path(path)
    manifest = read_manifest(path, kind="blocks", verify=True)
    name = f"{era}-{split}"
    return open_block_folder(path / name) if name in manifest.counts["folders"] else None
