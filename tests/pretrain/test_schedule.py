"""Order and learning rate of a phase."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from trialese.errors import RecipeError
from trialese.pretrain.data import OLD_OFFSET, Plan, learning_rate
from trialese.settings import PhaseSettings


def plan(blocks: int = 50, old: int = 0, replay: float = 0.0, **phase: object) -> Plan:
    """A plan over so many blocks."""
    return Plan(PhaseSettings(**phase), blocks, old, replay, seed=3)


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 3), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_each_block_is_seen_once_an_epoch(blocks, batch, accumulation, old):
    made = plan(blocks, old, 0.1, batch_blocks=batch, accumulation=accumulation, epochs=2)
    batches = list(made.batches())
    assert [one.step for one in batches] == list(range(1, made.steps + 1))
    for epoch in (0, 1):
        ids = np.concatenate([one.block_ids for one in batches if one.epoch == epoch])
        assert sorted(ids[ids < OLD_OFFSET].tolist()) == list(range(blocks))
        replayed = ids[ids >= OLD_OFFSET] - OLD_OFFSET
        assert len(set(replayed.tolist())) == len(replayed) == min(round(0.1 * blocks), old)
        assert replayed.max(initial=-1) < max(1, old)


@given(st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_a_resumed_plan_goes_on_where_it_stopped(after):
    made = plan(37, batch_blocks=4, epochs=3)
    rest = [one for one in made.batches() if one.step > after]
    resumed = list(made.batches(after_step=after))
    assert [one.step for one in resumed] == [one.step for one in rest]
    for one, other in zip(resumed, rest, strict=True):
        assert one.epoch == other.epoch and (one.block_ids == other.block_ids).all()


def test_epochs_differ_in_order_and_seeds_too():
    made = plan(60)
    assert (made.order(0) != made.order(1)).any()
    assert (made.order(0) != Plan(made.phase, 60, 0, 0.0, seed=4).order(0)).any()


def test_linear_falls_as_transformers_does():
    phase = PhaseSettings(lr=0.5, warmup_share=0.0, steps=20)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    stock = get_linear_schedule_with_warmup(optimiser, 0, 20)
    for position in range(20):
        assert learning_rate(position, 20, phase) == pytest.approx(stock.get_last_lr()[0])
        optimiser.step()
        stock.step()


def test_warm_up_stable_decay():
    phase = PhaseSettings(lr=1.0, warmup_share=0.1, decay_share=0.2, schedule="wsd")
    rates = [learning_rate(position, 100, phase) for position in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:81] == pytest.approx([1.0] * 71)
    assert rates[85] == pytest.approx(1 - (5 / 20) ** 0.5)
    assert 0 < rates[99] < 0.03
    constant = PhaseSettings(lr=1.0, warmup_share=0.0, schedule="constant")
    assert learning_rate(99, 100, constant) == 1.0


def test_restarts_begin_schedule_and_optimiser_anew():
    made = plan(20, batch_blocks=5, epochs=6, restart_every_epochs=2, lr=1.0, warmup_share=0.0)
    rates = [made.learning_rate(step) for step in range(1, made.steps + 1)]
    assert made.steps == 24 and made.steps_per_cycle == 8
    assert rates[:8] == rates[8:16] == rates[16:]
    assert [s for s in range(1, 25) if made.begins_cycle(s)] == [1, 9, 17]


def test_nothing_to_train_on_is_the_users_mistake():
    with pytest.raises(RecipeError, match="no training blocks"):
        plan(0)
    with pytest.raises(RecipeError, match="batch_blocks"):
        plan(4, batch_blocks=0)
