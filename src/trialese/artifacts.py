"""Folders on disk: written aside, renamed into place, manifest last.

Existence is not completion: only a folder whose `manifest.json` reads back is an artifact. A
new one is written in a hidden sibling and takes the old one's place by rename, so that an
interruption at any point leaves the earlier state whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from trialese.errors import ArtifactError
from trialese.records import Manifest

__all__ = [
    "MANIFEST_NAME",
    "Draft",
    "artifact_key",
    "as_settings",
    "digest_of",
    "digest_of_file",
    "digest_of_folder",
    "is_complete",
    "locked",
    "read_manifest",
    "verify_files",
    "work_folder",
    "write_artifact",
    "write_bytes",
]

MANIFEST_NAME = "manifest.json"
_DISK_REFUSES = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
    errno.EFBIG,
}  # fmt: skip


def digest_of(value: Any) -> str:
    """sha256 (64 hexadecimal digits) of the value as JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 (64 hexadecimal digits) of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_folder(path: Path) -> str:
    """sha256 over the names and bytes of the files in the folder, but for its manifest."""
    files = [file for file in path.iterdir() if file.is_file() and file.name != MANIFEST_NAME]
    return digest_of({file.name: digest_of_file(file) for file in files})


def as_settings(section: Any) -> dict[str, Any]:
    """A recipe section as plain dicts, lists and scalars, as manifests hold it."""
    plain = msgspec.to_builtins(section)
    if not isinstance(plain, dict):
        raise TypeError(f"settings must be a section of the recipe, not {type(section).__name__}")
    return plain


def artifact_key(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256 that names what an artifact is made from; equal keys need not be made again."""
    return digest_of({"kind": kind, "settings": dict(settings), "inputs": dict(inputs)})


@dataclass(slots=True)
class Draft:
    """An artifact being written: put files under `folder`, figures into `counts` and `notes`."""

    folder: Path
    counts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
    """Set when the artifact is in place."""


@contextmanager
def write_artifact(
    path: Path,
    *,
    kind: str,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Iterator[Draft]:
    """A `Draft` whose folder becomes the artifact at `path` when the block ends without error.

    On an error the draft is removed and whatever stood at `path` stays. A folder at `path` that
    is no artifact is never replaced.

    Raises:
        ArtifactError: something that trialese did not write stands at `path`, another process is
            writing it, or the disk refused.
    """
    _recover(path)
    _refuse_foreign(path)
    settings, inputs = dict(settings or {}), dict(inputs or {})
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            draft = Draft(aside)
            try:
                yield draft
                draft.manifest = _finish(draft, kind, settings, inputs)
                _swap(aside, path)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    except OSError as error:
        if error.errno not in _DISK_REFUSES:
            raise
        raise ArtifactError(
            f"{path}: cannot write ({error.strerror}: {error.filename or aside}); "
            "free some space or choose another folder; what stood there is untouched"
        ) from error


def is_complete(path: Path, *, key: str | None = None) -> bool:
    """Whether a whole artifact stands at `path`, made from `key` if one is given.

    Whole means: the manifest reads back and every file that it lists is there.
    """
    _recover(path)
    try:
        manifest = read_manifest(path)
    except ArtifactError:
        return False
    present = all((path / name).is_file() for name in manifest.files)
    return present and (key is None or manifest.key == key)


def read_manifest(path: Path, *, kind: str | None = None) -> Manifest:
    """The manifest of the artifact at `path`.

    Raises:
        ArtifactError: nothing there, half-written, or an artifact of another kind.
    """
    _recover(path)
    file = path / MANIFEST_NAME
    if not path.exists():
        raise ArtifactError(f"{path}: no such folder; make it first (`trialese --help`)")
    if not file.is_file():
        raise ArtifactError(
            f"{path}: no {MANIFEST_NAME}, so this is half-written or not trialese's; "
            "run the stage that makes it again"
        )
    try:
        manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); run the stage again") from error
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{path}: this is a {manifest.kind}, but a {kind} is needed here")
    return manifest


def verify_files(path: Path) -> None:
    """Compare every file with the sha256 in the manifest.

    Raises:
        ArtifactError: a file is missing or altered; the first such file is named.
    """
    for name, expected in read_manifest(path).files.items():
        file = path / name
        if not file.is_file() or digest_of_file(file) != expected:
            state = "altered" if file.is_file() else "missing"
            raise ArtifactError(f"{file}: {state} since it was written; run the stage again")


def work_folder(path: Path) -> Path:
    """The hidden sibling of `path` in which long work keeps what it resumes from."""
    return path.with_name(f".{path.name}.work")


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path` at once: written aside, flushed to disk, renamed into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ArtifactError(f"{path}: cannot write ({error.strerror})") from error


def _finish(draft: Draft, kind: str, settings: dict[str, Any], inputs: dict[str, str]) -> Manifest:
    from trialese import __version__

    files = {
        file.relative_to(draft.folder).as_posix(): digest_of_file(file)
        for file in sorted(draft.folder.rglob("*"))
        if file.is_file()
    }
    key = artifact_key(kind, settings, inputs)
    manifest = Manifest(
        kind=kind,
        code_version=__version__,
        key=key,
        digest=digest_of({"key": key, "files": files}),
        settings=settings,
        inputs=inputs,
        files=files,
        counts=draft.counts,
        notes=draft.notes,
    )
    for name in files:
        _sync(draft.folder / name)
    text = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)
    write_bytes(draft.folder / MANIFEST_NAME, text + b"\n")
    _sync(draft.folder)
    return manifest


def _swap(aside: Path, path: Path) -> None:
    """Rename `aside` to `path`; what stood there goes last, so `_recover` can bring it back."""
    retired = _retired(path)
    shutil.rmtree(retired, ignore_errors=True)
    if path.exists():
        path.rename(retired)
    aside.rename(path)
    _sync(path.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _recover(path: Path) -> None:
    """Bring back what a crash between the two renames of `_swap` left aside."""
    retired = _retired(path)
    if retired.is_dir() and not path.exists():
        retired.rename(path)


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.retired")


def _refuse_foreign(path: Path) -> None:
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not (path / MANIFEST_NAME).is_file():
        raise ArtifactError(
            f"{path}: holds something that trialese did not write; move it or choose another folder"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path`; the kernel lets go of it however the process ends.

    Raises:
        ArtifactError: another process holds it.
    """
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(
                f"{path}: another trialese is writing it; wait for that one or stop it"
            ) from error
        yield  # the file stays: unlinking it would let two others lock two different files


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
