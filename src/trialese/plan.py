"""What a run would do before it does it: stages, training tokens, time and memory.

Exact where an earlier stage is finished, else from the size of the input. The rate of this
machine is probed; take the seconds as right within a factor of two or three.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from trialese.artifacts import read_manifest
from trialese.pipeline import Stage, chain_stages, is_finished
from trialese.recipe import Recipe
from trialese.settings import PhaseSettings

__all__ = ["PlannedStage", "format_plan", "plan_recipe"]

# Measured on two cores on 2026-11-23 (docs/LOG.md); they only set expectations.
_CHARACTERS_A_SAMPLE = 1300
_CHARACTERS_A_RAW_BYTE = 0.22
_CHARACTERS_A_TOKEN = 4.4
_RAW_BYTES_A_SECOND = 8e6
_CHARACTERS_A_SECOND = 1e6
_TOKENS_A_REASON = 12
_BYTES_A_REASON = 85
_RAW_BYTES_A_TRIAL = 16_500
_STOPPED_SHARE = 0.4  # of the synthetic sample; the only snapshot with labels of its own
_STAGE_BYTES = 700_000_000


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage as planned; None where nothing is known before an earlier stage has run."""

    name: str
    finished: bool
    tokens: int | None = None
    """Tokens that pass through training."""
    seconds: float | None = None
    peak_bytes: int | None = None


def plan_recipe(recipe: Recipe) -> list[PlannedStage]:
    """Every stage of the recipe with its state and what it would cost; writes nothing."""
    stages = chain_stages(recipe)
    raw_bytes = _raw_bytes(recipe)
    old_tokens, new_tokens = _tokens(recipe, stages, raw_bytes)
    planned = []
    for stage in stages:
        plan = PlannedStage(stage.name, is_finished(stage))
        if not plan.finished:
            plan = _cost(plan, recipe, raw_bytes, old_tokens, new_tokens)
        planned.append(plan)
    return planned


def format_plan(planned: list[PlannedStage]) -> str:
    """The plan as a table for the terminal, with the total of what is left to do."""
    return "\n".join(_rows(planned))


