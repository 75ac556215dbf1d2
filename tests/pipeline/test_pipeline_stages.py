"""The ledger of a run, and the digest of what comes from outside.

The whole job on a toy: made once, skipped when finished, made again when something changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from trialese.artifacts import read_manifest
from trialese.collect.snapshot import open_snapshot, read_trials
from trialese.corpus.store import open_corpus
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.pipeline.panel import read_panel
from trialese.pipeline.plan import format_plan, plan_pretrain, plan_recipe
from trialese.pipeline.stages import (
    LEDGER_NAME,
    chain_stages,
    digest_of_input,
    is_finished,
    read_ledger,
    run_recipe,
    write_ledger,
)
from trialese.pretrain.adapt import tokenise_corpus
from trialese.recipe import Recipe, load_recipe, parse_recipe
from trialese.verdict.report import load_context, load_verdicts


def test_what_is_written_is_read(tmp_path: Path) -> None:
    ledger = {"corpus": {"key": "k", "digest": "d"}}
    write_ledger(tmp_path, ledger)
    assert read_ledger(tmp_path) == ledger


def test_a_lost_or_damaged_ledger_is_empty(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == {}
    (tmp_path / LEDGER_NAME).write_text("{", encoding="utf-8")
    assert read_ledger(tmp_path) == {}


def test_an_input_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.csv"
    file.write_text("x", encoding="utf-8")
    before = digest_of_input(file), digest_of_input(tmp_path / "in")
    file.write_text("y", encoding="utf-8")
    after = digest_of_input(file), digest_of_input(tmp_path / "in")
    assert not set(before) & set(after)
    with pytest.raises(RecordError, match="nowhere: no such input file"):
        digest_of_input(tmp_path / "nowhere")


@pytest.fixture
def copy(toy: Recipe, tmp_path: Path) -> Recipe:
    """The finished toy in a folder of this test's own."""
    shutil.copytree(toy.folder, tmp_path / "runs", dirs_exist_ok=True)
    return msgspec.structs.replace(toy, folder=str(tmp_path / "runs"))


SYSTEMS = ("base", "adapted", "control")


def unfinished(recipe: Recipe) -> list[str]:
    return [stage.name for stage in chain_stages(recipe) if not is_finished(stage)]


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return load_recipe(Path(recipe.folder) / "toy.toml", overrides=overrides)


def test_a_run_makes_every_artifact_and_a_report(toy: Recipe) -> None:
    home = Path(toy.folder) / "toy"
    assert unfinished(toy) == []
    assert (home / "verdict" / "report.html").stat().st_size > 10_000
    assert (home / "recipe.json").is_file()
    assert read_manifest(home / "adapter").kind == "adapter"
    page = (home / "verdict" / "report.html").read_text(encoding="utf-8")
    assert "ynthetic" in page  # marked as such everywhere it shows
    assert page.count("no single word gives a label away") == len(toy.tasks.names)


def test_a_finished_run_makes_nothing(copy: Recipe) -> None:
    made = []
    run_recipe(copy, on_stage=lambda stage, finished: made.append((stage.name, finished)))
    assert made
    assert all(finished for _, finished in made)


def test_a_changed_setting_remakes_its_stage_and_what_stands_on_it(toy: Recipe) -> None:
    assert unfinished(changed(toy, "verdict.resamples=110")) == ["verdict"]
    assert unfinished(changed(toy, "tasks.sex.finetune.lr=1e-5")) == [
        f"sex/{system}" for system in SYSTEMS
    ]
    assert unfinished(changed(toy, "pretrain.adapt_phase.steps=3")) == ["adapter", "control"]
    assert unfinished(changed(toy, "tasks.threshold_shrinkage=3.0")) == [
        f"{task}/{system}" for task in ("stop-reasons", "sex") for system in SYSTEMS
    ]
    assert unfinished(changed(toy, "pretrain.replay_share=0.1")) == ["adapter", "control"]
    assert unfinished(changed(toy, "collect.retries=1")) == []
    assert "snapshot" in unfinished(changed(toy, "collect.sample.studies=161"))


def test_the_report_leads_with_what_the_new_text_brought_at_equal_compute(toy: Recipe) -> None:
    home = Path(toy.folder) / "toy"
    page = (home / "verdict" / "report.html").read_text(encoding="utf-8")
    text = (home / "verdict" / "verdict.md").read_text(encoding="utf-8")
    for shown in (page, text):
        at = [shown.index(f"adapted - {rival}") for rival in ("control", "base")]
        assert at == sorted(at)
        assert "At equal compute, adapted against control: on new trials" in shown
    assert page.index("At equal compute") < page.index("F1 by label")
    context = load_context(home / "verdict")
    for era in ("new", "old"):
        difference = context["language_model"][era]["top1"]["adapted - control"]
        assert difference["low"] <= difference["point"] <= difference["high"]
    for task in toy.tasks.names:
        models = {v.task: v.notes["models"] for v in load_verdicts(home / "verdict")}[task]
        assert len(set(models.values())) == len(models) == 3  # each says what it is


def test_the_report_shows_the_models_by_year_area_and_shared_passages(toy: Recipe) -> None:
    home = Path(toy.folder) / "toy"
    parts = load_context(home / "verdict")["language_model_parts"]
    assert set(parts) == {"year of first posting", "area", "passages in training text"}
    trials = {t.nct_id for t in read_trials(open_snapshot(home / "snapshot"))}
    for rows in parts.values():
        assert 0 < sum(row["documents"] for row in rows) <= len(trials)
    assert all(row["part"].isdigit() for row in parts["year of first posting"])
    page = (home / "verdict" / "report.html").read_text(encoding="utf-8")
    assert "By passages in training text, in numbers" in page


