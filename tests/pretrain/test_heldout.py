"""Held-out figures against sums written out by hand over the stock model.

The gain and its interval.

Rows as files: read back, drawn, and understood by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trialese.corpus.blocks import open_blocks
from trialese.errors import RecipeError
from trialese.pretrain.backbone import load_backbone
from trialese.pretrain.encoder import MaskedEncoder
from trialese.pretrain.heldout import (
    HeldoutScore,
    draw_curve,
    fix_masks,
    gained_top1,
    measure,
    read_rows,
    score_row,
    write_events,
    write_rows,
)
from trialese.pretrain.masking import Vocabulary
from trialese.settings import BackboneSettings, HeldoutSettings

CPU = torch.device("cpu")


def test_figures_equal_the_plain_sums_whatever_the_batch(tiny_backbone: Path, toy_blocks: Path):
    backbone = load_backbone(BackboneSettings(name=str(tiny_backbone)))
    blocks = open_blocks(toy_blocks, era="old", split="tune")
    assert blocks is not None
    vocabulary = Vocabulary.of(backbone.tokenizer)
    held = fix_masks(blocks, "old", "tune", vocabulary, HeldoutSettings())
    encoder = MaskedEncoder(backbone.model)
    row = score_row(measure(encoder, held, batch_blocks=5, device=CPU), held)
    loss, top1, top5, tokens = 0.0, 0, 0, 0
    masked = held.masked
    for index in range(len(held.rows)):
        logits = backbone.model(torch.from_numpy(masked.inputs[index : index + 1])).logits[0]
        for place, valid in zip(masked.positions[index], masked.valid[index], strict=True):
            if valid:
                target = int(blocks.ids[held.rows[index], place])
                loss -= float(logits[place].log_softmax(0)[target].detach())
                ranked = logits[place].argsort(descending=True).tolist()
                top1 += ranked[0] == target
                top5 += target in ranked[:5]
                tokens += 1
    assert row["masked_tokens"] == tokens > 50
    assert row["loss"] == pytest.approx(loss / tokens, abs=1e-5)
    assert (row["top1"], row["top5"]) == pytest.approx((top1 / tokens, top5 / tokens))
    again = score_row(measure(encoder, held, batch_blocks=64, device=CPU), held)
    assert again["loss"] == pytest.approx(row["loss"], abs=1e-6)
    assert again["top1"] == row["top1"]


class Oracle:
    """An encoder whose scores are a function of the batch; `measure` asks no more of it."""

    def __init__(self, scores) -> None:
        self._scores = scores

    def logits(self, inputs, attended, positions):
        return self._scores(inputs, positions)


VOCABULARY = 500


def held_out(tiny_backbone: Path, toy_blocks: Path):
    backbone = load_backbone(BackboneSettings(name=str(tiny_backbone)))
    blocks = open_blocks(toy_blocks, era="old", split="tune")
    assert blocks is not None
    vocabulary = Vocabulary.of(backbone.tokenizer)
    return fix_masks(blocks, "old", "tune", vocabulary, HeldoutSettings()), vocabulary


def test_a_model_that_copies_what_it_sees_scores_nothing_on_mask(
    tiny_backbone: Path, toy_blocks: Path
):
    held, vocabulary = held_out(tiny_backbone, toy_blocks)

    def copied(inputs, positions):
        shown = inputs.gather(1, positions).flatten()
        return torch.nn.functional.one_hot(shown, VOCABULARY).float() * 9

    row = score_row(measure(Oracle(copied), held, batch_blocks=5, device=CPU), held)
    assert row["top1"] > 0.05  # a tenth of the chosen places keeps its token
    assert row["mask_top1"] == 0.0
    assert 0.7 < row["mask_tokens"] / row["masked_tokens"] < 0.9
    assert row["mask_loss"] > row["loss"]
    shown = np.take_along_axis(held.masked.inputs, held.masked.positions, axis=1)
    assert (shown[held.unseen] == vocabulary.mask_id).all()
    assert held.unseen.sum() == row["mask_tokens"]


@pytest.mark.parametrize("tied", [1, 4, VOCABULARY])
def test_ties_count_as_their_chance(tiny_backbone: Path, toy_blocks: Path, tied: int):
    held, _ = held_out(tiny_backbone, toy_blocks)
    targets = torch.from_numpy(held.masked.targets)

    def constant(inputs, positions):
        scores = torch.zeros(positions.numel(), VOCABULARY)
        own = targets[: len(positions)].flatten()
        if tied < VOCABULARY:  # the target and its next `tied - 1` ids share the top
            for ahead in range(tied):
                scores[torch.arange(len(own)), (own + ahead) % VOCABULARY] = 1.0
        return scores

    row = score_row(measure(Oracle(constant), held, batch_blocks=10**6, device=CPU), held)
    for name in ("top1", "mask_top1"):
        assert row[name] == pytest.approx(1 / tied)
    assert row["mask_top5"] == pytest.approx(min(1.0, 5 / tied))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(
    tiny_backbone: Path, toy_blocks: Path, value: float
):
    held, _ = held_out(tiny_backbone, toy_blocks)
    broken = Oracle(lambda inputs, positions: torch.full((positions.numel(), VOCABULARY), value))
    with pytest.raises(RecipeError, match=r"old tune blocks: .* not finite"):
        measure(broken, held, batch_blocks=5, device=CPU)


def test_blocks_and_masks_are_fixed_by_their_own_seed(tiny_backbone: Path, toy_blocks: Path):
    backbone = load_backbone(BackboneSettings(name=str(tiny_backbone)))
    blocks = open_blocks(toy_blocks, era="new", split="train")
    assert blocks is not None
    vocabulary = Vocabulary.of(backbone.tokenizer)

    def made(**changes: object):
        return fix_masks(blocks, "new", "tune", vocabulary, HeldoutSettings(**changes))

    few, same, other = made(max_blocks=9), made(max_blocks=9), made(max_blocks=9, seed=8)
    assert len(few.rows) == 9 and (np.diff(few.rows) > 0).all()
    assert (few.masked.inputs == same.masked.inputs).all()
    assert few.rows.tolist() != other.rows.tolist()
    every = made(max_blocks=10**6)
    assert (every.masked.inputs[few.rows] == few.masked.inputs).all()
    ordinary = ~blocks.special[every.rows]
    assert every.masked.masked_tokens / ordinary.sum() == pytest.approx(0.15, abs=0.02)


def score(hits: np.ndarray, tokens: np.ndarray) -> HeldoutScore:
    """A score with these hits."""
    return HeldoutScore(np.zeros(len(hits)), hits, hits, tokens)


def test_the_point_is_the_pooled_difference_and_lies_within():
    generator = np.random.default_rng(0)
    tokens = np.full(300, 19)
    before, after = generator.binomial(19, 0.3, 300), generator.binomial(19, 0.36, 300)
    gain = gained_top1(score(before, tokens), score(after, tokens), np.arange(300) // 3)
    assert gain.point == pytest.approx((after - before).sum() / tokens.sum())
    assert gain.low < gain.point < gain.high
    # blocks are independent here: the interval is about that of 300 independent differences
    spread = 1.96 * np.sqrt(19 * (0.3 * 0.7 + 0.36 * 0.64) / 300) / 19
    assert (gain.high - gain.low) / 2 == pytest.approx(spread, rel=0.25)


def test_blocks_of_one_document_count_as_one():
    before, after = np.tile([3, 3], 50), np.tile([9, 3], 50)
    tokens = np.full(100, 19)
    owner = np.repeat([0, 1], 50)
    order = np.argsort(np.tile([0, 1], 50), kind="stable")
    gain = gained_top1(score(before[order], tokens), score(after[order], tokens), owner)
    assert (gain.low, gain.high) == pytest.approx((0.0, 6 / 19))


def test_no_change_is_nothing():
    hits = np.arange(10)
    gain = gained_top1(score(hits, hits + 5), score(hits, hits + 5), np.arange(10))
    assert (gain.point, gain.low, gain.high) == (0, 0, 0)


ROWS = [
    {"phase": phase, "step": step, "tokens": step * 1000, "era": era, "split": "tune",
     "loss": 5.0 - step / 10, "perplexity": 9.0, "top1": step / 50, "top5": step / 40,
     "masked_tokens": 7}
    for phase in ("head", "base") for step in (0, 5, 10) for era in ("new", "old")
]  # fmt: skip
ROWS.append({"phase": "base", "step": 10, "tokens": 10_000, "era": "", "split": "train",
             "loss": 3.25, "masked_tokens": 9, "lr": 0.5})  # fmt: skip


def test_rows_are_read_as_written(tmp_path: Path):
    write_rows(ROWS, tmp_path / "metrics.jsonl")
    assert read_rows(tmp_path / "metrics.jsonl") == ROWS


def test_the_picture_is_the_same_every_time_and_holds_the_curves(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw_curve(ROWS, tmp_path / name, title="toy")
    for file in ("curve.svg", "curve.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    svg = (tmp_path / "one" / "curve.svg").read_text()
    for word in ("new trials", "old trials", "training", "top-1", "toy"):
        assert word in svg
    assert "<dc:date>" not in svg


def test_tensorboard_reads_the_events(tmp_path: Path):
    write_events(ROWS, tmp_path)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    scalars = read.Scalars("base/new/tune/top1")
    assert [event.step for event in scalars] == [0, 5, 10]
    assert scalars[-1].value == pytest.approx(0.2)
    assert read.Scalars("base/train/loss")[0].value == pytest.approx(3.25)
    assert scalars[0].wall_time == 10_000  # phases follow one another
