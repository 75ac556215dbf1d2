"""Costs of a run before it begins: stages, training tokens, seconds and memory.

Exact where an earlier stage is finished, else from the size of the input. No torch is needed: the
operations follow from a config, and their speed from a calibration of this machine. The commands
that do one stage alone are planned by the same sums."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trialese.artifacts import MANIFEST_NAME, read_manifest
from trialese.errors import ArtifactError, RecordError
from trialese.hub import locate_backbone, refuse_long_blocks
from trialese.parallel import count_cores
from trialese.pipeline.machine import MachineSpeed, machine_speed, scoring_rate
from trialese.pipeline.stages import Stage, chain_stages, is_finished, refuse_impossible
from trialese.recipe import Recipe
from trialese.settings import (
    BackboneSettings,
    LoraSettings,
    PhaseSettings,
    Precision,
    PretrainSettings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trialese.records import Corpus, Snapshot
    from trialese.tasks.formats import AskedColumns
    from trialese.tasks.scorer import Scorer
    from trialese.tasks.task import TaskDefinition

__all__ = [
    "Estimate",
    "PlannedStage",
    "Shape",
    "estimate",
    "flops_per_token",
    "format_plan",
    "plan_finetune",
    "plan_panel",
    "plan_predict",
    "plan_pretrain",
    "plan_recipe",
    "plan_staleness",
    "read_shape",
]


_STEP_EFFICIENCY = 0.75
"""Share of the products' rate that a whole step reaches (2 cores, MiniLM, 16 x 128, fp32)."""


class Shape(msgspec.Struct, frozen=True):
    """What of config.json decides the cost; names are transformers' own."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    vocab_size: int
    inner_products: int = 2
    """Of the feed-forward, each hidden x intermediate: 3 where it is gated (GeGLU, SwiGLU)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one stage: tokens seen in training, wall-clock seconds, peak memory."""

    tokens: int
    seconds: float
    peak_bytes: int


def estimate(
    settings: PretrainSettings,
    phase: PhaseSettings,
    *,
    tokens: int,
    block_tokens: int = 128,
    gflops_per_second: float | None = None,
) -> Estimate:
    """Tokens, seconds and peak bytes of one phase over `tokens` training tokens an epoch.

    The rate is that of matrix products on this machine, measured once, if none is given. A rough
    figure, within a factor of two on a quiet machine; held-out measurements are left out.
    """
    shape = read_shape(settings)
    per_step = phase.batch_blocks * phase.accumulation * block_tokens
    steps = phase.steps or max(1, math.ceil(phase.epochs * tokens / per_step))
    seen = steps * per_step
    forward, backward = flops_per_token(shape, settings, block_tokens)
    rate = gflops_per_second or _products_rate(settings.precision) * _STEP_EFFICIENCY
    seconds = seen * (forward + backward) / (rate * 1e9)
    return Estimate(seen, seconds, _peak_bytes(shape, settings, phase, block_tokens))


_OTHER_NAMES = {
    "dim": "hidden_size",
    "emb_dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
}
"""DistilBERT's, and XLM's."""
_GATED = {"modernbert", "nomic_bert", "gte", "eurobert", "esmc"}
"""transformers' model types with a gated feed-forward."""


def read_shape(settings: PretrainSettings) -> Shape:
    """The backbone's shape, from its config.json.

    Raises:
        ArtifactError: no backbone, or its config lacks a size.
    """
    file = locate_backbone(settings.backbone).folder / "config.json"
    try:
        described = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        told = {_OTHER_NAMES.get(name, name): size for name, size in described.items()}
        told["inner_products"] = 3 if described.get("model_type") in _GATED else 2
        return msgspec.convert(told, Shape)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: not the config of an encoder ({error})") from error


