"""Artifact folders: written aside, renamed into place, described by a manifest.

Existence is not completion: only a folder whose `manifest.json` reads back is an artifact. A
new one is written in a hidden sibling and takes the old one's place by rename, so that an
interruption at any point leaves the earlier state whole. Only an artifact of the same kind is
replaced, and never one that the new one is made from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import filelock
import msgspec

from trialese.errors import ArtifactError, is_of_the_disk, with_article
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
    "level_permissions",
    "locked",
    "read_manifest",
    "refuse_file",
    "refuse_other",
    "remove_at_once",
    "replacing_anything",
    "verify_files",
    "verify_owner",
    "work_folder",
    "write_artifact",
    "write_bytes",
]

MANIFEST_NAME = "manifest.json"
_LONGEST_NAME = 200
"""Bytes of a name before it is shortened for a hidden sibling; file systems take 255 in all."""
_LOCK_SECONDS = 0.2
"""A lock that a reader holds is free again in this time; a writer keeps it for minutes."""
_SWAP_SECONDS = 10.0
_POSIX = os.name == "posix"

_anything: ContextVar[bool] = ContextVar("_anything", default=False)


def digest_of(value: Any) -> str:
    """sha256 (64 hexadecimal digits) of the value as JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 (64 hexadecimal digits) of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_folder(path: Path, files: Iterable[Path] | None = None) -> str:
    """sha256 over the names, relative to the folder, and the bytes of `files`.

    Without `files`: those that stand in the folder itself, but for its manifest.
    """
    if files is None:
        files = (file for file in path.iterdir() if file.is_file() and file.name != MANIFEST_NAME)
    return digest_of({file.relative_to(path).as_posix(): digest_of_file(file) for file in files})


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
def replacing_anything(yes: bool = True) -> Iterator[None]:
    """Within it, if `yes`, whatever stands where something is written may be replaced."""
    token = _anything.set(yes or _anything.get())
    try:
        yield
    finally:
        _anything.reset(token)


@contextmanager
def write_artifact(
    path: Path,
    *,
    kind: str,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Iterator[Draft]:
    """A `Draft` whose folder becomes the artifact at `path` when the block ends without error.

    On an error the draft is removed and whatever stood at `path` stays. A link is followed, so
    that it stays a link. Only an artifact of the same kind is replaced, and none whose digest is
    among `inputs`, unless within `replacing_anything`.

    Raises:
        ArtifactError: something else stands at `path`, another process is writing it, or the
            disk refused.
    """
    settings, inputs = dict(settings or {}), dict(inputs or {})
    target = _destination(path)
    aside = _sibling(target, "partial")
    with ExitStack() as held:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(target))
            _restore(target)
            _refuse(path, target, kind, frozenset(inputs.values()))
            _remove(aside)
            aside.mkdir()
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            draft = Draft(aside)
            yield draft
            draft.manifest = _finish(draft, kind, settings, inputs)
            _swap(aside, target)
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if is_of_the_disk(error):
                raise _unwritable(path, error) from error
            raise


def refuse_other(path: Path, kind: str | None, *, inputs: Iterable[Path] = ()) -> None:
    """Check, before any work, that a `kind` of artifact may be written at `path`.

    `kind` None means a folder that holds artifacts or files and is none itself. `inputs` are what
    the work reads.

    Raises:
        ArtifactError: something else stands there, the path is an input or lies within an
            artifact, or it cannot be a folder at all.
    """
    target = _destination(path)
    if _anything.get():
        return
    for given in inputs:
        if _same(given, target):
            raise ArtifactError(
                f"{path}: is what the command reads; choose another folder, or replace it with "
                "--force"
            )
    _recover(target)
    _refuse(path, target, kind, frozenset())


