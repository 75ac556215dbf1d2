"""Checkpoints: whole, damaged, and of another run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trialese.errors import ArtifactError
from trialese.pretrain.train import (
    Checkpoint,
    dump_optimiser,
    load_optimiser,
    open_work,
    read_checkpoint,
    write_checkpoint,
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