def flops_per_token(
    shape: Shape, settings: PretrainSettings, block_tokens: int
) -> tuple[float, float]:
    """Floating-point operations a token in training, forward and backward, as this loop does it.

    Products only; the last layer's queries and everything behind them, and the head, for hidden
    tokens alone; twice the forward cost backward when all weights train, once for LoRA.
    """
    ratio, hidden = settings.masking.ratio, shape.hidden_size
    keys_values = 2 * 2 * hidden * hidden
    inner = shape.inner_products * hidden * shape.intermediate_size
    queries_on = 2 * 2 * hidden * hidden + 2 * inner
    attention = 2 * 2 * block_tokens * hidden
    layers = (shape.num_hidden_layers - 1.0) * (keys_values + queries_on + attention)
    layers += keys_values + ratio * (queries_on + attention)
    head = ratio * 2 * hidden * (shape.vocab_size + hidden)
    branch = 0.0
    if settings.method == "lora":
        branch = _lora_weights(shape, settings.lora) * 2
    forward = layers + head + branch
    backward = (layers + head) * (2 if settings.method == "full" else 1) + 2 * branch
    return forward, backward


def _lora_weights(shape: Shape, lora: LoraSettings) -> int:
    """Weights of the adapter."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    square = lora.rank * 2 * hidden
    if lora.targets == ("all-linear",):
        return shape.num_hidden_layers * (
            4 * square + shape.inner_products * lora.rank * (hidden + inner)
        )
    return shape.num_hidden_layers * len(lora.targets) * square


def _peak_bytes(
    shape: Shape, settings: PretrainSettings, phase: PhaseSettings, block_tokens: int
) -> int:
    """Weights, optimiser, activations kept for the backward pass, and scores of hidden tokens."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    products = 4 * hidden + shape.inner_products * inner
    encoder = shape.num_hidden_layers * hidden * products
    weights = encoder + shape.vocab_size * hidden
    trained = weights if settings.method == "full" else _lora_weights(shape, settings.lora)
    packed = 2 * weights if settings.method == "lora" else 0
    rows = phase.batch_blocks * block_tokens
    kept = 11 * hidden + 2 * (shape.inner_products - 1) * inner
    activations = rows * shape.num_hidden_layers * kept
    scores = 3 * rows * settings.masking.ratio * shape.vocab_size
    interpreter = 600_000_000
    return interpreter + int(4 * (weights + packed + 3 * trained + activations + scores))


def _products_rate(precision: Precision) -> float:
    """GFLOP/s of matrix products in that precision on this machine."""
    speed = machine_speed()
    if precision == "fp32" or speed.bf16_gflops is None:
        return speed.fp32_gflops
    return speed.bf16_gflops


# Measured on registry records (docs/LOG.md); they only set expectations.
_TOKENS_A_DOCUMENT = 810
_CHARACTERS_A_SAMPLE = 1300
_CHARACTERS_A_RAW_BYTE = 0.22
_CHARACTERS_A_TOKEN = 4.4
_PARSED_SHARE = {"xml": 0.08, "other": 0.18}
"""Of the calibrated rate of parsing, what `collect` as a whole reaches, by kind of record."""
_PREPARED_SHARE = {"corpus": 0.7, "blocks": 2.0}
"""Likewise of the rate of preparing documents."""
_SAMPLED_BYTES = 2**18
_COUNTED_RECORDS = 20_000
_RAW_BYTES_A_TRIAL = 16_500
_STAGE_BYTES = 700_000_000
_PROBE_SECONDS = 0.006
"""Of all targets' probes, a trial and fold (one thread, three encoders of MiniLM's size)."""


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
    for file in (file for stage in stages for file in stage.files):
        if not file.exists():
            raise RecordError(f"{file}: no such input file; check the path in the recipe")
    refuse_impossible(recipe, stages)
    raw_bytes = _raw_bytes(recipe)
    old_tokens, new_tokens = _tokens(recipe, stages, raw_bytes)
    planned = []
    for stage in stages:
        plan = PlannedStage(stage.name, is_finished(stage))
        if not plan.finished:
            plan = _cost(plan, recipe, raw_bytes, old_tokens, new_tokens)
        planned.append(plan)
    return planned


