""""""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from tests.pretrain.conftest import FAMILIES, WITH_DESCRIPTION, save_family
from trialese.errors import ArtifactError, RecordError
from trialese.records import Example, Task, Thresholds
from trialese.settings import FinetuneSettings, LoraSettings
from trialese.tasks.classifier import (
    Classifier,
    FirstTokenLogits,
    OwnLogits,
    Preprocessing,
    fast_forward,
    load_masked_lm,
)
from trialese.tasks.explain import explain
from trialese.tasks.fit import fit_classifier
from trialese.tasks.predict import predict_file
from trialese.tasks.scorer import encode_texts, given_labels, length_sorted_batches
from trialese.tasks.task import encode_labels
from trialese.temperature import Calibration, calibrate

IDS = [[2, 9, 10, 11, 3], [2, 12, 3], [2, 30, 31, 32, 33, 34, 3]]


@pytest.mark.parametrize("plain", [False, True])
def test_it_is_the_stock_model(toy_classifier: Classifier, plain: bool) -> None:
    model = toy_classifier.model
    batch = toy_classifier.pad(IDS, model.device)
    with torch.inference_mode():
        stock = model(**batch).logits
        forward = FirstTokenLogits(model, plain=plain)
        ours = forward(batch["input_ids"], batch["attention_mask"].bool())
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=0)
        alone = forward(torch.tensor(IDS[:1]), None)
        torch.testing.assert_close(alone, stock[:1], atol=1e-5, rtol=0)


def test_bf16_stays_near_fp32(toy_classifier: Classifier) -> None:
    batch = torch.tensor(IDS[:1])
    with torch.inference_mode():
        exact = FirstTokenLogits(toy_classifier.model)(batch, None)
        half = FirstTokenLogits(toy_classifier.model, dtype=torch.bfloat16)(batch, None)
    assert half.dtype == torch.float32
    difference = (half - exact).abs().max() / exact.abs().max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize("own", [False, True])
def test_bf16_tells_how_it_agrees_with_fp32_on_the_given_texts(
    toy_classifier: Classifier, own: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["slow accrual", "lack of funding", "futility of the drug"] * 40
    exact = toy_classifier.predict_proba(texts)
    assert toy_classifier.agreement is None
    model = toy_classifier.model
    forward = OwnLogits(model) if own else FirstTokenLogits(model, dtype=torch.bfloat16)
    half = replace(toy_classifier, forward=forward)
    scores = half.predict_proba(texts)
    found = half.agreement
    assert found is not None and (half.engine, found.texts) == ("torch bf16", 120)
    assert found.largest_difference == pytest.approx(abs(scores - exact).max(), abs=1e-6)
    given = [given_labels(half.task, half.thresholds, each) for each in (scores, exact)]
    assert found.same_labels == (given[0] == given[1]).all(axis=1).sum()
    half.predict_proba(texts + texts)  # no more than the first 256 are scored twice
    assert half.agreement.texts == 256
    half.agreement = None
    (tmp_path / "texts.txt").write_text("\n".join(texts[:9]), encoding="utf-8")
    with caplog.at_level("INFO", "trialese"):
        about = predict_file(half, tmp_path / "texts.txt", tmp_path / "labels.csv")
    assert about is not None and about.agreement.texts == 9
    saved = json.loads((tmp_path / "labels.csv.about.json").read_text())
    assert (saved["engine"], saved["agreement"]["texts"]) == ("torch bf16", 9)
    assert f"torch bf16: {about.agreement}" in caplog.messages
    assert str(about.agreement).startswith("of 9 texts that were scored in fp32 as well, ")


def test_other_architectures_keep_their_own_forward_pass() -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=2, hidden_dim=16)
    assert fast_forward(DistilBertForSequenceClassification(config), "fp32") is None


def test_loaded_and_fitted_score_alike(toy_classifier: Classifier) -> None:
    fast = toy_classifier.predict_proba(["slow accrual", "lack of funding in women", "x"])
    forward, toy_classifier.forward = toy_classifier.forward, None
    try:
        own = toy_classifier.predict_proba(["slow accrual", "lack of funding in women", "x"])
    finally:
        toy_classifier.forward = forward
    np.testing.assert_allclose(fast, own, atol=1e-6, rtol=0)


