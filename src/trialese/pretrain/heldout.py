"""Held-out masked-LM figures: fixed masks, loss and accuracy, differences, curves as files.

Loss and accuracy are told of the positions that read [MASK] (`mask_loss`, `mask_top1`,
`mask_top5`), and beside them over all chosen positions (`loss`, `top1`, `top5`), of which a tenth
keeps its token for the model to copy. No file holds a wall-clock time: equal runs give equal bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerFast

from trialese.artifacts import write_bytes
from trialese.bootstrap import interval
from trialese.errors import RecipeError
from trialese.pretrain.encoder import MaskedEncoder, PlainMaskedEncoder
from trialese.pretrain.masking import MaskedBlocks, Vocabulary, hash_uniform, mask_blocks
from trialese.records import Interval, Split, TokenBlocks
from trialese.settings import HeldoutSettings

__all__ = [
    "MODEL_PAIRS",
    "HeldoutScore",
    "HeldoutSet",
    "changed_loss",
    "compare_models",
    "draw_curve",
    "fix_masks",
    "gained_top1",
    "measure",
    "measure_all",
    "read_losses",
    "read_rows",
    "read_score",
    "resampled_shares",
    "save_masks",
    "save_score",
    "score_row",
    "told",
    "word_l2r_scores",
    "write_events",
    "write_rows",
]


@dataclass(frozen=True, slots=True)
class HeldoutSet:
    """Blocks of one era and split with their masks, the same at every measurement."""

    era: str
    split: Split
    rows: NDArray[np.int64]  # (blocks,): rows of the TokenBlocks
    owner: NDArray[np.int64]  # (blocks,): document of each block, for intervals
    masked: MaskedBlocks
    mask_id: int

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """Where the model reads [MASK], (blocks, width); elsewhere the token or another stands."""
        shown = np.take_along_axis(self.masked.inputs, self.masked.positions, axis=1)
        unseen: NDArray[np.bool_] = self.masked.valid & (shown == self.mask_id)
        return unseen


@dataclass(frozen=True, slots=True)
class HeldoutScore:
    """Sums over each block's chosen tokens; every array is (blocks,)."""

    loss: NDArray[np.float64]
    top1: NDArray[Any]
    """A target that ties with others counts as its chance in a random order among them."""
    top5: NDArray[Any]
    tokens: NDArray[np.int64]
    on_mask: HeldoutScore | None = None
    """The same over those tokens alone whose place reads [MASK]; None in older artifacts."""

    @property
    def told(self) -> HeldoutScore:
        """What is reported: the figures on [MASK] where they are known."""
        return self.on_mask or self


def fix_masks(
    blocks: TokenBlocks, era: str, split: Split, vocabulary: Vocabulary, settings: HeldoutSettings
) -> HeldoutSet:
    """At most `max_blocks` blocks, chosen by hash, with masks keyed by `settings.seed`."""
    rows = np.arange(len(blocks.ids), dtype=np.int64)
    if len(rows) > settings.max_blocks:
        rank = np.argsort(hash_uniform(rows, settings.seed), kind="stable")
        rows = np.sort(rank[: settings.max_blocks])
    masked = mask_blocks(
        np.asarray(blocks.ids[rows]),
        np.asarray(blocks.special[rows]),
        rows,
        vocabulary,
        ratio=settings.masking_ratio,
        seed=settings.seed,
        epoch=0,
        isolated=blocks.isolated,
    )
    return HeldoutSet(era, split, rows, np.asarray(blocks.owner[rows]), masked, vocabulary.mask_id)


