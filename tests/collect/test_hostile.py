"""What strangers' files, folders and servers may do: a reject or one line, within bounds."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from pathlib import Path

import msgspec
import pytest

from trialese.collect.api import RegistryClient, RegistryError
from trialese.collect.collection import collect_snapshot
from trialese.collect.files import read_raw, regular_files
from trialese.collect.parse import parse_study
from trialese.collect.snapshot import read_rejects, read_trials
from trialese.collect.source import RawStudy, Reject, StudyError
from trialese.errors import RecordError, TrialeseError
from trialese.settings import CollectSettings, ReadLimits

DATA = Path(__file__).parents[1] / "data"
STUDY = (DATA / "study_v2.json").read_bytes()
LEGACY = (DATA / "study_legacy.xml").read_bytes()
CASES = Path(__file__).parents[2].parent / "shared" / "cases" / "hostile"
AACT = {
    "studies.txt": "nct_id|overall_status|brief_title\nNCT00000042|Completed|A trial\n",
    "conditions.txt": "id|nct_id|name\n1|NCT00000042|Cold\n",
    "facilities.txt": "id|nct_id|name\n1|NCT00000042|Clinic\n",
}


def collected(*paths, tmp_path, **limits):
    settings = CollectSettings(
        source="files", paths=tuple(map(str, paths)), limits=ReadLimits(**limits)
    )
    return collect_snapshot(settings, tmp_path / "snapshot")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "study.json").write_bytes(STUDY)
    return folder


def reasons_of(folder, tmp_path):
    """Origin -> reason of what was not read; the study must have been."""
    snapshot = collected(folder, tmp_path=tmp_path)
    assert [trial.nct_id for trial in read_trials(snapshot)] == ["NCT00000042"]
    rejects = read_rejects(snapshot)
    assert sum(snapshot.manifest.counts["rejects"].values()) == len(rejects)
    return {reject.origin: reject.reason for reject in rejects}


def test_odd_files_in_a_folder_are_counted_and_the_rest_is_read(folder, tmp_path):
    (folder / "empty.json").touch()
    (folder / "README.md").write_text("# How these files came here\n\nThey were downloaded.\n")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._study.json").write_bytes(b"\0\5\26\7")
    (folder / "photo.json").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    (folder / "protocol.pdf").write_bytes(b"%PDF-1.7\n" + bytes(200))
    (folder / "package.json").write_text('{"name": "a", "scripts": {"text": "b"}}')
    (folder / "cut.json.gz").write_bytes(gzip.compress(STUDY)[:-200])
    (folder / "cut.zip").write_bytes(b"PK\3\4" + bytes(60))
    (folder / "cut.parquet").write_bytes(b"PAR1" + bytes(60))
    (folder / "inner").mkdir()
    (folder / "inner" / "page.html").write_text("<!doctype html><p>not found</p>")
    found = reasons_of(folder, tmp_path)
    assert found.pop("cut.parquet") in ("damaged_file", "foreign")
    assert found == {
        "empty.json": "empty",
        "README.md": "foreign",
        "__MACOSX": "foreign",
        "photo.json": "foreign",
        "protocol.pdf": "foreign",
        "package.json": "no_study",
        "cut.json.gz": "damaged_file",
        "cut.zip": "damaged_file",
        "page.html": "no_study",
    }


def test_only_regular_files_of_a_folder_are_read(folder, tmp_path):
    os.mkfifo(folder / "pipe")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as unix:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path may have 107 characters
        unix.bind("socket")
        os.chdir(here)
        (folder / "broken").symlink_to("nowhere")
        (folder / "loop").symlink_to("loop")
        (folder / "back").symlink_to(folder)
        (folder / "zero").symlink_to("/dev/zero")
        found = reasons_of(folder, tmp_path)
    assert found == dict.fromkeys(
        ["pipe", "socket", "broken", "loop", "back", "zero"], "not_a_file"
    )


def test_names_that_are_no_text_and_deep_folders(folder, tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    (folder / name).write_text("nothing\n")
    (folder / "a\x1b[31m.txt").write_text("nothing\n")
    deep = folder
    for _ in range(80):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "study.json").write_bytes(STUDY)
    found = reasons_of(folder, tmp_path)
    assert found.pop("caf\\xe9.txt") == "foreign"
    assert found.pop("a\\x1b[31m.txt") == "foreign"
    assert set(found.values()) == {"too_deep"}
    with pytest.raises(RecordError, match=r"caf\\xe9\.txt: a name that is no UTF-8 text"):
        collected(folder / name, tmp_path=tmp_path)
    assert len([*regular_files(folder)]) == 3


def test_a_device_or_an_empty_name_is_one_line(tmp_path):
    with pytest.raises(RecordError, match="/dev/zero: a device or a socket"):
        collected("/dev/zero", tmp_path=tmp_path)
    with pytest.raises(RecordError, match="an empty name instead of a file's"):
        collected("", tmp_path=tmp_path)
    with pytest.raises(RecordError, match="cannot be read"):
        collected("x" * 300, tmp_path=tmp_path)


def test_a_pipe_is_read_from_its_first_byte(tmp_path):
    for number, data in enumerate([STUDY, gzip.compress(STUDY), _zip({"a.json": STUDY})]):
        pipe = tmp_path / f"pipe{number}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        snapshot = collected(pipe, tmp_path=tmp_path)
        writer.join()
        assert [trial.nct_id for trial in read_trials(snapshot)] == ["NCT00000042"]
        assert snapshot.manifest.notes["paths"] == [pipe.name]


def test_standard_input_can_be_named(tmp_path):
    command = [sys.executable, "-m", "trialese", "collect", "/dev/stdin", "-o", tmp_path / "s"]
    subprocess.run(command, input=STUDY, check=True, capture_output=True)
    assert json.loads((tmp_path / "s" / "manifest.json").read_bytes())["counts"]["trials"] == 1


def _zip(entries):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target.getvalue()


def _tar(entries, mode):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (_tar({"a.json": STUDY}, "w"), "a tar archive; unpack it and give the folder"),
        (_tar({"a.json": STUDY}, "w:gz"), "a tar archive; unpack it and give the folder"),
        (b"%PDF-1.4\n%\xe2\xe3\n", "a PDF; download the record as JSON or XML"),
        (b"TY  - JOUR\r\nTI  - A trial\r\nER  -\r\n", "a reference list .RIS.; export"),
        (b"<Trials_downloaded_from_ICTRP><Trial/></Trials_downloaded_from_ICTRP>", "ICTRP's XML"),
        (b"TrialID,Public_title,Scientific_title\nNCT1,a,b\n", "ICTRP's table; give it to --ids"),
        (b"<html><body>Not found</body></html>", "a web page; download the record as JSON"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7-Zip archive; unpack it"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0", "a pickle, which is never read"),
        (b"{\\rtf1\\ansi a study}", "a rich-text document"),
        (_zip({"[Content_Types].xml": "<a/>", "word/document.xml": "<a/>"}), "an Office document"),
        (gzip.compress(gzip.compress(gzip.compress(gzip.compress(STUDY)))), "over 3 times"),
    ],
)
def test_files_of_other_kinds_are_named_by_their_first_bytes(tmp_path, data, what):
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=what) as caught:
        collected(path, tmp_path=tmp_path)
    assert "\n" not in str(caught.value)


def test_compressed_twice_is_read(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(gzip.compress(STUDY)))
    assert collected(tmp_path / "a.gz", tmp_path=tmp_path).manifest.counts["trials"] == 1


@pytest.mark.parametrize("packed", [False, True])
def test_aact_tables_in_a_folder_or_alone(tmp_path, packed):
    folder = tmp_path / "export"
    folder.mkdir()
    for name, text in AACT.items():
        (folder / name).write_text(text)
    (folder / "study.json").write_bytes(STUDY.replace(b"NCT00000042", b"NCT00000043"))
    path = folder
    if packed:
        path = tmp_path / "export.zip"
        path.write_bytes(_zip({f"x/{p.name}": p.read_bytes() for p in folder.iterdir()}))
    snapshot = collected(path, tmp_path=tmp_path)
    first, second = read_trials(snapshot)
    assert (first.brief_title, first.conditions) == ("A trial", ("Cold",))
    assert second.nct_id == "NCT00000043"
    assert snapshot.manifest.counts["rejects"] == {}


@pytest.mark.parametrize("name", ["eligibilities.txt", "table.dat"])
def test_one_aact_table_alone(tmp_path, name):
    text = "id|nct_id|gender|criteria\n1|NCT00000042|Female|~Adults~\n"
    (tmp_path / name).write_text(text)
    (tmp_path / "one.zip").write_bytes(_zip({"eligibilities.txt": text}))
    (tmp_path / "t.gz").write_bytes(gzip.compress(text.encode()))
    for path in (tmp_path / name, tmp_path / "one.zip", tmp_path / "t.gz"):
        (trial,) = read_trials(collected(path, tmp_path=tmp_path))
        assert (trial.nct_id, trial.sex, trial.eligibility_criteria) == (
            "NCT00000042", "Female", "Adults",
        )  # fmt: skip


PEAK = """
import resource, sys
from pathlib import Path
from trialese.collect.collection import collect_snapshot
from trialese.errors import RecordError
from trialese.settings import CollectSettings
try:
    collect_snapshot(CollectSettings(source="files", paths=(sys.argv[1],)), Path(sys.argv[2]))
    print("read")