def is_complete(path: Path, *, key: str | None = None, verify: bool = False) -> bool:
    """Whether a whole artifact stands at `path`, made from `key` if one is given.

    Whole means: the manifest reads back and every file that it lists is there; with `verify`,
    unaltered too.
    """
    try:
        manifest = read_manifest(path, verify=verify)
    except ArtifactError:
        return False
    present = all((path / name).is_file() for name in manifest.files)
    return present and (key is None or manifest.key == key)


def read_manifest(path: Path, *, kind: str | None = None, verify: bool = False) -> Manifest:
    """The manifest of the artifact at `path`; with `verify`, its files are compared with it.

    Raises:
        ArtifactError: nothing there, half-written, an artifact of another kind, or damaged.
    """
    manifest = _decode_manifest(path)
    if kind is not None and manifest.kind != kind:
        told = f"this is {with_article(manifest.kind)}, but {with_article(kind)} is needed here"
        raise ArtifactError(f"{path}: {told}")
    if verify:
        _verify(path, manifest)
    return manifest


def verify_files(path: Path) -> None:
    """Compare every file with the sha256 in the manifest, and the manifest with its own digest.

    Raises:
        ArtifactError: a file is missing or altered; the first such file is named.
    """
    _verified.pop(path, None)
    _verify(path, read_manifest(path))


def verify_owner(folder: Path) -> None:
    """Compare the artifact that the folder is, or lies in, with its manifest, if it has one.

    Raises:
        ArtifactError: a file is missing or altered.
    """
    if (folder / MANIFEST_NAME).is_file():
        read_manifest(folder, verify=True)
    elif (folder.parent / MANIFEST_NAME).is_file():
        owner = read_manifest(folder.parent)
        if any(name.startswith(f"{folder.name}/") for name in owner.files):
            _verify(folder.parent, owner)


def work_folder(path: Path) -> Path:
    """The hidden sibling of `path` in which long work keeps what it resumes from."""
    return _sibling(path, "work")


def remove_at_once(folder: Path) -> None:
    """Remove the folder, if it is there; under another name, so that half of it, where somebody
    ends us meanwhile, is never taken for a whole one.
    """
    gone = folder.with_name(f".{folder.name.removeprefix('.')}.gone")
    if gone.exists():
        shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def write_bytes(path: Path, data: bytes, *, parents: bool = True) -> None:
    """Put `data` at `path` at once: written aside, flushed, renamed; makes folders if `parents`.

    Raises:
        ArtifactError: the disk refused.
    """
    target = _destination(path)
    aside = _sibling(target, f"{os.getpid()}.partial")
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        with suppress(OSError):  # where it could not be made, it cannot be removed
            aside.unlink(missing_ok=True)
        raise ArtifactError(f"{path}: cannot write ({error.strerror})") from error


def refuse_file(path: Path, *, ours: Callable[[bytes], bool], inputs: Iterable[Path] = ()) -> None:
    """Check that a file may be written at `path`, where somebody asked for it with -o.

    A file that stands there is replaced only if it is empty or `ours` says, of its first 64 kB,
    that it is an earlier result of the same command; within `replacing_anything`, always.

    Raises:
        ArtifactError: another file or a folder stands there, or it is among `inputs`.
    """
    target = _destination(path)
    if _anything.get():
        return
    force = "or replace it with --force"
    try:
        if any(_same(given, target) for given in inputs):
            raise ArtifactError(f"{path}: is what the command reads; choose another file, {force}")
        if target.is_dir():
            raise ArtifactError(f"{path}: is a folder; name a file")
        if target.exists():
            with target.open("rb") as file:
                begins = file.read(65_536)
            if begins and not ours(begins):
                raise ArtifactError(
                    f"{path}: is a file of another kind; choose another name, {force}"
                )
    except OSError as error:
        raise _unwritable(path, error) from error


def level_permissions(folder: Path) -> None:
    """Give all files below the permissions of any new file here: the umask's.

    Libraries that write aside and rename leave theirs readable by their owner alone.
    """
    if not _POSIX:
        return
    probe = folder / ".permissions"
    with probe.open("xb"):
        mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o777 != mode:
            file.chmod(mode)


