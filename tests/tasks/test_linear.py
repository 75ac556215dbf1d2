"""TF-IDF with logistic regression: as scikit-learn has it, but stored without pickle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union
from typer.testing import CliRunner

from trialese.artifacts import read_manifest
from trialese.cli.main import app
from trialese.errors import ArtifactError, RecipeError
from trialese.predictions import load_predictions
from trialese.records import Example, Task
from trialese.settings import StopReasonsSettings, TasksSettings
from trialese.tasks.explain import explain
from trialese.tasks.finetune import finetune
from trialese.tasks.linear import LinearClassifier, _Vocabulary, fit_linear
from trialese.tasks.predict import load_scorer, predict_file, predict_inputs
from trialese.tasks.scorer import with_preference
from trialese.tasks.task import encode_labels


@given(st.text(alphabet="aAb \tÄßé-'.1_\n", max_size=40))
def test_ngrams_are_those_of_scikit_learn(text: str) -> None:
    for unit, analyzer, sizes in (("word", "word", (1, 2)), ("character", "char_wb", (2, 5))):
        theirs = TfidfVectorizer(analyzer=analyzer, ngram_range=sizes).build_analyzer()(text)
        ours = [term for term, _ in _Vocabulary(unit, *sizes, ()).occurrences(text)]
        assert sorted(ours) == sorted(theirs)


def test_it_scores_as_the_plain_recipe_of_scikit_learn(
    toy_task: Task, toy_rows: list[Example]
) -> None:
    train, tune = toy_rows[:40], toy_rows[40:]
    texts = [row.text for row in tune]
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    matrix = union.fit_transform([row.text for row in train])
    truth = encode_labels(toy_task, train)
    for chosen in ((10.0, None), (1.0, "balanced")):
        ours = fit_linear(toy_task, train, tune, regularisations=(chosen,)).predict_proba(texts)
        theirs = np.stack(
            [
                LogisticRegression(
                    C=chosen[0], class_weight=chosen[1], solver="liblinear", tol=1e-8, max_iter=5000
                ).fit(matrix, truth[:, place]).predict_proba(union.transform(texts))[:, 1]
                for place in range(len(toy_task.labels))
            ],
            axis=1,
        )  # fmt: skip
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("linear")
    words = {"Covid19": "pandemic covid", "Insufficient_Enrollment": "slow accrual"}
    rows = [f"{words[label]} site {n * 7919}\t{label}" for n in range(25) for label in words]
    (home / "gold.tsv").write_text("\n".join(["text\tlabels", *rows]) + "\n")
    section = StopReasonsSettings(labelled=str(home / "gold.tsv"), run_folds=2, tune_share=0.3)
    settings = TasksSettings(stop_reasons=section)
    finetune("stop-reasons", "tfidf", settings=settings, path=home / "tfidf")
    return home / "tfidf"


def test_the_folder_takes_cut_offs_for_the_use_that_finetune_is_told(
    artifact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gold = str(artifact.parent / "gold.tsv")
    section = StopReasonsSettings(labelled=gold, run_folds=2, tune_share=0.3)
    told = TasksSettings(stop_reasons=msgspec.structs.replace(section, prefer="precision=0.7"))
    manifest = finetune("stop-reasons", "tfidf", settings=told, path=tmp_path / "told")
    assert manifest.settings["section"]["prefer"] == "precision=0.7"
    assert "prefer" not in read_manifest(artifact).settings["section"]  # it stays finished
    usual, careful = load_scorer(artifact), load_scorer(tmp_path / "told")
    assert usual.thresholds is not None and careful.thresholds is not None
    assert (careful.thresholds.prefer, careful.thresholds.usual) == (
        "precision=0.7", usual.thresholds.values,
    )  # fmt: skip
    asked = with_preference(usual, "precision=0.7").thresholds
    assert asked is not None and careful.thresholds.values == asked.values
    again = with_preference(careful, "f1").thresholds
    assert again is not None and again.values == usual.thresholds.values
    assert "precision=0.7 cannot be promised for" in caplog.text
    caplog.clear()
    caplog.set_level("INFO", logger="trialese")
    (row,) = predict_inputs(tmp_path / "told", ["slow accrual"])
    assert (row.prefer, row.thresholds) == ("precision=0.7", "tune, precision=0.7")
    assert "told: cut-offs for precision=0.7, chosen on tune" in caplog.text
    (row,) = predict_inputs(artifact, ["slow accrual"])
    assert (row.prefer, row.thresholds) == ("f1", "tune")


@pytest.mark.parametrize(("name", "use"), [("stop-reasons", "speed"), ("sex", "recall=0.9")])
def test_a_use_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, use: str
) -> None:
    asked = ["finetune", name, "--system", "tfidf", "--prefer", use, "-o", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, asked)
    assert isinstance(refused.exception, RecipeError) and use in str(refused.exception)
    assert not (tmp_path / "out").exists()


def test_what_finetune_fits_is_a_classifier_for_use(artifact: Path, tmp_path: Path) -> None:
    classifier = load_scorer(artifact)
    assert isinstance(classifier, LinearClassifier)
    assert classifier.predict(["slow accrual", "covid pandemic"]) == [
        ("Insufficient_Enrollment",), ("Covid19",),
    ]  # fmt: skip
    assert not [file.name for file in artifact.rglob("*") if file.suffix in (".pkl", ".joblib")]
    (tmp_path / "in.txt").write_text("covid\nslow accrual\n")
    about = predict_file(classifier, tmp_path / "in.txt", tmp_path / "out.csv")
    assert about is not None and about.engine == "linear fp32 weights"
    runs = load_predictions(artifact / "predictions.parquet")
    assert {(run.fold, run.split) for run in runs} == {
        (0, "tune"), (0, "test"), (1, "tune"), (1, "test"),
    }  # fmt: skip


def test_the_words_that_carried_a_label_add_up(artifact: Path) -> None:
    classifier = LinearClassifier.from_pretrained(artifact)
    text = "slow accrual, and the covid pandemic"
    found = explain(classifier, text, "Covid19")
    column = classifier.labels.index("Covid19")
    chance = classifier.predict_proba([text])[0, column]
    odds = np.log(chance) - np.log1p(-chance)
    assert sum(span.weight for span in found.spans) == pytest.approx(
        odds - classifier.bias[column], abs=1e-4
    )
    best = max(found.spans, key=lambda span: span.weight)
    assert text[best.start : best.end] in ("covid", "pandemic")


def test_it_loads_without_torch_and_without_scikit_learn(artifact: Path) -> None:
    code = (
        "from trialese.tasks.predict import load_scorer; import sys\n"
        "from pathlib import Path\n"
        f"print(load_scorer(Path({str(artifact)!r})).predict(['covid pandemic']))\n"
        "print([name for name in ('torch', 'sklearn', 'scipy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[('Covid19',)]", "[]"]


def test_damaged_weights_are_refused(artifact: Path, tmp_path: Path) -> None:
    classifier = LinearClassifier.from_pretrained(artifact)
    classifier.weights = classifier.weights[:-1]
    classifier.save_pretrained(tmp_path / "short")
    with pytest.raises(ArtifactError, match=r"weights for .* n-grams and 17 labels"):
        LinearClassifier.from_pretrained(tmp_path / "short")
    classifier = LinearClassifier.from_pretrained(artifact)
    classifier.weights[0, 0] = np.nan
    classifier.save_pretrained(tmp_path / "nan")
    with pytest.raises(ArtifactError, match="numbers that are not finite"):
        LinearClassifier.from_pretrained(tmp_path / "nan")
    (tmp_path / "nan" / "linear.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="damaged classifier"):
        LinearClassifier.from_pretrained(tmp_path / "nan")