QUICK = FinetuneSettings(
    epochs=1, lr=1e-3, batch_texts=8, max_tokens=48, dropout=0.1, precision="fp32"
)


@pytest.fixture(scope="module")
def fitted(tiny_backbone: Path) -> Classifier:
    task = Task("toy", ("Enrollment", "Money", "Science"), "multilabel")
    rows = [
        Example(str(row), text, (label,))
        for row, (text, label) in enumerate(
            [("slow accrual", "Enrollment"), ("funding", "Money"), ("futility", "Science")] * 8
        )
    ]
    classifier = fit_classifier(task, rows, rows[:6], tiny_backbone, QUICK, seed=3)[0]
    classifier.thresholds = Thresholds(
        labels=task.labels, values=(0.2, 0.3, 0.4), chosen_on="tune", chosen_from=frozenset("ab")
    )
    return classifier


TEXTS = [
    "low recruitment",
    "the trial of the drug in women was stopped: lack of funding and slow accrual of patients",
    "x",
    "covid pandemic " * 12,
    "",
]


def test_a_batch_scores_as_each_text_alone(fitted: Classifier) -> None:
    together = fitted.predict_proba(TEXTS)
    alone = np.concatenate([fitted.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)
    assert together.shape == (5, 3)


def test_the_folder_is_plain_hugging_face(fitted: Classifier, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "Enrollment", 1: "Money", 2: "Science"}
    with torch.inference_mode():
        logits = model.eval()(**tokenizer(TEXTS[:1], return_tensors="pt")).logits
    np.testing.assert_allclose(
        torch.sigmoid(logits).numpy(), fitted.predict_proba(TEXTS[:1]), atol=1e-6, rtol=0
    )
    names = {file.suffix for file in (tmp_path / "model").iterdir()}
    assert names <= {".json", ".safetensors", ".txt"}


def test_save_and_load_are_the_identity(fitted: Classifier, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "model")
    loaded = Classifier.from_pretrained(tmp_path / "model")
    assert loaded.task == fitted.task
    assert loaded.preprocessing == fitted.preprocessing
    assert loaded.thresholds is not None and fitted.thresholds is not None
    assert loaded.thresholds.values == fitted.thresholds.values
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    with pytest.raises(ArtifactError, match="something stands there already"):
        fitted.save_pretrained(tmp_path / "model")


def test_one_label_scores_sum_to_one(tiny_backbone: Path) -> None:
    task = Task("sexes", ("All", "Female", "Male"), "multiclass")
    rows = [
        Example(str(i), text, (label,))
        for i, (text, label) in enumerate(
            [("women", "Female"), ("men", "Male"), ("adults", "All")] * 6
        )
    ]
    classifier = fit_classifier(task, rows, rows[:3], tiny_backbone, QUICK, seed=1)[0]
    np.testing.assert_allclose(classifier.predict_proba(TEXTS).sum(axis=1), 1.0, atol=1e-6)
    assert classifier.model.config.problem_type == "single_label_classification"


def test_no_text_gives_no_row(fitted: Classifier) -> None:
    assert fitted.predict_proba([]).shape == (0, 3)


CALIBRATION = Calibration(
    slopes=(0.5, 2.0, 1.0), offsets=(0.2, -1.0, 0.0), temperature=1.0, pull=1.0, rows=60,
    loss=(1.0, 0.5),
)  # fmt: skip


@pytest.mark.parametrize("family", [*FAMILIES])
def test_a_calibration_is_in_the_weights_for_whoever_loads_them(
    family: str, toy_task: Task, tmp_path: Path
) -> None:
    save_family(tmp_path / "backbone", family)
    model, tokenizer, _ = load_masked_lm(toy_task, tmp_path / "backbone")
    classifier = Classifier(toy_task, model.eval(), tokenizer, Preprocessing(max_tokens=32))
    texts = ["slow accrual", "lack of funding from the sponsor"]
    before = classifier.predict_proba(texts)
    classifier.take_calibration(CALIBRATION)
    wanted = calibrate(before, CALIBRATION, kind="multilabel")
    np.testing.assert_allclose(classifier.predict_proba(texts), wanted, atol=1e-5)
    classifier.save_pretrained(tmp_path / "out")
    again = Classifier.from_pretrained(tmp_path / "out")
    np.testing.assert_allclose(again.predict_proba(texts), wanted, atol=1e-5)
    assert again.calibration == msgspec.structs.replace(CALIBRATION, in_weights=True)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    encoded = again.pad(again.encode(texts), torch.device("cpu"))
    with torch.no_grad():
        theirs = torch.sigmoid(stock.eval()(**encoded).logits).numpy()
    np.testing.assert_allclose(theirs, wanted, atol=1e-5)


def test_a_calibration_of_another_number_of_labels_is_refused(
    toy_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_folder, tmp_path / "odd")
    odd = msgspec.structs.replace(CALIBRATION, slopes=(1.0,))
    (tmp_path / "odd" / "calibration.json").write_bytes(msgspec.json.encode(odd))
    with pytest.raises(ArtifactError, match=r"calibration.json is of another number of labels"):
        Classifier.from_pretrained(tmp_path / "odd")


def test_what_it_adds_to_its_backbone_is_enough(
    toy_folder: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    whole = Classifier.from_pretrained(toy_folder)
    texts = ["slow accrual", "lack of funding from the sponsor", "interim futility"]
    whole.save_adapter(tmp_path / "adapter", rank=64, backbone=str(tiny_backbone))
    again = Classifier.from_pretrained(tmp_path / "adapter")
    np.testing.assert_allclose(again.predict_proba(texts), whole.predict_proba(texts), atol=5e-3)
    assert (again.task, again.thresholds) == (whole.task, whole.thresholds)
    assert again.engine == whole.engine and again.digest
    assert explain(again, texts[0]).text == texts[0]
    files = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert "adapter.safetensors" in files and "model.safetensors" not in files
    low = tmp_path / "low"
    whole.save_adapter(low, rank=2, backbone=str(tiny_backbone))
    sizes = [(each / "adapter.safetensors").stat().st_size for each in (tmp_path / "adapter", low)]
    assert sizes[1] < sizes[0]


def test_an_adapter_of_another_backbone_or_damaged_is_refused(
    toy_folder: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_backbone, tmp_path / "backbone")
    whole = Classifier.from_pretrained(toy_folder)
    whole.save_adapter(tmp_path / "adapter", rank=4, backbone=str(tmp_path / "backbone"))
    saved = tmp_path / "adapter" / "adapter.safetensors"
    weights = load_file(saved)
    save_file({**weights, "bert.nowhere.weight.whole": torch.ones(2)}, saved)
    with pytest.raises(ArtifactError, match=r"nowhere\.weight does not fit the backbone"):
        Classifier.from_pretrained(tmp_path / "adapter")
    saved.write_bytes(b"?")
    with pytest.raises(ArtifactError, match="damaged classifier"):
        Classifier.from_pretrained(tmp_path / "adapter")
    save_file(weights, saved)
    config = tmp_path / "backbone" / "config.json"
    config.write_text(config.read_text("utf-8") + "\n")
    with pytest.raises(ArtifactError, match="was fitted from another"):
        Classifier.from_pretrained(tmp_path / "adapter")


def test_training_and_use_clean_alike(fitted: Classifier) -> None:
    np.testing.assert_array_equal(
        fitted.predict_proba(["slow\r\n accrual  \\>"]), fitted.predict_proba(["slow accrual >"])
    )


@pytest.mark.parametrize("damage", ["nothing", "no task", "json", "weights", "labels"])
def test_what_is_no_classifier_is_refused(
    fitted: Classifier, tmp_path: Path, damage: str, tiny_backbone: Path
) -> None:
    folder = tmp_path / "model"
    if damage == "no task":
        folder = tiny_backbone
    elif damage != "nothing":
        fitted.save_pretrained(folder)
    if damage == "json":
        (folder / "preprocessing.json").write_text("{")
    if damage == "weights":
        (folder / "model.safetensors").write_bytes(b"0" * 100)
    if damage == "labels":
        saved = json.loads((folder / "preprocessing.json").read_text())
        saved["labels"] = saved["labels"][:2]
        (folder / "preprocessing.json").write_text(json.dumps(saved))
    with pytest.raises(ArtifactError) as caught:
        Classifier.from_pretrained(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(1, 16), st.integers(1, 400))
def test_batches_hold_every_row_once_within_the_budget(
    lengths: list[int], batch_texts: int, batch_tokens: int
) -> None:
    batches = length_sorted_batches(lengths, batch_texts, batch_tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= batch_texts
        padded = len(batch) * max(lengths[row] for row in batch)
        assert padded <= batch_tokens or len(batch) == 1


def test_truth_and_scores_share_columns(fitted: Classifier) -> None:
    row = Example("1", "slow accrual", ("Money",))
    assert encode_labels(fitted.task, [row]).shape == fitted.predict_proba([row.text]).shape


def test_preprocessing_can_leave_texts_alone() -> None:
    assert Preprocessing(max_tokens=8, cleaning="none").clean(" a\\> ") == " a\\> "
    assert Preprocessing(max_tokens=8).clean(" a\\> ") == "a>"


def test_predict_gives_labels_and_predict_proba_their_probabilities(
    toy_classifier: Classifier, toy_folder: Path
) -> None:
    texts = ["slow accrual", "lack of funding", "futility analysis and slow accrual"]
    chances = toy_classifier.predict_proba(texts)
    assert chances.shape == (3, len(toy_classifier.labels)) and toy_classifier.labels == (
        "Enrollment", "Money", "Science",
    )  # fmt: skip
    cuts = np.array([0.4, 0.5, 0.6])
    expected = [
        tuple(label for label, given in zip(toy_classifier.labels, row, strict=True) if given)
        for row in chances >= cuts
    ]
    assert toy_classifier.predict(texts) == expected
    again = Classifier.from_pretrained(str(toy_folder))
    assert again.predict(np.array(texts)) == expected  # type: ignore[arg-type]
    assert again.engine == "torch fp32"
    assert toy_classifier.predict([]) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            "slow accrual",
            r"several texts are needed, and this is one; give a list: \['slow accrual'\]",
        ),
        (["slow accrual", None], "text 1 is None, of type NoneType; give a str"),
        (["slow accrual", float("nan")], "text 1 is nan, of type float"),
        ([b"bytes"], "text 0 is b'bytes', of type bytes"),
    ],
)
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_what_is_no_list_of_texts_is_refused(
    toy_classifier: Classifier, texts: Any, message: str, method: str
) -> None:
    with pytest.raises(RecordError, match=message):
        getattr(toy_classifier, method)(texts)