def _finish(draft: Draft, kind: str, settings: dict[str, Any], inputs: dict[str, str]) -> Manifest:
    from trialese import __version__

    level_permissions(draft.folder)
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
    """Rename `aside` to `path`; what stood there goes last, so `_restore` can bring it back."""
    retired = _sibling(path, "retired")
    _remove(retired)
    if path.exists():
        path.rename(retired)
    aside.rename(path)
    _sync(path.parent)
    _verified.pop(path, None)
    _remove(retired)


def _restore(path: Path) -> None:
    """Bring back what a crash between the two renames of `_swap` left aside; needs the lock."""
    retired = _sibling(path, "retired")
    if retired.is_dir() and not path.exists():
        retired.rename(path)


def _recover(path: Path) -> bool:
    """Wait until no swap is under way at `path`, or undo one that a crash left half done.

    Whether a swap was seen. A reader never renames without the lock: it would take from a writer
    what that is about to replace.
    """
    retired = _sibling(path, "retired")
    until = time.monotonic() + _SWAP_SECONDS
    seen = False
    while retired.is_dir() and not path.exists() and time.monotonic() < until:
        seen = True
        try:
            with locked(path):
                _restore(path)
        except ArtifactError:
            time.sleep(0.01)  # the writer is between its two renames
        except OSError:
            break  # a place that cannot be written: what was left aside stays there
    return seen


def _decode_manifest(path: Path) -> Manifest:
    try:
        data = _read_manifest_file(_followed(path))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise ArtifactError(f"{str(path)!r}: no path ({error}); check it") from error
    if data is None and not path.exists():
        raise ArtifactError(f"{path}: no such folder; make it first (`trialese --help`)")
    if data is None:
        raise ArtifactError(_what_instead(path))
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path / MANIFEST_NAME}: damaged ({error}); make it anew") from error


def _read_manifest_file(path: Path) -> bytes | None:
    """The manifest's bytes; None where there is none, and not because it is being replaced."""
    file = path / MANIFEST_NAME
    until = time.monotonic() + _SWAP_SECONDS
    while True:
        try:
            return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            swapped = _recover(path)
            if not (swapped or file.is_file()) or time.monotonic() > until:
                return None


def _what_instead(path: Path) -> str:
    """Why a path without a manifest is no artifact, and what to give instead."""
    if path.is_file():
        return f"{path}: this is a file, but the folder of an artifact is needed here"
    inside = sorted(
        file.parent.relative_to(path).as_posix()
        for pattern in (f"*/{MANIFEST_NAME}", f"*/*/{MANIFEST_NAME}")
        for file in path.glob(pattern)
    )
    if inside:
        return (
            f"{path}: this folder holds artifacts and is none itself; give one of them: "
            f"{', '.join(inside[:12])}{', ...' if len(inside) > 12 else ''}"
        )
    for above in path.absolute().parents[:2]:
        if (above / MANIFEST_NAME).is_file():
            return f"{path}: this is a part of an artifact; give the whole one, {above}"
    return (
        f"{path}: no {MANIFEST_NAME}, so this is half-written or not trialese's; "
        "run the stage that makes it again"
    )


_verified: dict[Path, tuple[str, tuple[tuple[int, int, int], ...]]] = {}
"""What this process has compared already: the digest, and each file's inode, size and time."""


def _verify(path: Path, manifest: Manifest) -> None:
    state = []
    for name in manifest.files:
        file = path / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(f"{path / MANIFEST_NAME}: names {name}, outside its folder")
        if not file.is_file():
            raise ArtifactError(f"{file}: missing since it was written; run the stage again")
        found = file.stat()
        state.append((found.st_ino, found.st_size, found.st_mtime_ns))
    seen = (manifest.digest, tuple(state))
    if _verified.get(path) == seen:
        return
    again = "altered since it was written; run the stage again"
    if manifest.digest != digest_of({"key": manifest.key, "files": manifest.files}):
        raise ArtifactError(f"{path / MANIFEST_NAME}: {again}")
    for name, expected in manifest.files.items():
        try:
            same = digest_of_file(path / name) == expected
        except OSError as error:
            raise ArtifactError(f"{path / name}: cannot be read ({error.strerror})") from error
        if not same:
            raise ArtifactError(f"{path / name}: {again}")
    _verified[path] = seen


