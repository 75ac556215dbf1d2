""""""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from trialese.errors import ArtifactError, RecordError
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings, LoraSettings
from trialese.tasks.fit import (
    FirstTokenForward,
    fit_classifier,
    freeze_layers,
    linear_decay,
    loss_function,
    make_optimiser,
    with_lora,
)

CPU = torch.device("cpu")
TRUTH = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]], bool)


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return logits, torch.from_numpy(TRUTH.astype(np.float64))


def test_ranking_is_the_formula_of_the_paper() -> None:
    logits, targets = logits_and_targets()
    settings = FinetuneSettings(loss="ranking", positive_weight=0.0)
    loss = loss_function("multilabel", TRUTH, settings, CPU)(logits, targets)
    slow = 0.0
    for scores, truth in zip(logits.tolist(), TRUTH, strict=True):
        slow += np.log(1 + sum(np.exp(s) for s, t in zip(scores, truth, strict=True) if not t))
        slow += np.log(1 + sum(np.exp(-s) for s, t in zip(scores, truth, strict=True) if t))
    assert loss.item() == pytest.approx(slow / 4, rel=1e-6)


def test_cross_entropy_with_positive_weights_is_torchs() -> None:
    logits, targets = logits_and_targets()
    settings = FinetuneSettings(loss="cross-entropy", positive_weight=1.0)
    loss = loss_function("multilabel", TRUTH, settings, CPU)(logits, targets)
    weight = torch.tensor([1.0, 3.0, 3.0])  # negatives / positives
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, targets) * 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_focal_leaves_a_sure_and_right_text_almost_out() -> None:
    sure = torch.tensor([[9.0, -9.0, -9.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    plain = loss_function("multilabel", TRUTH, FinetuneSettings(loss="cross-entropy"), CPU)
    focal = loss_function("multilabel", TRUTH, FinetuneSettings(loss="focal"), CPU)
    assert focal(sure, targets) < 1e-6 * plain(sure, targets)
    assert focal(-sure, targets) > 0.9 * plain(-sure, targets)


def test_one_label_tasks_use_softmax_whatever_the_setting() -> None:
    logits, _ = logits_and_targets()
    truth = np.eye(3, dtype=bool)[[0, 2, 1, 0]]
    targets = torch.from_numpy(truth.astype(np.float64))
    loss = loss_function("multiclass", truth, FinetuneSettings(loss="ranking"), CPU)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1, 0]))
    assert loss(logits.float(), targets.float()).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["ranking", "cross-entropy", "focal"])
def test_gradients_are_finite_at_extreme_logits(name: str) -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0]], requires_grad=True)
    settings = FinetuneSettings(loss=name, positive_weight=0.5)  # type: ignore[arg-type]
    loss = loss_function("multilabel", TRUTH, settings, CPU)
    loss(logits, torch.tensor([[0.0, 1.0, 1.0]])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.fixture
def model(tiny_backbone: Path) -> torch.nn.Module:
    transformers.utils.logging.set_verbosity_error()
    return transformers.AutoModelForSequenceClassification.from_pretrained(tiny_backbone)  # type: ignore[no-any-return]


def rate_and_decay(
    model: torch.nn.Module, settings: FinetuneSettings
) -> dict[str, tuple[float, float]]:
    optimiser = make_optimiser(model, settings)
    of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


def test_rates_fall_from_layer_to_layer(model: torch.nn.Module) -> None:
    found = rate_and_decay(
        model, FinetuneSettings(lr=1.0, head_lr=3.0, layer_decay=0.5, weight_decay=0.1)
    )
    assert found["classifier.weight"] == (3.0, 0.1)
    assert found["bert.pooler.dense.bias"] == (3.0, 0.0)
    assert found["bert.encoder.layer.1.output.dense.weight"] == (1.0, 0.1)
    assert found["bert.encoder.layer.0.output.dense.weight"] == (0.5, 0.1)
    assert found["bert.encoder.layer.0.output.LayerNorm.weight"] == (0.5, 0.0)
    assert found["bert.embeddings.word_embeddings.weight"] == (0.25, 0.1)
    assert len(found) == len(list(model.parameters()))


def test_frozen_layers_are_not_optimised(model: torch.nn.Module) -> None:
    freeze_layers(model, 1)
    names = set(rate_and_decay(model, FinetuneSettings()))
    assert not any("embeddings" in name or "layer.0." in name for name in names)
    assert any("layer.1." in name for name in names)


def test_schedule_rises_then_falls_to_nothing() -> None:
    factor = linear_decay(100, 0.1)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == 0.0
    assert [factor(s) for s in range(10, 100)] == sorted(
        (factor(s) for s in range(10, 100)), reverse=True
    )


TEXTS = [[2, 7, 9, 11, 3], [2, 8, 3], [2, 5, 6, 7, 8, 9, 10, 12, 3], [2, 3]]


@pytest.fixture
def model_forward(tiny_backbone: Path) -> torch.nn.Module:
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(1)
    model_forward = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_backbone, num_labels=3
    )
    return model_forward.eval()  # type: ignore[no-any-return]


