"""A finished run kept up to date: day by day, through whatever the registry and the machine do."""

from __future__ import annotations

import base64
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from starlette.testclient import TestClient

from tests.loopback import Registry, id_of, serving
from trialese.artifacts import read_manifest, verify_files, write_artifact, write_bytes
from trialese.collect.collection import collect_snapshot
from trialese.collect.sample import sample_study
from trialese.collect.snapshot import open_snapshot, read_trials
from trialese.errors import ArtifactError, RecipeError, RecordError, RegistryError
from trialese.generations import (
    KIND,
    current_generation,
    generation_bytes,
    generation_folder,
    list_generations,
    open_generation,
    promote,
    read_pointer,
    roll_back,
)
from trialese.pipeline import refresh as module
from trialese.pipeline.changes import TrialChange, write_feeds
from trialese.pipeline.refresh import Outcome, check_webhook, notify, read_run_recipe, refresh
from trialese.recipe import parse_recipe
from trialese.settings import SampleSettings, ServeSettings
from trialese.tasks.finetune import finetune
from trialese.tasks.history import extend_history, read_held, read_history
from trialese.web.app import create_app
from trialese.web.changeover import Changeover
from trialese.web.models import open_served_generation

SAMPLE = SampleSettings(studies=400, to_date="2024-08-31")
RECIPE = """
name = "run"
folder = "{folder}"
[collect]
source = "registry"
url = "{url}"
query = "asthma"
pause_seconds = 0.0
retries = 0
page_size = 100
[tasks]
names = ["sex"]
[tasks.sex]
run_folds = 1
[refresh]
keep = 3
"""


def made_up(number: int) -> dict[str, Any]:
    """A study of the sample, as a real one."""
    study = sample_study(SAMPLE, number)
    del study["synthetic"], study["syntheticStopReasons"]
    return study


def day_of(number: int) -> str:
    """The calendar of the synthetic year."""
    import datetime

    return (datetime.date(2024, 9, 1) + datetime.timedelta(days=number)).isoformat()