def _refuse(named: Path, path: Path, kind: str | None, inputs: frozenset[str]) -> None:
    """Refuse to write at `path`, which was `named`, if something would be lost or mixed up."""
    if _anything.get():
        return
    for above in path.absolute().parents:
        if (above / MANIFEST_NAME).is_file() and _manifest_or_none(above):
            raise ArtifactError(f"{named}: lies within the artifact {above}; choose another folder")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    found = _manifest_or_none(path)
    if kind is None and path.is_dir() and found is None:
        return
    force = "or replace it with --force"
    if found is None and not (path / MANIFEST_NAME).is_file():
        raise ArtifactError(
            f"{named}: holds something that trialese did not write; move it or choose another "
            f"folder, {force}"
        )
    if found is not None and (found.kind != kind or found.digest in inputs):
        ours = "what the command reads" if found.kind == kind else with_article(found.kind)
        raise ArtifactError(f"{named}: is {ours}; choose another folder, {force}")


def _manifest_or_none(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except ArtifactError:
        return None


def _destination(path: Path) -> Path:
    """Where what is written at `path` goes: its links followed.

    Raises:
        ArtifactError: no name for something new, such as the working folder or one above it.
    """
    try:
        if "\0" in str(path):
            raise ValueError("no name holds a NUL character")
        target = _followed(path)
        if target.is_dir() and Path.cwd().is_relative_to(target.resolve()):
            raise ArtifactError(
                f"{path}: this is the working folder, or one above it; name a folder within"
            )
    except OSError as error:
        raise _unwritable(path, error) from error
    except (ValueError, RuntimeError) as error:  # links that go round
        raise ArtifactError(f"{str(path)!r}: cannot be written ({error})") from error
    return target


def _followed(path: Path) -> Path:
    return path.resolve() if path.name in ("", "..") or path.is_symlink() else path


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):
        return one.samefile(other)
    return False


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _sibling(path: Path, suffix: str) -> Path:
    """The hidden neighbour of `path` with this suffix; a very long name is shortened for it."""
    name = path.name
    raw = os.fsencode(name)
    if len(raw) > _LONGEST_NAME:
        name = f"{raw[:120].decode(errors='ignore')}-{hashlib.sha256(raw).hexdigest()[:16]}"
    return path.with_name(f".{name}.{suffix}")


def _unwritable(path: Path, error: BaseException) -> ArtifactError:
    why = str(error)
    if isinstance(error, OSError):
        why = str(error.strerror or error)
        if error.filename is not None:
            why += f": {os.fsdecode(error.filename)}"
    return ArtifactError(
        f"{path}: cannot write ({why}); free some space or choose another folder; "
        "what stood there is untouched"
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path`; the kernel lets go of it however the process ends.

    Raises:
        ArtifactError: another process holds it.
        OSError: the folder cannot be written.
    """
    lock = _sibling(path, "lock")
    held = filelock.FileLock(lock, timeout=_LOCK_SECONDS, poll_interval=0.01, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout as error:
        if not lock.exists():  # some file systems refuse a new file by saying that it is not there
            raise OSError(errno.ENOENT, "no file can be made here", str(lock)) from error
        raise ArtifactError(
            f"{path}: another trialese is writing it; wait for that one or stop it"
        ) from error
    try:
        yield
    finally:
        if _POSIX:  # held while it goes: who waits for it finds it gone and makes a new one
            lock.unlink(missing_ok=True)
        held.release()


def _sync(path: Path) -> None:
    if not _POSIX and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
