from __future__ import annotations

import csv
import io
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from trialese.errors import ArtifactError
from trialese.settings import ServeSettings
from trialese.tasks.classifier import Classifier
from trialese.tasks.predict import predict_inputs
from trialese.tasks.scorer import find_classifier
from trialese.web.app import create_app
from trialese.web.job_worker import JobWorker
from trialese.web.jobs import JobRunner, JobStore, file_name
from trialese.web.models import open_served

DATA = Path(__file__).parents[1] / "data"
TEXTS = ["slow accrual", "=cmd|funding", "<script>\u202e</script>", "low recruitment \U0001f9ec"]


@pytest.fixture
def client(classifier: Path, tmp_path: Path) -> Iterator[TestClient]:
    served = open_served([classifier], jobs=tmp_path / "jobs")
    served.load()
    settings = ServeSettings(body_bytes=500, upload_bytes=20_000, waiting_jobs=3)
    with TestClient(create_app(served, settings), base_url="http://127.0.0.1") as client:
        yield client


def send(client: TestClient, name: str, content: bytes, **form: str) -> Any:
    return client.post("/v1/jobs", files={"file": (name, content)}, data=form)


def finished(client: TestClient, job_id: str) -> dict[str, Any]:
    for _ in range(500):
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.02)
    raise AssertionError(job)


def test_a_file_comes_back_labelled(client: TestClient, classifier: Path, tmp_path: Path) -> None:
    content = "\n".join(TEXTS * 20).encode()  # larger than any other request may be
    sent = send(client, "../my reasons.txt", content)
    assert sent.status_code == 202
    assert sent.headers["Location"] == f"/v1/jobs/{sent.json()['id']}"
    job = finished(client, sent.json()["id"])
    assert (job["state"], job["name"], job["bytes"]) == ("done", "my_reasons.txt", len(content))
    assert (job["records"], job["texts"], job["left_out"]) == (80, 80, {})
    result = client.get(f"/v1/jobs/{job['id']}/result")
    assert result.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert 'filename="my_reasons-labels.csv"' in result.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(result.text)))
    expected = list(predict_inputs(classifier, TEXTS))
    assert [row["labels"] for row in rows] == ["|".join(each.labels) for each in expected] * 20
    assert rows[1]["text"] == "'=cmd|funding"  # no spreadsheet computes it
    assert client.get("/v1/jobs").json() == {"jobs": [job]}
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}/result").status_code == 404
    assert not (tmp_path / "jobs" / job["id"]).exists()


@pytest.mark.parametrize("format_", ["tsv", "jsonl", "parquet"])
def test_other_formats_and_kinds_of_files(client: TestClient, format_: str) -> None:
    table = "id\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(TEXTS))
    job = finished(client, send(client, "t.tsv", table.encode(), format=format_).json()["id"])
    assert job["texts"] == len(TEXTS)
    result = client.get(f"/v1/jobs/{job['id']}/result").content
    if format_ == "parquet":
        assert pq.read_table(io.BytesIO(result))["text"].to_pylist() == TEXTS
    else:
        assert len(result.splitlines()) == len(TEXTS) + (format_ == "tsv")


def test_tables_of_every_kind_are_read_in_a_job(client: TestClient, tmp_path: Path) -> None:
    pq.write_table(pa.table({"NCTId": ["NCT1", "NCT2"], "Text": TEXTS[:2]}), tmp_path / "t")
    stray = 'id\ttext\n1\t"slow accrual\n2\tno funds\n'.encode("utf-16")
    for name, content in (("t.parquet", (tmp_path / "t").read_bytes()), ("t.txt", stray)):
        job = finished(client, send(client, name, content).json()["id"])
        assert (job["state"], job["texts"], job["message"]) == ("done", 2, "")


def test_columns_of_an_odd_table_are_named_in_the_form(client: TestClient) -> None:
    table = b"key,cause,title\nk7,slow accrual,A\n"
    failed = finished(client, send(client, "odd.csv", table).json()["id"])
    assert failed["state"] == "failed" and "'key, cause, title'" in failed["message"]
    sent = send(client, "odd.csv", table, column="cause", id_column="Key").json()
    assert (sent["column"], sent["id_column"]) == ("cause", "Key")
    assert finished(client, sent["id"])["texts"] == 1
    (row,) = csv.DictReader(io.StringIO(client.get(f"/v1/jobs/{sent['id']}/result").text))
    assert (row["id"], row["text"]) == ("k7", "slow accrual")


def test_a_field_of_the_form_that_is_not_known_is_refused(client: TestClient) -> None:
    answer = send(client, "x.txt", b"x", modle="x")
    assert answer.status_code == 422
    told = "body.modle: there is no such field; did you mean 'model'?"
    assert answer.json()["message"] == told
    answer = client.post("/v1/jobs", content=b"x", headers={"content-type": "text/csv"})
    assert answer.json()["message"] == "body.file: send it as a form: curl -F file=@NAME"


