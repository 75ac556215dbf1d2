"""The prior art's fine-tuning: its text, its head, and that padding moves nothing.

The published protocol: the prior art's rows, and what of them had been trained on."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.pretrain.conftest import save_family
from trialese.artifacts import read_manifest
from trialese.collect.collection import collect_snapshot
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.pipeline.evaluate import judge_classifiers
from trialese.predictions import load_predictions
from trialese.records import Example, Task
from trialese.settings import (
    CollectSettings,
    SampleSettings,
    SexSettings,
    StopReasonsSettings,
    TasksSettings,
    VerdictSettings,
)
from trialese.tasks.classifier import quiet_transformers
from trialese.tasks.finetune import finetune
from trialese.tasks.published import (
    PublishedFit,
    count_known,
    divide_published,
    finetune_published,
    fit_published,
    published_text,
    two_layer_head,
)
from trialese.verdict.report import load_verdicts

HOW = PublishedFit(epochs=3, max_tokens=32, eval_steps=None, patience=None)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("PI's low-accrual &amp; no  funds", "pi low accrual & no funds"),
        ("Can't enrol, won't and doesn't", "can not enrol, will not and does not"),
        ("mail @site now\nplease", "mail now please"),
    ],
)
def test_text_is_read_as_the_prior_art_reads_it(text: str, read: str) -> None:
    assert published_text(text) == read


def test_the_head_has_two_layers_of_the_published_shape() -> None:
    first, between, second = two_layer_head(768, 17)
    assert (tuple(first.weight.shape), tuple(second.weight.shape)) == ((50, 768), (17, 50))
    assert isinstance(between, torch.nn.ReLU)


def test_padding_to_177_changes_no_output_and_no_gradient(tiny_backbone: Path) -> None:
    """Hence texts may be padded to their batch; dropout, which draws by position, is off here."""
    torch.manual_seed(0)
    with quiet_transformers():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            tiny_backbone, num_labels=3, max_position_embeddings=177, ignore_mismatched_sizes=True
        ).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_backbone)
    texts = ["low accrual", "lack of funding of the sponsor in the trial"]
    found = []
    for padding in ({"padding": "longest"}, {"padding": "max_length", "max_length": 177}):
        batch = tokenizer(texts, return_tensors="pt", **padding)
        model.zero_grad()
        logits = model(**batch).logits
        logits.square().sum().backward()
        found.append((logits.detach(), [p.grad.clone() for p in model.parameters()]))
    (short, short_grads), (long, long_grads) = found
    assert torch.allclose(short, long, atol=1e-6)
    for one, other in zip(short_grads, long_grads, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_it_learns_and_leaves_the_callers_generators_alone(
    kind: str, tiny_backbone: Path, toy_rows: list[Example]
) -> None:
    task = Task("toy", ("Enrollment", "Money", "Science"), kind)  # type: ignore[arg-type]
    rows = [
        Example(e.example_id, e.text, e.labels if kind == "multilabel" else e.labels[:1])
        for e in toy_rows
    ]
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = (torch.rand(1).item(), random.random(), np.random.random())
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    steps: list[tuple[int, int | None]] = []
    predict = fit_published(
        task,
        rows[:48],
        rows[48:],
        tiny_backbone,
        HOW,
        cut=0.3,
        seed=42,
        progress=lambda what, done, total: steps.append((done, total)),
    )
    assert (torch.rand(1).item(), random.random(), np.random.random()) == expected
    assert steps == [(step, 6) for step in range(1, 7)]
    scores = predict([row.text for row in rows])
    assert scores.shape == (60, 3)
    if kind == "multiclass":
        assert np.allclose(scores.sum(axis=1), 1)
    again = fit_published(task, rows[:48], rows[48:], tiny_backbone, HOW, cut=0.3, seed=42)
    assert np.array_equal(again([rows[0].text]), predict([rows[0].text]))


@pytest.mark.parametrize("family", ["roberta", "modernbert", "electra"])
def test_another_family_gets_the_two_layers_in_place_of_its_last(
    family: str, toy_task: Task, toy_rows: list[Example], tmp_path: Path
) -> None:
    folder = save_family(tmp_path / family, family)
    how = PublishedFit(epochs=1, max_tokens=300, eval_steps=None, patience=None)
    predict = fit_published(toy_task, toy_rows[:16], toy_rows[16:20], folder, how, cut=0.3, seed=42)
    assert predict([toy_rows[0].text * 40]).shape == (1, len(toy_task.labels))


def test_the_best_look_is_kept_and_patience_ends(
    tiny_backbone: Path, toy_task: Task, toy_rows: list[Example]
) -> None:
    how = PublishedFit(epochs=50, max_tokens=32, eval_steps=1, patience=2)
    steps: list[int] = []
    fit_published(
        toy_task, toy_rows[:8], toy_rows[8:], tiny_backbone, how, cut=0.99, seed=42,
        progress=lambda what, done, total: steps.append(done),
    )  # fmt: skip
    assert steps[-1] == 3  # the first look is the best, since nothing reaches 0.99


def test_a_folder_without_a_model_is_named(toy_task: Task, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no model here"):
        fit_published(toy_task, [], [], tmp_path, HOW, cut=0.3, seed=42)


GOLD = Path(__file__).parents[2].parent / "shared" / "data" / "stop_reasons" / "gold.tsv"
QUICK = VerdictSettings(resamples=100)


def noise(folder: Path, copies: int) -> TasksSettings:
    """Forty texts whose labels cannot be learnt, each `copies` times."""
    generator = np.random.default_rng(3)
    letters = [chr(c) for c in range(97, 123)]
    lines = ["text\tlabels"]
    for _ in range(40):
        words = " ".join("".join(generator.choice(letters, 6)) for _ in range(5))
        label = ("Negative", "Success", "Regulatory")[int(generator.integers(3))]
        lines += [f"{words}{'.' * copy}\t{label}" for copy in range(copies)]
    (folder / "noise.tsv").write_text("\n".join(lines) + "\n")
    section = StopReasonsSettings(labelled=str(folder / "noise.tsv"), folds=2, tune_share=0.3)
    return TasksSettings(stop_reasons=section)


@pytest.mark.parametrize("rows", [10, 375, 3747])
def test_stop_reasons_are_divided_as_datasets_does_it_and_scored_whole(rows: int) -> None:
    examples = [Example(str(row), "x", ()) for row in range(rows)]
    fitted, held, scored = divide_published("stop-reasons", examples)
    # datasets.Dataset.train_test_split(test_size=0.1, seed=42), written out
    order = np.random.default_rng(42).permutation(rows)
    tenth = int(np.ceil(0.1 * rows))
    assert [int(e.example_id) for e in held] == order[:tenth].tolist()
    assert [int(e.example_id) for e in fitted] == order[tenth:].tolist()
    assert scored == examples


def test_sex_is_scored_on_rows_of_the_training_slice() -> None:
    examples = [Example(str(row), "x", ("All",)) for row in range(401_406)]
    fitted, held, scored = divide_published("sex", examples)
    assert (len(fitted), len(held), len(scored)) == (325_138, 36_127, 40_141)
    assert {int(e.example_id) for e in [*fitted, *held]} == set(range(361_265))
    assert [int(e.example_id) for e in scored] == list(range(40_141))
    fitted, held, scored = divide_published("sex", examples[:1000])
    assert (len(fitted) + len(held), len(scored)) == (900, 100)


def test_other_tasks_have_no_published_protocol() -> None:
    with pytest.raises(RecipeError, match="phase: the prior art has stop-reasons and sex only"):
        divide_published("phase", [])


def test_known_rows_are_counted_themselves_word_for_word_and_nearly() -> None:
    fitted = [Example("a", "Low accrual", (), "c1"), Example("b", "No money left", (), "c2")]
    rows = [
        fitted[0],
        Example("c", "low accrual.", (), "c1"),
        Example("d", "No money is left", (), "c2"),
        Example("e", "Toxicity", (), "c3"),
    ]
    assert count_known(rows, fitted) == {
        "rows": 4,
        "trained_on": 1,
        "trained_on_exactly": 2,
        "trained_on_nearly": 3,
    }


def test_noise_scores_well_the_published_way_and_the_twin_says_why(tmp_path: Path) -> None:
    settings = noise(tmp_path, copies=5)
    folders = []
    for system in ("tfidf", "prior"):
        for make in (finetune, finetune_published):
            folders.append(tmp_path / f"{make.__name__}-{system}")
            make("stop-reasons", system, settings=settings, path=folders[-1])
    judge_classifiers(folders, QUICK, tmp_path / "twin", protocol="both")
    published, honest = load_verdicts(tmp_path / "twin")
    assert "thr=0.3" in published.signature and "OVERLAP=200" in published.signature
    assert published.rows == honest.rows == 200
    assert published.scores[0].averages["micro"].f1.low > 0.9  # the labels were drawn at random
    assert honest.scores[0].averages["micro"].f1.high < 0.7
    text = (tmp_path / "twin" / "twin.md").read_text(encoding="utf-8")
    assert "of the scored, fitted on: 180" in text
    assert "of the held out, fitted on word for word: 20" in text
    assert "even of the 20 that it holds out, 20 and 20." in text
    assert "tfidf on the 10 % held out: micro-F1" in text
    assert "is inflation" in text


def test_a_folder_is_judged_by_the_protocol_that_it_was_fitted_under(tmp_path: Path) -> None:
    settings = noise(tmp_path, copies=1)
    for system in ("tfidf", "prior"):
        finetune_published("stop-reasons", system, settings=settings, path=tmp_path / system)
    folders = [tmp_path / "tfidf", tmp_path / "prior"]
    tune, test = load_predictions(folders[0] / "predictions.parquet")
    assert (len(tune.ids), len(test.ids)) == (4, 40)
    assert read_manifest(folders[0]).notes["overlap"]["held_out_trained_on_exactly"] == 0
    with pytest.raises(RecordError, match="fitted the published way, but judged by --protocol hon"):
        judge_classifiers(folders, QUICK, tmp_path / "out")
    with pytest.raises(RecordError, match="fitted the published way only; give the honest one"):
        judge_classifiers(folders, QUICK, tmp_path / "out", protocol="both")
    assert not (tmp_path / "out").exists()
    judge_classifiers(folders, QUICK, tmp_path / "out", protocol="published")
    assert "OVERLAP=40" in load_verdicts(tmp_path / "out")[0].signature
    assert "Overlap allowed" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_sex_the_published_way_scores_what_it_was_fitted_on(tmp_path: Path) -> None:
    collected = CollectSettings(sample=SampleSettings(studies=150))
    snapshot = collect_snapshot(collected, tmp_path / "snapshot")
    settings = TasksSettings(sex=SexSettings(run_folds=2, folds=2, missing="label"))
    folders = []
    for system in ("tfidf", "prior"):
        for make in (finetune, finetune_published):
            folders.append(tmp_path / f"{make.__name__}-{system}")
            make("sex", system, snapshot=snapshot, settings=settings, path=folders[-1])
    notes = read_manifest(tmp_path / "finetune_published-tfidf").notes
    scored, fitted = notes["overlap"]["scored_rows"], notes["overlap"]["scored_trained_on"]
    assert scored == 15
    assert fitted / scored > 0.7
    judge_classifiers(folders, QUICK, tmp_path / "twin", protocol="both")
    published, honest = load_verdicts(tmp_path / "twin")
    assert "thr=argmax" in published.signature and "OVERLAP=15" in published.signature
    assert published.labels == honest.labels == ("All", "Female", "Male", "None")


@pytest.mark.skipif(not GOLD.is_file(), reason="../shared/data is not here")
def test_a_random_split_of_gold_leaks(tmp_path: Path) -> None:
    settings = TasksSettings(stop_reasons=StopReasonsSettings(labelled=str(GOLD)))
    made = finetune_published("stop-reasons", "keywords", settings=settings, path=tmp_path / "k")
    assert made.notes["overlap"] == {
        "scored_rows": 3372,
        "scored_trained_on": 3034,
        "scored_trained_on_exactly": 3077,
        "scored_trained_on_nearly": 3089,
        "held_out_rows": 338,
        "held_out_trained_on": 0,
        "held_out_trained_on_exactly": 43,
        "held_out_trained_on_nearly": 55,
    }