def _rows(planned: list[PlannedStage]) -> Iterator[str]:
    yield f"{'stage':<24} {'state':<6} {'tokens':>12} {'about':>9} {'memory':>9}"
    for stage in planned:
        state = "done" if stage.finished else "to do"
        tokens = f"{stage.tokens:,}" if stage.tokens is not None else "-"
        memory = f"{stage.peak_bytes / 2**30:.1f} GiB" if stage.peak_bytes else "-"
        time = _duration(stage.seconds) if stage.seconds is not None else "-"
        yield f"{stage.name:<24} {state:<6} {tokens:>12} {time:>9} {memory:>9}"
    left = [stage for stage in planned if not stage.finished]
    seconds = sum(stage.seconds or 0.0 for stage in left)
    unknown = sum(stage.seconds is None for stage in left)
    yield f"{len(left)} of {len(planned)} stages to do, about {_duration(seconds)}" + (
        f" and what {unknown} more take" if unknown else ""
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _raw_bytes(recipe: Recipe) -> float | None:
    """Size of the records to be read; None for the live registry, which says so only when asked."""
    if recipe.collect.source == "sample":
        return recipe.collect.sample.studies * _CHARACTERS_A_SAMPLE / _CHARACTERS_A_RAW_BYTE
    if recipe.collect.source == "registry":
        return None
    return float(sum(_uncompressed(Path(path)) for path in recipe.collect.paths))


def _uncompressed(path: Path) -> int:
    if not path.is_file():
        return 0  # the stage itself says what is wrong with it
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _tokens(
    recipe: Recipe, stages: list[Stage], raw_bytes: float | None
) -> tuple[float | None, float | None]:
    """Training tokens of the old and of the new trials."""
    blocks = next(stage for stage in stages if stage.name == "blocks")
    if is_finished(blocks):
        folders = read_manifest(blocks.path).counts["folders"]
        return tuple(folders.get(f"{era}-train", {}).get("tokens", 0) for era in ("old", "new"))
    if raw_bytes is None:
        return None, None
    split = recipe.corpus.split
    share = 1 - split.tune_share - split.test_share
    tokens = raw_bytes * _CHARACTERS_A_RAW_BYTE / _CHARACTERS_A_TOKEN * share
    return (0, tokens) if recipe.corpus.new_from is None else (tokens / 2, tokens / 2)


def _cost(
    plan: PlannedStage,
    recipe: Recipe,
    raw_bytes: float | None,
    old_tokens: float | None,
    new_tokens: float | None,
) -> PlannedStage:
    if plan.name in {"base", "adapter"}:
        return _training_cost(plan, recipe, old_tokens if plan.name == "base" else new_tokens)
    if plan.name in {"snapshot", "corpus", "blocks"} and raw_bytes is not None:
        seconds = raw_bytes / _RAW_BYTES_A_SECOND
        if plan.name != "snapshot":
            seconds = raw_bytes * _CHARACTERS_A_RAW_BYTE / _CHARACTERS_A_SECOND
        return replace(plan, seconds=seconds, peak_bytes=_STAGE_BYTES)
    if plan.name.endswith(("/base", "/adapted")):
        return _fitting_cost(plan, recipe, raw_bytes)
    return plan


def _fitting_cost(plan: PlannedStage, recipe: Recipe, raw_bytes: float | None) -> PlannedStage:
    """All seeds and folds of one classifier, should none stop early."""
    task = plan.name.partition("/")[0]
    section = recipe.tasks.sex if task == "sex" else recipe.tasks.stop_reasons
    texts = _texts(recipe, task, raw_bytes)
    if texts is None:
        return plan
    from trialese.pretrain.cost import Estimate, estimate
    from trialese.tasks.folds import folds_of

    part_fits = max(1, section.inner_folds - 1)  # each of the inner fits sees a part of the texts
    fits = len(section.seeds) * len(folds_of(section)) * part_fits
    tokens_a_text = _TOKENS_A_REASON if task == "stop-reasons" else section.finetune.max_tokens

    def cost_of(texts: float, epochs: float) -> Estimate:
        return estimate(
            msgspec.structs.replace(recipe.pretrain, method="full"),
            PhaseSettings(epochs=epochs, batch_blocks=section.finetune.batch_texts),
            tokens=int(texts * tokens_a_text),
            block_tokens=tokens_a_text,
        )

    costs = [(fits, cost_of(texts * (1 - 1 / section.folds), section.finetune.epochs))]
    silver = getattr(section, "silver", None)
    if silver is not None and Path(silver.table).is_file():
        rows = Path(silver.table).stat().st_size / _BYTES_A_REASON
        costs.append((len(section.seeds), cost_of(rows, silver.epochs)))
    return replace(
        plan,
        tokens=sum(times * cost.tokens for times, cost in costs),
        seconds=sum(times * cost.seconds for times, cost in costs),
        peak_bytes=max(cost.peak_bytes for _, cost in costs),
    )


def _texts(recipe: Recipe, task: str, raw_bytes: float | None) -> float | None:
    labelled = recipe.tasks.stop_reasons.labelled
    if task == "stop-reasons" and labelled:
        return Path(labelled).stat().st_size / _BYTES_A_REASON if Path(labelled).is_file() else None
    if raw_bytes is None:
        return None
    trials = raw_bytes / _RAW_BYTES_A_TRIAL
    if recipe.collect.source == "sample":
        trials = recipe.collect.sample.studies
    if task == "stop-reasons":
        return trials * _STOPPED_SHARE
    return min(trials, recipe.tasks.sex.max_trials or trials)


def _training_cost(plan: PlannedStage, recipe: Recipe, tokens: float | None) -> PlannedStage:
    if tokens is None:
        return plan
    from trialese.pretrain import estimate

    settings = recipe.pretrain
    phases: tuple[PhaseSettings, ...] = (settings.adapt_phase,)
    if plan.name == "base":
        phases = () if settings.base == "never" else (settings.head_phase, settings.base_phase)
    parts = [
        estimate(
            settings, phase, tokens=int(tokens), block_tokens=recipe.corpus.blocks.block_tokens
        )
        for phase in phases
    ]
    return replace(
        plan,
        tokens=sum(part.tokens for part in parts),
        seconds=sum(part.seconds for part in parts),
        peak_bytes=max((part.peak_bytes for part in parts), default=None),
    )
