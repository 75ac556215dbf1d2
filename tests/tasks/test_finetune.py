""""""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from trialese.artifacts import read_manifest, verify_files
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.pipeline.evaluate import judge_classifiers
from trialese.predictions import load_predictions
from trialese.pretrain import adapt
from trialese.records import Example, Predictions, Task
from trialese.settings import (
    FinetuneSettings,
    Precision,
    PretrainSettings,
    SilverSettings,
    StopReasonsSettings,
    TasksSettings,
    UnlabelledSettings,
    VerdictSettings,
)
from trialese.tasks import fit as fit_module
from trialese.tasks import system as system_module
from trialese.tasks.behaviour import BehaviourTest, check_behaviour, shipped_tests
from trialese.tasks.classifier import Classifier
from trialese.tasks.finetune import blend_classifiers, finetune
from trialese.tasks.fit import fit_classifier
from trialese.tasks.folds import build_examples, define_task, inner_rounds
from trialese.tasks.linear import LinearClassifier
from trialese.tasks.stop_reasons import STOP_REASON_SENTENCES, STOP_REASONS
from trialese.tasks.system import average_weights, score_held
from trialese.tasks.unlabelled import unlabelled_texts
from trialese.temperature import log_loss
from trialese.thresholds import choose_thresholds, shrunk_cuts
from trialese.verdict.judge import judge
from trialese.verdict.report import load_verdicts
from trialese.verdict.text import format_markdown, format_table


def in_pairs(rows: list[Example]) -> list[Example]:
    """The rows with two of them a cluster."""
    return [
        Example(row.example_id, row.text, row.labels, cluster=f"c{place // 2}")
        for place, row in enumerate(rows)
    ]


def test_without_inner_folds_the_round_is_train_and_tune(toy_rows: list[Example]) -> None:
    train, tune = toy_rows[:40], toy_rows[40:]
    assert inner_rounds(train, tune, 0, fold=0, seed=7) == [(train, tune)]


def test_every_text_is_held_once_and_no_cluster_is_divided(toy_rows: list[Example]) -> None:
    rows = in_pairs(toy_rows)
    rounds = inner_rounds(rows[:40], rows[40:], 3, fold=1, seed=7)
    held = [text for _, texts in rounds for text in texts]
    assert sorted(text.example_id for text in held) == sorted(e.example_id for e in rows)
    for others, texts in rounds:
        assert len(others) + len(texts) == len(rows)
        assert not {e.cluster for e in others} & {e.cluster for e in texts}
    backwards = inner_rounds(rows[::-1], [], 3, fold=1, seed=7)
    assert [{e.example_id for e in texts} for _, texts in backwards] == [
        {e.example_id for e in texts} for _, texts in rounds
    ]
    assert inner_rounds(rows, [], 3, fold=2, seed=7) != inner_rounds(rows, [], 3, fold=1, seed=7)


def test_too_few_texts_are_refused(toy_rows: list[Example]) -> None:
    for folds in (1, 50):
        with pytest.raises(RecordError, match=f"do not fill {folds} inner folds"):
            inner_rounds(toy_rows[:5], [], folds, fold=0, seed=7)


def test_held_texts_are_scored_by_the_fit_that_has_not_seen_them(toy_rows: list[Example]) -> None:
    rounds = inner_rounds(toy_rows, [], 3, fold=0, seed=7)
    predicts = [
        lambda texts, number=number: np.full((len(texts), 3), number / 10) for number in range(3)
    ]
    held, scores = score_held(rounds, predicts)
    seen = [{text.example_id for text in others} for others, _ in rounds]
    for text, row in zip(held, scores, strict=True):
        assert text.example_id not in seen[round(row[0] * 10)]
        assert text.split == "tune"