def plan_pretrain(
    corpus: Corpus, recipe: Recipe, *, continued: bool = False, control: bool = False
) -> list[PlannedStage]:
    """What `pretrain` would do with a corpus: blocks, base, adapter, control."""
    refuse_long_blocks(recipe.pretrain.backbone, recipe.corpus.blocks.block_tokens)
    counts = corpus.manifest.counts
    documents = max(1, counts["documents"])
    by_split = counts["documents_by_split"]
    characters = counts["characters"]
    old, new = (
        characters * by_split.get(f"{era}-train", 0) / documents / _CHARACTERS_A_TOKEN
        for era in ("old", "new")
    )
    seconds = _text_seconds("blocks", characters, machine_speed())
    planned = [PlannedStage("blocks", False, seconds=seconds, peak_bytes=_STAGE_BYTES)]
    trained = [*(() if continued else ("base",)), "adapter", *(("control",) if control else ())]
    for name in trained:
        tokens = old if name == "base" else new
        planned.append(_training_cost(PlannedStage(name, False), recipe, tokens))
    return planned


def plan_finetune(
    task: str, system: str, recipe: Recipe, *, model: str | None, snapshot: Snapshot | None
) -> list[PlannedStage]:
    """What `finetune` would do: the fits of all folds and seeds, and the one for use.

    Of baselines nothing is known but that they are fitted in seconds to a few minutes.
    """
    from trialese.tasks.folds import define_task

    define_task(task, recipe.tasks)
    plan = PlannedStage(f"{task}/{system}", False)
    raw_bytes = None
    if snapshot is not None:
        raw_bytes = snapshot.manifest.counts["trials"] * _RAW_BYTES_A_TRIAL
    if model is not None:
        backbone = BackboneSettings(name=model)
        pretrain = msgspec.structs.replace(recipe.pretrain, backbone=backbone)
        recipe = msgspec.structs.replace(recipe, pretrain=pretrain)
        plan = _fitting_cost(plan, recipe, raw_bytes)
    return [plan]


def plan_panel(
    snapshot: Snapshot, models: Mapping[str, Path], *, most_trials: int, max_tokens: int
) -> list[PlannedStage]:
    """What `panel` would do: every trial through every encoder once, and the probes."""
    shapes = [
        read_shape(PretrainSettings(backbone=BackboneSettings(name=str(folder))))
        for folder in models.values()
    ]
    trials = float(min(most_trials, snapshot.manifest.counts["trials"]))
    return [_probing_cost(PlannedStage("panel", False), shapes, trials, max_tokens, 5)]


def plan_staleness(
    quarters: Mapping[str, int],
    models: Sequence[str],
    *,
    sample: int,
    pll_sample: int,
    pll_tokens: int,
) -> list[PlannedStage]:
    """What `staleness` would do, with the trials of each quarter that may be read.

    Each model reads the whole documents; the first one also reads the beginning of some of them
    once for each of their tokens (pseudo-perplexity).
    """
    trials = sum(min(sample, count) for count in quarters.values())
    slow = sum(min(pll_sample, count) for count in quarters.values())
    planned = []
    for place, name in enumerate(models):
        shape = read_shape(PretrainSettings(backbone=BackboneSettings(name=name)))
        seconds = _reading_seconds(shape, trials * _TOKENS_A_DOCUMENT, 512)
        if place == 0:
            seconds += _reading_seconds(shape, slow * pll_tokens**2, pll_tokens)
        reader = "reference" if place else "model"
        planned.append(
            PlannedStage(f"read by the {reader}", False, seconds=seconds, peak_bytes=_STAGE_BYTES)
        )
    return planned