def stock(model_forward: torch.nn.Module, texts: list[list[int]]) -> torch.Tensor:
    """transformers' own forward pass, over one padded block."""
    width = max(map(len, texts))
    block = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return model_forward(input_ids=block, attention_mask=mask).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_scores_and_gradients_are_those_of_transformers(
    model_forward: torch.nn.Module, frozen: int
) -> None:
    freeze_layers(model_forward, frozen)
    forward = FirstTokenForward(model_forward, frozen)
    ours = forward.logits(forward.states(TEXTS, torch.device("cpu")))
    theirs = stock(model_forward, TEXTS)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    learning = {name: p for name, p in model_forward.named_parameters() if p.requires_grad}
    assert learning
    ours.square().sum().backward()
    found = {name: p.grad.clone() for name, p in learning.items() if p.grad is not None}
    model_forward.zero_grad()
    theirs.square().sum().backward()
    for name, parameter in learning.items():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_adapters_are_called(model_forward: torch.nn.Module) -> None:
    settings = FinetuneSettings(method="lora", lora=LoraSettings(rank=2, alpha=4))
    wrapped = with_lora(model_forward, settings)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # 0 at first, and so without effect
            torch.nn.init.normal_(parameter)
    forward = FirstTokenForward(wrapped.get_base_model(), 0)
    wrapped.eval()
    ours = forward.logits(forward.states(TEXTS, torch.device("cpu")))
    torch.testing.assert_close(ours, stock(wrapped, TEXTS), atol=2e-6, rtol=1e-5)


