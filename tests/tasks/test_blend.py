"""A blend of two classifiers is a classifier: kept whole, loaded, used, checked, refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from starlette.testclient import TestClient

import trialese
from trialese.artifacts import read_manifest, verify_files
from trialese.cli.main import main
from trialese.errors import EXTRAS, ArtifactError, RecipeError, RecordError
from trialese.pipeline.evaluate import judge_classifiers
from trialese.pipeline.publish import prepare_publication
from trialese.predictions import load_predictions
from trialese.settings import (
    FinetuneSettings,
    ServeSettings,
    SexSettings,
    StopReasonsSettings,
    TasksSettings,
    VerdictSettings,
)
from trialese.tasks.blend import BlendClassifier, blend_predictions
from trialese.tasks.explain import explain
from trialese.tasks.finetune import blend_classifiers, finetune
from trialese.tasks.predict import load_scorer, predict_file, predict_inputs
from trialese.tasks.published import finetune_published
from trialese.temperature import calibrate, fit_calibration
from trialese.thresholds import log_odds, shrunk_cuts, sigmoid
from trialese.verdict.report import load_verdicts
from trialese.verdict.text import search_budget
from trialese.web.app import create_app
from trialese.web.models import open_served

TEXTS = ["slow accrual", "the sponsor ran out of funding", "covid wave, and slow accrual", "x"]


def table(path: Path, kinds: dict[str, str]) -> str:
    endings = ("alpha", "beta", "gamma", "delta", "eta")
    rows = [
        f"{text} {endings[row % 5]} {row}\t{label}"
        for row in range(40)
        for label, text in kinds.items()
    ]
    path.write_text("text\tlabels\n" + "\n".join(rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def home(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Systems of stop reasons, `bert`, `tfidf` and `weak`, and blends: `both`, `linear`."""
    home = tmp_path_factory.mktemp("blends")
    reasons = StopReasonsSettings(
        labelled=table(
            home / "gold.tsv",
            {
                "Insufficient_Enrollment": "slow accrual at site number",
                "Business_Administrative": "lack of funding from sponsor number",
                "Covid19": "stopped in the covid wave number",
            },
        ),
        folds=3,
        tune_share=0.3,
        finetune=FinetuneSettings(epochs=2, lr=3e-3, max_tokens=32, precision="fp32"),
    )
    weak = msgspec.structs.replace(reasons, search={"tfidf": {"C": (0.05,)}})
    for system, section in (("bert", reasons), ("tfidf", reasons), ("weak", weak)):
        settings = TasksSettings(stop_reasons=section)
        model = tiny_backbone if system == "bert" else None
        name = "bert" if system == "bert" else "tfidf"
        finetune("stop-reasons", name, model=model, settings=settings, path=home / system)
    blend_classifiers("stop-reasons", [home / "bert", home / "tfidf"], "hybrid", home / "both")
    blend_classifiers("stop-reasons", [home / "tfidf", home / "weak"], "hybrid", home / "linear")
    return home


MEMBERS = [("both", ("bert", "tfidf")), ("linear", ("tfidf", "weak"))]


@pytest.mark.parametrize(("blend", "members"), MEMBERS)
def test_its_scores_are_those_of_its_members_blended_and_calibrated(
    home: Path, blend: str, members: tuple[str, str]
) -> None:
    classifier = load_scorer(home / blend)
    assert isinstance(classifier, BlendClassifier)
    one, other = (load_scorer(home / name).predict_proba(TEXTS) for name in members)
    mean = sigmoid((log_odds(one) + log_odds(other)) / 2)
    assert classifier.calibration is not None
    expected = calibrate(mean, classifier.calibration, kind="multilabel")
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), expected, atol=1e-6)
    assert not np.allclose(mean, expected, atol=1e-3)


@pytest.mark.parametrize(("blend", "members"), MEMBERS)
def test_calibration_and_cut_offs_are_chosen_from_its_own_tune_scores(
    home: Path, blend: str, members: tuple[str, str]
) -> None:
    classifier = load_scorer(home / blend)
    runs = [load_predictions(home / name / "predictions.parquet") for name in members]
    tune = [run for run in blend_predictions(*runs, system="hybrid") if run.split == "tune"]
    assert len(tune) == 3
    scores, truth = (np.concatenate([getattr(r, x) for r in tune]) for x in ("scores", "truth"))
    clusters = [cluster for run in tune for cluster in run.clusters]
    fitted = fit_calibration(scores, truth, clusters, kind="multilabel")
    assert classifier.calibration == fitted
    cuts = shrunk_cuts(calibrate(scores, fitted, kind="multilabel"), truth, shrinkage=10.0)
    assert classifier.thresholds is not None
    assert classifier.thresholds.values == pytest.approx(cuts)
    assert classifier.thresholds.chosen_on == "tune" and classifier.thresholds.points


