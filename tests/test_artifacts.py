from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from trialese import artifacts
from trialese.artifacts import (
    MANIFEST_NAME,
    artifact_key,
    as_settings,
    digest_of,
    is_complete,
    read_manifest,
    verify_files,
    work_folder,
    write_artifact,
    write_bytes,
)
from trialese.errors import ArtifactError
from trialese.settings import VerdictSettings


def write(path: Path, text: str = "one", **arguments: object) -> None:
    with write_artifact(path, kind="corpus", **arguments) as draft:  # type: ignore[arg-type]
        (draft.folder / "data.txt").write_text(text, encoding="utf-8")
        (draft.folder / "inner").mkdir()
        (draft.folder / "inner" / "more.txt").write_text("more", encoding="utf-8")
        draft.counts["documents"] = 3
        draft.notes["source"] = "sample"


def leftovers(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each.name != path.name)


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "corpus"
    write(path, settings={"a": 1}, inputs={"snapshot": "d" * 64})
    manifest = read_manifest(path, kind="corpus")
    assert manifest.counts == {"documents": 3}
    assert manifest.notes == {"source": "sample"}
    assert set(manifest.files) == {"data.txt", "inner/more.txt"}
    assert manifest.key == artifact_key("corpus", {"a": 1}, {"snapshot": "d" * 64})
    assert is_complete(path)
    assert is_complete(path, key=manifest.key)
    assert not is_complete(path, key="other")
    verify_files(path)
    assert leftovers(path) == []


def test_equal_input_gives_equal_bytes_and_another_setting_another_identity(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, settings={"b": 1, "a": 2})
    write(tmp_path / "other", settings={"b": 1, "a": 3})
    bytes_of = {n: (tmp_path / n / MANIFEST_NAME).read_bytes() for n in ("one", "two", "other")}
    assert bytes_of["one"] == bytes_of["two"]
    digests = {name: json.loads(data)["digest"] for name, data in bytes_of.items()}
    assert digests["one"] != digests["other"]


def test_digest_depends_on_the_files_too(tmp_path: Path) -> None:
    write(tmp_path / "one", "one")
    write(tmp_path / "two", "two")
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    assert one.key == two.key
    assert one.digest != two.digest


def test_digest_of_ignores_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert as_settings(VerdictSettings(seed=3))["seed"] == 3
    with pytest.raises(TypeError, match="must be a section"):
        as_settings([1])


def test_new_artifact_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    write(path, "one")
    with write_artifact(path, kind="corpus") as draft:
        (draft.folder / "other.txt").write_text("two", encoding="utf-8")
    assert set(read_manifest(path).files) == {"other.txt"}
    assert not (path / "data.txt").exists()
    assert leftovers(path) == []


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(3)])
def test_error_inside_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "corpus"
    write(path, "one")
    with pytest.raises(type(error)), write_artifact(path, kind="corpus") as draft:
        (draft.folder / "data.txt").write_text("two", encoding="utf-8")
        raise error
    assert (path / "data.txt").read_text(encoding="utf-8") == "one"
    verify_files(path)
    assert leftovers(path) == []


def test_full_disk_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    write(path, "one")
    with (
        pytest.raises(ArtifactError, match="No space left on device") as caught,
        write_artifact(path, kind="corpus") as draft,
    ):
        (draft.folder / "data.txt").write_text("two", encoding="utf-8")
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
    assert "what stood there is untouched" in str(caught.value)
    assert (path / "data.txt").read_text(encoding="utf-8") == "one"
    assert leftovers(path) == []


_TOO_LARGE = """
import sys, resource
from pathlib import Path
from trialese.artifacts import write_artifact
from trialese.errors import ArtifactError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with write_artifact(Path(sys.argv[1]), kind="corpus") as draft:
        (draft.folder / "data.txt").write_bytes(b"x" * 5000)
except ArtifactError as error:
    print(error)
"""


