"""Checkpoints: whole, damaged, and of another run.

The training loop: exact to the bit, and equal to a plain AdamW step."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from trialese.artifacts import remove_at_once
from trialese.corpus.blocks import open_blocks
from trialese.errors import ArtifactError, RecipeError
from trialese.pretrain.backbone import load_backbone
from trialese.pretrain.compute import choose_compute
from trialese.pretrain.data import Phase, PhasePlan
from trialese.pretrain.heldout import fix_masks
from trialese.pretrain.lora import attach_lora
from trialese.pretrain.masking import Vocabulary, mask_blocks
from trialese.pretrain.train import (
    Checkpoint,
    dump_optimiser,
    load_optimiser,
    open_work,
    read_checkpoint,
    train,
    write_checkpoint,
)
from trialese.settings import (
    BackboneSettings,
    HeldoutSettings,
    LoraSettings,
    MaskingSettings,
    PhaseSettings,
    PretrainSettings,
)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), max_size=3))
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, step, shape):
    file = tmp_path_factory.mktemp("work") / "deep" / "one.safetensors"
    state = Checkpoint(
        step,
        {"a.b": torch.randn(shape), "c": torch.zeros(2, dtype=torch.float64)},
        {"a.b|exp_avg": torch.randn(3, 2).t(), "a.b|step": torch.tensor(4.0)},
        [{"step": 1, "loss": 0.1 + 0.2, "era": "new"}],
        {"loss": 1 / 3},
    )
    write_checkpoint(file, state)
    back = read_checkpoint(file)
    assert back is not None
    assert (back.step, back.rows, back.running) == (step, state.rows, state.running)
    for mine, theirs in ((back.weights, state.weights), (back.optimiser, state.optimiser)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_damaged_or_missing_checkpoint_is_none(tmp_path: Path, caplog):
    file = tmp_path / "one.safetensors"
    assert read_checkpoint(file) is None
    write_checkpoint(file, Checkpoint(3, {"a": torch.zeros(4)}, {}))
    file.write_bytes(file.read_bytes()[:-5])
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(file) is None
    assert "damaged" in caplog.text


def test_adamw_goes_on_from_dumped_moments():
    torch.manual_seed(0)
    start = torch.randn(5)

    def steps(value: torch.Tensor, optimiser: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad()
            (value**3).sum().backward()
            optimiser.step()

    whole = start.clone().requires_grad_()
    steps(whole, torch.optim.AdamW([whole], lr=0.1), 6)
    first = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW([first], lr=0.1)
    steps(first, optimiser, 3)
    moments = {k: v.clone() for k, v in dump_optimiser(optimiser, {"x": first}).items()}
    second = first.detach().clone().requires_grad_()
    fresh = torch.optim.AdamW([second], lr=0.1)
    load_optimiser(fresh, {"x": second}, moments)
    steps(second, fresh, 3)
    assert torch.equal(second, whole)


def test_another_key_is_refused_where_something_was_trained_and_told_what_changed(tmp_path: Path):
    folder = tmp_path / ".adapter.work"
    first = {"settings": {"lora": {"rank": 8}, "seed": 7}, "inputs": {"blocks": "a"}}
    other = {"settings": {"lora": {"rank": 16}, "seed": 7}, "inputs": {"blocks": "b"}}
    open_work(folder, "k1", first)
    open_work(folder, "k2", other)  # nothing trained, nothing lost
    open_work(folder, "k1", first)
    (folder / "adapt.safetensors").write_bytes(b"state")
    open_work(folder, "k1", first)
    assert (folder / "adapt.safetensors").exists()
    with pytest.raises(ArtifactError, match=r"settings\.lora\.rank: 8 -> 16") as caught:
        open_work(folder, "k2", other)
    assert (folder / "adapt.safetensors").read_bytes() == b"state"
    assert "inputs.blocks: 'a' -> 'b'" in str(caught.value)
    assert "seed" not in str(caught.value) and "\n" not in str(caught.value)
    open_work(folder, "k1", first)  # still resumable


def test_a_work_folder_goes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_work(tmp_path / "work", "k1", {})
    (folder / "adapt.safetensors").write_bytes(b"trained")

    def killed(where: Path, **_: object) -> None:
        if where.is_dir():
            (where / "work.json").unlink(missing_ok=True)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_at_once(folder)
    open_work(folder, "k2", {})  # nothing of it is taken for an unfinished run
    remove_at_once(folder)
    assert list(tmp_path.iterdir()) == []


Make = Callable[..., tuple[torch.nn.Module, Phase]]


@pytest.fixture
def make(tiny_backbone: Path, toy_blocks: Path) -> Make:
    """`make(checkpoint, dropout=..., **phase)`: a fresh toy with LoRA and a phase to train it."""

    def build(
        checkpoint: Path | None = None,
        *,
        dropout: float = 0.0,
        lora_dropout: float = 0.0,
        full: bool = False,
        **phase: Any,
    ) -> tuple[torch.nn.Module, Phase]:
        backbone = load_backbone(BackboneSettings(name=str(tiny_backbone)))
        backbone.model.requires_grad_(full)
        settings = LoraSettings(rank=4, alpha=8, dropout=lora_dropout)
        model = backbone.model
        if not full:
            model = attach_lora(model, settings, train_head=True, seed=1)
        blocks = open_blocks(toy_blocks, era="new", split="train")
        old = open_blocks(toy_blocks, era="old", split="train")
        tune = open_blocks(toy_blocks, era="new", split="tune")
        assert blocks and old and tune
        vocabulary = Vocabulary.of(backbone.tokenizer)
        options = {"steps": 9, "batch_blocks": 8, "lr": 1e-2} | phase
        plan = PhasePlan(PhaseSettings(**options), len(blocks.ids), len(old.ids), 0.1, seed=5)
        return model, Phase(
            name="adapt",
            plan=plan,
            blocks=blocks,
            old_blocks=old,
            vocabulary=vocabulary,
            masking=MaskingSettings(),
            heldouts=[fix_masks(tune, "new", "tune", vocabulary, HeldoutSettings())],
            heldout_every_steps=4,
            heldout_batch_blocks=8,
            checkpoint_every_steps=2,
            checkpoint=checkpoint,
            compute=choose_compute(PretrainSettings(device="cpu", precision="fp32")),
            dropout=dropout,
        )

    return build


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What was trained."""
    return {n: v.detach().clone() for n, v in model.named_parameters() if v.requires_grad}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether every weight is the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(v, other[n]) for n, v in one.items())