def test_the_saved_scores_are_chances_by_the_tune_texts_of_each_fold(home: Path) -> None:
    runs = [load_predictions(home / name / "predictions.parquet") for name in ("tfidf", "weak")]
    plain = blend_predictions(*runs, system="hybrid")
    saved = load_predictions(home / "linear" / "predictions.parquet")
    few = [run for run in plain if run.split == "tune" and len(run.ids) < 50]
    assert len(few) == 3  # too few a fold to fit anything
    for before, after in zip(plain, saved, strict=True):
        np.testing.assert_array_equal(before.scores, after.scores)


def test_it_takes_cut_offs_for_a_use(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="trialese")
    both = ["--blend-of", home / "tfidf", "--blend-of", home / "weak", "--system", "hybrid"]
    asked = ["finetune", "stop-reasons", *both, "--prefer", "precision=0.8"]
    assert call(monkeypatch, *asked, "-o", tmp_path / "blend") == 0
    found = load_scorer(tmp_path / "blend").thresholds
    usual = load_scorer(home / "linear").thresholds
    assert found is not None and usual is not None
    assert (found.prefer, found.usual) == ("precision=0.8", usual.values)
    assert call(monkeypatch, "predict", tmp_path / "blend", "slow accrual", "--json") == 0
    assert "cut-offs for precision=0.8, chosen on tune" in caplog.text
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["prefer"] == "precision=0.8"
    assert call(monkeypatch, *asked[:-1], "speed", "-o", tmp_path / "wrong") == 1
    assert not (tmp_path / "wrong").exists()


