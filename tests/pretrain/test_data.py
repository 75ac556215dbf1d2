"""Order and learning rate of a phase.

Batches: the same whatever the number of threads; texts kept apart where the blocks say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from trialese.corpus.packing import pack_blocks
from trialese.errors import RecipeError
from trialese.pretrain.backbone import load_tokenizer
from trialese.pretrain.compute import choose_compute
from trialese.pretrain.data import OLD_OFFSET, Phase, PhasePlan, learning_rate, ready_batches
from trialese.pretrain.masking import Vocabulary
from trialese.records import Document
from trialese.settings import (
    BackboneSettings,
    BlockSettings,
    MaskingSettings,
    PhaseSettings,
    PretrainSettings,
)


def plan(blocks: int = 50, old: int = 0, replay: float = 0.0, **phase: object) -> PhasePlan:
    """A plan over so many blocks."""
    return PhasePlan(PhaseSettings(**phase), blocks, old, replay, seed=3)


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
    assert (made.order(0) != PhasePlan(made.phase, 60, 0, 0.0, seed=4).order(0)).any()


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


@pytest.fixture
def phase(tiny_backbone: Path, tmp_path: Path):
    """`phase(packing, **changes)`: a phase over 40 short documents."""

    def build(packing: str, **changes: object) -> Phase:
        tokenizer = load_tokenizer(BackboneSettings(name=str(tiny_backbone)))
        documents = [
            Document(f"NCT{n:08}", "a study of the drug " * (1 + n % 3)) for n in range(40)
        ]
        settings = BlockSettings(block_tokens=32, packing=packing)  # type: ignore[arg-type]
        folder = tmp_path / f"{packing}-{len(list(tmp_path.iterdir()))}"
        blocks = pack_blocks(documents, tokenizer.backend_tokenizer, settings, folder)
        return Phase(
            name="adapt",
            plan=PhasePlan(
                PhaseSettings(epochs=3, batch_blocks=3), len(blocks.ids), 0, 0.0, seed=1
            ),
            blocks=blocks,
            old_blocks=None,
            vocabulary=Vocabulary.of(tokenizer),
            masking=MaskingSettings(),
            compute=choose_compute(PretrainSettings(device="cpu")),
            **changes,  # type: ignore[arg-type]
        )

    return build


@pytest.mark.parametrize("workers", [2, 5])
def test_the_number_of_data_workers_changes_nothing(phase, workers):
    one, many = ready_batches(phase("across")), ready_batches(phase("across", data_workers=workers))
    count = 0
    for ours, theirs in zip(one, many, strict=True):
        assert ours.batch.step == theirs.batch.step == count + 1
        for part, other in zip(ours.parts, theirs.parts, strict=True):
            assert all(
                value is other[name] is None or torch.equal(value, other[name])
                for name, value in part.items()
            )
        count += 1
    assert count == phase("across").plan.steps > 6


def test_blocks_packed_within_keep_their_texts_apart(phase):
    made = phase("within")
    assert made.blocks.isolated and not phase("across").blocks.isolated
    ready = next(ready_batches(made))
    segments = np.concatenate([part["attended"].numpy() for part in ready.parts])
    begins = made.blocks.ids[ready.batch.block_ids] == made.vocabulary.cls_id
    assert (segments.max(axis=1) == begins.sum(axis=1)).all() and segments.max() > 1