except RecordError as error:
    print(error)
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(high.split()[1]) * 1024)
"""


def bomb_line(path):
    """One line of 1 GiB, as gzip."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"protocolSection": {"a": "')
        for _ in range(1024):
            file.write(b"word" * 2**18)
        file.write(b'"}}\n')


def bomb_numbers(path):
    with path.open("wb") as file:
        file.write(b'{"studies": [0')
        for _ in range(130):
            file.write(b",0" * 10**6)
        file.write(b"]}")


def bomb_objects(path):
    path.write_bytes(b"[" + b"{}," * (60 * 2**20 // 3) + b"{}]")


def bomb_brackets(path):
    path.write_bytes(b"[" * 2**27)


def bomb_tags(path):
    path.write_bytes(b"<clinical_study>" + b"<a/>" * (15 * 2**20) + b"</clinical_study>")


def bomb_gz(path):
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(256):
            file.write(b" " * 2**20)


def bomb_middling(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(80):
            archive.writestr(f"{number}.json", b" " * (15 * 2**20))


def bomb_row(path):
    path.write_bytes(b'{"text": [' + b"[]," * (50 * 2**20 // 3) + b"[]]}")


BOMBS = {
    bomb_line: "document_bytes|unpacking_ratio",
    bomb_numbers: "numbers in it are no studies|no study among",
    bomb_objects: "no study among its first 1,000 values",
    bomb_brackets: "limits.nesting",
    bomb_tags: "xml_tags",
    bomb_gz: "unpacking_ratio",
    bomb_middling: "unpacking_ratio",
    bomb_row: "too large for a row",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_bombs_take_little_memory_and_name_the_limit(tmp_path, bomb):
    bomb(tmp_path / "bomb")
    command = [sys.executable, "-c", PEAK, tmp_path / "bomb", tmp_path / "snapshot"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    message, peak = done.stdout.strip().rsplit("\n", 1)
    assert any(part in message for part in BOMBS[bomb].split("|")), message
    assert int(peak) < 600 * 2**20


def test_small_bombs_name_their_limit(tmp_path):
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * (70 * 2**20) + STUDY, 9))
    with pytest.raises(RecordError, match=r"limits\.unpacking_ratio"):
        collected(path, tmp_path=tmp_path)
    with pytest.raises(RecordError, match=r"limits\.unpacked_bytes"):
        collected(path, tmp_path=tmp_path, unpacking_ratio=10**6, unpacked_bytes=1000)
    path.write_bytes(LEGACY)
    with pytest.raises(RecordError, match=r"limits\.xml_tags"):
        collected(path, tmp_path=tmp_path, xml_tags=3)
    with pytest.raises(RecordError, match=r"limits\.document_bytes"):
        collected(path, tmp_path=tmp_path, document_bytes=100)
    path.write_bytes(_zip({"a.json": STUDY, "b.json": STUDY}))
    with pytest.raises(RecordError, match=r"limits\.archive_entries"):
        collected(path, tmp_path=tmp_path, archive_entries=1)
    path.write_bytes(b"[" * 400)
    with pytest.raises(RecordError, match=r"^bomb.*limits\.nesting"):
        collected(path, tmp_path=tmp_path, nesting=300)
    path.write_bytes(STUDY + b"\n" + b'{"a": 1}\n' * 9)
    with pytest.raises(RecordError, match=r"limits\.rejects"):
        collected(path, tmp_path=tmp_path, rejects=5)


def test_limits_leave_no_trace_in_a_snapshot(folder, tmp_path):
    first = collected(folder, tmp_path=tmp_path).manifest
    assert collected(folder, tmp_path=tmp_path, document_bytes=10**6).manifest == first


def sources():
    """One small file of each kind that is not read by a process of its own."""
    page = json.dumps({"studies": [json.loads(STUDY)]}).encode()
    v1 = {"NCTId": "NCT00000042", "BriefTitle": "A", "Phase": ["Phase 1"]}
    rows = b'id,text\n1,first text\n2,"second, text"\n'
    return {
        "study.json": STUDY,
        "page.json": page,
        "lines.jsonl": STUDY.replace(b"\n", b" ") + b"\n" + page + b"\n",
        "v1.json": json.dumps({"FullStudies": [{"Study": {"ProtocolSection": v1}}]}).encode(),
        "rows.json": b'[{"_id": "a", "text": "first"}, "second", 3, {"text": ["third"]}]',
        "study.xml": LEGACY,
        "rows.csv": rows,
        "study.json.gz": gzip.compress(STUDY),
        "studies.zip": _zip({"a.json": STUDY, "b.xml": LEGACY, "c.csv": rows}),
        "gz.zip": _zip({"a.json.gz": gzip.compress(STUDY)}),
        "aact.zip": _zip(AACT),
        "table.txt": AACT["studies.txt"].encode(),
    }


def mutated(data, chance):
    """The data with some bytes changed, taken out, doubled, or the end cut off."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        at = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)]) if data else b""
        elif kind == 2:
            del data[at : at + chance.choice([1, 2, 30])]
        elif kind == 3:
            data[at:at] = data[at : at + chance.choice([1, 4, 100])]
        elif chance.random() < 0.3:
            del data[at:]
        else:
            data[at:at] = chance.choice([b'"', b"{", b"[", b"]", b"}", b"\n", b"\0", b"NaN", b"|"])
    return bytes(data)


def survive(path):
    """How many items came of the file; anything but a reject or our own error is a failure."""
    count = 0
    try:
        for item in read_raw(path):
            count += 1
            if isinstance(item, RawStudy):
                with contextlib.suppress(StudyError):
                    parse_study(item)
            else:
                assert isinstance(item, Reject)
                json.dumps([item.origin, item.detail]).encode()
    except TrialeseError as error:
        assert "\n" not in str(error)
    return count


def fuzz(path, times, seed):
    chance = random.Random(seed)
    kinds = sources()
    for number in range(times):
        name = chance.choice(sorted(kinds))
        data = mutated(kinds[name], chance)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile warns of names that stand twice
                survive(path)
        except BaseException as error:
            raise AssertionError(f"{name}, seed {seed}, mutation {number}: {error!r}") from error
    return times


def test_mutated_files_give_items_or_one_line(tmp_path):
    for name, data in sources().items():
        (tmp_path / name).write_bytes(data)
        assert survive(tmp_path / name) > 0, name
    fuzz(tmp_path / "mutated", 300, seed=7)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutated_files_give_items_or_one_line(tmp_path):
    times = int(os.environ.get("TRIALESE_MUTATIONS", "20000"))
    assert fuzz(tmp_path / "mutated", times, seed=11) == times


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")
def test_the_cases_of_an_attack(tmp_path):
    for path in sorted(CASES.iterdir()):
        survive(path)
    assert survive(CASES / "gz-in-gz.json.gz") == 1


class Drip(threading.Thread):
    """A server that answers every request with the same bytes, and then goes on dripping."""

    def __init__(self, answer, drip=b"", pause=0.05):
        super().__init__(daemon=True)
        self.answer, self.drip, self.pause = answer, drip, pause
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.requests = 0
        self.start()

    def run(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.requests += 1
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError), client:
            client.recv(2**16)
            client.sendall(self.answer)
            while self.drip:
                client.sendall(self.drip)
                time.sleep(self.pause)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.drip = b""
        self.socket.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HOSTILE = {
    "a body that drips": (OK + b"Content-Length: 999999\r\n\r\n{", b" ", 0.05, "answer_seconds"),
    "a header that drips": (b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05, "answer_seconds"),
    "a body without end": (OK + b"\r\n{", b" " * 2**16, 0.0, "answer_bytes"),
    "a gzip bomb": (
        OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
        + gzip.compress(b" " * 2**23), b"", 0, "answer_bytes",
    ),
    "a bomb in a bomb": (
        OK + b"Content-Encoding: gzip, gzip\r\nConnection: close\r\n\r\n"
        + gzip.compress(gzip.compress(b" " * 2**23)), b"", 0, "compressed several times",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_registry_is_given_up_within_bounds(name):
    answer, drip, pause, complaint = HOSTILE[name]
    with Drip(answer, drip, pause) as server:
        settings = CollectSettings(
            source="registry", url=server.url, retries=1, pause_seconds=0.0, timeout_seconds=5,
            limits=ReadLimits(answer_seconds=0.5, answer_bytes=2**22),
        )  # fmt: skip
        began = time.monotonic()
        with pytest.raises(RegistryError, match=complaint) as caught:
            RegistryClient(settings).version()
        assert time.monotonic() - began < 5
        assert server.requests == 2
    assert "\n" not in str(caught.value)


def test_a_download_without_end_is_given_up(tmp_path):
    with Drip(OK + b"\r\n", b"x" * 2**16, 0.0) as server:
        limits = ReadLimits(download_bytes=2**20)
        client = RegistryClient(CollectSettings(source="registry", url=server.url, limits=limits))
        with pytest.raises(RegistryError, match=r"limits\.download_bytes"):
            client.download("/x", {}, tmp_path / "archive")
    with Drip(OK + b"Content-Length: 99999\r\n\r\n", b"x", 0.01) as server:
        limits = ReadLimits(answer_seconds=0.3)
        settings = CollectSettings(
            source="registry", url=server.url, limits=limits, retries=2, pause_seconds=0.0
        )
        with pytest.raises(RegistryError, match="3 times"):
            RegistryClient(settings).download("/x", {}, tmp_path / "slow")


@pytest.mark.parametrize("empty", [False, True])
def test_pages_without_end_are_given_up(registry, tmp_path, monkeypatch, empty):
    monkeypatch.setattr("trialese.collect.crawl.SURPLUS_STUDIES", 20)
    monkeypatch.setattr("trialese.collect.crawl.MAX_EMPTY_PAGES", 3)
    token = iter(range(10**9))
    whole = RegistryClient.get

    def get(self, path, query, kind):
        if path != "/studies":
            return whole(self, path, query, kind)
        studies = [] if empty else [json.loads(STUDY)] * 5
        page = {"studies": studies, "nextPageToken": f"t{next(token)}", "totalCount": 7}
        data = json.dumps(page).encode()
        return data, msgspec.json.decode(data, type=kind)

    monkeypatch.setattr(RegistryClient, "get", get)
    settings = CollectSettings(source="registry", url=registry.url, pause_seconds=0.0)
    with pytest.raises(RegistryError, match="did not stand still in 5 attempts"):
        collect_snapshot(settings, tmp_path / "snapshot")
    assert next(token) < 100


@pytest.mark.parametrize("day", ["2022-13-01", "2022-02-30"])
def test_a_day_that_is_none_is_refused_before_the_network(day, registry):
    command = [
        sys.executable, "-m", "trialese", "collect", "--since", day, "--dry-run",
        "--set", f"collect.url={registry.url}", "-o", "nowhere",
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "YYYY-MM-DD" in done.stderr
    assert registry.asked == []
