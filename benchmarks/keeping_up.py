"""Does keeping up help, where, and what does it cost? Base, control and adapted by year and area.

    python benchmarks/keeping_up.py train --blocks BLOCKS --base BASE --out OUT [--only adapted]
    python benchmarks/keeping_up.py show --snapshot SNAPSHOT --blocks BLOCKS --out OUT --picture PNG

`BLOCKS` and `BASE` are what `trialese run` leaves under those names. Every variant goes on from the
same base: *adapted* on new trials (5 % old ones replayed), *control* on old trials for as many
steps. Each is scored on every *test* block of both eras, 15 % of the tokens chosen by the same
masks, and counted where it reads [MASK]. Intervals are over documents, a mean over seeds first. A
finished variant is kept in OUT and not run again. Seconds are processor seconds of training.
"""

from __future__ import annotations

import argparse
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from pretrain_sweep import VARIANTS, settings_of

from trialese.artifacts import read_manifest, write_artifact
from trialese.bootstrap import interval
from trialese.collect.snapshot import open_snapshot, read_trials
from trialese.collect.vocabulary import broad_area
from trialese.corpus.blocks import BlockWriter, open_block_folder, open_blocks, read_facts
from trialese.pretrain.adapt import train_adapter, train_control
from trialese.pretrain.backbone import load_masked_lm, read_tokenizer
from trialese.pretrain.compute import choose_compute
from trialese.pretrain.encoder import masked_encoder
from trialese.pretrain.heldout import MODEL_PAIRS, HeldoutSet, fix_masks, measure, resampled_shares
from trialese.pretrain.masking import Vocabulary
from trialese.records import TokenBlocks
from trialese.settings import HeldoutSettings

# What each variant changes: settings, the era that it reads, and the share of it that it may see.
SEEDS = (7, 8, 9)
FEWEST = 10  # documents in a row or at a point
RUNS: dict[str, dict[str, Any]] = {
    "base": {},
    **{f"adapted {seed}": {"settings": {"seed": seed}} for seed in SEEDS},
    **{f"control {seed}": {"settings": {"seed": seed}, "era": "old"} for seed in SEEDS},
    "a quarter of the new trials": {"share": 0.25},
    "half of the new trials": {"share": 0.5},
    "half of the steps": {"steps": 0.5},
    "twice the steps": {"steps": 2.0},
    "all weights": {"settings": VARIANTS["all weights, lr 3e-4"]},
    "published": {"settings": VARIANTS["published"]},
}


def main() -> None:
    """Train what is missing, or show what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "show"])
    parser.add_argument("--blocks", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="a folder of kind model")
    parser.add_argument("--snapshot", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700, help="of 16 blocks")
    parser.add_argument("--heldout-blocks", type=int, default=10**9, help="of an era's test blocks")
    parser.add_argument("--only", help="beginnings of the variants' names, separated by semicolons")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.what == "show":
        show(arguments)
        return
    wanted = None if arguments.only is None else tuple(arguments.only.split(";"))
    for name, run in RUNS.items():
        file = file_of(arguments.out, name)
        if not file.is_file() and (wanted is None or name.startswith(wanted)):
            arrays = train_one(name, run, arguments)
            np.savez(file, **arrays)
            print(name, {era: f"{_mean(arrays, era, 'top1'):.4f}" for era in ("new", "old")},
                  f"{float(arrays['seconds']):.0f} s", flush=True)  # fmt: skip


def file_of(out: Path, name: str) -> Path:
    """Where a variant's sums by document are kept."""
    return out / f"{name.replace(' ', '-')}.npz"