class YearOfDays:
    """The registry changes every day, and misbehaves on some; reproducible by its seed."""

    def __init__(self, registry: Registry, seed: int = 7) -> None:
        self.registry, self.rng = registry, random.Random(seed)
        self.next_number = len(registry.studies)
        self.withdrawn: list[dict[str, Any]] = []
        self.merged: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def live(self, day: int) -> None:
        """What happens on one day."""
        rng, studies, today = self.rng, self.registry.studies, day_of(day)
        self.registry.day = today
        self.registry.silent = False
        for _ in range(rng.randint(0, 2)):
            study = made_up(self.next_number)
            status = study["protocolSection"]["statusModule"]
            status["studyFirstPostDateStruct"]["date"] = today
            status["lastUpdatePostDateStruct"]["date"] = today
            studies.append(study)
            self.next_number += 1
        for study in rng.sample(studies, 2):
            self.update(study, today)
        if day % 3 == 0:  # an update that appears days after its date
            self.update(rng.choice(studies), day_of(max(day - rng.randint(1, 10), 0)))
        if day % 7 == 1:
            self.withdrawn.append(studies.pop(rng.randrange(len(studies))))
        if day % 11 == 5 and self.withdrawn:
            studies.append(self.withdrawn.pop(0))
        if day % 9 == 4:
            kept, obsolete = rng.sample(studies, 2)
            identity = kept["protocolSection"]["identificationModule"]
            identity["nctIdAliases"] = [*identity.get("nctIdAliases", ()), id_of(obsolete)]
            self.update(kept, today)
            studies.remove(obsolete)
        if day % 10 == 6:  # a field that nobody knows yet
            module_ = rng.choice(studies)["protocolSection"]["designModule"]
            module_[f"schemaField{day}"] = {"value": day}
        if day % 13 == 8:
            self.registry.silent = True

    def update(self, study: dict[str, Any], today: str) -> None:
        protocol = study["protocolSection"]
        protocol["statusModule"]["lastUpdatePostDateStruct"] = {"date": today}
        kind = self.rng.randrange(3)
        if kind == 0:
            protocol["statusModule"] |= {"overallStatus": "TERMINATED", "whyStopped": f"T {today}"}
        elif kind == 1:
            protocol["eligibilityModule"]["eligibilityCriteria"] += f"\n* Women, {today}"
        else:
            protocol["designModule"]["enrollmentInfo"] = {"count": self.rng.randrange(1000)}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run over 400 studies with a linear classifier; read only."""
    folder = tmp_path_factory.mktemp("template")
    with serving(Registry([made_up(number) for number in range(400)])) as server:
        server.day = day_of(0)
        recipe = parse_recipe(RECIPE.format(folder=folder, url=server.url))
        snapshot = collect_snapshot(recipe.collect, folder / "run" / "snapshot")
    home = folder / "run"
    finetune("sex", "tfidf", snapshot=snapshot, settings=recipe.tasks, path=home / "sex" / "tfidf")
    write_bytes(home / "recipe.json", msgspec.json.encode(recipe))
    return home


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry([made_up(number) for number in range(400)])) as server:
        server.day = day_of(0)
        yield server


@pytest.fixture
def run(template: Path, registry: Registry, tmp_path: Path) -> Path:
    """A copy of the run, whose recipe names the registry that answers now."""
    home = tmp_path / "run"
    shutil.copytree(template, home)
    recipe = json.loads((home / "recipe.json").read_bytes())
    recipe["collect"]["url"] = registry.url
    recipe["folder"] = str(tmp_path)
    write_bytes(home / "recipe.json", json.dumps(recipe).encode())
    return home


def go(run: Path, **more: Any) -> Outcome:
    return refresh(run, read_run_recipe(run), **more)


def rescored(run: Path, folder: Path, task: str = "sex") -> Any:
    """Predictions of the current snapshot, every trial scored afresh."""
    now = current_generation(run)
    assert now is not None
    snapshot = open_snapshot(now.snapshot)
    extend_history(
        now.classifiers[task], snapshot, folder / "layers", generation=now.number,
        work=folder / "work",
    )  # fmt: skip
    held = read_held(sorted((folder / "layers").glob("*.parquet")))
    return {name: (row.labels, row.scores) for name, row in held.items()}


def held_now(run: Path, task: str = "sex") -> Any:
    now = current_generation(run)
    assert now is not None
    held = read_held(now.predictions(task))
    return {name: (row.labels, row.scores) for name, row in held.items()}


def fresh_rows(run: Path, folder: Path) -> Any:
    made = collect_snapshot(read_run_recipe(run).collect, folder)
    return list(read_trials(made)), made.manifest.counts["trials"]


def test_the_first_refresh_takes_the_run_over(run: Path) -> None:
    outcome = go(run)
    assert (outcome.outcome, outcome.generation, outcome.decision) == ("promoted", 1, "adopted")
    assert 380 < outcome.scored <= 400
    now = current_generation(run)
    assert now is not None
    verify_files(now.path)
    assert read_manifest(now.snapshot).digest == read_manifest(run / "snapshot").digest
    assert generation_bytes(run)[1] > 0
    again = go(run)
    assert (again.outcome, again.generation, again.status) == ("nothing to do", 1, 0)
    assert again.as_line().endswith("generation 1 stays in use")
    forced = go(run, force=True).as_line()
    assert forced.endswith("(no language model: the classifiers stand on no language model)")
    assert not (run / "generations" / ".work").exists()


def test_one_day(run: Path, registry: Registry, tmp_path: Path) -> None:
    go(run)
    stopped = registry.studies[5]["protocolSection"]
    stopped["statusModule"] |= {"overallStatus": "TERMINATED", "whyStopped": "No money <&>"}
    stopped["statusModule"]["lastUpdatePostDateStruct"] = {"date": day_of(1)}
    criteria = registry.studies[6]["protocolSection"]
    criteria["eligibilityModule"]["eligibilityCriteria"] += "\n* Women only"
    criteria["statusModule"]["lastUpdatePostDateStruct"] = {"date": day_of(1)}
    gone = registry.studies.pop(7)
    registry.studies.append(made_up(500))
    registry.day = day_of(1)
    outcome = go(run)
    assert (outcome.outcome, outcome.generation, outcome.status) == ("promoted", 2, 0)
    assert (outcome.new, outcome.changed, outcome.gone) == (1, 2, 1)
    assert outcome.scored == 2  # a reason for stopping is not what this task reads
    now = current_generation(run)
    assert now is not None
    lines = [json.loads(line) for line in (run / "feed.jsonl").read_text().splitlines()]
    told = {(line["what"], line["nct_id"]): line for line in lines}
    assert ("gone", id_of(gone)) in told
    why = told["changed", stopped["identificationModule"]["nctId"]]
    assert why["fields"][0] == "why_stopped"
    assert why["now"]["why_stopped"] == "No money <&>"
    lines = told["changed", criteria["identificationModule"]["nctId"]]
    assert lines["criteria"] == ["+* Women only"]
    feed = ET.fromstring((run / "feed.xml").read_bytes())
    atom = "{http://www.w3.org/2005/Atom}"
    assert len(feed.findall(f"{atom}entry")) == 4
    assert "No money <&>" in "".join(feed.itertext())
    assert all(each.find(f"{atom}link") is not None for each in feed.findall(f"{atom}entry"))
    assert "National Library of Medicine" in feed.findtext(f"{atom}rights", "")
    page = (now.path / "report.html").read_text("utf-8")
    assert "No money &lt;&amp;&gt;" in page
    assert held_now(run) == rescored(run, tmp_path / "full")
    history = read_history(now.predictions("sex"), criteria["identificationModule"]["nctId"])
    assert [row.generation for row in history] == [1, 2]
    first, second = (each[1] for each in generation_bytes(run).items())
    assert second < first / 2


def test_a_run_of_an_odd_name_has_a_feed_that_readers_take(run: Path, registry: Registry) -> None:
    recipe = json.loads((run / "recipe.json").read_bytes()) | {"name": "März & <b>\x07"}
    write_bytes(run / "recipe.json", json.dumps(recipe).encode())
    go(run)
    registry.day = day_of(1)
    registry.studies.pop()
    go(run)
    feed = ET.fromstring((run / "feed.xml").read_bytes())
    found = [each.text or "" for each in feed.iter("{http://www.w3.org/2005/Atom}id")]
    assert found[0] == "urn:trialese:M%C3%A4rz%20%26%20%3Cb%3E%07"
    assert found[1].startswith(f"{found[0]}:2:NCT9")
    assert "März & <b> : trials that came" in "".join(feed.itertext())


@pytest.mark.parametrize(
    ("timestamp", "instant"),
    [
        ("2024-09-25T09:00:05", "2024-09-25T09:00:05Z"),
        ("2024-09-25T23:30:00-04:00", "2024-09-26T03:30:00Z"),
        ("2024-09-25T09:00:05.123Z", "2024-09-25T09:00:05Z"),
        ("2024-09-25", "2024-09-25T00:00:00Z"),
        ("2024-09", "2024-09-01T00:00:00Z"),
        ("2024", "2024-01-01T00:00:00Z"),
        ("soon", "1970-01-01T00:00:00Z"),
        (None, "1970-01-01T00:00:00Z"),
    ],
)
def test_the_feed_tells_times_as_its_readers_want_them(
    timestamp: str | None, instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = TrialChange(
        generation=2, what="new", nct_id="NCT1", title="A", data_timestamp=timestamp
    )
    with write_artifact(generation_folder(tmp_path, 2), kind=KIND) as draft:
        (draft.folder / "changes.jsonl").write_bytes(msgspec.json.encode(change))
        draft.notes |= {"run": "r", "synthetic": False, "lineage": [2], "data_timestamp": timestamp}
    promote(tmp_path, open_generation(tmp_path, 2))
    write_feeds(tmp_path)
    feed = ET.fromstring((tmp_path / "feed.xml").read_bytes())
    told = {each.text for each in feed.iter("{http://www.w3.org/2005/Atom}updated")}
    assert told == {instant}


def test_nobody_enrolled_is_told_as_a_number(run: Path, registry: Registry) -> None:
    go(run)
    protocol = registry.studies[5]["protocolSection"]
    protocol["designModule"]["enrollmentInfo"] = {"count": 0}
    protocol["statusModule"]["lastUpdatePostDateStruct"] = {"date": day_of(1)}
    registry.day = day_of(1)
    page = Path(go(run).report).read_text("utf-8")
    assert "+ enrollment: 0<" in page


@pytest.mark.parametrize("days", [9, pytest.param(365, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_every_day_equals_one_collected_and_scored_afresh(
    days: int, run: Path, registry: Registry, tmp_path: Path
) -> None:
    year = YearOfDays(registry)
    silent = 0
    for day in range(1, days + 1):
        year.live(day)
        if registry.silent:
            silent += 1
            before = read_pointer(run)
            with pytest.raises(RegistryError):
                go(run)
            assert read_pointer(run) == before
            continue
        go(run)
        now = current_generation(run)
        assert now is not None
        fresh, trials = fresh_rows(run, tmp_path / "fresh")
        assert list(read_trials(open_snapshot(now.snapshot))) == fresh, f"day {day}"
        assert now.manifest.notes["trials"] == trials
        if day % 5 == 0 or days < 20:
            full = rescored(run, tmp_path / "full")
            assert held_now(run) == full, f"day {day}"
            shutil.rmtree(tmp_path / "full")
        shutil.rmtree(tmp_path / "fresh")
    assert silent == len([day for day in range(1, days + 1) if day % 13 == 8])
    assert len(list_generations(run)) == 3


def test_generations_are_pruned_and_rolled_back(run: Path, registry: Registry) -> None:
    year = YearOfDays(registry)
    for day in range(5):
        year.live(day)
        go(run)
    pointer = read_pointer(run)
    assert pointer is not None
    numbers = list_generations(run)
    assert len(numbers) == 3
    assert numbers[-1] == pointer.generation
    found = roll_back(run)
    assert found.number == numbers[-2]
    year.live(6)
    outcome = go(run)
    assert outcome.generation == numbers[-1] + 1  # a number is never given twice
    now = current_generation(run)
    assert now is not None
    assert numbers[-1] not in now.lineage
    with pytest.raises(ArtifactError, match="no generation 99"):
        roll_back(run, 99)


def test_a_run_made_again_is_taken_over_again(run: Path, registry: Registry) -> None:
    go(run)
    registry.day = day_of(1)
    registry.studies.pop()
    assert go(run).generation == 2
    recipe = read_run_recipe(run)
    settings = msgspec.structs.replace(
        recipe.tasks, sex=msgspec.structs.replace(recipe.tasks.sex, max_trials=300)
    )
    snapshot = open_snapshot(run / "snapshot")
    finetune("sex", "tfidf", snapshot=snapshot, settings=settings, path=run / "sex" / "tfidf")
    before, registry.silent = read_pointer(run), True
    with pytest.raises(RegistryError):
        go(run)
    assert read_pointer(run) == before  # what the run made is of older data
    registry.silent = False
    outcome = go(run)
    assert outcome.generation == 4
    now = current_generation(run)
    assert now is not None
    assert now.lineage == (3, 4)


def test_what_an_interrupted_refresh_of_another_recipe_left_is_not_taken_in(
    run: Path, registry: Registry
) -> None:
    go(run)
    left = run / "generations" / ".work" / "predictions" / "stop-reasons"
    left.mkdir(parents=True)
    (left / "000002.parquet").write_bytes(b"of a task that the recipe names no more")
    registry.day = day_of(1)
    registry.studies.pop()
    go(run)
    now = current_generation(run)
    assert now is not None
    assert [each.name for each in (now.path / "predictions").iterdir()] == ["sex"]


def test_two_at_once(run: Path, registry: Registry) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        started.set()
        go_on.wait(30)

    registry.on_request = wait
    found: list[Outcome] = []
    first = threading.Thread(target=lambda: found.append(go(run)))
    first.start()
    assert started.wait(30)
    with pytest.raises(ArtifactError, match="another trialese is writing it"):
        go(run)
    go_on.set()
    first.join()
    assert found[0].generation == 1


def test_a_full_disk_leaves_the_champion(
    run: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(run)
    before = read_pointer(run)
    registry.day = day_of(1)
    registry.studies.pop()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "link_tree", full)
        with pytest.raises(ArtifactError, match="cannot write"):
            go(run)
    assert read_pointer(run) == before
    assert list_generations(run) == [1]
    assert go(run).generation == 2


def test_a_source_that_holds_nothing_any_more_takes_nothing_away(
    run: Path, registry: Registry
) -> None:
    go(run)
    before, kept = read_pointer(run), list(registry.studies)
    registry.day = day_of(1)
    registry.studies.clear()
    with pytest.raises(RecordError, match="of 400 trials the source holds none"):
        go(run)
    assert read_pointer(run) == before
    registry.studies.extend(kept[:-1])
    registry.day = day_of(2)
    assert go(run).gone == 1


def test_a_file_that_has_not_wholly_arrived_takes_nothing_away(run: Path, tmp_path: Path) -> None:
    arrivals = tmp_path / "arrivals"
    arrivals.mkdir()
    for name in ("a", "b"):
        with zipfile.ZipFile(arrivals / f"{name}.zip", "w") as file:
            for number in range(20):
                study = made_up(number + 20 * (name == "b"))
                file.writestr(f"{number}.json", json.dumps(study))
    recipe = read_run_recipe(run)
    collect = msgspec.structs.replace(recipe.collect, source="files", paths=(str(arrivals),))
    write_bytes(
        run / "recipe.json", msgspec.json.encode(msgspec.structs.replace(recipe, collect=collect))
    )
    shutil.rmtree(run / "snapshot")
    collect_snapshot(collect, run / "snapshot")
    go(run)
    before, whole = read_pointer(run), (arrivals / "b.zip").read_bytes()
    lines = "\n".join(json.dumps(made_up(number)) for number in range(20, 40)).encode()
    for part in (whole[: len(whole) // 2], b"", lines[: len(lines) // 2]):
        (arrivals / "b.zip").write_bytes(part)
        with pytest.raises(RecordError, match=r"b\.zip.*: .* trials would go with it: wait"):
            go(run)
    assert read_pointer(run) == before
    (arrivals / "b.zip").write_bytes(whole)
    assert go(run).outcome == "nothing to do"
    (arrivals / "notes.pdf").write_bytes(b"%PDF-1.7 nothing of a trial")
    (arrivals / "b.zip").unlink()
    assert go(run).gone == 20
    feed = ET.fromstring((run / "feed.xml").read_bytes())
    days = {each.text for each in feed.iter("{http://www.w3.org/2005/Atom}updated")}
    assert len(days) == 1  # these files do not say of which day their data are
    assert str(days.pop()) > "2024"


def test_what_somebody_damaged_is_not_carried_on(run: Path, registry: Registry) -> None:
    go(run)
    now = current_generation(run)
    assert now is not None
    registry.day = day_of(1)
    registry.studies.pop()
    (layer,) = now.predictions("sex")
    kept = layer.read_bytes()
    with layer.open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")  # its end, which tells what it holds, is whole
    with pytest.raises(ArtifactError, match="altered since; `trialese rollback"):
        go(run)
    assert list_generations(run) == [1]
    layer.unlink()
    with pytest.raises(ArtifactError, match="missing; `trialese rollback"):
        go(run)
    with layer.open("wb") as file:
        file.write(kept)
    assert go(run).generation == 2


def test_an_earlier_generation_that_is_half_there_is_in_nobodys_way(
    run: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    year = YearOfDays(registry)
    for day in range(2):
        year.live(day)
        go(run)
    (run / "generations" / "0001" / "changes.jsonl").unlink()
    shutil.rmtree(run / "generations" / "0001" / "snapshot")
    year.live(2)
    assert go(run).generation == 3
    assert "0001/changes.jsonl: damaged" in caplog.text
    lines = [json.loads(line) for line in (run / "feed.jsonl").read_text().splitlines()]
    assert {line["generation"] for line in lines} == {2, 3}
    (run / "generations" / "0003" / "decision.json").write_text("{")
    year.live(3)
    with pytest.raises(ArtifactError, match=r"0003/decision\.json: damaged"):
        go(run)


def test_a_copy_of_the_registry_that_lags_behind_undoes_nothing(
    run: Path, registry: Registry
) -> None:
    go(run)
    registry.day = day_of(2)
    registry.studies.append(made_up(500))
    assert go(run).new == 1
    before = read_pointer(run)
    registry.day = day_of(1)
    registry.studies.pop()
    with pytest.raises(RegistryError, match="older than those held"):
        go(run)
    assert read_pointer(run) == before


class FullDisk:
    """Refuses the write of that number below a folder, counted from 1, as a full disk would."""

    def __init__(self) -> None:
        self.folder, self.writes, self.refused = "", 0, 0
        sys.addaudithook(self._hear)  # there is no way to take one away

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.folder or event not in {"open", "os.mkdir", "os.rename", "os.link"}:
            return
        if event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if self.folder in str(given[1 if event in {"os.rename", "os.link"} else 0]):
            self.writes += 1
            if self.writes == self.refused:
                raise OSError(28, "No space left on device")

    @contextmanager
    def below(self, folder: Path, refused: int = 0) -> Iterator[None]:
        self.folder, self.writes, self.refused = str(folder), 0, refused
        try:
            yield
        finally:
            self.folder = ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whatever_write_the_disk_refuses_what_is_in_use_is_whole(
    run: Path, registry: Registry, tmp_path: Path
) -> None:
    disk, spare = FullDisk(), tmp_path / "spare"
    go(run)
    shutil.copytree(run, spare)
    YearOfDays(registry).live(1)
    with disk.below(run):
        go(run)
    wanted, writes = digests(run), disk.writes
    assert writes > 100
    failed = 0
    for number in range(1, writes + 1):
        shutil.rmtree(run)
        shutil.copytree(spare, run)
        try:
            with disk.below(run, number):
                go(run)
        except ArtifactError as error:
            assert "cannot write" in str(error)
            failed += 1
        now = current_generation(run)
        assert now is not None
        verify_files(now.path)
        go(run)
        assert digests(run) == wanted
    assert failed > writes / 2


def test_what_is_no_finished_run(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no recipe\.json"):
        read_run_recipe(tmp_path)
    recipe = read_run_recipe(run)
    none = msgspec.structs.replace(recipe.collect, source="none")
    with pytest.raises(RecipeError, match="nothing to refresh"):
        refresh(run, msgspec.structs.replace(recipe, collect=none))
    shutil.rmtree(run / "sex")
    with pytest.raises(ArtifactError, match="no finished classifier of sex"):
        go(run)


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://example.org/hook", True),
        ("http://127.0.0.1:9/hook", True),
        ("http://localhost/hook", True),
        ("http://[::1]:8080/", True),
        ("http://example.org/hook", False),
        ("http://127.0.0.1.example.org/", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("https://example.org:port/", False),
        ("https://example.org:0/", False),
        ("https://exa mple.org/", False),
        ("https://example.org/\n", False),
        ("https://example.org/ü", False),
        ("https://name:password@example.org/hook", True),
        ("http://[::1", False),
    ],
)
def test_a_webhook_is_told_in_private_only(url: str, taken: bool) -> None:
    if taken:
        check_webhook(url)
    else:
        with pytest.raises(RecipeError, match="--notify"):
            check_webhook(url)


def test_nobody_hears_the_secret_of_a_webhook(caplog: pytest.LogCaptureFixture) -> None:
    for url in (
        "http://example.org/SECRET", "http://u:SECRET@example.org/", "https://u:SECRET",
        "https://example.org/SECRET ", "https://example.org:port/SECRET", "https://[/SECRET",
    ):  # fmt: skip
        with pytest.raises(RecipeError) as refused:
            check_webhook(url)
        assert "SECRET" not in str(refused.value)
    assert not notify("http://u:SECRET@127.0.0.1:9/SECRET?SECRET#SECRET", {})
    assert "--notify http://127.0.0.1:9/...: not told" in caplog.text
    assert "SECRET" not in caplog.text


def test_a_webhook_hears_the_summary_and_its_failure_fails_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[bytes] = []
    logins: list[str | None] = []
    stop = threading.Event()
    monkeypatch.setattr(module, "_WEBHOOK_SECONDS", 1.0)
    # In the clear it goes to this machine itself.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            logins.append(self.headers["Authorization"])
            if self.path == "/drip":
                with suppress(OSError):
                    while not stop.wait(0.1):
                        self.wfile.write(b"H")
                return
            if self.path == "/rubbish":
                self.wfile.write(b"no HTTP at all\r\n\r\n")
                return
            self.send_response(302 if self.path == "/away" else 204)
            if self.path == "/away":
                self.send_header("Location", "http://example.org/")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    assert notify(f"{url}/hook", {"outcome": "promoted"})
    assert not notify(f"{url}/away", {"outcome": "promoted"})
    assert not notify(f"{url}/rubbish", {"outcome": "promoted"})
    begun = time.monotonic()
    assert not notify(f"{url}/drip", {"outcome": "promoted"})  # each byte comes in time
    assert time.monotonic() - begun < 10
    assert notify(f"{url.replace('//', '//n%C3%A4me:pass%3Aword@')}/hook", {})
    assert logins[0] is None
    assert logins[-1] == "Basic " + base64.b64encode("näme:pass:word".encode()).decode()
    stop.set()
    server.shutdown()
    thread.join()
    server.server_close()
    assert json.loads(heard[0]) == {"outcome": "promoted"}
    assert not notify(f"{url}/hook", {"outcome": "promoted"})


def command_of(run: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "trialese", "-q", "refresh", str(run), *more]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes what is inherited")
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-", "| true"])
def test_whoever_does_not_listen_changes_nothing_of_what_was_done(
    closed: str, run: Path, registry: Registry
) -> None:
    words = shlex.join(command_of(run, "--json"))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {closed}"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((run / "refresh.jsonl").read_text())["generation"] == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whoever_stops_it_is_in_the_log_and_what_is_in_use_stays(
    number: int, status: int, run: Path, registry: Registry
) -> None:
    go(run)
    before = read_pointer(run)
    registry.day = day_of(1)
    started, go_on = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        started.set()
        go_on.wait(30)

    registry.on_request = wait
    process = subprocess.Popen(
        command_of(run, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.wait(60)
    process.send_signal(number)
    told, said = process.communicate(timeout=60)
    go_on.set()
    assert (process.returncode, said) == (status, "stopped; what was finished stays\n")
    assert json.loads(told) == {"run": str(run), "outcome": "failed", "reason": "stopped"}
    assert json.loads((run / "refresh.jsonl").read_text().splitlines()[-1])["outcome"] == "failed"
    assert read_pointer(run) == before


def digests(run: Path) -> dict[str, str]:
    """Of every generation and feed, what names its bytes."""
    found = {str(n): read_manifest(run / "generations" / f"{n:04d}").digest
             for n in list_generations(run)}  # fmt: skip
    for name in ("feed.jsonl", "feed.xml", "current.json"):
        found[name] = (run / name).read_text("utf-8")
    return found


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_killed_at_random_the_same_command_ends_in_the_same_bytes(
    times: int, run: Path, registry: Registry, tmp_path: Path
) -> None:
    spare = tmp_path / "spare"
    shutil.copytree(run, spare)
    go(run)
    shutil.copytree(spare, tmp_path / "other", dirs_exist_ok=True)
    year = YearOfDays(registry)
    year.live(1)
    begun = time.monotonic()
    command = [sys.executable, "-m", "trialese", "-q", "refresh"]
    subprocess.run([*command, str(run)], check=True, capture_output=True)
    seconds = time.monotonic() - begun
    wanted = digests(run)
    rng = random.Random(times)
    for number in range(times):
        home = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "other", home)
        registry.day = day_of(0)
        kept = registry.studies
        registry.studies = [made_up(each) for each in range(400)]
        go(home)
        registry.studies, registry.day = kept, day_of(1)
        process = subprocess.Popen(
            [*command, str(home)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.1, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = current_generation(home)
        assert now is not None
        verify_files(now.path)
        done = subprocess.run([*command, str(home)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert digests(home) == wanted
        shutil.rmtree(home)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_while_refreshes_are_killed_the_server_answers_from_whole_generations(
    run: Path, registry: Registry
) -> None:
    begun = time.monotonic()
    command = [sys.executable, "-m", "trialese", "-q", "refresh", str(run), "--keep", "6"]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - begun
    app = Changeover(
        run,
        open_served_generation,
        partial(create_app, settings=ServeSettings()),
        drain_seconds=10,
        poll_seconds=0.05,
    )
    stop, wrong, seen = threading.Event(), list[Any](), set[int]()

    def watch(client: TestClient) -> None:
        while not stop.is_set():
            before = client.get("/version").json()["generation"]
            trials, labels = (
                client.get("/v1/trials"),
                client.post("/v1/predict", json={"texts": ["Men"]}),
            )
            if client.get("/version").json()["generation"] == before:
                seen.add(before)
                held = open_generation(run, before).manifest.notes["trials"]
                if (trials.status_code, labels.status_code) != (200, 200) or (
                    trials.json()["counts"]["total"] != held
                ):
                    wrong.append((before, held, trials.text, labels.text))

    year, rng = YearOfDays(registry), random.Random(5)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        while client.get("/v1/trials").status_code != 200:
            time.sleep(0.02)
        watching = threading.Thread(target=watch, args=(client,))
        watching.start()
        for day in range(1, 31):
            year.live(day)
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.2, 1.2) * seconds)
            process.kill()
            process.wait()
        registry.silent = False
        last = go(run, keep=6).generation
        while last not in seen:
            time.sleep(0.02)
        stop.set()
        watching.join()
    assert not wrong


def test_killed_between_promotion_and_clearing_up_it_only_clears_up(
    run: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(run)
    year = YearOfDays(registry)
    year.live(1)

    def killed(*given: Any) -> None:
        promote(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trialese.pipeline.refresh.promote", killed)
        with pytest.raises(KeyboardInterrupt):
            go(run)
    year.live(2)
    finished = go(run)
    assert (finished.outcome, finished.generation, list_generations(run)) == ("promoted", 2, [1, 2])
    assert not (run / "generations" / ".work").exists()
    assert go(run).generation == 3


REGISTRY_DATA = Path(__file__).parents[3] / "shared" / "data" / "registry"


@pytest.mark.skipif(
    not (REGISTRY_DATA / "api-v2-2026-02.json.zip").is_file(), reason="../shared/data is not here"
)
def test_the_real_month_of_a_watch_list(tmp_path: Path) -> None:
    arrivals, run = tmp_path / "arrivals", tmp_path / "run"
    arrivals.mkdir()
    shutil.copyfile(REGISTRY_DATA / "api-v2-2026-02.json.zip", arrivals / "list.zip")
    rows = [f"Slow accrual at site {n}\tInsufficient_Enrollment" for n in range(30)]
    rows += [f"Sponsor decision number {n}\tBusiness_Administrative" for n in range(30)]
    write_bytes(tmp_path / "gold.tsv", "\n".join(["text\tlabels", *rows]).encode())
    recipe = parse_recipe(f"""