def test_where_a_fold_has_texts_enough_its_saved_scores_are_calibrated(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialese.temperature._FEWEST", 10)
    blend_classifiers("stop-reasons", [home / "tfidf", home / "weak"], "hybrid", tmp_path / "blend")
    runs = [load_predictions(home / name / "predictions.parquet") for name in ("tfidf", "weak")]
    plain = {(r.fold, r.split): r for r in blend_predictions(*runs, system="hybrid")}
    saved = load_predictions(tmp_path / "blend" / "predictions.parquet")
    for run in saved:
        tune, before = plain[run.fold, "tune"], plain[run.fold, run.split]
        fitted = fit_calibration(tune.scores, tune.truth, tune.clusters, kind=tune.kind)
        expected = calibrate(before.scores, fitted, kind=run.kind)
        np.testing.assert_allclose(run.scores, expected)
        assert fitted is not None


def test_the_folder_is_whole_without_its_members(home: Path, tmp_path: Path) -> None:
    expected = load_scorer(home / "both").predict_proba(TEXTS)
    shutil.copytree(home / "both", tmp_path / "elsewhere")
    verify_files(tmp_path / "elsewhere")
    moved = trialese.load_classifier(tmp_path / "elsewhere")
    np.testing.assert_array_equal(moved.predict_proba(TEXTS), expected)
    assert moved.predict(TEXTS[:1]) == [("Insufficient_Enrollment",)]
    shutil.copytree(home / "both" / "model", tmp_path / "bare")  # as a hub would give it
    bare = trialese.load_classifier(tmp_path / "bare")
    np.testing.assert_array_equal(bare.predict_proba(TEXTS), expected)
    assert bare.digest == moved.digest == load_scorer(home / "both").digest
    assert not [f for f in (home / "both").rglob("*") if f.suffix in (".pkl", ".bin", ".joblib")]
    found = json.loads((home / "both" / "model" / "blend.json").read_bytes())
    assert found["rule"] == "mean of log-odds"
    assert [(m["name"], m["weight"]) for m in found["members"]] == [("bert", 0.5), ("tfidf", 0.5)]


def test_it_says_what_it_is_made_of_and_what_it_has_seen(home: Path) -> None:
    notes = read_manifest(home / "both", verify=True).notes
    assert notes["model"] == "a blend of bert and tfidf, the mean of their log-odds"
    assert (
        notes["must_not_be_tested_on"]
        == read_manifest(home / "bert").notes["must_not_be_tested_on"]
    )  # that of both
    assert set(notes["members"]) == {"bert", "tfidf"}
    assert notes["members"]["bert"]["scored_by"] == "torch fp32"
    assert notes["scored_by"] == "blend of torch fp32 and linear fp32 weights"
    assert {group["group"] for group in notes["behaviour"]} >= {"all", "negation"}
    assert read_manifest(home / "linear").settings["blend_of"] == ["tfidf", "tfidf-2"]


def test_files_lines_and_promises(home: Path, tmp_path: Path) -> None:
    rows = list(predict_inputs(home / "linear", TEXTS))
    assert rows[0].labels == ("Insufficient_Enrollment",)
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    about = predict_file(load_scorer(home / "linear"), tmp_path / "in.txt", tmp_path / "out.csv")
    assert about is not None and about.engine == load_scorer(home / "linear").engine
    careful = list(predict_inputs(home / "linear", TEXTS, prefer="precision=0.8"))
    assert careful[0].thresholds == "tune, precision=0.8"


@pytest.mark.parametrize(("blend", "members"), MEMBERS)
def test_words_weigh_what_they_weigh_in_its_members(
    home: Path, blend: str, members: tuple[str, str]
) -> None:
    classifier = load_scorer(home / blend)
    label = "Covid19"
    found = explain(classifier, TEXTS[2], label)
    assert isinstance(classifier, BlendClassifier) and classifier.calibration is not None
    slope = classifier.calibration.slopes[classifier.labels.index(label)]
    parts = [explain(load_scorer(home / name), TEXTS[2], label).spans for name in members]
    for span, one, other in zip(found.spans, *parts, strict=True):
        assert span.weight == pytest.approx(slope * (one.weight + other.weight) / 2, abs=1e-5)
    best = max(found.spans, key=lambda span: span.weight)
    assert found.text[best.start : best.end].strip(",") in ("covid", "wave")


def test_the_page_and_the_api_serve_it(home: Path) -> None:
    served = open_served([home / "both"])
    served.load()
    with TestClient(create_app(served, ServeSettings()), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/predict", json={"texts": TEXTS}).raise_for_status().json()
        assert answer["calibrated"] and answer["engine"].startswith("blend of torch fp32 and")
        for told, row in zip(
            answer["predictions"], predict_inputs(home / "both", TEXTS), strict=True
        ):
            assert tuple(told["labels"]) == row.labels
            assert told["scores"] == pytest.approx(row.scores, abs=1e-5)
        asked = {"text": TEXTS[0], "label": "Insufficient_Enrollment"}
        words = client.post("/v1/explain", json=asked).raise_for_status().json()["spans"]
        assert len(words) == 2
        version = client.get("/version").raise_for_status().json()
        assert load_scorer(home / "both").digest in json.dumps(version)
        described = client.get("/v1/models").json()["models"][0]["definitions"]
        assert "Covid19" in described


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["trialese", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_every_command_takes_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs.csv").write_text(
        "text,prediction\nslow accrual,Insufficient_Enrollment\ncovid wave,Success\n"
    )
    blend = home / "both"
    for arguments, told in (
        (["predict", blend, *TEXTS], "Insufficient_Enrollment"),
        (["predict", blend, tmp_path / "theirs.csv", "--json"], '"scores"'),
        (["explain", blend, TEXTS[0]], "accrual"),
        (["agree", blend, tmp_path / "theirs.csv", "--column", "prediction"], "kappa"),
        (["check-behaviour", blend], "negation"),
        (["show", blend], "bert"),
        (["verify", blend], ""),
    ):
        assert call(monkeypatch, *arguments) == 0, (arguments, capsys.readouterr())
        assert told in capsys.readouterr().out
    for arguments in (["export", blend, "-o", tmp_path / "onnx"], ["check-dropin", blend]):
        assert call(monkeypatch, *arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "a blend of bert and tfidf, which is no single network" in line
    assert not (tmp_path / "onnx").exists()


def test_it_is_judged_and_published_with_a_card_of_its_members(home: Path, tmp_path: Path) -> None:
    folders = [home / name for name in ("bert", "tfidf", "both")]
    judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "verdict")
    (verdict,) = load_verdicts(tmp_path / "verdict")
    assert {group["group"] for group in verdict.notes["behaviour"]["hybrid"]} >= {"all"}
    assert verdict.notes["models"]["hybrid"].startswith("a blend of bert and tfidf")
    assert search_budget(verdict)["hybrid"] == (
        "of bert: 1 setting, the best of up to 2 epochs on tune; "
        "of tfidf: 4 settings, the best on tune in each fit"
    )
    cards = {
        system: (
            tmp_path / "verdict" / "cards" / f"stop-reasons-{system}" / "README.md"
        ).read_text()
        for system in ("bert", "hybrid")
    }
    for system, card in cards.items():
        assert ("AutoModelForSequenceClassification" in card) == (system == "bert")
        assert ("trialese predict PATH" in card) == (system != "bert")
    assert "## What it is made of" in cards["hybrid"]
    made = prepare_publication(home / "both", "me/blend", verdict=tmp_path / "verdict")
    assert {"model/", "README.md"} & set(made.files) == {"README.md"}
    assert {"blend.json", "members/tfidf/linear.npz", "members/bert/model.safetensors"} < set(
        made.files
    )
    card = bytes(made.files["README.md"]).decode()  # type: ignore[arg-type]
    assert "## What it is made of" in card
    assert "- bert (torch fp32), 0.5 of the log-odds: fitted on all 120 texts" in card
    assert "- tfidf (linear fp32 weights), 0.5 of the log-odds" in card
    assert card.count("Must not be tested on: the 120 texts of gold.tsv") == 3
    assert "pip install 'trialese[train]'" in card and "trialese predict model" in card
    assert "AutoModelForSequenceClassification" not in card
    assert 'library_name: "trialese"' in card


def without_extras(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    hidden = sorted(name for names in EXTRAS.values() for name in names)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        "from trialese.cli.main import main\n"
        f"sys.argv = ['trialese', *{[str(each) for each in arguments]!r}]\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, timeout=120, cwd=folder,
    )  # fmt: skip


def test_two_linear_ones_need_no_extra_and_an_encoder_says_which(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("text\nslow accrual\n")
    for arguments in (
        ["predict", home / "linear", *TEXTS],
        ["predict", home / "linear", "in.csv", "-o", "out.csv", "--prefer", "recall=0.5"],
        ["explain", home / "linear", "slow accrual"],
        ["check-behaviour", home / "linear"],
    ):
        done = without_extras(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
    refused = without_extras(tmp_path, "predict", home / "both", "slow accrual")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "a blend of bert and tfidf; bert: this needs torch" in line
    assert "pip install 'trialese[train]'" in line


def damaged_weights(model: Path) -> None:
    weights = model / "members" / "bert" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def renamed_label(model: Path) -> None:
    """A member with other labels, its digest in `blend.json` made right."""
    home = model / "members" / "tfidf"
    for file in home.glob("*.json"):
        file.write_text(file.read_text().replace("Covid19", "Covid20"))
    made_right(model, "tfidf")


def other_task(model: Path) -> None:
    file = model / "members" / "tfidf" / "preprocessing.json"
    file.write_text(file.read_text().replace('"stop-reasons"', '"sex"'))
    made_right(model, "tfidf")


def made_right(model: Path, name: str) -> None:
    about = json.loads((model / "blend.json").read_bytes())
    digest = load_scorer(model / "members" / name).digest
    about["members"] = [
        {**each, "digest": digest if each["name"] == name else each["digest"]}
        for each in about["members"]
    ]
    (model / "blend.json").write_text(json.dumps(about))


def edited(
    change: Callable[[dict[str, list[dict[str, object]]]], object],
) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        about = json.loads((model / "blend.json").read_bytes())
        change(about)
        (model / "blend.json").write_text(json.dumps(about))

    return edit


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged_weights, "members/bert: altered since it was blended"),
        (lambda model: shutil.rmtree(model / "members" / "tfidf"), "its member tfidf is missing"),
        (lambda m: (m / "members" / "tfidf" / "linear.npz").unlink(), "damaged classifier"),
        (renamed_label, "does not belong to this blend: it has other labels"),
        (other_task, "does not belong to this blend: it is of sex, not of stop-reasons"),
        (edited(lambda about: about["members"].pop()), "needs several members"),
        (edited(lambda about: about["members"][0].update(weight=0.7)), "do not sum to 1"),
        (edited(lambda about: about["members"][0].update(name="../../tfidf")), "damaged classif"),
        (lambda model: (model / "blend.json").write_text("{"), "blend.json: damaged"),
        (lambda model: (model / "calibration.json").write_text("{"), "damaged classifier"),
    ],
)
def test_damage_is_told_whether_or_not_a_manifest_stands_by(
    home: Path, tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(home / "both" / "model", tmp_path / "bare")
    harm(tmp_path / "bare")
    with pytest.raises(ArtifactError, match=message):
        load_scorer(tmp_path / "bare")
    shutil.copytree(home / "both", tmp_path / "whole")
    harm(tmp_path / "whole" / "model")
    with pytest.raises(ArtifactError, match=r"altered since|missing since|damaged"):
        load_scorer(tmp_path / "whole")


def test_what_cannot_be_blended_is_refused_and_nothing_is_left(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sex = SexSettings(
        labelled=table(tmp_path / "sex.tsv", {"Male": "prostate of men", "Female": "women only"})
    )
    finetune("sex", "tfidf", settings=TasksSettings(sex=sex), path=tmp_path / "sex")
    reasons = StopReasonsSettings(labelled=str(home / "gold.tsv"))
    settings = TasksSettings(stop_reasons=reasons)
    finetune_published("stop-reasons", "tfidf", path=tmp_path / "old", settings=settings)
    for folders, system, error, message in (
        ((home / "bert", tmp_path / "sex"), "x", RecipeError, "fitted for sex, not for stop-reaso"),
        ((home / "bert", tmp_path / "old"), "x", RecipeError, "fitted the published way"),
        ((home / "bert", home / "bert"), "x", RecipeError, "the same classifier twice"),
        ((home / "bert",), "x", RecipeError, "a blend is of two classifiers, not 1"),
        ((home / "bert", home / "tfidf"), "tfidf", RecipeError, "is a baseline's name"),
        ((home / "bert", tmp_path), "x", ArtifactError, "holds artifacts and is none itself"),
    ):
        with pytest.raises(error, match=message):
            blend_classifiers("stop-reasons", folders, system, tmp_path / "out")
    both = ["--blend-of", home / "bert", "--blend-of", home / "tfidf", "-o", tmp_path / "out"]
    assert call(monkeypatch, "finetune", "stop-reasons", *both, "--dry-run") == 2
    assert "--blend-of fits nothing; leave --dry-run out" in capsys.readouterr().err
    torn = tmp_path / "torn"
    shutil.copytree(home / "tfidf", torn)
    (torn / "model" / "linear.npz").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="altered since it was written"):
        blend_classifiers("stop-reasons", [home / "bert", torn], "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_members_that_read_other_texts_are_refused(home: Path) -> None:
    one, other = load_scorer(home / "tfidf"), load_scorer(home / "weak")
    other.preprocessing = msgspec.structs.replace(other.preprocessing, cleaning="none")  # type: ignore[misc]
    members = [("tfidf", one, home), ("weak", other, home)]
    with pytest.raises(RecordError, match="weak and tfidf cannot be blended: it reads other texts"):
        BlendClassifier.of(members)


def test_with_a_baseline_that_keeps_no_weights_there_are_predictions_alone(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TasksSettings(
        stop_reasons=StopReasonsSettings(labelled=str(home / "gold.tsv"), folds=3, tune_share=0.3)
    )
    finetune("stop-reasons", "prior", settings=settings, path=tmp_path / "prior")
    folders = [home / "tfidf", tmp_path / "prior"]
    blend_classifiers("stop-reasons", folders, "hybrid", tmp_path / "blend")
    assert "predictions alone, for `trialese evaluate`; no weights are kept of prior" in caplog.text
    assert "model" not in read_manifest(tmp_path / "blend").notes
    with pytest.raises(ArtifactError, match="hybrid is a blend of which only the predictions"):
        load_scorer(tmp_path / "blend")


def test_a_blend_can_be_blended(home: Path, tmp_path: Path) -> None:
    folders = [home / "linear", home / "bert"]
    blend_classifiers("stop-reasons", folders, "three", tmp_path / "three")
    classifier = load_scorer(tmp_path / "three")
    one, other = (load_scorer(folder).predict_proba(TEXTS) for folder in folders)
    mean = sigmoid((log_odds(one) + log_odds(other)) / 2)
    expected = calibrate(mean, classifier.calibration, kind="multilabel")
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), expected, atol=1e-6)
    assert len(explain(classifier, TEXTS[0]).spans) == 2
    weights = tmp_path / "three" / "model" / "members" / "hybrid" / "members" / "tfidf"
    assert (weights / "linear.json").is_file()


def test_one_label_a_text_sums_to_one(tmp_path: Path) -> None:
    kinds = {"Male": "prostate of men", "Female": "women only", "All": "anybody at all"}
    sex = SexSettings(labelled=table(tmp_path / "sex.tsv", kinds), run_folds=None)
    weak = msgspec.structs.replace(sex, search={"tfidf": {"C": (0.05,)}})
    for name, section in (("one", sex), ("other", weak)):
        finetune("sex", "tfidf", settings=TasksSettings(sex=section), path=tmp_path / name)
    blend_classifiers("sex", [tmp_path / "one", tmp_path / "other"], "both", tmp_path / "blend")
    classifier = load_scorer(tmp_path / "blend")
    texts = ["men", "women", "anybody"]
    np.testing.assert_allclose(classifier.predict_proba(texts).sum(axis=1), 1.0)
    assert classifier.predict(texts) == [("Male",), ("Female",), ("All",)]
    for run in load_predictions(tmp_path / "blend" / "predictions.parquet"):
        np.testing.assert_allclose(run.scores.sum(axis=1), 1.0)