def save_masks(heldout: HeldoutSet, path: Path) -> None:
    """Write rows, positions, what the model reads there and what stood there (safetensors)."""
    masked = heldout.masked
    shown = np.take_along_axis(masked.inputs, masked.positions, axis=1)
    arrays = {
        "rows": heldout.rows,
        "positions": masked.positions.astype(np.int32),
        "shown": np.where(masked.valid, shown, -1).astype(np.int32),
        "targets": np.where(masked.valid, masked.targets, -1).astype(np.int32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)


@torch.no_grad()
def measure(
    encoder: MaskedEncoder | PlainMaskedEncoder,
    heldout: HeldoutSet,
    *,
    batch_blocks: int,
    device: torch.device,
) -> HeldoutScore:
    """Loss (nats) and hits of every block.

    Raises:
        RecipeError: scores that are not finite.
    """
    masked, unseen = heldout.masked, heldout.unseen
    sums: list[NDArray[np.float64]] = []
    for start in range(0, len(heldout.rows), batch_blocks):
        part = slice(start, start + batch_blocks)
        attended = masked.take(part).attended
        logits = encoder.logits(
            _tensor(masked.inputs[part], device),
            None if attended is None else _tensor(attended, device),
            _tensor(masked.positions[part], device),
        )
        targets = _tensor(masked.targets[part], device).flatten()
        loss = F.cross_entropy(logits, targets, reduction="none")
        if not bool(torch.isfinite(loss).all()):
            raise RecipeError(
                f"held-out {heldout.era} {heldout.split} blocks: the model's scores are not "
                "finite; set pretrain.precision to fp32, or train it anew at a lower rate"
            )
        reached = logits.gather(1, targets[:, None])
        better = (logits > reached).sum(1)
        tied = (logits == reached).sum(1)  # the target itself included
        hits = [((most - better) / tied).clamp(0, 1) for most in (1, 5)]
        figures = torch.stack([loss, *hits])
        shape = (3, *masked.valid[part].shape)
        by_token = figures.double().cpu().numpy().reshape(shape)
        counted = [by_token * where[part] for where in (masked.valid, unseen)]
        sums.append(np.concatenate([each.sum(axis=2) for each in counted]))
    total = np.concatenate(sums, axis=1) if sums else np.zeros((6, 0))
    on_mask = HeldoutScore(total[3], total[4], total[5], unseen.sum(axis=1))
    return HeldoutScore(total[0], total[1], total[2], masked.valid.sum(axis=1), on_mask)


_CPU = torch.device("cpu")
_WINDOW_TOKENS = 128


def read_losses(
    texts: Sequence[str],
    encoder: MaskedEncoder | PlainMaskedEncoder,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    *,
    device: torch.device = _CPU,
) -> NDArray[np.float64]:
    """Loss (nats), hits and tokens read as [MASK] of each text, (texts, 3); 15 % are hidden.

    Whole documents, cut into windows that begin and end as a text does. The masks follow from the
    texts and the seed, so that two models are asked the same.
    """
    vocabulary = Vocabulary.of(tokenizer)
    width = min(_WINDOW_TOKENS, encoder.max_tokens)
    empty = tokenizer.backend_tokenizer.encode("")
    opening = [tokenizer.cls_token_id] if len(empty.ids) > 1 else []
    closing = [tokenizer.sep_token_id] if empty.ids else []
    room = width - len(opening) - len(closing)
    rows: list[list[int]] = []
    owner: list[int] = []
    for number, encoded in enumerate(
        tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ):
        for start in range(0, len(encoded.ids), room):
            rows.append([*opening, *encoded.ids[start : start + room], *closing])
            owner.append(number)
    ids = np.full((len(rows), width), vocabulary.pad_id, dtype=np.int64)
    special = np.ones(ids.shape, dtype=bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        special[place, len(opening) : len(row) - len(closing)] = False
    number_of = np.arange(len(rows), dtype=np.int64)
    masked = mask_blocks(ids, special, number_of, vocabulary, ratio=0.15, seed=seed, epoch=0)
    held = HeldoutSet("read", "test", number_of, np.array(owner), masked, vocabulary.mask_id)
    score = measure(encoder, held, batch_blocks=16, device=device).told
    sums = np.zeros((len(texts), 3))
    np.add.at(sums, owner, np.stack([score.loss, score.top1, score.tokens], axis=1))
    return sums


@torch.no_grad()
def word_l2r_scores(
    ids: Sequence[int], encoder: MaskedEncoder | PlainMaskedEncoder, vocabulary: Vocabulary
) -> NDArray[np.float64]:
    """Log-probability of each ordinary token: (tokens,), nats. `ids` begin and end specially.

    PLL-word-l2r (Kauf and Ivanova 2023): each token is hidden together with the later pieces of
    its own word, so that a word cannot be read off its own ending.
    """
    places = list(range(1, len(ids) - 1))
    row = np.asarray([ids], dtype=np.int64)
    ends = np.zeros(row.shape, dtype=bool)
    ends[0, [0, -1]] = True
    continues = vocabulary.continues(row, ends)[0]
    inputs = np.tile(np.asarray(ids, dtype=np.int64), (len(places), 1))  # (places, tokens)
    for number, place in enumerate(places):
        stop = place + 1
        while stop < len(ids) - 1 and continues[stop]:
            stop += 1
        inputs[number, place:stop] = vocabulary.mask_id
    positions = torch.tensor(places)[:, None]
    logits = encoder.logits(torch.from_numpy(inputs), None, positions)
    targets = torch.tensor([ids[place] for place in places])
    scores = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    return np.asarray(scores.double().numpy())


def score_row(score: HeldoutScore, heldout: HeldoutSet) -> dict[str, Any]:
    """Means over the chosen tokens, as a row of metrics.jsonl holds them."""
    tokens = max(1, int(score.tokens.sum()))
    loss = float(score.loss.sum()) / tokens
    row: dict[str, Any] = {
        "era": heldout.era,
        "split": heldout.split,
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "top1": float(score.top1.sum()) / tokens,
        "top5": float(score.top5.sum()) / tokens,
        "masked_tokens": int(score.tokens.sum()),
    }
    if score.on_mask is not None:
        unseen = int(score.on_mask.tokens.sum())
        row["mask_tokens"] = unseen
        for name in ("loss", "top1", "top5"):
            total = float(getattr(score.on_mask, name).sum())
            row[f"mask_{name}"] = total / unseen if unseen else None
    return row


def save_score(score: HeldoutScore, owner: NDArray[np.int64], path: Path) -> None:
    """Write the sums of every block and its document, for later comparisons (safetensors)."""
    arrays = {"owner": owner}
    for prefix, each in (("", score), ("mask_", score.on_mask)):
        if each is not None:
            arrays |= {f"{prefix}{name}": getattr(each, name) for name in _SUMS}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)


_SUMS = ("loss", "top1", "top5", "tokens")


def _tensor(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def measure_all(
    encoder: MaskedEncoder | PlainMaskedEncoder,
    heldouts: Sequence[HeldoutSet],
    *,
    batch_blocks: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One row for each set; see `measure`."""
    return [
        score_row(measure(encoder, one, batch_blocks=batch_blocks, device=device), one)
        for one in heldouts
    ]


def gained_top1(
    before: HeldoutScore,
    after: HeldoutScore,
    owner: NDArray[np.int64],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 7,
) -> Interval:
    """Paired gain in top-1 accuracy on [MASK], after - before, over the same blocks and masks.

    Percentile bootstrap over documents (`owner` is (blocks,)), since blocks of one document are
    not independent: each resample draws as many documents as there are and pools their tokens.
    It says how far the gain holds for other documents; not for other seeds of training.
    """
    one, other = before.told, after.told
    return _gained(other.top1 - one.top1, one, owner, resamples, confidence, seed)


def changed_loss(
    before: HeldoutScore,
    after: HeldoutScore,
    owner: NDArray[np.int64],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 7,
) -> Interval:
    """Paired change of the loss in nats a hidden token; negative is better. See `gained_top1`."""
    one, other = before.told, after.told
    return _gained(other.loss - one.loss, one, owner, resamples, confidence, seed)


def _gained(
    change: NDArray[Any],
    before: HeldoutScore,
    owner: NDArray[np.int64],
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    _, place = np.unique(owner, return_inverse=True)
    changes = np.bincount(place, weights=change.astype(np.float64))
    counts = np.bincount(place, weights=before.tokens.astype(np.float64))
    shares = resampled_shares(changes, counts, resamples=resamples, seed=seed)
    point = float(changes.sum() / max(counts.sum(), 1.0))
    return interval(point, shares, confidence=confidence)


def resampled_shares(
    sums: NDArray[Any], counts: NDArray[Any], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Pooled sums over pooled counts, (resamples,), of bootstrap samples of the units: (units,)."""
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    shares: NDArray[np.float64] = sums[drawn].sum(axis=1) / np.maximum(
        counts[drawn].sum(axis=1), 1.0
    )
    return shares


MODEL_PAIRS = (("adapted", "control"), ("adapted", "base"), ("control", "base"))
"""What is compared with what: first what the new text brought at equal compute."""


def compare_models(adapter: Path, control: Path | None) -> dict[str, Any]:
    """Paired differences of an adapter, its control and their base on the held-out test blocks.

    By era, "new" first: documents, tokens that read [MASK], top-1 of each model, and under
    `top1` and `loss` the differences with 95 % intervals over documents: "adapted - control" (what
    the new text brought at equal compute), "adapted - base" and "control - base". Empty where the
    artifacts are older than these figures.
    """
    found: dict[str, Any] = {}
    for era in ("new", "old"):
        models = {
            "base": read_score(adapter / "heldout" / f"{era}-test-before.safetensors"),
            "adapted": read_score(adapter / "heldout" / f"{era}-test-after.safetensors"),
        }
        if control is not None:
            file = control / "heldout" / f"{era}-test-after.safetensors"
            models["control"] = read_score(file)
        known = {name: read for name, read in models.items() if read is not None}
        if "base" not in known or "adapted" not in known:
            continue
        owner = known["base"][1]
        scores = {name: score for name, (score, own) in known.items() if np.array_equal(own, owner)}
        pairs = [pair for pair in MODEL_PAIRS if set(pair) <= set(scores)]
        told = {name: score.told for name, score in scores.items()}
        found[era] = {
            "documents": len(set(owner.tolist())),
            "masked_tokens": int(told["base"].tokens.sum()),
            "accuracy": {
                name: float(each.top1.sum() / max(1, each.tokens.sum()))
                for name, each in told.items()
            },
            "top1": {
                f"{one} - {other}": msgspec.to_builtins(
                    gained_top1(scores[other], scores[one], owner)
                )
                for one, other in pairs
            },
            "loss": {
                f"{one} - {other}": msgspec.to_builtins(
                    changed_loss(scores[other], scores[one], owner)
                )
                for one, other in pairs
            },
        }
    return found


def read_score(file: Path) -> tuple[HeldoutScore, NDArray[np.int64]] | None:
    """What `save_score` wrote; None if there is no such file."""
    if not file.is_file():
        return None
    arrays = load_file(file)

    def sums(prefix: str, on_mask: HeldoutScore | None = None) -> HeldoutScore:
        loss, top1, top5, tokens = (arrays[f"{prefix}{name}"] for name in _SUMS)
        return HeldoutScore(loss, top1, top5, tokens, on_mask)

    return sums("", sums("mask_")), arrays["owner"]


_ON_MASK = {True: " ([MASK])", False: ""}


def told(row: Mapping[str, Any], name: str) -> float:
    """A figure of a row, "loss", "top1" or "top5": on [MASK], or as an older artifact has it."""
    value = row.get(f"mask_{name}")
    return float(row[name] if value is None else value)


def _on_mask(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row.get("mask_top1") is not None for row in rows)


_STYLES = {"new": ("#0b6e99", "new trials"), "old": ("#b5651d", "old trials")}


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one JSON object a line."""
    write_bytes(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl."""
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line]


def draw_curve(rows: Sequence[Mapping[str, Any]], folder: Path, *, title: str) -> None:
    """Write `curve.svg` and `curve.png`: loss and top-1 accuracy against tokens seen.

    Steps of several phases follow one another on the axis.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "trialese", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        placed = _place(rows)
        for era, (colour, label) in _STYLES.items():
            points = [(x, row) for x, row in placed if row["era"] == era and row["split"] == "tune"]
            if not points:
                continue
            x = [position / 1e6 for position, _ in points]
            for axes, key in ((left, "loss"), (right, "top1")):
                y = [told(row, key) for _, row in points]
                axes.plot(x, y, color=colour, marker="o", markersize=3, label=label)
        train = [(x / 1e6, row["loss"]) for x, row in placed if row["split"] == "train"]
        if train:
            left.plot(*zip(*train, strict=True), color="#999999", linewidth=0.8, label="training")
        left.set_ylabel("masked-LM loss (nats)")
        right.set_ylabel("top-1 accuracy on hidden tokens" + _ON_MASK[_on_mask(rows)])
        for axes in (left, right):
            axes.set_xlabel("million tokens seen")
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(frameon=False)
        figure.suptitle(title)
        for name, options in (("svg", {"metadata": {"Date": None, "Creator": None}}), ("png", {})):
            buffer = io.BytesIO()
            figure.savefig(
                buffer,
                format=name,
                dpi=150,
                metadata=options.get("metadata", {"Software": None}),
            )
            write_bytes(folder / f"curve.{name}", buffer.getvalue())


_SCALARS = ("loss", "perplexity", "top1", "top5", "lr")


def write_events(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write TensorBoard scalars under `folder`; the time of an event is its step in seconds."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.out.tfevents.0.trialese").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for position, row in _place(rows):
            where = "/".join(filter(None, (row["phase"], row["era"], row["split"])))
            values = [
                Summary.Value(tag=f"{where}/{key}", simple_value=float(row[key]))
                for key in (*_SCALARS, *(f"mask_{name}" for name in _SCALARS))
                if row.get(key) is not None
            ]
            event = Event(
                wall_time=float(position), step=int(row["step"]), summary=Summary(value=values)
            )
            writer.write(event.SerializeToString())
        writer.flush()


def _place(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """Each row with its place on the axis of tokens, phases one after another."""
    placed: list[tuple[int, Mapping[str, Any]]] = []
    offset = longest = 0
    phase = None
    for row in rows:
        if row["phase"] != phase:
            phase, offset = row["phase"], offset + longest
            longest = 0
        longest = max(longest, int(row["tokens"]))
        placed.append((offset + int(row["tokens"]), row))
    return placed