FAMILY_ROWS = [
    Example(str(row), text, (label,))
    for row, (text, label) in enumerate(
        [("slow accrual", "Enrollment"), ("funding", "Money"), ("futility", "Science")] * 8
    )
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"frozen_layers": 1},
        {"frozen_layers": 0, "method": "lora", "lora": LoraSettings(rank=2)},
        {"label_words": True},
    ],
    ids=["whole", "frozen", "lora", "words"],
)
def test_every_family_is_fitted_and_its_folder_is_the_stock_model(
    family: str, how: dict[str, object], tmp_path: Path
) -> None:
    task = Task("toy", ("Enrollment", "Money", "Science"), "multilabel")
    folder = save_family(tmp_path / "masked-lm", family)
    settings = FinetuneSettings(
        epochs=2, lr=3e-3, batch_texts=8, max_tokens=48, dropout=0.1, precision="fp32", **how
    )
    made = [
        fit_classifier(task, FAMILY_ROWS, FAMILY_ROWS[:6], folder, settings, seed=3)[0]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(made[0].predict_proba(TEXTS), made[1].predict_proba(TEXTS))
    made[0].save_pretrained(tmp_path / "model")
    loaded = Classifier.from_pretrained(tmp_path / "model")
    assert (loaded.forward is not None) == (family in WITH_DESCRIPTION)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    ids = loaded.encode([loaded.preprocessing.clean(text) for text in TEXTS])
    batch = loaded.pad(ids, torch.device("cpu"))
    with torch.inference_mode():
        expected = torch.sigmoid(stock.eval()(**batch).logits).numpy()
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), expected, atol=1e-5, rtol=0)
    if how.get("frozen_layers") == 1 and family != "albert":  # whose layers share their weights
        before = AutoModel.from_pretrained(folder).get_input_embeddings().weight
        assert torch.equal(before, stock.get_input_embeddings().weight)