def test_only_learning_layers_drop(model_forward: torch.nn.Module) -> None:
    for module in model_forward.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model_forward.train()
    forward = FirstTokenForward(model_forward, 1)
    states = [forward.states(TEXTS, torch.device("cpu")) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
    assert not torch.equal(forward.logits(states[0]), forward.logits(states[0]))


QUICK = FinetuneSettings(
    epochs=16, patience=16, lr=5e-3, head_lr=2e-2, batch_texts=8, max_tokens=32, dropout=0.0,
    precision="fp32",
)  # fmt: skip


def changed(**changes: object) -> FinetuneSettings:
    import msgspec

    return msgspec.structs.replace(QUICK, **changes)


def test_it_learns_what_tells_the_labels_apart(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    classifier, log = fit_classifier(
        toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone, QUICK, seed=1
    )
    assert log.losses[-1] < 0.5 * log.losses[0]
    assert log.tune_scores[log.best_epoch - 1][1] > 0.9
    assert sum(log.tune_scores[log.best_epoch - 1]) == max(map(sum, log.tune_scores))
    assert log.new_pooler
    scores = classifier.predict_proba([row.text for row in toy_rows[45:]])
    right = [toy_task.labels[i] in row.labels for i, row in zip(scores.argmax(1), toy_rows[45:])]  # noqa: B905
    assert np.mean(right) > 0.9


def test_equal_seeds_give_equal_weights_and_leave_the_generator_alone(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    settings = changed(epochs=2, dropout=0.1)
    before = torch.random.get_rng_state()
    fits = [
        fit_classifier(toy_task, toy_rows[:30], toy_rows[30:], tiny_backbone, settings, seed=s)[0]
        for s in (5, 5, 6)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    one, same, other = (fit.predict_proba(["slow accrual"]) for fit in fits)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_best_epoch_is_kept_and_patience_ends_the_fit(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    settings = changed(epochs=30, patience=2)
    _, log = fit_classifier(toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone, settings, seed=1)
    assert len(log.tune_scores) == log.best_epoch + 2 < 30


def test_lora_is_merged_and_the_encoder_moves_little(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    settings = changed(method="lora", lora=LoraSettings(rank=2, alpha=4), epochs=2)
    classifier, _ = fit_classifier(
        toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone, settings, seed=1
    )
    assert type(classifier.model).__name__ == "BertForSequenceClassification"
    assert not any("lora" in name for name in classifier.model.state_dict())
    plain, _ = fit_classifier(
        toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone,
        changed(frozen_layers=2, epochs=1), seed=1,
    )  # fmt: skip
    name = "bert.encoder.layer.0.attention.self.query.weight"
    start = plain.model.state_dict()[name]  # frozen, so as in the checkpoint
    moved = classifier.model.state_dict()[name] - start
    assert 0 < torch.linalg.matrix_rank(moved, atol=1e-5) <= 2


def test_frozen_layers_stay_and_the_others_learn(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    from safetensors.torch import load_file

    before = load_file(tiny_backbone / "model.safetensors")
    classifier, _ = fit_classifier(
        toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone,
        changed(frozen_layers=1, epochs=1), seed=1,
    )  # fmt: skip
    after = classifier.model.state_dict()
    for name in before:
        if "embeddings" in name or "layer.0." in name:
            assert torch.equal(before[name], after[name]), name
    moved = "bert.encoder.layer.1.output.dense.weight"
    assert not torch.equal(before[moved], after[moved])


def test_averaging_the_last_epochs_is_their_mean(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    # With one epoch to average, the result is that epoch; with two it is neither of them.
    fits = [
        fit_classifier(
            toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone,
            changed(epochs=2, average_last=last), seed=1,
        )[0].model.state_dict()["classifier.weight"]
        for last in (1, 2)
    ]  # fmt: skip
    kept = fit_classifier(
        toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone, changed(epochs=2), seed=1
    )
    if kept[1].best_epoch == 2:
        assert torch.equal(fits[0], kept[0].model.state_dict()["classifier.weight"])
    assert not torch.equal(fits[0], fits[1])


def test_label_words_start_from_distinct_directions(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path
) -> None:
    settings = changed(epochs=1, lr=0.0, head_lr=0.0, label_words=True)
    classifier, _ = fit_classifier(
        toy_task, toy_rows[:45], toy_rows[45:], tiny_backbone, settings, seed=1
    )
    weight = classifier.model.classifier.weight.detach()
    assert torch.allclose(weight.sum(0) / weight.norm(), torch.zeros(32), atol=0.2)
    assert torch.linalg.matrix_rank(weight) >= 2


def test_what_cannot_be_fitted_is_refused(
    toy_task: Task, toy_rows: list[Example], tiny_backbone: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match="0 to tune on"):
        fit_classifier(toy_task, toy_rows, [], tiny_backbone, QUICK, seed=1)
    with pytest.raises(ArtifactError, match="no model here"):
        fit_classifier(toy_task, toy_rows, toy_rows, tmp_path, QUICK, seed=1)
    broken = Path(shutil.copytree(tiny_backbone, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match="weights cannot be loaded"):
        fit_classifier(toy_task, toy_rows, toy_rows, broken, QUICK, seed=1)