def test_file_over_the_limit_is_one_line(tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run(
        [sys.executable, "-c", _TOO_LARGE, str(tmp_path / "corpus")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "cannot write (File too large" in done.stdout
    assert not (tmp_path / "corpus").exists()


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"cannot write \((Not a directory|File exists)"):
        write(tmp_path / "file" / "corpus")


_KILLED = """
import sys, time
from pathlib import Path
from trialese.artifacts import write_artifact
with write_artifact(Path(sys.argv[1]), kind="corpus") as draft:
    (draft.folder / "data.txt").write_text("two")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_killed_writer_leaves_the_old_one_and_does_not_block_the_next(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    write(path, "one")
    writer = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        with pytest.raises(ArtifactError, match="another trialese is writing it"):
            write(path, "three")
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=30)
    verify_files(path)
    assert (path / "data.txt").read_text(encoding="utf-8") == "one"
    write(path, "three")
    assert (path / "data.txt").read_text(encoding="utf-8") == "three"
    assert leftovers(path) == []


def test_crash_between_the_two_renames_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "corpus"
    write(path, "one")
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        write(path, "two")
    monkeypatch.undo()
    assert not path.exists()
    assert is_complete(path)
    assert (path / "data.txt").read_text(encoding="utf-8") == "one"


def test_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    with pytest.raises(ValueError, match="bug"), write_artifact(path, kind="corpus"):
        raise ValueError("bug")
    with (tmp_path / ".corpus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    write(path, "an empty folder may be used")
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtifactError, match="holds something that trialese did not write"):
        write(foreign)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ArtifactError, match="trialese did not write"):
        write(tmp_path / "file")
    assert (foreign / "chapter.txt").read_text(encoding="utf-8") == "years of work"


def test_nothing_there_half_written_damaged_and_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    with pytest.raises(ArtifactError, match="no such folder; make it first"):
        read_manifest(path)
    assert not is_complete(path)
    write(path)
    with pytest.raises(ArtifactError, match="this is a corpus, but a model is needed here"):
        read_manifest(path, kind="model")
    manifest = path / MANIFEST_NAME
    whole = manifest.read_bytes()
    for damage in (whole[:50], b"\xff\xfe", b"[]", b'{"kind": 3}'):
        manifest.write_bytes(damage)
        with pytest.raises(ArtifactError, match="damaged"):
            read_manifest(path)
        assert not is_complete(path)
    manifest.unlink()
    with pytest.raises(ArtifactError, match="half-written or not trialese's"):
        read_manifest(path)


def test_missing_and_altered_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    write(path)
    (path / "data.txt").write_text("forged", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"data.txt: altered since it was written"):
        verify_files(path)
    (path / "data.txt").unlink()
    assert not is_complete(path)
    with pytest.raises(ArtifactError, match=r"data.txt: missing since it was written"):
        verify_files(path)


def test_no_clock_in_the_manifest(tmp_path: Path) -> None:
    write(tmp_path / "one")
    before = (tmp_path / "one" / MANIFEST_NAME).read_bytes()
    time.sleep(1.1)
    write(tmp_path / "one")
    assert (tmp_path / "one" / MANIFEST_NAME).read_bytes() == before
    assert msgspec.json.decode(before)["code_version"]


def test_write_bytes_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ledger.json"
    write_bytes(file, b"one")

    def refuses(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(ArtifactError, match="cannot write"):
        write_bytes(file, b"two")
    assert file.read_bytes() == b"one"
    assert [each.name for each in tmp_path.iterdir()] == ["ledger.json"]


def test_work_folder_is_a_hidden_sibling(tmp_path: Path) -> None:
    assert work_folder(tmp_path / "adapter") == tmp_path / ".adapter.work"
    assert artifacts.MANIFEST_NAME == "manifest.json"


def test_no_lock_file_stays_and_a_lock_that_was_removed_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    with artifacts.locked(path):
        assert (tmp_path / ".corpus.lock").exists()
        with pytest.raises(ArtifactError, match="another trialese"), artifacts.locked(path):
            pass
        (tmp_path / ".corpus.lock").unlink()  # as the holder does when it ends
        with artifacts.locked(path):
            pass
    assert list(tmp_path.iterdir()) == []


_CONTENDER = """
import sys, time
from pathlib import Path
from trialese import artifacts
from trialese.errors import ArtifactError
folder, until, held = Path(sys.argv[1]), time.monotonic() + 2, 0
while time.monotonic() < until:
    try:
        with artifacts.locked(folder / "corpus"):
            (folder / "inside").touch(exist_ok=False)
            (folder / "inside").unlink()
            held += 1
    except ArtifactError:
        pass
print(held)
"""


def test_of_many_processes_one_holds_a_lock_whose_file_comes_and_goes(tmp_path: Path) -> None:
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", _CONTENDER, str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    said = [contender.communicate(timeout=60) for contender in contenders]
    assert all(error == "" for _, error in said), said
    assert sum(int(held) for held, _ in said) > 100
    assert list(tmp_path.iterdir()) == []


def test_files_of_libraries_get_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with write_artifact(tmp_path / "model", kind="model") as draft:
            (draft.folder / "inner").mkdir()
            for name in ("model.safetensors", "inner/other.safetensors"):
                (draft.folder / name).touch()
                (draft.folder / name).chmod(0o600)
            (draft.folder / "config.json").touch()
    finally:
        os.umask(before)
    files = [file for file in (tmp_path / "model").rglob("*") if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}
    assert len(files) == 4


def test_a_link_stays_a_link_and_can_be_replaced_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "runs" / "corpus"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "disk" / "corpus")
    for text in ("one", "two", "three"):
        write(link, text)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "corpus" / "data.txt").read_text(encoding="utf-8") == text
    assert leftovers(link) == []
    assert leftovers(tmp_path / "disk" / "corpus") == []
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(ArtifactError, match=r"cannot be (written|read)|cannot write"):
        write(link)


_READER = """
import sys, time
from pathlib import Path
from trialese.artifacts import is_complete, read_manifest
path, until, read = Path(sys.argv[1]), time.monotonic() + 4, 0
while time.monotonic() < until:
    read_manifest(path, kind="corpus")
    assert is_complete(path) or is_complete(path) or is_complete(path)
    read += 1
print(read)
"""


def test_readers_never_break_a_replacement_nor_miss_what_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    write(path)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READER, str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    replaced = 0
    while any(reader.poll() is None for reader in readers):
        write(path, str(replaced))
        replaced += 1
    for reader in readers:
        out, error = reader.communicate(timeout=60)
        assert reader.returncode == 0, error[-2000:]
        assert int(out) > 0
    assert replaced > 20
    assert leftovers(path) == []


def test_only_the_same_kind_is_replaced_and_never_an_input(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    with write_artifact(snapshot, kind="snapshot") as draft:
        (draft.folder / "trials.parquet").write_bytes(b"trials")
    digest = read_manifest(snapshot).digest
    with pytest.raises(ArtifactError, match="snapshot: is a snapshot; choose another"):
        write(snapshot)
    with (
        pytest.raises(ArtifactError, match="is what the command reads"),
        write_artifact(snapshot, kind="snapshot", inputs={"snapshot": digest}),
    ):
        pass
    with pytest.raises(ArtifactError, match="lies within the artifact"):
        write(snapshot / "corpus")
    verify_files(snapshot)
    assert read_manifest(snapshot).digest == digest
    with artifacts.replacing_anything():
        write(snapshot)
    assert read_manifest(snapshot).kind == "corpus"
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").touch()
    with artifacts.replacing_anything(True):
        write(foreign)
    with pytest.raises(ArtifactError, match="is a corpus"), write_artifact(foreign, kind="model"):
        pass


def test_a_result_replaces_only_an_earlier_one(tmp_path: Path) -> None:
    def ours(begins: bytes) -> bool:
        return begins.startswith(b"id\t")

    file = tmp_path / "deep" / "out.tsv"
    for text in (b"id\tone", b"id\ttwo"):
        artifacts.refuse_file(file, ours=ours)
        write_bytes(file, text)
    with pytest.raises(ArtifactError, match="is what the command reads"):
        artifacts.refuse_file(file, ours=ours, inputs=[file])
    file.write_bytes(b"a,table,of,mine")
    with pytest.raises(ArtifactError, match="is a file of another kind"):
        artifacts.refuse_file(file, ours=ours)
    with pytest.raises(ArtifactError, match="is a folder; name a file"):
        artifacts.refuse_file(file.parent, ours=ours)
    with artifacts.replacing_anything():
        artifacts.refuse_file(file, ours=ours, inputs=[file])


def test_before_any_work_it_is_said_that_a_folder_will_not_be_replaced(tmp_path: Path) -> None:
    write(tmp_path / "corpus")
    (tmp_path / "x").mkdir()
    with pytest.raises(ArtifactError, match="is what the command reads"):
        artifacts.refuse_other(tmp_path / "x" / ".." / "corpus", "corpus",
                               inputs=[tmp_path / "corpus", tmp_path / "none"])  # fmt: skip
    with pytest.raises(ArtifactError, match="is a corpus"):
        artifacts.refuse_other(tmp_path / "corpus", None)
    with pytest.raises(ArtifactError, match="is a corpus"):
        artifacts.refuse_other(tmp_path / "corpus", "snapshot")
    artifacts.refuse_other(tmp_path / "corpus", "corpus")
    artifacts.refuse_other(tmp_path, None)  # holds other things, and will hold a few more
    with pytest.raises(ArtifactError, match="trialese did not write"):
        artifacts.refuse_other(tmp_path, "corpus")


def test_names_and_places_that_cannot_be_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("n" * 250)
    for text in ("one", "two"):
        write(long, text)
    verify_files(long)
    assert leftovers(long) == []
    inner = tmp_path / "here"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for path in (Path(), Path(".."), Path("../here"), Path("/")):
        with pytest.raises(ArtifactError, match="the working folder, or one above it"):
            write(path)
    for path in (tmp_path / ("n" * 300), Path("/proc/x"), Path("/proc/x/y"), tmp_path / "a\0b"):
        with pytest.raises(ArtifactError, match=r"cannot (write|be written)"):
            write(path)
        with pytest.raises(ArtifactError, match=r"cannot be read|no such folder|no path"):
            read_manifest(path)
        assert not is_complete(path)
    monkeypatch.chdir(long)
    assert read_manifest(Path()).kind == "corpus"


def test_what_stands_there_instead_of_an_artifact_is_told(tmp_path: Path) -> None:
    write(tmp_path / "run" / "sex" / "base")
    write(tmp_path / "run" / "corpus")
    with pytest.raises(ArtifactError, match=r"holds artifacts .* give one of them: corpus, sex/ba"):
        read_manifest(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"part of an artifact; give the whole one, .*corpus$"):
        read_manifest(tmp_path / "run" / "corpus" / "inner")
    with pytest.raises(ArtifactError, match="this is a file"):
        read_manifest(tmp_path / "run" / "corpus" / "data.txt")


def test_flipped_bits_are_found_on_request_and_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "corpus"
    write(path, "one")
    assert is_complete(path, verify=True)
    read: list[Path] = []
    digest_of_file = artifacts.digest_of_file

    def counted(file: Path) -> str:
        read.append(file)
        return digest_of_file(file)

    monkeypatch.setattr(artifacts, "digest_of_file", counted)
    read_manifest(path, verify=True)
    assert read == []  # the same files as a moment ago
    (path / "data.txt").write_text("onf", encoding="utf-8")
    assert is_complete(path)
    assert not is_complete(path, verify=True)
    with pytest.raises(ArtifactError, match="altered since it was written"):
        read_manifest(path, verify=True)
    assert read
    (path / "data.txt").write_text("one", encoding="utf-8")
    manifest = path / MANIFEST_NAME
    whole = manifest.read_bytes()
    forged = json.loads(whole)
    forged["files"]["data.txt"] = forged["files"]["inner/more.txt"]
    (path / "data.txt").write_text("more", encoding="utf-8")
    manifest.write_text(json.dumps(forged), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"manifest.json: altered"):
        verify_files(path)
    forged["files"] = {"../../../../../../../../dev/zero": "0" * 64}
    manifest.write_text(json.dumps(forged), encoding="utf-8")
    with pytest.raises(ArtifactError, match="outside its folder"):
        verify_files(path)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("I/O error: No space left on device (os error 28)"),
        Exception("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
        OSError(36, "File name too long"),
    ],
)
def test_a_full_disk_is_one_line_whatever_the_library_calls_it(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(ArtifactError, match="cannot write"):  # noqa: SIM117
        with write_artifact(tmp_path / "model", kind="model"):
            raise error
    with (
        pytest.raises(RuntimeError, match="a bug"),
        write_artifact(tmp_path / "model", kind="model"),
    ):
        raise RuntimeError("a bug (error 28)")
    assert list(tmp_path.iterdir()) == []