def plan_predict(
    scorer: Scorer, source: Path, columns: AskedColumns | None = None
) -> list[PlannedStage]:
    """What `predict` would do with a file or snapshot: its own speed on the first texts, measured.

    Raises:
        RecordError: an input that cannot be understood, or that holds no text for the task.
    """
    from trialese.tasks.formats import KNOWN_COLUMNS, read_records, texts_of

    left_out: dict[str, int] = {}
    records = list(islice(read_records(source, columns or KNOWN_COLUMNS), _COUNTED_RECORDS))
    texts = [each.text for each in texts_of(records, 1, scorer.preprocessing, left_out)]
    if not texts:
        raise RecordError(f"{source}: holds no text for {scorer.task.name} ({left_out})")
    whole = 1.0
    if len(records) == _COUNTED_RECORDS:  # there are more: by the size of the input
        if (source / MANIFEST_NAME).is_file():
            whole = read_manifest(source).counts["trials"] / len(records)
        elif source.is_file():
            whole = max(1.0, _rows_of(source)[0] / len(records))
    characters = whole * sum(map(len, texts))
    seconds = characters / scoring_rate(scorer, texts)
    return [PlannedStage(f"{round(whole * len(texts)):,} texts", False, seconds=seconds)]


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
    told = f"about {_duration(seconds)}" if unknown < len(left) or not left else ""
    more = f"{unknown} of unknown length" if unknown else ""
    yield f"{len(left)} of {len(planned)} stages to do, {', and '.join(filter(None, (told, more)))}"


def _duration(seconds: float) -> str:
    if 0 < seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _raw_bytes(recipe: Recipe) -> float | None:
    """Size of the records to be read; None for the live registry, which says so only when asked."""
    if recipe.collect.source == "sample":
        return recipe.collect.sample.studies * _CHARACTERS_A_SAMPLE / _CHARACTERS_A_RAW_BYTE
    if recipe.collect.source in {"registry", "none"}:
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
    blocks = next((stage for stage in stages if stage.name == "blocks"), None)
    if blocks is not None and is_finished(blocks):
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
    if plan.name in {"base", "adapter", "control"}:  # the control takes as many steps
        return _training_cost(plan, recipe, old_tokens if plan.name == "base" else new_tokens)
    if plan.name in {"snapshot", "corpus", "blocks"} and raw_bytes is not None:
        speed = machine_speed()
        if plan.name == "snapshot":
            kind = "xml" if _holds_xml(recipe) else "other"
            seconds = raw_bytes / (speed.parsed_bytes * _PARSED_SHARE[kind] * count_cores())
        else:
            seconds = _text_seconds(plan.name, raw_bytes * _CHARACTERS_A_RAW_BYTE, speed)
        return replace(plan, seconds=seconds, peak_bytes=_STAGE_BYTES)
    if plan.name == "panel":
        return _panel_cost(plan, recipe, raw_bytes)
    if plan.name.endswith(("/base", "/adapted", "/control")):
        return _fitting_cost(plan, recipe, raw_bytes)
    return plan


def _text_seconds(stage: str, characters: float, speed: MachineSpeed) -> float:
    """Of corpus or blocks, which all cores share."""
    return characters / (speed.prepared_characters * _PREPARED_SHARE[stage] * count_cores())


def _holds_xml(recipe: Recipe) -> bool:
    """Whether most of the files are legacy XML, which is slower to read."""
    xml = 0
    for path in map(Path, recipe.collect.paths):
        names = [path.name]
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()[:1]
        xml += any(name.lower().endswith(".xml") for name in names)
    return 2 * xml > len(recipe.collect.paths)


def _fitting_cost(plan: PlannedStage, recipe: Recipe, raw_bytes: float | None) -> PlannedStage:
    """All seeds and folds of one classifier, should none stop early, and the final fit for use."""
    from trialese.tasks.finetune import fits_on_everything
    from trialese.tasks.folds import define_task, folds_of
    from trialese.tasks.system import combinations_of

    definition = define_task(plan.name.partition("/")[0], recipe.tasks)
    section = definition.section
    texts, tokens_a_text = _texts(recipe, definition, raw_bytes)
    if texts is None:
        return plan
    part_fits = max(1, section.inner_folds - 1)  # each of the inner fits sees a part of the texts
    fits = len(section.seeds) * len(folds_of(section)) * part_fits

    def cost_of(texts: float, epochs: float) -> Estimate:
        return estimate(
            msgspec.structs.replace(recipe.pretrain, method="full"),
            PhaseSettings(epochs=epochs, batch_blocks=section.finetune.batch_texts),
            tokens=int(texts * tokens_a_text),
            block_tokens=tokens_a_text,
        )

    outside = texts * (1 - 1 / section.folds)
    costs = [(fits, cost_of(outside, section.finetune.epochs))]
    combinations = combinations_of(section, "finetune")
    if len(combinations) > 1:  # of the first seed alone
        inner_fits = len(folds_of(section)) * section.search_folds
        of_a_fit = outside * (1 - 1 / section.search_folds)
        costs += [
            (inner_fits, cost_of(of_a_fit, each.get("epochs", section.finetune.epochs)))
            for each in combinations
        ]
    if fits_on_everything(section, is_model=True):
        costs.append((part_fits, cost_of(texts, section.finetune.epochs)))
    silver = section.silver
    if silver is not None and Path(silver.table).is_file():
        rows, _ = _rows_of(Path(silver.table))
        costs.append((len(section.seeds), cost_of(rows, silver.epochs)))
    return replace(
        plan,
        tokens=sum(times * cost.tokens for times, cost in costs),
        seconds=sum(times * cost.seconds for times, cost in costs),
        peak_bytes=max(cost.peak_bytes for _, cost in costs),
    )