def test_the_average_has_the_mean_weights(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    settings = FinetuneSettings(
        epochs=1, average_last=1, lr=1e-3, max_tokens=32, precision="fp32", frozen_layers=1
    )
    fits = [
        fit_classifier(toy_task, rows, toy_rows[40:], tiny_backbone, settings, seed=1)[0]
        for rows in (toy_rows[:20], toy_rows[20:40])
    ]
    states = [
        {name: value.clone() for name, value in fit.model.state_dict().items()} for fit in fits
    ]
    average = average_weights(fits).model.state_dict()
    for name, value in average.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
    assert not torch.equal(average["classifier.weight"], states[0]["classifier.weight"])
    assert torch.equal(
        fits[1].model.state_dict()["classifier.weight"], states[1]["classifier.weight"]
    )


FITTING = FinetuneSettings(epochs=1, lr=1e-3, max_tokens=32, precision="fp32")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> TasksSettings:
    kinds = {
        "Insufficient_Enrollment": "slow accrual at site number",
        "Business_Administrative": "lack of funding from sponsor number",
        "Covid19": "stopped in the covid wave number",
    }
    lines = [
        f"{text} {('alpha', 'beta', 'gamma', 'delta', 'eta')[row % 5]} {row}\t{label}"
        for row in range(24)
        for label, text in kinds.items()
    ]
    path = tmp_path_factory.mktemp("labelled") / "a.tsv"
    path.write_text("text\tlabels\n" + "\n".join(lines) + "\n")
    section = StopReasonsSettings(
        labelled=str(path), folds=3, run_folds=2, tune_share=0.3, seeds=(1, 2), finetune=FITTING
    )
    return TasksSettings(stop_reasons=section)


@pytest.fixture(scope="module")
def artifacts(
    recipe: TasksSettings, tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    for system in ("base", "tfidf", "prior"):
        model = tiny_backbone if system == "base" else None
        finetune("stop-reasons", system, model=model, settings=recipe, path=home / system)
    return {system: home / system for system in ("base", "tfidf", "prior")}


def by_round(path: Path) -> dict[tuple[int, int, str], Predictions]:
    runs = load_predictions(path / "predictions.parquet")
    return {(run.seed, run.fold, run.split): run for run in runs}


def test_every_system_has_the_same_rounds_rows_and_truth(artifacts: dict[str, Path]) -> None:
    base, tfidf = by_round(artifacts["base"]), by_round(artifacts["tfidf"])
    assert (
        set(base)
        == set(tfidf)
        == {(seed, fold, split) for seed in (1, 2) for fold in (0, 1) for split in ("tune", "test")}
    )
    for key, run in base.items():
        assert run.ids == tfidf[key].ids and run.clusters == tfidf[key].clusters
        np.testing.assert_array_equal(run.truth, tfidf[key].truth)


def test_trained_on_holds_train_and_for_test_tune_too(
    artifacts: dict[str, Path], recipe: TasksSettings
) -> None:
    everything = {e.cluster for e in build_examples("stop-reasons", recipe, None).examples}
    for system in ("base", "tfidf"):
        runs = by_round(artifacts[system])
        tune, test = runs[1, 0, "tune"], runs[1, 0, "test"]
        assert test.trained_on == everything - set(test.clusters)
        assert tune.trained_on == test.trained_on - set(tune.clusters)


def test_the_saved_classifier_is_fitted_on_everything_and_says_so(
    artifacts: dict[str, Path], recipe: TasksSettings, tiny_backbone: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(artifacts["base"])
    assert manifest.notes["model"] == (
        "fitted on all 72 texts; the scores are of 2 other fits, which left some of them out"
    )
    assert "the 72 texts of a.tsv" in manifest.notes["must_not_be_tested_on"]
    fits = [(fit["fold"], fit["seed"]) for fit in manifest.notes["fits"]]
    assert fits == [(0, 1), (0, 2), (1, 1), (1, 2), (-1, 1)]
    final = Classifier.from_pretrained(artifacts["base"])
    runs = by_round(artifacts["base"])
    assert final.thresholds is not None
    pooled = np.concatenate([runs[1, fold, "tune"].scores for fold in (0, 1)])
    truth = np.concatenate([runs[1, fold, "tune"].truth for fold in (0, 1)])
    assert final.thresholds.values == pytest.approx(shrunk_cuts(pooled, truth, shrinkage=10.0))
    section = msgspec.structs.replace(
        recipe.stop_reasons, finetune=msgspec.structs.replace(FITTING, final_fit=False)
    )
    changed = msgspec.structs.replace(recipe, stop_reasons=section)
    one = finetune(
        "stop-reasons", "base", model=tiny_backbone, settings=changed, path=tmp_path / "one"
    )
    assert one.notes["model"] == (
        "of fold 0, seed 1, fitted without the test texts of fold 0; "
        "the scores are of folds 0 to 1 together"
    )
    first = Classifier.from_pretrained(tmp_path / "one")
    again = by_round(tmp_path / "one")
    assert first.thresholds is not None
    assert first.thresholds.values == pytest.approx(
        choose_thresholds(again[1, 0, "tune"], VerdictSettings()).values
    )
    for key, run in runs.items():  # the folds do not know of the final fit
        np.testing.assert_array_equal(run.scores, again[key].scores)
    with pytest.raises(ArtifactError, match=r"load it with trialese.LinearClassifier"):
        Classifier.from_pretrained(artifacts["tfidf"])


def test_with_inner_folds_the_final_fit_is_made_as_the_judged_ones_are(
    recipe: TasksSettings, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialese.temperature._FEWEST", 10)
    section = msgspec.structs.replace(
        recipe.stop_reasons,
        inner_folds=2,
        seeds=(1,),
        finetune=msgspec.structs.replace(FITTING, average_last=1),
    )
    changed = msgspec.structs.replace(recipe, stop_reasons=section)
    path = tmp_path / "base"
    made = finetune("stop-reasons", "base", model=tiny_backbone, settings=changed, path=path)
    assert [fit["fold"] for fit in made.notes["fits"]] == [0, 0, 1, 1, -1, -1]
    final = Classifier.from_pretrained(path)
    assert final.calibration is not None and final.calibration.in_weights
    assert final.calibration.rows == 72, "every text by the member that had not seen it"
    tune = by_round(path)[1, 0, "tune"]
    assert log_loss(tune.scores, tune.truth, kind="multilabel") < 17 * np.log(2) / 2
    judge_classifiers([path], VerdictSettings(resamples=100), tmp_path / "verdict")
    card = (tmp_path / "verdict/cards/stop-reasons-base/README.md").read_text()
    assert "fitted on all 72 texts" in card and "Must not be tested on" in card


def test_a_verdict_can_be_judged_from_the_files(artifacts: dict[str, Path]) -> None:
    runs = {
        system: load_predictions(path / "predictions.parquet") for system, path in artifacts.items()
    }
    verdict = judge(runs, VerdictSettings(resamples=100))
    scores = {score.system: score.averages["micro"].f1.point for score in verdict.scores}
    assert scores["tfidf"] > 0.9 > scores["prior"]
    assert verdict.rows == sum(
        len(run.ids) for run in runs["prior"] if run.split == "test" and run.seed == 1
    )


def test_manifests_tell_what_went_in_and_what_lacks(artifacts: dict[str, Path]) -> None:
    manifest = read_manifest(artifacts["base"], kind="classifier")
    verify_files(artifacts["base"])
    assert manifest.counts["examples"] == 72
    assert set(manifest.inputs) == {"examples", "model"}
    assert [fit["seed"] for fit in manifest.notes["fits"]] == [1, 2, 1, 2, 1]
    assert "Success" in manifest.notes["labels_without_examples"]["fold 0, test"]
    prior = read_manifest(artifacts["prior"], kind="classifier")
    assert prior.inputs["examples"] == manifest.inputs["examples"]
    assert "finetune" not in prior.settings["section"]


def test_equal_input_gives_equal_bytes(
    artifacts: dict[str, Path], recipe: TasksSettings, tmp_path: Path
) -> None:
    again = finetune("stop-reasons", "tfidf", settings=recipe, path=tmp_path / "again")
    assert again.digest == read_manifest(artifacts["tfidf"]).digest


def test_systems_and_models_must_go_together(
    recipe: TasksSettings, tiny_backbone: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="'adapted' needs the folder of a masked-LM"):
        finetune("stop-reasons", "adapted", settings=recipe, path=tmp_path / "x")
    with pytest.raises(RecipeError, match="'tfidf' takes no model"):
        finetune("stop-reasons", "tfidf", model=tiny_backbone, settings=recipe, path=tmp_path / "x")
    with pytest.raises(ArtifactError, match="no model here"):
        finetune("stop-reasons", "base", model=tmp_path, settings=recipe, path=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_inner_folds_score_every_text_outside_test_and_save_the_average(
    recipe: TasksSettings, artifacts: dict[str, Path], tiny_backbone: Path, tmp_path: Path
) -> None:
    section = msgspec.structs.replace(
        recipe.stop_reasons,
        inner_folds=2,
        run_folds=1,
        seeds=(1,),
        sentences=1,
        finetune=msgspec.structs.replace(FITTING, average_last=1),
    )
    changed = msgspec.structs.replace(recipe, stop_reasons=section)
    for system in ("base", "tfidf"):
        model = tiny_backbone if system == "base" else None
        finetune("stop-reasons", system, model=model, settings=changed, path=tmp_path / system)
    earlier, rival = by_round(artifacts["base"]), by_round(tmp_path / "tfidf")
    runs = by_round(tmp_path / "base")
    tune, test = runs[1, 0, "tune"], runs[1, 0, "test"]
    assert test.ids == earlier[1, 0, "test"].ids
    assert len(tune.ids) + len(test.ids) == 72 and not set(tune.ids) & set(test.ids)
    assert tune.ids == rival[1, 0, "tune"].ids
    assert test.trained_on == set(tune.clusters) and not tune.trained_on
    manifest = read_manifest(tmp_path / "base", kind="classifier")
    assert len(manifest.notes["fits"]) == 2
    classifier = Classifier.from_pretrained(tmp_path / "base")
    texts = {e.example_id: e.text for e in build_examples("stop-reasons", changed, None).examples}
    again = classifier.predict_proba([texts[name] for name in test.ids])
    np.testing.assert_allclose(again, test.scores, atol=1e-6)
    judge(
        {name: list(by_round(tmp_path / name).values()) for name in ("base", "tfidf")},
        VerdictSettings(resamples=100),
    )


def test_silver_texts_are_learnt_by_every_system_and_the_verdict_says_so(
    recipe: TasksSettings, artifacts: dict[str, Path], tiny_backbone: Path, tmp_path: Path
) -> None:
    table = tmp_path / "silver.tsv"
    rows = [f"recruiting stopped after patient {row}\tCovid19" for row in range(40)]
    rows.append("slow accrual at site number alpha 0\tCovid19")  # near a labelled text
    table.write_text("text\tprediction\n" + "\n".join(rows) + "\n")
    section = msgspec.structs.replace(
        recipe.stop_reasons,
        silver=SilverSettings(table=str(table), column="prediction", epochs=2),
    )
    changed = msgspec.structs.replace(recipe, stop_reasons=section)
    manifest = finetune(
        "stop-reasons", "silver", model=tiny_backbone, settings=changed, path=tmp_path / "silver"
    )
    notes = manifest.notes["silver"]
    assert notes["left_out"]["near a labelled text"] >= 1
    assert notes["texts"] + sum(notes["left_out"].values()) == 41
    assert set(manifest.inputs) == {"examples", "model", "silver"}
    assert not any("silver" in name for name in manifest.files)  # its models are gone
    plain, started = by_round(artifacts["base"]), by_round(tmp_path / "silver")
    assert plain[1, 0, "test"].ids == started[1, 0, "test"].ids
    assert not np.allclose(plain[1, 0, "test"].scores, started[1, 0, "test"].scores)
    rival = finetune("stop-reasons", "tfidf", settings=changed, path=tmp_path / "tfidf")
    assert set(rival.inputs) == {"examples", "silver"}
    assert rival.settings["section"]["silver"] == {"table": str(table), "column": "prediction"}
    more = by_round(tmp_path / "tfidf")[1, 0, "test"].scores
    assert not np.allclose(by_round(artifacts["tfidf"])[1, 0, "test"].scores, more)
    folders = [tmp_path / "tfidf", artifacts["base"], tmp_path / "silver"]
    judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "verdict")
    said = (tmp_path / "verdict" / "verdict.md").read_text()
    assert "tfidf and silver learnt from" in said
    both = [tmp_path / "silver", tmp_path / "tfidf"]
    blend_classifiers("stop-reasons", both, "hybrid", tmp_path / "hybrid")
    assert read_manifest(tmp_path / "hybrid").notes["silver"] == notes
    assert f"silver: learnt from {notes['texts']} texts that a model labelled" in said


def test_a_language_model_first_reads_texts_that_nobody_labelled(
    recipe: TasksSettings, artifacts: dict[str, Path], tiny_backbone: Path, tmp_path: Path
) -> None:
    table = tmp_path / "reasons.tsv"
    rows = [f"recruiting stopped after patient {row}\tno label at all" for row in range(40)]
    rows += ["slow accrual at site number alpha 0\t", "Recruiting stopped after patient 3\t", "\t"]
    table.write_text("text\tprediction\n" + "\n".join(rows) + "\n")
    section = msgspec.structs.replace(
        recipe.stop_reasons, unlabelled=UnlabelledSettings(table=str(table), epochs=2, lr=1e-3)
    )
    changed = msgspec.structs.replace(recipe, stop_reasons=section)
    manifest = finetune(
        "stop-reasons", "read", model=tiny_backbone, settings=changed, path=tmp_path / "read"
    )
    notes = manifest.notes["unlabelled"]
    assert notes["left_out"]["near a labelled text"] >= 1
    assert notes["left_out"]["the text of another row"] == 1
    assert notes["texts"] + sum(notes["left_out"].values()) == 43
    assert f"which read {notes['texts']} texts without labels" in manifest.notes["masked_lm"]
    assert set(manifest.inputs) == {"examples", "model", "unlabelled"}
    assert not any("unlabelled" in name for name in manifest.files)  # what it read from is gone
    plain, started = by_round(artifacts["base"]), by_round(tmp_path / "read")
    assert plain[1, 0, "test"].ids == started[1, 0, "test"].ids
    assert not np.allclose(plain[1, 0, "test"].scores, started[1, 0, "test"].scores)
    again = finetune(
        "stop-reasons", "read", model=tiny_backbone, settings=changed, path=tmp_path / "again"
    )
    assert again.digest == manifest.digest
    rival = finetune("stop-reasons", "tfidf", settings=changed, path=tmp_path / "tfidf")
    assert rival.digest == read_manifest(artifacts["tfidf"]).digest  # it reads no masked words
    near = UnlabelledSettings(table=str(tmp_path / "near.txt"))
    (tmp_path / "near.txt").write_text("slow accrual at site number alpha 0\n")
    changed = msgspec.structs.replace(
        recipe, stop_reasons=msgspec.structs.replace(section, unlabelled=near)
    )
    with pytest.raises(RecordError, match="every text is near a labelled one"):
        finetune("stop-reasons", "read", model=tiny_backbone, settings=changed, path=tmp_path / "n")
    (tmp_path / "near.txt").unlink()
    with pytest.raises(RecordError, match=r"near.txt: no such file; correct the table of"):
        finetune("stop-reasons", "read", model=tiny_backbone, settings=changed, path=tmp_path / "n")
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("system", ["tfidf", "base"])
def test_what_is_near_a_behavioural_test_is_scored_but_never_learnt(
    system: str, recipe: TasksSettings, tiny_backbone: Path, tmp_path: Path, monkeypatch
) -> None:
    from trialese.tasks import behaviour as module

    near = "lack of funding from sponsor number alpha 0"
    tests = (BehaviourTest(group="g", text=near.upper(), must=("Business_Administrative",)),)
    monkeypatch.setattr(module, "shipped_tests", lambda task: tests)
    learnt: list[set[str]] = []

    def spy(name: str, place: int):
        original = getattr(fitting[name], name)

        def fit(*given, **options):
            learnt.append({example.text for example in given[place]})
            return original(*given, **options)

        monkeypatch.setattr(fitting[name], name, fit)

    fitting = {"fit_linear": system_module, "fit_classifier": fit_module}
    spy(*(("fit_linear", 1) if system == "tfidf" else ("fit_classifier", 1)))
    section = msgspec.structs.replace(recipe.stop_reasons, seeds=(1,), sentences=1)
    model = None if system == "tfidf" else tiny_backbone
    out = tmp_path / "out"
    manifest = finetune(
        "stop-reasons", system, path=out, model=model,
        settings=msgspec.structs.replace(recipe, stop_reasons=section),
    )  # fmt: skip
    assert learnt and all(len(texts) > 20 and near not in texts for texts in learnt)
    assert manifest.notes["near_behavioural_tests"] == 1
    assert [row["group"] for row in manifest.notes["behaviour"]] == ["g", "all"]
    assert manifest.notes["behaviour"][-1]["texts"] == 1
    assert "sentences" in manifest.inputs
    examples = build_examples("stop-reasons", recipe, None).examples
    (spared,) = (e.example_id for e in examples if e.text == near)
    scored = {each for run in load_predictions(out / "predictions.parquet") for each in run.ids}
    assert spared in scored


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_texts_without_labels_are_read_in_the_precision_of_the_fit(
    recipe: TasksSettings, tmp_path: Path, tiny_backbone: Path, precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class ReadError(Exception):
        pass

    def read(blocks: Path, how: PretrainSettings, *given: object, **options: object) -> None:
        raise ReadError(how.precision)

    monkeypatch.setattr(adapt, "build_base", read)
    (tmp_path / "more.txt").write_text("the cellar was full of water\n")
    section = msgspec.structs.replace(
        recipe.stop_reasons,
        unlabelled=UnlabelledSettings(table=str(tmp_path / "more.txt")),
        finetune=msgspec.structs.replace(recipe.stop_reasons.finetune, precision=precision),
    )
    changed = msgspec.structs.replace(recipe, stop_reasons=section)
    with pytest.raises(ReadError, match=precision):
        finetune("stop-reasons", "x", model=tiny_backbone, settings=changed, path=tmp_path / "x")


def test_tests_of_ones_own_are_never_learnt_from_whatever_table_they_stand_in(
    recipe: TasksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = {
        "labelled": "lack of funding from sponsor number alpha 0",
        "sentence": STOP_REASON_SENTENCES["Covid19"][0],
        "silver": "the boiler of the hospital burst",
        "unlabelled": "the roof of the hospital burst",
    }
    own = tmp_path / "own.tsv"
    rows = [f"mine\t{text.upper()}\tCovid19\t" for text in near.values()]
    own.write_text("\n".join(["group\ttext\tmust\tmust_not", *rows]) + "\n")
    (tmp_path / "silver.tsv").write_text(
        f"text\tlabels\n{near['silver']}\tCovid19\nwards were flooded by rain\tCovid19\n"
    )
    (tmp_path / "more.txt").write_text(f"{near['unlabelled']}\nthe cellar was full of water\n")
    learnt: set[str] = set()
    fit = system_module.fit_linear

    def spy(task: Task, train: Sequence[Example], *given: object, **options: object) -> object:
        learnt.update(example.text for example in train)
        return fit(task, train, *given, **options)

    monkeypatch.setattr(system_module, "fit_linear", spy)
    section = msgspec.structs.replace(
        recipe.stop_reasons, seeds=(1,), sentences=1, behaviour_tests=str(own),
        silver=SilverSettings(table=str(tmp_path / "silver.tsv")),
        unlabelled=UnlabelledSettings(table=str(tmp_path / "more.txt")),
    )  # fmt: skip
    changed = msgspec.structs.replace(recipe, stop_reasons=section)
    manifest = finetune("stop-reasons", "tfidf", settings=changed, path=tmp_path / "out")
    assert "wards were flooded by rain" in learnt and not learnt & set(near.values())
    assert {row["group"] for row in manifest.notes["behaviour"]} >= {"mine", "negation", "all"}
    assert "behaviour_tests" in manifest.inputs
    found = unlabelled_texts(define_task("stop-reasons", changed), section.unlabelled, ())
    assert found.texts == ("the cellar was full of water",)
    own.write_text(own.read_text() + "mine\tno such label\tNothing\t\n")
    with pytest.raises(RecordError, match=r"own.tsv: line 6: stop-reasons has no label Nothing"):
        finetune("stop-reasons", "tfidf", settings=changed, path=tmp_path / "bad")


def test_the_verdict_tells_what_each_system_passed_of_the_behavioural_tests(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folders = [artifacts["base"], artifacts["tfidf"], artifacts["prior"]]
    (verdict,) = load_verdicts(
        judge_classifiers(folders, VerdictSettings(resamples=100), tmp_path / "verdict")
    )
    assert set(verdict.notes["behaviour"]) == {"base", "tfidf"}  # the prior cannot be used
    report = check_behaviour(
        LinearClassifier.from_pretrained(artifacts["tfidf"]), shipped_tests(STOP_REASONS)
    )
    passed = f"{report.total.passed} of {report.total.texts}"
    assert f"behavioural tests passed: tfidf {passed}, " in format_table(verdict)
    page = (tmp_path / "verdict" / "report.html").read_text()
    told = format_markdown([verdict])
    for text in (page, told):
        assert "Wilson" in text and passed in text
        assert all(group.group in text for group in report.groups)