def _lacking(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["classifier.weight"]


def _surplus(tensors: dict[str, torch.Tensor]) -> None:
    tensors["second.head"] = torch.zeros(2)


def _of_another_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weight"] = tensors["classifier.weight"][:, :-1].contiguous()


def _not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.bias"][1] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_lacking, r"model.safetensors lacks classifier.weight; fit it again"),
        (_surplus, r"has beside those of its model second.head; fit it again"),
        (_of_another_shape, r"classifier.weight is 3x\d+, but config.json needs 3x\d+"),
        (_not_finite, r"classifier.bias holds numbers that are not finite"),
    ],
)
def test_no_label_comes_from_damaged_weights(
    toy_folder: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    shutil.copytree(toy_folder, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ArtifactError, match=message):
        Classifier.from_pretrained(tmp_path)


def test_a_pickle_is_refused_with_the_command_that_converts_it(
    toy_folder: Path, toy_classifier: Classifier, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_folder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"are a pickle \(pytorch_model.bin\), which") as told:
        Classifier.from_pretrained(folder)
    command = str(told.value).partition("convert them with: ")[2].replace("python", sys.executable)
    subprocess.run(command, shell=True, check=True)
    again = Classifier.from_pretrained(folder)
    np.testing.assert_array_equal(
        again.predict_proba(TEXTS), Classifier.from_pretrained(toy_folder).predict_proba(TEXTS)
    )


def test_code_in_a_folder_is_never_run_nor_asked_for(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    folder = tmp_path / "model"
    shutil.copytree(toy_folder, folder)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name in ("config.json", "tokenizer_config.json"):
        plain = json.loads((folder / name).read_text())
        plain["auto_map"] = {
            "AutoConfig": "own.Config",
            "AutoModelForSequenceClassification": "own.Model",
            "AutoTokenizer": ["own.Slow", "own.Fast"],
        }
        (folder / name).write_text(json.dumps(plain))
    with pytest.raises(ArtifactError, match=r"code of its own \(auto_map in config.json\), which"):
        Classifier.from_pretrained(folder)
    with pytest.raises(ArtifactError, match="which is never run"):
        load_masked_lm(Task("toy", ("a", "b"), "multilabel"), folder)
    shutil.copy(toy_folder / "config.json", folder)  # the tokenizer's alone
    assert Classifier.from_pretrained(folder).predict_proba(TEXTS).shape == (len(TEXTS), 3)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [0.4, 0.5]}, "thresholds.json has 2 values for 3 labels"),
        ({"values": [0.4, 0.5, 0.6, 0.7]}, "thresholds.json has 4 values for 3 labels"),
        ({"values": [0.4, 0.5, 5.0]}, "a value that is no probability"),
        ({"labels": ["Money", "Enrollment", "Science"]}, "thresholds.json is of other labels"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(
    toy_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_folder, folder)
    plain = json.loads((folder / "thresholds.json").read_text()) | changes
    (folder / "thresholds.json").write_text(json.dumps(plain))
    with pytest.raises(ArtifactError, match=message):
        Classifier.from_pretrained(folder)


def test_labels_in_another_order_than_the_weights_are_refused(
    toy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_folder, folder)
    plain = json.loads((folder / "config.json").read_text())
    plain["id2label"] = {"0": "Money", "1": "Enrollment", "2": "Science"}
    plain["label2id"] = {"Money": 0, "Enrollment": 1, "Science": 2}
    (folder / "config.json").write_text(json.dumps(plain))
    with pytest.raises(ArtifactError, match="name other labels, or in another order"):
        Classifier.from_pretrained(folder)


class PanicException(BaseException):
    """As pyo3 raises it: no `Exception`."""


class _Panics:
    """A tokenizer that falls over one text."""

    truncation, padding = {"max_length": 9}, None

    def encode_batch_fast(self, texts: list[str]) -> list[Any]:
        if "bad" in texts:
            raise PanicException("index out of bounds")
        return [SimpleNamespace(ids=[2, 3]) for _ in texts]


def test_a_panic_of_the_tokenizer_names_the_text() -> None:
    assert encode_texts(_Panics(), ["good"], 9) == [[2, 3]]
    with pytest.raises(RecordError, match=r"the tokenizer cannot read 'bad' \(index out of bounds"):
        encode_texts(_Panics(), ["good", "bad", "fine"], 9)