class KilledError(Exception):
    """What the tests stop a run with."""


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        (1, {}),
        (4, {}),
        (8, {"dropout": 0.1, "lora_dropout": 0.2}),
        (3, {"accumulation": 2, "batch_blocks": 4, "dropout": 0.1}),
        (7, {"restart_every_epochs": 1, "batch_blocks": 16}),
        (5, {"full": True}),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(make: Make, tmp_path: Path, stop_at, changes):
    whole, phase = make(**changes)
    rows = train(whole, phase)

    def kill(what: str, done: int, total: int | None) -> None:
        if done == stop_at:
            raise KilledError

    broken, phase = make(tmp_path / "work.safetensors", **changes)
    with pytest.raises(KilledError):
        train(broken, phase, progress=kill)
    resumed, phase = make(tmp_path / "work.safetensors", **changes)
    assert train(resumed, phase) == rows
    assert same_bits(weights(resumed), weights(whole))
    again, phase = make(tmp_path / "work.safetensors", **changes)
    assert train(again, phase) == rows  # a finished phase is only read back
    assert same_bits(weights(again), weights(whole))


def test_a_step_is_the_plain_adamw_step_of_the_stock_model(make: Make):
    model, phase = make(steps=3, warmup_share=0.0, schedule="constant", gradient_clip=0.0)
    plain, _ = make()
    named = {n: v for n, v in plain.named_parameters() if v.requires_grad}
    decay = [v for v in named.values() if v.ndim > 1]
    rest = [v for v in named.values() if v.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], lr=1e-2
    )
    train(model, phase)
    plain.eval()
    length = phase.blocks.ids.shape[1]
    for batch in phase.plan.batches():
        sources = [
            (phase.blocks, row) if row < 1 << 40 else (phase.old_blocks, row - (1 << 40))
            for row in batch.block_ids.tolist()
        ]
        ids = torch.stack([torch.from_numpy(b.ids[r].astype("int64")) for b, r in sources]).numpy()
        special = torch.stack([torch.from_numpy(b.special[r].copy()) for b, r in sources]).numpy()
        masked = mask_blocks(
            ids, special, batch.block_ids, phase.vocabulary, ratio=0.3, seed=5, epoch=batch.epoch
        )
        labels = torch.full((len(ids), length), -100)
        for row in range(len(ids)):
            at = masked.positions[row][masked.valid[row]]
            labels[row, at] = torch.from_numpy(ids[row, at])
        logits = plain(
            input_ids=torch.from_numpy(masked.inputs),
            attention_mask=torch.from_numpy(masked.segments).long(),
        ).logits
        optimiser.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimiser.step()
    for name, value in weights(model).items():
        torch.testing.assert_close(value, named[name].detach(), atol=2e-5, rtol=1e-3)


def test_accumulation_equals_the_large_batch(make: Make):
    large, phase = make(batch_blocks=8, steps=4)
    train(large, phase)
    parts, phase = make(batch_blocks=2, accumulation=4, steps=4)
    train(parts, phase)
    for name, value in weights(parts).items():
        torch.testing.assert_close(value, weights(large)[name], atol=1e-5, rtol=1e-3)


def test_training_learns_and_rows_tell_of_it(make: Make):
    model, phase = make(steps=60, full=True, lr=3e-3)
    rows = train(model, phase)
    tune = [row for row in rows if row["split"] == "tune"]
    assert [row["step"] for row in tune] == [0, *range(4, 61, 4)]
    assert tune[-1]["loss"] < tune[0]["loss"] - 0.5
    assert tune[-1]["top1"] > tune[0]["top1"]
    trained = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in trained] == [10, 20, 30, 40, 50, 60]
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert rows[-1]["tokens"] == sum(len(b.block_ids) for b in phase.plan.batches()) * 32


def test_sigint_finishes_the_step_and_keeps_it(make: Make, tmp_path: Path):
    whole, phase = make()
    train(whole, phase)
    seen: list[int] = []

    def interrupt(what: str, done: int, total: int | None) -> None:
        seen.append(done)
        if done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    model, phase = make(tmp_path / "work.safetensors")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"after step 5 of 9.*same command again"):
        train(model, replace(phase, checkpoint_every_steps=100), progress=interrupt)
    assert seen == [1, 2, 3, 4, 5]
    assert signal.getsignal(signal.SIGINT) is handler
    resumed, phase = make(tmp_path / "work.safetensors")
    train(resumed, phase)
    assert same_bits(weights(resumed), weights(whole))


def test_a_loss_that_is_not_finite_stops_with_the_cure(make: Make):
    model, phase = make(lr=1e30, gradient_clip=0.0, warmup_share=0.0)
    with pytest.raises(RecipeError, match=r"not finite at step \d+; lower its lr \(1e\+30\)"):
        train(model, phase)