name = "run"
folder = "{tmp_path}"
[collect]
source = "files"
paths = ["{arrivals}"]
[tasks]
names = ["stop-reasons"]
[tasks.stop_reasons]
labelled = "{tmp_path / "gold.tsv"}"
run_folds = 1
dedup = {{ near = false }}
""")
    snapshot = collect_snapshot(recipe.collect, run / "snapshot")
    home = run / "stop-reasons" / "tfidf"
    finetune("stop-reasons", "tfidf", snapshot=snapshot, settings=recipe.tasks, path=home)
    write_bytes(run / "recipe.json", msgspec.json.encode(recipe))
    assert go(run).generation == 1
    shutil.copyfile(REGISTRY_DATA / "api-v2-2026-03.json.zip", arrivals / "list.zip")
    outcome = go(run)
    # The bytes of 287 records differ; 252 of them in nothing but the day on which the registry
    # derived fields (versionHolder), 31 in some field of a trial.
    assert (outcome.new, outcome.changed, outcome.gone) == (18, 31, 3)
    fresh = collect_snapshot(recipe.collect, tmp_path / "fresh")
    now = current_generation(run)
    assert now is not None
    assert list(read_trials(open_snapshot(now.snapshot))) == list(read_trials(fresh))
    assert held_now(run, "stop-reasons") == rescored(run, tmp_path / "full", "stop-reasons")
    assert 2 <= outcome.scored <= 18 + 31  # two stopped, and gave a reason
