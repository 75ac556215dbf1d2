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
    return sorted(
        each.name
        for each in path.parent.iterdir()
        if each.name not in (path.name, f".{path.name}.lock")
    )


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
