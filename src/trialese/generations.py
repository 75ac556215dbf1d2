"""Generations of a run on disk: whole folders by number, and the one that `current.json` points to.

A generation holds everything that is used together (snapshot, language model, classifiers,
predictions), so that nobody ever reads half of one and half of another. Files that did not change
are hard links to those of the generation before: a generation costs what is new in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from trialese.artifacts import (
    MANIFEST_NAME,
    digest_of_file,
    is_complete,
    locked,
    read_manifest,
    remove_at_once,
    write_bytes,
)
from trialese.errors import ArtifactError
from trialese.records import Manifest

__all__ = [
    "KIND",
    "Generation",
    "Pointer",
    "current_generation",
    "generation_bytes",
    "generation_folder",
    "hold_run",
    "lasting_base",
    "link_file",
    "link_tree",
    "list_generations",
    "next_number",
    "open_generation",
    "promote",
    "prune",
    "read_pointer",
    "roll_back",
    "serving",
]

KIND = "generation"
_FOLDER = "generations"
_POINTER = "current.json"
_BASES = "bases"


class Pointer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`current.json`: which generation is in use."""

    generation: int
    digest: str
    """Of its manifest."""
    newest: int
    """The highest number that was ever in use; numbers are never given twice."""
    rolled_back: int | None = None
    """The newest generation that somebody turned back from, while no other one is made."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Handle on one whole generation."""

    number: int
    path: Path
    manifest: Manifest

    @property
    def snapshot(self) -> Path:
        """The trials: an artifact of kind "snapshot"."""
        return self.path / "snapshot"

    @property
    def language_model(self) -> Path | None:
        """What classifiers stand on and the next adapter goes on from; None: no language model."""
        folder = self.path / "language-model"
        return folder if folder.is_dir() else None

    @property
    def control(self) -> Path | None:
        """What saw as much text as the language model, and none of the new; None: none was kept."""
        folder = self.path / "control"
        return folder if folder.is_dir() else None

    @property
    def classifiers(self) -> dict[str, Path]:
        """Task -> its classifier, in the recipe's order."""
        return {task: self.path / "classifiers" / task for task in self.manifest.notes["tasks"]}

    @property
    def lineage(self) -> tuple[int, ...]:
        """Numbers of the generations that this one comes from, oldest first, itself last."""
        return tuple(self.manifest.notes["lineage"])

    def predictions(self, task: str) -> tuple[Path, ...]:
        """The layers of the task's predictions, oldest first; see `trialese.tasks.history`."""
        return tuple(sorted((self.path / "predictions" / task).glob("*.parquet")))

    def refuse_altered(self, successor: Generation) -> None:
        """Check that files which the successor shares with this one are what they were.

        Raises:
            ArtifactError: one was altered on disk; the first is named.
        """
        for name, digest in successor.manifest.files.items():
            here, there = self.path / name, successor.path / name
            if self.manifest.files.get(name, digest) != digest and here.samefile(there):
                raise ArtifactError(f"{here}: altered since; {_way_back(self.path.parents[1])}")

    def unaltered(self, files: Iterable[Path]) -> bool:
        """Whether these files of the generation have the bytes that its manifest names."""
        listed = self.manifest.files
        return all(
            listed.get(file.relative_to(self.path).as_posix()) == digest_of_file(file)
            for file in files
        )


def generation_folder(run: Path, number: int) -> Path:
    """Where the generation of this number stands, or will."""
    return run / _FOLDER / f"{number:04d}"


def read_pointer(run: Path) -> Pointer | None:
    """What `current.json` says; None where the run has no generation yet.

    Raises:
        ArtifactError: the file is damaged.
    """
    file = run / _POINTER
    try:
        return msgspec.json.decode(file.read_bytes(), type=Pointer)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise ArtifactError(
            f"{file}: damaged ({error}); `trialese rollback {run} --to NUMBER` writes it anew"
        ) from error