def test_a_run_without_a_control_says_so(copy: Recipe) -> None:
    recipe = changed(copy, "pretrain.control=false", f"folder={copy.folder}")
    # Adapter and base do not depend on it; the panel has one encoder less.
    assert unfinished(recipe) == ["panel", "verdict"]
    text = (run_recipe(recipe) / "verdict.md").read_text(encoding="utf-8")
    assert "No control was trained" in text
    assert "adapted - control" not in text


def test_every_encoder_of_a_run_stands_in_the_panel_of_its_report(
    toy: Recipe, copy: Recipe
) -> None:
    home = Path(toy.folder) / "toy"
    assert read_panel(home / "panel").encoders == ("adapted", "control", "base")
    page = (home / "verdict" / "report.html").read_text(encoding="utf-8")
    text = (home / "verdict" / "verdict.md").read_text(encoding="utf-8")
    for shown in (page, text):
        assert "What the encoders know of trials" in shown
        assert "adapted against control" in shown
    planned = {stage.name: stage for stage in plan_recipe(changed(toy, "panel.trials=90"))}
    assert not planned["panel"].finished and planned["panel"].seconds
    assert not planned["verdict"].finished  # it stands on the panel
    recipe = changed(copy, "panel.trials=0", f"folder={copy.folder}")
    assert unfinished(recipe) == ["verdict"]
    text = (run_recipe(recipe) / "verdict.md").read_text(encoding="utf-8")
    assert "What the encoders know" not in text


def test_a_damaged_artifact_is_made_again(copy: Recipe) -> None:
    home = Path(copy.folder) / "toy"
    before = read_manifest(home / "corpus").digest
    (home / "corpus" / "manifest.json").write_text("{", encoding="utf-8")
    assert "corpus" in unfinished(copy)
    corpus = next(stage for stage in chain_stages(copy) if stage.name == "corpus")
    with pytest.raises(ArtifactError, match="damaged"):
        read_manifest(corpus.path)
    run_recipe(copy)
    assert unfinished(copy) == []
    assert read_manifest(corpus.path).digest == before


@pytest.mark.parametrize(
    "key",
    [
        "collect.paths=['nowhere']",
        "tasks.sex.labelled=nowhere",
        "tasks.sex.unlabelled={table='nowhere'}",
    ],
)
def test_a_missing_input_file_is_named_before_anything_is_made(key: str, tmp_path: Path) -> None:
    recipe = parse_recipe("[collect]\nsource='files'", overrides=[key, f"folder={tmp_path}"])
    with pytest.raises(RecordError, match="nowhere: no such input file"):
        run_recipe(recipe)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_is_named_before_anything_is_made(tmp_path: Path) -> None:
    recipe = parse_recipe("", overrides=["tasks.names=['height']", f"folder={tmp_path}"])
    with pytest.raises(RecipeError, match=r"height.*stop-reasons"):
        run_recipe(recipe)
    assert list(tmp_path.iterdir()) == []


def test_blocks_longer_than_the_model_are_refused_before_anything_is_made(
    tiny_backbone: Path, toy: Recipe, tmp_path: Path
) -> None:
    keys = [f"pretrain.backbone.name={tiny_backbone}", f"folder={tmp_path}"]
    recipe = parse_recipe("", overrides=[*keys, "corpus.blocks.block_tokens=65"])
    corpus = open_corpus(Path(toy.folder) / toy.name / "corpus")
    told = r"corpus.blocks.block_tokens: 65, but .* has 64 positions; lower it to 64 or less"
    backbone, blocks = recipe.pretrain.backbone, recipe.corpus.blocks
    for make in (
        lambda: run_recipe(recipe),
        lambda: plan_recipe(recipe),
        lambda: plan_pretrain(corpus, recipe),
        lambda: tokenise_corpus(corpus, backbone, blocks, tmp_path / "blocks"),
    ):
        with pytest.raises(RecipeError, match=told):
            make()
    assert list(tmp_path.iterdir()) == []


def test_the_plan_says_what_is_left(toy: Recipe, tmp_path: Path) -> None:
    assert {stage.finished for stage in plan_recipe(toy)} == {True}
    planned = {stage.name: stage for stage in plan_recipe(changed(toy, "pretrain.seed=8"))}
    assert planned["corpus"].finished
    assert planned["adapter"].tokens == 2 * 16 * 32
    assert planned["adapter"].seconds is not None
    assert planned["control"].tokens == planned["adapter"].tokens
    assert planned["sex/control"].seconds == planned["sex/adapted"].seconds
    text = format_plan(list(planned.values()))
    assert "to do" in text
    reasons = tmp_path / "reasons.txt"
    reasons.write_text("slow accrual\n" * 1000)
    reading = changed(toy, f"tasks.sex.unlabelled={{table='{reasons}'}}")
    names = {stage.name for stage in plan_recipe(reading) if not stage.finished}
    assert names >= {"sex/base", "sex/adapted"}
    assert not any("tfidf" in name for name in names)  # baselines read nothing
    more = {stage.name: stage for stage in plan_recipe(reading)}["sex/base"]
    assert more.seconds > planned["sex/base"].seconds
    remade = plan_recipe(changed(toy, "collect.sample.seed=8"))
    assert [stage.name for stage in remade if stage.finished] == []
    assert [stage.name for stage in remade if stage.seconds is None] == []
    assert "stages to do, about" in text
