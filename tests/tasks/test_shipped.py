"""The classifiers that ship with the package: found by name, checked, used without torch."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trialese.artifacts import verify_files
from trialese.errors import ArtifactError, RecipeError
from trialese.tasks import shipped
from trialese.tasks.classifier import Classifier
from trialese.tasks.explain import explain
from trialese.tasks.formats import TextToLabel
from trialese.tasks.linear import LinearClassifier
from trialese.tasks.predict import label_texts, load_classifier, load_scorer
from trialese.tasks.scorer import (
    find_classifier,
    model_folder,
    read_description,
    with_preference,
)
from trialese.tasks.shipped import SHIPPED, shipped_folder, shipped_sizes

HEPATOTOXICITY = "Slow accrual, and two patients had severe hepatotoxicity"


@pytest.mark.parametrize("name", SHIPPED)
def test_each_is_whole_small_and_without_pickle(name: str) -> None:
    for size in shipped_sizes(name):
        folder = shipped_folder(name, size)
        verify_files(folder)
        found = read_description(model_folder(folder))
        assert found.task.name == name and found.calibration is not None
        card = (folder / "README.md").read_text("utf-8")
        listed = (folder / "fitted_on.txt").read_text("utf-8").split()
        assert len(listed) > 1000 and listed == sorted(set(listed))
        assert (
            "that fitted_on.txt lists" in card
            and "Must not be tested on" in card
            and "Learnt from" in card
            and "|seed=" in card
        )
    files = [file for file in shipped._HOME.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 6 * 2**20
    assert {file.suffix for file in files} <= {".json", ".npz", ".md", ".safetensors", ".txt"}


def in_the_base_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where no extra is installed."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'sklearn', 'scipy', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = {['trialese', *arguments]!r}\n"
        "from trialese.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_name_is_enough_and_torch_is_not_needed() -> None:
    done = in_the_base_install("predict", "stop-reasons", HEPATOTOXICITY)
    labels = done.stdout.split("\t")[0]
    assert "Insufficient_Enrollment 0." in labels and "Safety_Sideeffects 0." in labels
    assert done.stderr.startswith("stop-reasons, small: ships with trialese")


def test_the_base_install_compares_labels_too(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("text,label\nCOVID-19 pandemic,Covid19\nSlow accrual,Negative\n")
    done = in_the_base_install("agree", "stop-reasons", str(table), "--label-column", "label")
    assert "Cohen's kappa of their label and our likeliest: 0.333" in done.stdout


def test_a_classifier_in_the_working_directory_goes_first_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = Path("stop-reasons")
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a folder of something else
    assert find_classifier(name).is_relative_to(shipped._HOME)
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("a file")
    assert model_folder(name).is_relative_to(shipped._HOME)
    (tmp_path / name).unlink()
    shutil.copytree(shipped_folder("stop-reasons", "small"), name)
    assert find_classifier(name) == name and model_folder(name) == name / "model"
    assert "the classifier in this folder answers" in caplog.text
    with caplog.at_level(logging.INFO, logger="trialese"):
        assert find_classifier(name, "small").is_relative_to(shipped._HOME)
    assert "stop-reasons, small: ships with trialese" in caplog.text


def test_other_names_and_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="or stop-reasons or sex, which ship with trialese"):
        load_scorer(tmp_path / "none")
    with pytest.raises(ArtifactError, match="no such classifier ships with trialese; there are"):
        find_classifier(Path("reasons"), "small")
    assert find_classifier(tmp_path) == tmp_path
    own = shutil.copytree(shipped_folder("sex"), tmp_path / "own")
    with pytest.raises(ArtifactError, match=r"own: only what ships .* sizes; leave the size out"):
        find_classifier(own, "small")
    for name in ("sex", "stop-reasons"):  # linear or not
        with pytest.raises(RecipeError, match="precision 'int4' is unknown; use one of auto, fp32"):
            load_classifier(name, precision="int4")


def test_altered_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shipped._HOME, tmp_path / "shipped")
    monkeypatch.setattr(shipped, "_HOME", tmp_path / "shipped")
    monkeypatch.setattr(shipped, "_lacking", lambda: "torch")
    monkeypatch.chdir(tmp_path)
    target = shipped_folder("stop-reasons", "small") / "model" / "thresholds.json"
    whole = target.read_text("utf-8")
    target.write_text(whole.replace("0.", "0.1", 1))
    for call in (
        load_scorer,
        LinearClassifier.from_pretrained,
        lambda name: find_classifier(name, "small"),
    ):
        with pytest.raises(ArtifactError, match=r"thresholds\.json: .*install trialese again"):
            call(Path("stop-reasons"))
    target.write_text(whole)
    (shipped._HOME / "stop-reasons" / "small" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"no manifest\.json.*install trialese again"):
        load_scorer(Path("stop-reasons"))
    shutil.rmtree(shipped._HOME / "stop-reasons" / "small")
    with pytest.raises(ArtifactError, match="not there; install trialese again"):
        load_scorer(Path("stop-reasons"))


def test_compact_weights_score_nearly_as_whole_ones(tmp_path: Path) -> None:
    whole = LinearClassifier.from_pretrained(shipped_folder("stop-reasons", "small"))
    random = np.random.default_rng(0)
    whole.weights = whole.weights + random.normal(0, 0.01, whole.weights.shape).astype(np.float32)
    whole.save_pretrained(tmp_path / "plain")
    whole.save_pretrained(tmp_path / "compact", compact=True)
    plain, compact = (
        LinearClassifier.from_pretrained(tmp_path / each).predict_proba([HEPATOTOXICITY, "Funding"])
        for each in ("plain", "compact")
    )
    np.testing.assert_allclose(compact, plain, atol=0.05)
    sizes = [(tmp_path / each / "linear.npz").stat().st_size for each in ("plain", "compact")]
    assert sizes[1] < sizes[0] / 4


def test_cut_offs_for_a_use_need_no_new_fit_and_who_cannot_promise_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = load_scorer(shipped_folder("stop-reasons", "small"))
    precise = with_preference(small, "precision=0.9")
    (told,) = caplog.records
    assert told.getMessage().startswith("precision=0.9 cannot be promised for ")
    assert "Ethical_Reason (" in told.getMessage() and "Covid19" not in told.getMessage()
    rows = [TextToLabel(1, "", "COVID-19 pandemic"), TextToLabel(2, "", "Ethical concerns")]
    sure, unsure = label_texts(precise, rows)
    assert (sure.labels, sure.needs_person) == (("Covid19",), False)
    assert unsure.needs_person and "Ethical_Reason" not in unsure.labels
    assert sure.thresholds == "tune, precision=0.9"
    none = with_preference(small, "precision=0.99")
    assert none.predict(["COVID-19 pandemic"]) == [()]  # of probability 1.0
    assert with_preference(small, None) is small
    assert {each.thresholds for each in label_texts(small, rows)} == {"tune"}


def test_the_large_one_answers_where_torch_is_and_reads_what_the_small_one_cannot() -> None:
    assert shipped_sizes("stop-reasons") == ("small", "large")
    large = Classifier.from_pretrained("stop-reasons")
    small = LinearClassifier.from_pretrained("stop-reasons")
    assert large.engine == "torch fp32" and small.engine.startswith("linear")
    assert large.task == small.task and large.digest != small.digest
    assert set(large.predict([HEPATOTOXICITY])[0]) == {
        "Insufficient_Enrollment", "Safety_Sideeffects",
    }  # fmt: skip
    assert explain(large, HEPATOTOXICITY, "Safety_Sideeffects").spans