def open_generation(run: Path, number: int) -> Generation:
    """The generation of this number.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    folder = generation_folder(run, number)
    if not (folder / MANIFEST_NAME).is_file():
        kept = ", ".join(map(str, list_generations(run)))
        raise ArtifactError(
            f"{run}: no generation {number}; "
            + (
                f"there are {kept}: `trialese rollback {run} --to NUMBER`"
                if kept
                else f"there is none: without {_POINTER} there, a refresh takes the run over again"
            )
        )
    return Generation(number, folder, read_manifest(folder, kind=KIND))


def current_generation(run: Path) -> Generation | None:
    """The generation in use; None where the run has none yet.

    Raises:
        ArtifactError: the one pointed to is missing, lacks a file, or is another than was promoted;
            or nothing points to any of those that there are.
    """
    pointer = read_pointer(run)
    if pointer is None:
        kept = list_generations(run)
        if kept not in ([], [1]):  # the first may have been made and not promoted
            raise ArtifactError(
                f"{run / _POINTER}: missing, though there are generations "
                f"{', '.join(map(str, kept))}; `trialese rollback {run} --to NUMBER` writes it anew"
            )
        return None
    found = open_generation(run, pointer.generation)
    missing = next((n for n in found.manifest.files if not (found.path / n).is_file()), None)
    if missing is not None:
        raise ArtifactError(f"{found.path / missing}: missing; {_way_back(run)}")
    if found.manifest.digest != pointer.digest:
        raise ArtifactError(f"{found.path}: not the generation that was promoted; {_way_back(run)}")
    return found


def _way_back(run: Path) -> str:
    return (
        f"`trialese rollback {run}` turns to the one before; without one, remove "
        f"{run / _FOLDER} and {_POINTER}, and a refresh takes the run over again"
    )


def list_generations(run: Path) -> list[int]:
    """The numbers of the whole generations on disk, ascending."""
    return sorted(
        int(file.parent.name)
        for file in (run / _FOLDER).glob(f"*/{MANIFEST_NAME}")
        if file.parent.name.isdigit()
    )


def next_number(run: Path) -> int:
    """The number of the generation that is made next: again the same until one is promoted."""
    pointer = read_pointer(run)
    return 1 if pointer is None else pointer.newest + 1


@contextmanager
def hold_run(run: Path) -> Iterator[None]:
    """Be the only one who makes or turns generations of this run.

    Raises:
        ArtifactError: another process is at it, or the folder cannot be written.
    """
    try:
        (run / _FOLDER).mkdir(exist_ok=True)
        try:
            with locked(run / _FOLDER):
                yield
        finally:
            with suppress(OSError):  # of a folder that is no run nothing is left
                (run / _FOLDER).rmdir()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not run.is_dir():
            raise ArtifactError(f"{run}: no such folder; give that of a finished run") from error
        if isinstance(error, FileNotFoundError) and error.filename:
            raise ArtifactError(f"{error.filename}: missing; {_way_back(run)}") from error
        raise ArtifactError(
            f"{run}: cannot write ({error.strerror}); what stood there is untouched, and the same "
            "command goes on from here"
        ) from error


def promote(run: Path, generation: Generation) -> None:
    """Let `current.json` point to the generation, at once, after its files have been compared.

    Raises:
        ArtifactError: the generation is damaged, or the disk refused; the one before stays.
    """
    if not is_complete(generation.path, verify=True):
        raise ArtifactError(f"{generation.path}: not whole; run the refresh again")
    before = read_pointer(run)
    newest = max(generation.number, before.newest if before else 0)
    _point(run, Pointer(
        generation=generation.number, digest=generation.manifest.digest, newest=newest,
    ))  # fmt: skip


def roll_back(run: Path, to: int | None = None) -> Generation:
    """Point to an earlier generation: `to`, or the one that the current one was made from.

    Raises:
        ArtifactError: there is none such, or it is damaged.
    """
    try:
        pointer = read_pointer(run)
    except ArtifactError:
        if to is None:
            raise
        pointer = None  # which a number mends
    if to is None:
        if pointer is None:
            raise ArtifactError(f"{run}: no generation yet; `trialese refresh {run}` makes one")
        lineage = open_generation(run, pointer.generation).lineage
        kept = [number for number in lineage[:-1] if number in list_generations(run)]
        if not kept:
            raise ArtifactError(f"{run}: generation {pointer.generation} has none before it here")
        to = kept[-1]
    found = open_generation(run, to)
    if not is_complete(found.path, verify=True):
        raise ArtifactError(f"{found.path}: damaged; choose another with --to")
    numbers = list_generations(run)
    newest = max(pointer.newest if pointer else 0, *numbers)
    left = max(pointer.generation, pointer.rolled_back or 0) if pointer else 0
    _point(run, Pointer(
        generation=to, digest=found.manifest.digest, newest=newest,
        rolled_back=left if left > to else None,
    ))  # fmt: skip
    return found


@contextmanager
def serving(generation: Generation) -> Iterator[None]:
    """Within, `prune` leaves the generation alone, be it many behind: somebody answers from it."""
    with (generation.path / MANIFEST_NAME).open("rb") as file:
        _flock(file, alone=False)  # gone with the process, however that ends
        yield


def _is_served(folder: Path) -> bool:
    with suppress(FileNotFoundError), (folder / MANIFEST_NAME).open("rb") as file:
        return not _flock(file, alone=True)
    return False


def _flock(file: BinaryIO, *, alone: bool) -> bool:
    """Whether the file is held with whoever else holds it, or alone, until it is closed."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where nothing that is open is removed anyhow
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def prune(run: Path, keep: int) -> list[int]:
    """Remove all but the `keep` newest generations, the one in use, and the one before it.

    Those that a server on this machine still answers from stay too.

    What an interruption left half removed goes too, and so do a base that no language model of the
    others went on from and search indices of those that nobody serves now. The numbers removed.
    """
    folder = run / _FOLDER
    for rest in folder.glob(".*.gone"):
        shutil.rmtree(rest, ignore_errors=True)
    pointer = read_pointer(run)
    if pointer is None:
        return []
    numbers = [number for number in list_generations(run) if number <= pointer.newest]
    lineage = open_generation(run, pointer.generation).lineage
    before = [number for number in lineage[:-1] if number in numbers][-1:]
    served = [number for number in numbers if _is_served(generation_folder(run, number))]
    kept = {*numbers[-keep:], pointer.generation, *before, *served}
    removed = [number for number in numbers if number not in kept]
    for number in removed:
        remove_at_once(generation_folder(run, number))
    for number in kept - {pointer.generation, *before, *served}:
        for index in generation_folder(run, number).glob(".*.shelf*"):
            index.unlink(missing_ok=True)
    _prune_bases(run)
    return removed


