"""The prior art's fine-tuning: its text, its head, and that padding moves nothing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from trialese.errors import ArtifactError
from trialese.records import Example, Task
from trialese.tasks.classifier import quiet_transformers
from trialese.tasks.published import PublishedFit, fit_published, published_text, two_layer_head

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