def _panel_cost(plan: PlannedStage, recipe: Recipe, raw_bytes: float | None) -> PlannedStage:
    """Each text through each encoder once, in fp32; then the probes, which know no tokens."""
    if raw_bytes is None:
        trials = float(recipe.panel.trials)
    else:
        trials = min(recipe.panel.trials, _trials(recipe, raw_bytes))
    shapes = [read_shape(recipe.pretrain)] * (2 + recipe.pretrain.control)
    return _probing_cost(plan, shapes, trials, recipe.panel.max_tokens, recipe.panel.folds)


def _probing_cost(
    plan: PlannedStage, shapes: Sequence[Shape], trials: float, tokens: int, folds: int
) -> PlannedStage:
    seconds = sum(_reading_seconds(shape, trials * tokens, tokens) for shape in shapes)
    return replace(plan, seconds=seconds + trials * folds * _PROBE_SECONDS, peak_bytes=_STAGE_BYTES)


def _reading_seconds(shape: Shape, tokens: float, width: int) -> float:
    """Of tokens that go once through an encoder in fp32, in rows of so many."""
    hidden = shape.hidden_size
    a_token = hidden * (8 * hidden + 2 * shape.inner_products * shape.intermediate_size)
    a_token += 4 * width * hidden
    operations = tokens * shape.num_hidden_layers * a_token
    return operations / (_products_rate("fp32") * _STEP_EFFICIENCY * 1e9)


def _trials(recipe: Recipe, raw_bytes: float) -> float:
    """About how many trials the records are."""
    if recipe.collect.source == "sample":
        return recipe.collect.sample.studies
    return raw_bytes / _RAW_BYTES_A_TRIAL


def _texts(
    recipe: Recipe, definition: TaskDefinition, raw_bytes: float | None
) -> tuple[float | None, int]:
    """How many texts a task has (None: not known yet), and of how many tokens each."""
    section, longest = definition.section, definition.section.finetune.max_tokens
    if section.labelled:
        if not Path(section.labelled).is_file():
            return None, longest
        rows, characters = _rows_of(Path(section.labelled))
        tokens = definition.tokens_a_text or max(1, round(characters / _CHARACTERS_A_TOKEN))
        return rows, min(longest, tokens)
    if raw_bytes is None:
        return None, longest
    texts = _trials(recipe, raw_bytes) * definition.labelled_share
    return min(texts, section.max_trials or texts), definition.tokens_a_text or longest


def _rows_of(table: Path) -> tuple[float, float]:
    """About how many rows a table has, and of how many characters; from its first part."""
    size = table.stat().st_size
    with table.open("rb") as file:
        part = file.read(_SAMPLED_BYTES)
    if part.startswith(b"PAR1"):
        import pyarrow.parquet as pq

        rows = pq.read_metadata(table).num_rows
        return rows, size / max(1, rows)
    each = len(part) / max(1, part.count(b"\n"))
    return size / each, each


def _training_cost(plan: PlannedStage, recipe: Recipe, tokens: float | None) -> PlannedStage:
    if tokens is None:
        return plan

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
