"""Publishing to a hub on loopback: what is sent, with which card, and what is refused."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard

from trialese.artifacts import read_manifest
from trialese.cli.main import main
from trialese.errors import ArtifactError, RecordError
from trialese.pipeline.publish import prepare_publication, publish
from trialese.recipe import Recipe

TOKEN = "hf_of_this_test"

# huggingface_hub's own call of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


class Hub(ThreadingHTTPServer):
    """As much of the hub's API as publishing takes; `repositories` is what it came to hold."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        _, _, kind, *name = self.path.partition("?")[0].split("/")
        repository = f"{kind}/{'/'.join(name[:2])}"
        private = self.server.private.get(repository)
        if private is None:
            self.answer({"error": "not found"}, 404)
        else:
            self.answer({"id": "/".join(name[:2]), "private": private, "siblings": []})

    def do_PUT(self) -> None:
        self.server.large[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        body = self.body()
        self.server.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            told = json.loads(body)
            owner = f"{told['organization']}/" if told.get("organization") else ""
            repository = f"{told.get('type') or 'model'}s/{owner}{told['name']}"
            known = repository in self.server.private
            private = bool(told.get("private")) or told.get("visibility") == "private"
            self.server.private.setdefault(repository, private)
            url = f"{self.server.url}/{repository.removeprefix('models/')}"
            self.answer({"url": url}, 409 if known else 200)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith("tensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            self.answer({"files": modes})
        elif self.path.endswith("/objects/batch"):
            objects = [
                {
                    **each,
                    "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines() if line]
            _, _, kind, owner, name, *_ = self.path.split("/")
            held = self.server.repositories.setdefault(f"{kind}/{owner}/{name}", {})
            for line in lines:
                if line["key"] == "file":
                    held[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    held[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
            self.answer({"success": True, "commitUrl": f"{self.server.url}/c/1", "commitOid": "1"})
        else:
            self.answer({"error": "unknown"}, 404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, and a store of huggingface_hub's own that holds the token for it."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = tmp_path / "token"
        store.write_text(TOKEN, encoding="utf-8")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(store))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def home(toy: Recipe) -> Path:
    return Path(toy.folder) / "toy"


def test_a_classifier_is_sent_with_the_card_of_its_verdict(hub: Hub, home: Path) -> None:
    made = prepare_publication(home / "stop-reasons" / "adapted", "me/reasons")
    assert publish(made, private=True) == f"{hub.url}/me/reasons"
    held = hub.repositories["models/me/reasons"]
    assert hub.private["models/me/reasons"] is True
    assert {name: len(data) for name, data in held.items()} == made.sizes()
    folder = home / "stop-reasons" / "adapted" / "model"
    assert held["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert {*held} == {*(file.name for file in folder.iterdir()), "README.md"}
    card = held["README.md"].decode()
    assert "stop-reasons|test:" in card
    assert 'from_pretrained("me/reasons")' in card
    assert ModelCard(card).data.pipeline_tag == "text-classification"


def test_a_linear_classifier_says_how_it_is_used(home: Path) -> None:
    made = prepare_publication(home / "sex" / "tfidf", "me/sex")
    card = made.files["README.md"]
    assert isinstance(card, bytes)
    assert b"trialese predict model" in card
    assert b"AutoModel" not in card
    assert "linear.json" in made.files


def test_an_adapter_names_a_base_that_the_hub_has(hub: Hub, home: Path) -> None:
    with pytest.raises(RecordError, match="--base owner/name"):
        prepare_publication(home / "adapter", "me/adapter")
    publish(prepare_publication(home / "base", "me/base"))
    publish(prepare_publication(home / "adapter", "me/adapter", base="me/base"))
    held = hub.repositories["models/me/adapter"]
    assert json.loads(held["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    assert ModelCard(held["README.md"].decode()).data.base_model == "me/base"
    for name, data in held.items():
        assert str(home).encode() not in data, f"{name} tells of this machine"
    assert "model.safetensors" in hub.repositories["models/me/base"]


def test_an_adapter_of_an_adapter_is_not_told_to_stand_on_the_hub_model(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(home / "adapter", folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    notes = manifest["notes"] | {"backbone": "some/bert", "adapted_to_old": False}
    for kind, told in (("model", "some/bert"), ("adapter", None)):
        manifest["notes"] = notes | {"new_head": False, "base_kind": kind}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        if told is None:
            with pytest.raises(RecordError, match="--base owner/name"):
                prepare_publication(folder, "me/adapter")
        else:
            made = prepare_publication(folder, "me/adapter")
            config = made.files["adapter_config.json"]
            assert isinstance(config, bytes)
            assert json.loads(config)["base_model_name_or_path"] == told


def test_a_corpus_and_a_snapshot_are_data_sets(hub: Hub, home: Path) -> None:
    for kind, table in (("corpus", "documents"), ("snapshot", "trials")):
        publish(prepare_publication(home / kind, f"me/{kind}"))
        held = hub.repositories[f"datasets/me/{kind}"]
        assert held[f"{table}.parquet"] == (home / kind / f"{table}.parquet").read_bytes()
        configs = DatasetCard(held["README.md"].decode()).data.to_dict()["configs"]
        assert configs[0]["config_name"] == table
        assert configs[0]["data_files"] == [{"split": table, "path": f"{table}.parquet"}]
        assert {part["data_files"][0]["path"] for part in configs} <= {*held}
        assert b"made up by a generator" in held["README.md"]
        assert "manifest.json" not in held


def test_the_hub_reads_a_corpus_where_it_stands(home: Path, monkeypatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `bench` is not installed")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    found = datasets.load_dataset(str(home / "corpus"), cache_dir=str(tmp_path))
    counts = read_manifest(home / "corpus").counts
    assert found["documents"].num_rows == counts["documents"]
    assert {"nct_id", "split", "text"} <= {*found["documents"].column_names}


def test_nothing_is_sent_without_a_card(hub: Hub, home: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "classifier"
    shutil.copytree(home / "stop-reasons" / "adapted", alone)
    with pytest.raises(RecordError, match=r"no card without a verdict.*--verdict"):
        prepare_publication(alone, "me/alone")
    with pytest.raises(ArtifactError, match="verdict"):
        prepare_publication(alone, "me/alone", verdict=home / "corpus")
    (alone / "README.md").write_text("---\nlanguage: en\n---\nBy hand.\n", encoding="utf-8")
    assert prepare_publication(alone, "me/alone").files["README.md"].endswith(b"By hand.\n")
    assert hub.asked == []


def test_what_the_card_does_not_take_is_refused(home: Path, tmp_path: Path) -> None:
    for folder in ("corpus", "stop-reasons/adapted"):
        with pytest.raises(RecordError, match=f"{folder}: .*no model or adapter; leave --base out"):
            prepare_publication(home / folder, "me/x", base="me/base")
    for folder in ("corpus", "adapter"):
        with pytest.raises(RecordError, match=f"{folder}: .*no classifier; leave --verdict out"):
            prepare_publication(home / folder, "me/x", verdict=home / "verdict")
    by_hand = tmp_path / "classifier"
    shutil.copytree(home / "stop-reasons" / "adapted", by_hand)
    (by_hand / "README.md").write_text("By hand.\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"README\.md in it is the card; leave --verdict out"):
        prepare_publication(by_hand, "me/x", verdict=home / "verdict")


def test_a_verdict_of_other_classifiers_gives_no_card(home: Path) -> None:
    from trialese.verdict.report import load_verdicts, write_report

    verdicts = load_verdicts(home / "verdict")
    other = write_report(home.parent / "other", verdicts, inputs={"sex/adapted": "0" * 64})
    with pytest.raises(RecordError, match="judged other classifiers"):
        prepare_publication(home / "sex" / "adapted", "me/sex", verdict=other)


@pytest.mark.parametrize("name", ["reasons", "a/b/c", "../x", "me/", "/x", "me/na me"])
def test_a_repository_is_an_owner_and_a_name(home: Path, name: str) -> None:
    with pytest.raises(RecordError, match="owner/name"):
        prepare_publication(home / "corpus", name)


def test_altered_artifacts_and_other_kinds_are_refused(home: Path, tmp_path: Path) -> None:
    altered = tmp_path / "corpus"
    shutil.copytree(home / "corpus", altered)
    (altered / "documents.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"documents\.parquet"):
        prepare_publication(altered, "me/corpus")
    with pytest.raises(ArtifactError, match="a blocks; what can be published"):
        prepare_publication(home / "blocks", "me/blocks")


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, home: Path) -> None:
    made = prepare_publication(home / "corpus", "me/open")
    publish(made)
    with pytest.raises(ArtifactError, match="is public; make it private on the hub first"):
        publish(made, private=True)
    assert sum("/commit/" in each for each in hub.asked) == 1


def test_no_token_and_no_hub_are_one_line_with_the_cure(hub: Hub, home: Path, monkeypatch) -> None:
    made = prepare_publication(home / "corpus", "me/corpus")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent/token")
    with pytest.raises(ArtifactError, match=r"answered 401; log in with `hf auth login`"):
        publish(made)
    assert hub.repositories == {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match="cannot reach the hub"):
        publish(made)


def test_the_command_lists_and_sends(hub: Hub, home: Path, capsys, monkeypatch) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["trialese", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    arguments = ["publish", str(home / "corpus"), "--to", "me/corpus"]
    status, out, err = run(*arguments, "--dry-run")
    assert (status, err, hub.asked) == (0, "", [])
    sizes = prepare_publication(home / "corpus", "me/corpus").sizes()
    assert [line.split() for line in out.splitlines()[:-1]] == [
        [f"{size:,}", name] for name, size in sizes.items()
    ]
    assert out.splitlines()[-1].split(maxsplit=1) == [
        f"{sum(sizes.values()):,}",
        "bytes, not sent",
    ]
    status, out, _ = run(*arguments, "--json")
    assert status == 0
    assert json.loads(out) == {
        "repository": "me/corpus",
        "kind": "dataset",
        "files": sizes,
        "sent": f"{hub.url}/datasets/me/corpus",
    }
