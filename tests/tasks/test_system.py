"""Nested choice of settings: what is tried, on which texts, and what it says of itself."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from trialese.artifacts import read_manifest
from trialese.errors import RecipeError
from trialese.predictions import load_predictions
from trialese.recipe import parse_recipe
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings, StopReasonsSettings, TasksSettings
from trialese.tasks import system as module
from trialese.tasks.finetune import finetune
from trialese.tasks.folds import describe_section
from trialese.tasks.linear import LinearChoices
from trialese.tasks.system import Search, check_search, combinations_of

TASK = Task("colour", ("Red", "Blue"), "multilabel", "")
GRID = {"tfidf": {"C": (0.01, 10.0), "word_ngrams": (1, 2)}}


def examples(number: int) -> list[Example]:
    return [
        Example(
            f"{n}", f"text {n} {'ruby' if n % 2 else 'sky'}", (TASK.labels[1 - n % 2],), f"c{n}"
        )
        for n in range(number)
    ]


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"tf-idf": {"C": (1.0,)}}, r"search.tf-idf: no such systems; did you mean tfidf"),
        ({"tfidf": {"c": (1.0,)}}, r"search.tfidf.c: no such setting; .*C"),
        ({"finetune": {"learning_rate": (1.0,)}}, r"finetune.learning_rate: no such setting"),
        ({"finetune": {"lr": ("fast",)}}, r"finetune.lr: 'fast' will not do"),
        ({"finetune": {"batch_texts": (32, 0)}}, r"finetune.batch_texts: 0 will not do"),
        ({"tfidf": {"C": ()}}, r"tfidf.C: no value to try"),
        (
            {"tfidf": {"shortest_characters": (2, 5), "longest_characters": (4,)}},
            r"search.tfidf: .*5.* will not do .*shortest_characters is above",
        ),
    ],
)
def test_a_grid_that_cannot_be_searched_is_named(search, told: str) -> None:
    with pytest.raises(RecipeError, match=f"tasks, colour: search.*{told.removeprefix('search')}"):
        check_search("colour", StopReasonsSettings(search=search))


def test_a_recipe_can_set_a_grid() -> None:
    recipe = parse_recipe(
        "[tasks.stop_reasons.search]\ntfidf.C = [1, 10]\nfinetune.lr = [1e-4, 2e-4]",
        overrides=["tasks.stop_reasons.search_folds=2", "tasks.sex.search.tfidf.C=[0.1, 1]"],
    )
    section = recipe.tasks.stop_reasons
    assert combinations_of(section, "finetune") == [{"lr": 1e-4}, {"lr": 2e-4}]
    assert combinations_of(section, "prior") == [{}] and section.search_folds == 2
    assert combinations_of(recipe.tasks.sex, "tfidf") == [{"C": 0.1}, {"C": 1}]


def test_what_was_fitted_without_a_grid_is_described_as_before() -> None:
    plain = describe_section(StopReasonsSettings(search={"tfidf": {"C": (1.0,)}}), is_model=True)
    assert plain == describe_section(StopReasonsSettings(), is_model=True)
    assert "search" not in plain and "search_folds" not in plain
    told = describe_section(StopReasonsSettings(search=GRID), is_model=False)
    assert set(told["search"]) == {"tfidf"} and told["search_folds"] == 3


def test_the_best_combination_on_held_texts_is_taken() -> None:
    """A fit that is right only with `good`; every text is held once by each combination."""
    seen: list[tuple[int, set[str]]] = []

    def fit(combination, train, held):
        seen.append((combination["C"], {each.example_id for each in held}))
        assert not {each.cluster for each in train} & {each.cluster for each in held}
        right = combination["C"] == 3

        def predict(texts):
            hits = np.array([["ruby" in text, "sky" in text] for text in texts], float)
            return hits if right else 1 - hits

        return predict

    section = StopReasonsSettings(search={"tfidf": {"C": (1, 3, 5)}}, search_folds=4)
    search = Search(TASK, section, "tfidf")
    assert search.choose(examples(40), [], fit, fold=2) == {"C": 3}
    for strength in (1, 3, 5):
        held = [name for tried, names in seen if tried == strength for name in names]
        assert sorted(held) == sorted(each.example_id for each in examples(40))
    notes = search.as_notes()
    assert (notes["settings"], notes["inner_folds"], notes["fits"]) == (3, 4, 12)
    assert notes["chosen"] == {"2": {"C": 3}} and notes["scores"]["2"][1] == 2.0
    assert search.commonest == {"C": 3}


def test_one_combination_is_taken_without_a_fit() -> None:
    search = Search(TASK, StopReasonsSettings(), "tfidf")
    assert search.choose([], [], pytest.fail, fold=0) == {} and search.as_notes() == {}


def test_a_strength_of_its_own_is_tried_with_either_weight() -> None:
    assert len(LinearChoices().regularisations) == 4
    assert LinearChoices(C=3.0).regularisations == ((3.0, None), (3.0, "balanced"))
    assert LinearChoices(C=3.0, class_weight="none").regularisations == ((3.0, None),)


@pytest.fixture
def labelled(tmp_path: Path) -> TasksSettings:
    """Three reasons of a few words each, 90 texts of 90 clusters."""
    random.seed(4)
    nouns = [f"noun{n}" for n in range(300)]
    kinds = (
        ("slow accrual", "Insufficient_Enrollment"),
        ("no funds left", "Business_Administrative"),
        ("toxicity seen", "Safety_Sideeffects"),
    )
    rows = [
        f"{kinds[n % 3][0]} {' '.join(random.sample(nouns, 6))},{kinds[n % 3][1]}"
        for n in range(90)
    ]
    (tmp_path / "reasons.csv").write_text("\n".join(["text,labels", *rows]), encoding="utf-8")
    section = StopReasonsSettings(
        labelled=f"{tmp_path}/reasons.csv", folds=3, search=GRID, search_folds=2,
        finetune=FinetuneSettings(epochs=1, max_tokens=16),
    )  # fmt: skip
    return TasksSettings(stop_reasons=section)


def test_the_texts_of_a_test_fold_are_never_read_while_its_settings_are_chosen(
    labelled: TasksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[str]] = []
    plain = module.fit_linear

    def spy(task, train, held, **options):
        read.append({example.example_id for example in (*train, *held)})
        return plain(task, train, held, **options)

    monkeypatch.setattr(module, "fit_linear", spy)
    manifest = finetune("stop-reasons", "tfidf", settings=labelled, path=tmp_path / "tfidf")
    runs = load_predictions(tmp_path / "tfidf" / "predictions.parquet")
    tested = [set(run.ids) for run in runs if run.split == "test"]
    a_fold = 4 * 2 + 1  # combinations x inner folds, then the fit that is tested
    for fold, test in enumerate(tested):
        for texts in read[fold * a_fold : (fold + 1) * a_fold]:
            assert test and not texts & test
    search = read_manifest(tmp_path / "tfidf").notes["search"]
    assert (search["settings"], search["inner_folds"], search["fits"]) == (4, 2, 24)
    assert set(search["chosen"]) == {"0", "1", "2"}
    assert all(set(chosen) == {"C", "word_ngrams"} for chosen in search["chosen"].values())
    assert list(manifest.settings["section"]["search"]["tfidf"]["C"]) == [0.01, 10.0]


def test_a_language_model_is_searched_over_its_own_grid(
    labelled: TasksSettings, tmp_path: Path, tiny_backbone: Path
) -> None:
    grid = {"finetune": {"lr": (1e-9, 1e-3)}} | GRID
    section = msgspec.structs.replace(labelled.stop_reasons, search=grid, run_folds=1)
    settings = msgspec.structs.replace(labelled, stop_reasons=section)
    finetune("stop-reasons", "base", model=tiny_backbone, settings=settings, path=tmp_path / "base")
    notes = read_manifest(tmp_path / "base").notes
    assert notes["search"]["fits"] == 4 and set(notes["search"]["chosen"]) == {"0"}
    assert list(notes["search"]["chosen"]["0"]) == ["lr"]
    assert len(notes["fits"]) == 1  # the fits of the search leave no trace among those tested


def test_without_a_grid_the_budget_is_told_all_the_same(
    labelled: TasksSettings, tmp_path: Path
) -> None:
    section = msgspec.structs.replace(labelled.stop_reasons, search={}, run_folds=1)
    settings = msgspec.structs.replace(labelled, stop_reasons=section)
    finetune("stop-reasons", "tfidf", settings=settings, path=tmp_path / "tfidf")
    assert read_manifest(tmp_path / "tfidf").notes["search"] == {"settings": 4, "inner_folds": 0}
    finetune("stop-reasons", "prior", settings=settings, path=tmp_path / "prior")
    assert "search" not in read_manifest(tmp_path / "prior").notes