def lasting_base(generation: Generation) -> Path:
    """The generation's language model under a name that outlives the generation; links, no copies.

    An adapter that goes on from it names that folder in its `adapter_config.json`.

    Raises:
        ArtifactError: there is no whole language model.
    """
    model = generation.language_model
    if model is None:
        raise ArtifactError(f"{generation.path}: no language model to go on from")
    folder = generation.path.parents[1] / _BASES / read_manifest(model).digest[:16]
    if not folder.is_dir():
        aside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        link_tree(model, aside)
        aside.rename(folder)
    return folder


def _prune_bases(run: Path) -> None:
    """Remove the bases that no generation here went on from; none while one here is damaged."""
    used = set()
    for number in list_generations(run):
        try:
            found = open_generation(run, number)
            made = [each for each in (found.language_model, found.control) if each is not None]
            used |= {read_manifest(each).inputs.get("base", "")[:16] for each in made}
        except ArtifactError:
            return
    for base in (run / _BASES).glob("*"):
        if base.name not in used:
            remove_at_once(base)


def link_tree(source: Path, target: Path) -> None:
    """Put the files below `source` below `target`, as hard links where the disk can, else copies.

    Files of trialese are never changed in place, only replaced, so that links cannot mix. Hidden
    files (locks, search indices) belong to nobody's artifact and stay.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            link_tree(entry, target / entry.name)
        else:
            link_file(entry, target / entry.name)


def link_file(source: Path, target: Path) -> None:
    """Put the file at `target` too, as a hard link where the disk can, else a copy."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise  # a copy would write into whatever is linked there
    except OSError:
        shutil.copyfile(source, target)


def generation_bytes(run: Path) -> dict[int, int]:
    """Generation -> bytes of its files that no earlier one here holds: what it costs on disk."""
    seen: set[tuple[int, int]] = set()
    costs: dict[int, int] = {}
    for number in list_generations(run):
        costs[number] = 0
        for file in generation_folder(run, number).rglob("*"):
            if file.is_file():
                found = file.stat()
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    costs[number] += found.st_size
    return costs


def _point(run: Path, pointer: Pointer) -> None:
    text = msgspec.json.format(msgspec.json.encode(pointer), indent=2)
    write_bytes(run / _POINTER, text + b"\n")
