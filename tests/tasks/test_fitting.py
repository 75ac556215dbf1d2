from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from trialese.errors import ArtifactError, RecordError
from trialese.records import Example, Task
from trialese.settings import FinetuneSettings, LoraSettings
from trialese.tasks.fit import fit_classifier

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
    scores = classifier.predict([row.text for row in toy_rows[45:]])
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
    one, same, other = (fit.predict(["slow accrual"]) for fit in fits)
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
    with pytest.raises(ArtifactError, match="cannot make a classifier of it"):
        fit_classifier(toy_task, toy_rows, toy_rows, broken, QUICK, seed=1)