def train_one(name: str, run: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """Sums of every test document, (documents,) each, and the processor seconds of training.

    The trained folders stay in OUT, for `trialese panel` and `trialese finetune`.
    """
    steps = max(1, round(arguments.steps * run.get("steps", 1.0)))
    changes = {"heldout.max_blocks": 64, "heldout.every_steps": steps, **run.get("settings", {})}
    settings = settings_of(changes, steps)
    made = arguments.base
    seconds = 0.0
    if name != "base":
        made = file_of(arguments.out, name).with_suffix("")
        blocks = arguments.blocks
        if "share" in run:
            blocks = thin(blocks, run["share"], arguments.out / f"blocks-{run['share']}")
        train = train_control if run.get("era") == "old" else train_adapter
        start = time.process_time()
        train(blocks, arguments.base, settings, made)
        seconds = time.process_time() - start
    vocabulary = Vocabulary.of(read_tokenizer(made / "model"))
    model, _ = load_masked_lm(made / "model")
    compute = choose_compute(settings)
    encoder = masked_encoder(model, dtype=compute.dtype)
    arrays: dict[str, Any] = {"seconds": seconds}
    for era in ("new", "old"):
        held = heldout_of(arguments, era, vocabulary)
        score = measure(encoder, held, batch_blocks=32, device=compute.device).told
        documents = len(blocks_of(arguments, era, "test").nct_ids)
        for field in ("loss", "top1", "tokens"):
            arrays[f"{era}-{field}"] = np.bincount(
                held.owner, weights=getattr(score, field), minlength=documents
            )
    return arrays


def blocks_of(arguments: argparse.Namespace, era: Any, split: Any) -> TokenBlocks:
    """The blocks of an era and split."""
    blocks = open_blocks(arguments.blocks, era=era, split=split)
    if blocks is None:
        raise SystemExit(f"{arguments.blocks}: no {era} {split} blocks")
    return blocks


def thin(blocks: Path, share: float, path: Path) -> Path:
    """The same blocks, but of the new training documents only a random share."""
    made = read_manifest(blocks, kind="blocks")
    with write_artifact(path, kind="blocks", inputs={"blocks": made.digest}) as draft:
        shutil.copytree(blocks, draft.folder, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("manifest.json"))  # fmt: skip
        folder = draft.folder / "new-train"
        facts, whole = read_facts(folder), open_block_folder(folder)
        documents = np.unique(whole.owner)
        kept = np.random.default_rng(7).permutation(documents)[: round(share * len(documents))]
        rows = np.flatnonzero(np.isin(whole.owner, kept))
        ids, special, owner = whole.ids[rows], whole.special[rows], np.asarray(whole.owner[rows])
        with BlockWriter(folder, facts.block_tokens, ids.dtype) as writer:
            writer.append(ids.ravel(), special.ravel())
            writer.finish(whole.nct_ids, owner, facts.pad_id, {**facts.counts, "tokens": ids.size})
        draft.counts.update(made.counts)
        draft.notes.update(made.notes)
    return path


def heldout_of(arguments: argparse.Namespace, era: Any, vocabulary: Vocabulary) -> HeldoutSet:
    """The test blocks of an era with their masks."""
    chosen = HeldoutSettings(max_blocks=arguments.heldout_blocks)
    return fix_masks(blocks_of(arguments, era, "test"), era, "test", vocabulary, chosen)


def _mean(arrays: Any, era: str, field: str) -> float:
    return float(arrays[f"{era}-{field}"].sum() / arrays[f"{era}-tokens"].sum())


class Sums:
    """Sums by test document of every finished variant; means over seeds."""

    def __init__(self, out: Path) -> None:
        self.stored = {
            name: dict(np.load(file_of(out, name))) for name in RUNS if file_of(out, name).is_file()
        }

    def of(self, name: str, field: str) -> NDArray[np.float64]:
        """New documents first, then old ones: (documents,)."""
        found = [v for k, v in self.stored.items() if k == name or k.startswith(f"{name} ")]
        each = [np.concatenate([one[f"new-{field}"], one[f"old-{field}"]]) for one in found]
        return np.mean(each, axis=0)

    def points(
        self, one: str, other: str | None, where: Any, field: str = "top1"
    ) -> tuple[float, float, float]:
        """One variant's figure, or its difference from another, over some documents; its ends."""
        sums = self.of(one, field) - (self.of(other, field) if other else 0.0)
        tokens = self.of(one, "tokens")
        resampled = resampled_shares(sums[where], tokens[where], resamples=2000, seed=7)
        point = float(sums[where].sum() / tokens[where].sum())
        found = interval(point, resampled)
        return point, found.low, found.high

    def share(self, one: str, other: str | None, where: Any, field: str = "top1") -> str:
        """The same as text."""
        point, low, high = self.points(one, other, where, field)
        sign = "+" if other else ""
        return f"{point:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def show(arguments: argparse.Namespace) -> None:
    """Print the tables; draw the picture."""
    sums = Sums(arguments.out)
    trials = {trial.nct_id: trial for trial in read_trials(open_snapshot(arguments.snapshot))}
    names = [name for era in ("new", "old") for name in blocks_of(arguments, era, "test").nct_ids]
    new = np.arange(len(names)) < len(blocks_of(arguments, "new", "test").nct_ids)
    years = np.array([int((trials[name].first_posted or "0")[:4]) for name in names])
    # Old and new trials differ in their areas, so areas are told of the new ones alone.
    areas = np.array([broad_area(trials[name]) for name in names])
    areas[~new] = ""
    hidden = sums.of("base", "tokens").sum()
    print(f"{new.sum()} new and {(~new).sum()} old test documents, {hidden:,.0f} read as [MASK]\n")
    cells = [(era, field) for era in (new, ~new) for field in ("top1", "loss")]
    print("| model | seconds | new, top-1 | new, loss | old, top-1 | old, loss |")
    print("|---|--:|---|---|---|---|")
    for name, stored in sums.stored.items():
        told = [sums.share(name, None, era, field) for era, field in cells]
        print(f"| {name} | {float(stored['seconds']):.0f} | {' | '.join(told)} |")
    print("\n| difference | new, top-1 | new, loss | old, top-1 | old, loss |")
    print("|---|---|---|---|---|")
    for one, other in MODEL_PAIRS:
        told = [sums.share(one, other, era, field) for era, field in cells]
        print(f"| {one} - {other} | {' | '.join(told)} |")
    for title, values in (("year of posting", spans(years)), ("area, new trials", areas)):
        columns = [title, "documents", "base", *(f"{one} - {other}" for one, other in MODEL_PAIRS)]
        print(f"\n| {' | '.join(columns)} |\n|---|--:|---|---|---|---|")
        for value in sorted(set(values.tolist()) - {""}):
            where = values == value
            if where.sum() >= FEWEST:
                told = [sums.share("base", None, where)]
                told += [sums.share(*pair, where) for pair in MODEL_PAIRS]
                print(f"| {value} | {where.sum()} | {' | '.join(told)} |")
    if arguments.picture:
        draw(sums, spans(years), areas, arguments.picture)
        draw_cost(sums, new, arguments.picture.with_stem(f"{arguments.picture.stem}-cost"))


def spans(years: NDArray[Any]) -> NDArray[Any]:
    """Years, later and thinner ones two or three together."""
    edges = [(2000, 2001), (2002, 2003), (2008, 2009), (2010, 2012), (2013, 2015), (2016, 2018),
             (2019, 2020), (2021, 2022), (2023, 2024), (2025, 2026)]  # fmt: skip
    names = years.astype(str).astype(object)
    for first, last in edges:
        names[(years >= first) & (years <= last)] = f"{first}-{last % 100:02d}"
    return names.astype(str)


def draw(sums: Sums, years: NDArray[Any], areas: NDArray[Any], file: Path) -> None:
    """Differences in top-1 from the base: by year of posting on the left, by area on the right."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=[3, 2]
    )
    styles = {"adapted": ("#0b6e99", "o", "adapted on new trials"),
              "control": ("#b5651d", "s", "control: old trials, as many steps")}  # fmt: skip
    for panel, values in zip(axes, (years, areas), strict=True):
        groups = [v for v in sorted(set(values.tolist()) - {""}) if (values == v).sum() >= FEWEST]
        if panel is axes[1]:
            groups.sort(key=lambda v: sums.points("adapted", "control", values == v)[0])
        for shift, (name, (colour, marker, label)) in zip(
            (-0.12, 0.12), styles.items(), strict=True
        ):
            told = [sums.points(name, "base", values == group) for group in groups]
            at = np.arange(len(groups)) + shift
            middle = np.array([point for point, _, _ in told])
            ends = np.abs(np.array([[low, high] for _, low, high in told]).T - middle)
            where: Sequence[Any] = (at, middle) if panel is axes[0] else (middle, at)
            bars = {"yerr": ends} if panel is axes[0] else {"xerr": ends}
            panel.errorbar(*where, **bars, fmt=marker, color=colour, markersize=4.5, capsize=2,
                           linewidth=1, label=label)  # fmt: skip
        counted = {group: int((values == group).sum()) for group in groups}
        joint = "\n({})" if panel is axes[0] else " ({})"
        ticks = [group + joint.format(count) for group, count in counted.items()]
        if panel is axes[0]:
            ticks = [tick.replace("-", "-\n") for tick in ticks]
        if panel is axes[0]:
            panel.set_xticks(range(len(groups)), ticks, fontsize=7)
            panel.set_xlabel("first posted (held-out trials)")
            panel.set_ylabel("[MASK] top-1, difference from the base")
            panel.axhline(0, color="black", linewidth=0.6)
            border = next((i for i, g in enumerate(groups) if g >= "2008"), 0) - 0.5
            panel.axvline(border, color="#666666", linewidth=0.8, linestyle="--")
            panel.annotate("new from 2008", (border, 1), xycoords=("data", "axes fraction"),
                           xytext=(4, -12), textcoords="offset points", fontsize=8)  # fmt: skip
            panel.legend(frameon=False, fontsize=8, loc="lower right")
        else:
            panel.set_yticks(range(len(groups)), ticks, fontsize=7)
            panel.set_xlabel("new trials: [MASK] top-1, difference from the base")
            panel.axvline(0, color="black", linewidth=0.6)
        panel.grid(alpha=0.25)
    figure.savefig(file, dpi=130)


def draw_cost(sums: Sums, new: NDArray[np.bool_], file: Path) -> None:
    """Gain in top-1 on new test documents against processor seconds of training, by variant."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    for name, stored in sums.stored.items():
        point, low, high = sums.points(name, "base", new)
        seconds = float(stored["seconds"])
        axes.errorbar(seconds, point, yerr=[[point - low], [high - point]], fmt="o",
                      color="#b5651d" if name.startswith("control") else "#0b6e99",
                      markersize=4, capsize=2, linewidth=0.8)  # fmt: skip
        if not name.endswith(("8", "9")):
            beside = {"half of the new trials": (7, 7), "a quarter of the new trials": (7, -12),
                      "adapted 7": (-40, -2)}.get(name, (7, -2))  # fmt: skip
            axes.annotate(name.removesuffix(" 7"), (seconds, point), xytext=beside,
                          textcoords="offset points", fontsize=7)  # fmt: skip
    axes.margins(x=0.3)
    axes.set_xlim(left=-20)
    axes.set_xlabel("processor seconds of training, one thread")
    axes.set_ylabel("new test trials: [MASK] top-1,\ndifference from the base")
    axes.grid(alpha=0.25)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
