from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pretrain.conftest import save_family
from trialese.artifacts import read_manifest
from trialese.errors import ArtifactError, RecordError
from trialese.records import Task
from trialese.tasks import export as module
from trialese.tasks.classifier import Classifier, Preprocessing, load_masked_lm
from trialese.tasks.explain import explain
from trialese.tasks.export import export_classifier
from trialese.tasks.predict import load_scorer
from trialese.temperature import Calibration, calibrate

from .conftest import toy_examples

pytest.importorskip("onnxscript")
TEXTS = [
    "slow accrual",
    "x",
    "lack of funding of the sponsor " * 9,
    "interim futility",
    "slow accrual",
]


@pytest.fixture(scope="module")
def exported(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "fp32"
    export_classifier(toy_folder, "onnx", out)
    return out


@pytest.fixture
def many() -> list[str]:
    return [each.text for each in toy_examples(240)]


def test_the_graph_scores_as_torch_does_padded_or_alone(
    exported: Path, toy_classifier: Classifier
) -> None:
    scorer = load_scorer(exported)
    assert scorer.engine.startswith("onnxruntime")
    assert (scorer.task, scorer.thresholds) == (toy_classifier.task, toy_classifier.thresholds)
    scores = scorer.predict_proba(TEXTS)
    np.testing.assert_allclose(scores, toy_classifier.predict_proba(TEXTS), atol=1e-5, rtol=0)
    alone = np.concatenate([scorer.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(scores, alone, atol=1e-5, rtol=0)
    assert scorer.predict_proba([]).shape == (0, 3)
    notes = read_manifest(exported, kind="export").notes
    assert notes["largest_difference_fp32"] < 1e-5
    assert notes["classifier"] == toy_classifier.digest
    with pytest.raises(RecordError, match="exported classifier cannot be explained"):
        explain(scorer, "x")


def test_an_exported_classifier_gives_the_calibrated_chances(
    toy_classifier: Classifier, toy_folder: Path, tmp_path: Path
) -> None:
    classifier = Classifier.from_pretrained(toy_folder)
    line = Calibration(
        slopes=(0.4, 0.5, 0.6), offsets=(-1.0, 0.0, 1.0), temperature=2.0, pull=None, rows=60,
        loss=(1.0, 0.5),
    )  # fmt: skip
    classifier.take_calibration(line)
    classifier.save_pretrained(tmp_path / "calibrated")
    export_classifier(tmp_path / "calibrated", "onnx", tmp_path / "graph")
    scorer = load_scorer(tmp_path / "graph")
    wanted = calibrate(toy_classifier.predict_proba(TEXTS), line, kind="multilabel")
    np.testing.assert_allclose(scorer.predict_proba(TEXTS), wanted, atol=1e-5)
    assert scorer.calibration is not None and scorer.calibration.in_weights
    np.testing.assert_allclose(
        explain(classifier, TEXTS[0]).probability, wanted[0].max(), atol=1e-5
    )


def test_the_folder_runs_where_torch_cannot_be_imported(
    exported: Path, toy_classifier: Classifier
) -> None:
    code = (
        "import sys\n"
        "class Forbid:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'peft'):\n"
        "            raise AssertionError(f'{name} was imported')\n"
        "sys.meta_path.insert(0, Forbid())\n"
        "from trialese.cli.main import main\n"
        f"sys.argv = ['trialese', 'predict', {str(exported)!r}, *{TEXTS!r}, '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [list(json.loads(line)["scores"].values()) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(found, toy_classifier.predict_proba(TEXTS), atol=1e-5, rtol=0)


def test_int8_is_kept_where_labels_agree(
    toy_folder: Path, toy_classifier: Classifier, many: list[str], tmp_path: Path
) -> None:
    manifest = export_classifier(toy_folder, "onnx-int8", tmp_path / "int8", texts=many)
    assert manifest.notes["label_agreement_int8"] >= 0.995
    assert manifest.notes["texts_compared"] == 240
    scores = load_scorer(tmp_path / "int8").predict_proba(many)
    difference = np.abs(scores - toy_classifier.predict_proba(many)).max()
    assert 1e-6 < difference < 0.1  # it is another graph, but a near one


def test_what_misses_parity_is_refused_with_the_figure(
    toy_folder: Path, many: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecordError, match="3 different texts to check int8 with"):
        export_classifier(toy_folder, "onnx-int8", tmp_path / "int8", texts=["a", "b", "c", "c"])
    monkeypatch.setattr(module, "MIN_AGREEMENT", 1.01)
    with pytest.raises(ArtifactError, match=r"int8 gives [0-9.]+% of 240 texts the labels"):
        export_classifier(toy_folder, "onnx-int8", tmp_path / "int8", texts=many)
    monkeypatch.setattr(module, "MAX_DIFFERENCE", 0.0)
    with pytest.raises(ArtifactError, match="the exported graph differs from the classifier by"):
        export_classifier(toy_folder, "onnx", tmp_path / "fp32")
    assert not (tmp_path / "int8").exists() and not (tmp_path / "fp32").exists()


def test_a_damaged_export_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "bad")
    (tmp_path / "bad" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"model\.onnx: altered since it was written"):
        load_scorer(tmp_path / "bad")
    (tmp_path / "bad" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="damaged export"):
        load_scorer(tmp_path / "bad")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "mpnet", "modernbert"])
def test_every_described_family_exports_for_any_length(family: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    # ModernBERT's local attention reaches further than the graph is traced for
    more = {"local_attention": 24} if family == "modernbert" else {}
    save_family(tmp_path / "m", family, **more)
    task = Task("toy", ("A", "B", "C"), "multilabel")
    model, tokenizer, _ = load_masked_lm(task, tmp_path / "m")
    classifier = Classifier(task, model.eval(), tokenizer, Preprocessing(max_tokens=64))
    module.write_graph(classifier, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"))
    for tokens in (3, 60):
        ids = torch.randint(5, len(tokenizer), (3, tokens))
        mask = torch.ones_like(ids)
        ids[1, tokens - 1 :], mask[1, tokens - 1 :] = tokenizer.pad_token_id, 0
        with torch.no_grad():
            own = model(input_ids=ids, attention_mask=mask).logits
        given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        np.testing.assert_allclose(session.run(None, given)[0], own.numpy(), atol=1e-5, rtol=0)