def test_a_folder_of_jobs_of_an_earlier_version_is_opened(tmp_path: Path) -> None:
    JobStore(tmp_path / "jobs").close()
    with sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite") as base:
        for name in ("crashes", "column", "id_column"):
            base.execute(f'ALTER TABLE jobs DROP COLUMN "{name}"')
    store = JobStore(tmp_path / "jobs")
    job_id, upload = store.place("x.csv")
    upload.write_bytes(b"text\nx\n")
    store.add(job_id, upload=upload, model="m", digest="d", format_="csv")
    assert [(job.column, job.crashes) for job in store.jobs()] == [("", 0)]
    store.close()


def test_a_registry_record_is_a_file_too(client: TestClient) -> None:
    content = (DATA / "study_legacy.xml").read_bytes()
    job = finished(client, send(client, "study", content).json()["id"])
    assert job["records"] == 1


def test_no_path_of_the_server_is_told_of_a_relative_folder_of_jobs(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    served = open_served([classifier.resolve()], jobs=Path("jobs"))
    served.load()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        job = finished(client, send(client, "x.csv", b'text\n\n""\n').json()["id"])
    assert (job["state"], str(tmp_path) in job["message"]) == ("failed", False)
    assert job["message"].startswith("x.csv: no text for")


def test_what_cannot_be_read_says_why_and_no_more(client: TestClient, tmp_path: Path) -> None:
    job = finished(client, send(client, "x.csv", b"a,b\n1,2\n").json()["id"])
    assert job["state"] == "failed"
    assert "text" in job["message"]
    assert str(tmp_path) not in job["message"]
    answer = client.get(f"/v1/jobs/{job['id']}/result")
    assert (answer.status_code, answer.json()["error"]) == (409, "not_done")
    empty = finished(client, send(client, "empty.txt", b"").json()["id"])
    assert empty["state"] == "failed"


def test_uploads_are_bounded(client: TestClient, tmp_path: Path, monkeypatch: Any) -> None:
    large = send(client, "x.txt", b"x" * 30_000)
    assert (large.status_code, large.json()["error"]) == (413, "too_large")
    assert send(client, "x.txt", b"x", format="exe").status_code == 422
    assert send(client, "x.txt", b"x", model="nobody").status_code == 404
    assert client.post("/v1/jobs", data={"format": "csv"}).status_code == 422
    assert client.put("/v1/jobs").headers["Allow"] == "GET, POST"
    monkeypatch.setattr(JobStore, "counts", lambda self: {"waiting": 3})
    full = send(client, "x.txt", b"x")
    assert (full.status_code, full.headers["Retry-After"]) == (429, "60")
    assert [child.name for child in (tmp_path / "jobs").iterdir() if child.is_dir()] == []


def test_a_running_job_can_be_deleted(client: TestClient, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("trialese.web.jobs.WINDOW_RECORDS", 1)
    predict = Classifier.predict_proba

    def slowly(*args: Any, **how: Any) -> Any:
        time.sleep(0.1)
        return predict(*args, **how)

    monkeypatch.setattr(Classifier, "predict_proba", slowly)
    first = send(client, "long.txt", b"x\n" * 2000).json()["id"]
    second = send(client, "short.txt", b"x\n").json()["id"]
    while client.get(f"/v1/jobs/{first}").json()["state"] != "running":
        time.sleep(0.01)
    assert client.get(f"/v1/jobs/{second}").json()["state"] == "waiting"
    assert client.delete(f"/v1/jobs/{first}").status_code == 204
    assert client.get(f"/v1/jobs/{first}").status_code == 404
    assert finished(client, second)["state"] == "done"
    assert not (tmp_path / "jobs" / first).exists()


def test_a_job_of_a_model_that_is_gone_fails(classifier: Path, tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    job_id, upload = store.place("x.txt")
    upload.write_text("x")
    store.add(job_id, upload=upload, model="reasons", digest="another", format_="csv")
    store.close()
    again = open_served([classifier], jobs=store.folder)
    with TestClient(create_app(again, ServeSettings()), base_url="http://127.0.0.1") as other:
        assert "no longer served" in finished(other, job_id)["message"]


def test_one_server_holds_the_folder_and_sweeps_it(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    job_id, upload = store.place("x.txt")
    upload.write_text("half")
    with pytest.raises(ArtifactError, match="another trialese"):
        JobStore(tmp_path / "jobs")
    store.close()
    again = JobStore(tmp_path / "jobs")
    assert not (tmp_path / "jobs" / job_id).exists()
    again.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="--jobs"):
        JobStore(tmp_path / "file")


def worker_that(code: str) -> tuple[str, ...]:
    """The command of a worker whose reading of the file is `code`."""
    setup = "import os, signal, time\nfrom trialese.web import job_worker\n"
    body = f"def predict_file(*_, **__):\n    {code}\njob_worker.predict_file = predict_file\n"
    return (sys.executable, "-P", "-c", f"{setup}{body}job_worker.main()")


@pytest.mark.parametrize(
    ("code", "settings", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", {}, "ended its worker 2 times (SIGSEGV)"),
        ("os._exit(7)", {}, "(exit status 7)"),
        ("time.sleep(600)", {"job_silent_seconds": 0.5}, "(nothing came of it for 0.5 s)"),
        ("while True: pass", {"job_cpu_seconds": 1}, "(more than 1 s of processor time)"),
        (
            "bytearray(4 * 10**9)",
            {"job_memory_bytes": 10**9},
            "more than 1,000,000,000 bytes of memory",
        ),
        ("job_worker.os.write(0, b'')\n    1 / 0", {}, "bug of the server"),
    ],
)
def test_a_file_that_ends_its_reader_fails_and_the_next_job_is_done(
    code: str, settings: Any, reason: str, classifier: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    served = open_served([classifier], jobs=tmp_path / "jobs")
    served.load()
    app = create_app(served, ServeSettings(**settings))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        whole = JobWorker.command
        monkeypatch.setattr(JobWorker, "command", worker_that(code))
        job = finished(client, send(client, "bomb.txt", b"x").json()["id"])
        assert job["state"] == "failed" and reason in job["message"]
        assert str(tmp_path) not in job["message"]
        if "job_cpu_seconds" in settings or "job_silent_seconds" in settings:
            return  # too little for an honest file
        monkeypatch.setattr(JobWorker, "command", whole)
        assert finished(client, send(client, "a.txt", b"slow accrual").json()["id"])["texts"] == 1
        assert client.get("/readyz").status_code == 200


def test_crashes_are_counted_over_restarts(
    classifier: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(JobWorker, "command", worker_that("os._exit(7)"))
    served = open_served([classifier], jobs=tmp_path / "jobs")
    served.load()
    store = JobStore(tmp_path / "jobs")
    job_id, upload = store.place("x.txt")
    upload.write_text("x")
    digest = next(iter(served.models.values())).scorer.digest
    store.add(job_id, upload=upload, model="reasons", digest=digest, format_="csv")
    store.change(job_id, crashes=1)
    store.close()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        assert "ended its worker 2 times" in finished(client, job_id)["message"]


def test_a_job_takes_cut_offs_for_a_use(tmp_path: Path) -> None:
    model = find_classifier(Path("stop-reasons"), "small")
    text = "Slow accrual, and two patients had severe hepatotoxicity"
    store = JobStore(tmp_path / "jobs")  # a folder that was made before jobs knew of uses
    store.close()
    with sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite") as base:
        base.execute("ALTER TABLE jobs DROP COLUMN prefer")
    base.close()
    served = open_served([model], jobs=tmp_path / "jobs")
    served.load()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        (card,) = client.get("/v1/models").json()["models"]
        assert card["uses"] == ["f1", "precision=0.9", "recall=0.9"] and card["calibrated"]
        for use in ("", *card["uses"]):
            job = finished(client, send(client, "a.txt", text.encode(), prefer=use).json()["id"])
            assert job["prefer"] == use
            result = client.get(f"/v1/jobs/{job['id']}/result").text
            (row,) = csv.DictReader(io.StringIO(result))
            (expected,) = predict_inputs(model, [text], prefer=use or None)
            assert row["labels"] == "|".join(expected.labels)
            assert row["thresholds"] == expected.thresholds
            assert row["needs_person"] == str(int(expected.needs_person))
            told = client.post("/v1/predict", json={"texts": [text], "prefer": use}).json()
            assert told["predictions"][0]["labels"] == list(expected.labels)
            assert told["predictions"][0]["needs_person"] == expected.needs_person
        wrong = send(client, "a.txt", b"x", prefer="speed")
        assert (wrong.status_code, wrong.json()["error"]) == (422, "invalid_preference")
        assert len(client.get("/v1/jobs").json()["jobs"]) == 4


def test_a_model_that_knows_no_other_cut_offs_says_so(client: TestClient) -> None:
    assert client.get("/v1/models").json()["models"][0]["uses"] == ["f1"]
    refused = send(client, "a.txt", b"x", prefer="precision=0.9")
    assert (refused.status_code, refused.json()["error"]) == (409, "no_such_cut_offs")
    assert client.get("/v1/jobs").json() == {"jobs": []}


HOSTILE = Path(__file__).parents[2].parent / "shared" / "cases" / "hostile"


@pytest.mark.parametrize("name", ["heap-leak-pad1000", "segv-2", "segv-3", "segv-4"])
def test_hostile_arrow_files_harm_nobody_as_jobs(client: TestClient, name: str) -> None:
    path = HOSTILE / f"arrow-{name}.arrow"
    if not path.is_file():
        pytest.skip("the hostile cases are not at hand")
    secret = "the secret of somebody else " * 30
    own = finished(client, send(client, "own.txt", secret.encode()).json()["id"])
    assert client.delete(f"/v1/jobs/{own['id']}").status_code == 204
    job = finished(client, send(client, path.name, path.read_bytes()).json()["id"])
    assert "secret" not in client.get(f"/v1/jobs/{job['id']}/result").text
    assert job["state"] == "failed" or "leak" in name
    assert finished(client, send(client, "a.txt", b"slow accrual").json()["id"])["texts"] == 1


def test_a_full_disk_stops_jobs_only_as_long_as_it_is_full(
    client: TestClient, monkeypatch: Any
) -> None:
    change = JobStore.change
    full = True

    def changed(self: JobStore, job_id: str, **values: Any) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        change(self, job_id, **values)

    monkeypatch.setattr(JobStore, "change", changed)
    job_id = send(client, "a.txt", b"slow accrual").json()["id"]
    while client.get("/readyz").status_code == 200:
        time.sleep(0.01)
    told = client.get("/readyz").json()
    assert (told["error"], "disk is full" in told["message"]) == ("not_ready", True)
    assert client.get("/healthz").status_code == 200
    full = False
    assert finished(client, job_id)["state"] == "done"
    assert client.get("/readyz").status_code == 200


def test_a_job_thread_that_has_ended_is_told(client: TestClient, monkeypatch: Any) -> None:
    monkeypatch.setattr(JobRunner, "failure", "the thread of jobs has ended; start again")
    assert client.get("/readyz").status_code == 503


def test_a_job_can_be_deleted_on_a_full_disk(client: TestClient, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    job_id = finished(client, send(client, "a.txt", b"slow accrual").json()["id"])["id"]
    with sqlite3.connect(folder / "jobs.sqlite") as base:
        base.execute(
            "CREATE TRIGGER full BEFORE DELETE ON jobs BEGIN SELECT RAISE (ABORT, 'full'); END"
        )
    base.close()
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert not (folder / job_id).exists()


def test_a_row_whose_files_are_gone_goes_at_the_next_start(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    for name in ("a.txt", "b.txt"):
        job_id, upload = store.place(name)
        upload.write_text("x")
        store.add(job_id, upload=upload, model="m", digest="d", format_="csv")
    (tmp_path / "jobs" / job_id / ".labels.csv.work.gone").mkdir()
    (tmp_path / "jobs" / job_id / ".labels.csv.77.partial").touch()
    gone = next(job.id for job in store.jobs() if job.id != job_id)
    (tmp_path / "jobs" / gone / "upload" / "a.txt").unlink()
    (tmp_path / "jobs" / gone / "upload").rmdir()
    (tmp_path / "jobs" / gone).rmdir()
    store.close()
    again = JobStore(tmp_path / "jobs")
    assert [job.id for job in again.jobs()] == [job_id]
    assert [path.name for path in (tmp_path / "jobs" / job_id).iterdir()] == ["upload"]
    again.close()


def test_jobs_have_a_quota(classifier: Path, tmp_path: Path) -> None:
    served = open_served([classifier], jobs=tmp_path / "jobs")
    served.load()
    app = create_app(served, ServeSettings(jobs_bytes=300_000))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        refused = send(client, "x.txt", b"x" * 290_000)
        assert (refused.status_code, refused.json()["error"]) == (507, "quota")
        assert "serve" not in refused.json()["message"] and "300,000" in refused.json()["message"]
        assert send(client, "x.txt", b"slow accrual").status_code == 202


def test_nobody_else_reads_uploads_and_labels(client: TestClient, tmp_path: Path) -> None:
    job_id = finished(client, send(client, "a.txt", b"slow accrual").json()["id"])["id"]
    folder = tmp_path / "jobs"
    for path in (folder, *folder.rglob("*")):
        if path.name.endswith(".lock"):
            continue  # holds nothing
        assert path.stat().st_mode & 0o077 == 0, path
    assert (folder / job_id / "labels.csv").is_file()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\y z.csv", "y_z.csv"),
        ("..", "upload"),
        ("", "upload"),
        ("/", "upload"),
        ("\u202egnp.exe", "_gnp.exe"),
        (".hidden", "hidden"),
        ("x" * 300 + ".tsv", "x" * 76 + ".tsv"),
    ],
)
def test_names_of_files_are_made_harmless(sent: str, kept: str) -> None:
    assert file_name(sent) == kept
