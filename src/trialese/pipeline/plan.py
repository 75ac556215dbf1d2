"""Costs of a run before it begins: stages, training tokens, seconds and memory.

Exact where an earlier stage is finished, else from the size of the input. No torch is needed: the
operations follow from a config, and their speed from a calibration of this machine. The commands
that do one stage alone are planned by the same sums."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trialese.artifacts import MANIFEST_NAME, read_manifest
from trialese.errors import RecipeError, RecordError
from trialese.hub import refuse_long_blocks
from trialese.parallel import count_cores
from trialese.pipeline.machine import MachineSpeed, machine_speed, scoring_rate
from trialese.pipeline.stages import Stage, chain_stages, is_finished, refuse_impossible
from trialese.pipeline.training_cost import (
    STEP_EFFICIENCY,
    Estimate,
    Shape,
    estimate,
    products_rate,
    read_shape,
)
from trialese.recipe import Recipe
from trialese.settings import (
    BackboneSettings,
    PhaseSettings,
    PretrainSettings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trialese.records import Corpus, Snapshot
    from trialese.tasks.formats import AskedColumns
    from trialese.tasks.scorer import Scorer
    from trialese.tasks.task import TaskDefinition

__all__ = [
    "PlannedStage",
    "format_plan",
    "plan_finetune",
    "plan_panel",
    "plan_predict",
    "plan_pretrain",
    "plan_recipe",
    "plan_staleness",
]


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
_BASELINE_SHARE = 0.1
"""Of the calibrated rate of preparing documents, what reading and clustering of texts reach."""
_LINEAR_SHARE = 0.03
"""Likewise each fit of TF-IDF with logistic regression."""
_JUDGED_CHARACTERS, _RESAMPLED_CHARACTERS = 600, 0.1
"""Judging one text of one system takes as long as preparing so many characters; and a resample."""
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
    done: set[str] = set()  # what is made from something that is made anew is made anew too
    for stage in stages:
        if all(need.name in done for need in stage.needs) and is_finished(stage):
            done.add(stage.name)
    blocks = next((stage for stage in stages if stage.name == "blocks"), None)
    old_tokens, new_tokens = _tokens(recipe, blocks if "blocks" in done else None, raw_bytes)
    planned = []
    for stage in stages:
        plan = PlannedStage(stage.name, stage.name in done)
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

    Raises:
        RecipeError: an unknown task, or no examples of it.
    """
    from trialese.tasks.folds import define_task

    definition = define_task(task, recipe.tasks)
    if snapshot is None and not definition.section.labelled:
        raise RecipeError(f"{task}: no snapshot to take examples from; give --snapshot")
    plan = PlannedStage(f"{task}/{system}", False)
    raw_bytes = None
    if snapshot is not None:
        raw_bytes = snapshot.manifest.counts["trials"] * _RAW_BYTES_A_TRIAL
    if model is not None:
        backbone = BackboneSettings(name=model)
        pretrain = msgspec.structs.replace(recipe.pretrain, backbone=backbone)
        recipe = msgspec.structs.replace(recipe, pretrain=pretrain)
        return [_fitting_cost(plan, recipe, raw_bytes)]
    return [_baseline_cost(plan, recipe, raw_bytes)]


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
    from trialese.tasks.predict import no_text_error

    left_out: dict[str, int] = {}
    records = list(islice(read_records(source, columns or KNOWN_COLUMNS), _COUNTED_RECORDS))
    texts = [each.text for each in texts_of(records, 1, scorer.preprocessing, left_out)]
    if not texts:
        raise no_text_error(source.name, scorer, len(records), left_out)
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
    recipe: Recipe, blocks: Stage | None, raw_bytes: float | None
) -> tuple[float | None, float | None]:
    """Training tokens of the old and of the new trials; exact with `blocks`, a finished stage."""
    if blocks is not None:
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
    costs = {"panel": _panel_cost, "verdict": _judging_cost}
    costs |= dict.fromkeys(("base", "adapted", "control"), _fitting_cost)
    costs |= dict.fromkeys(("prior", "keywords", "tfidf"), _baseline_cost)
    cost = costs.get(plan.name.rpartition("/")[2])
    return plan if cost is None else cost(plan, recipe, raw_bytes)


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
            msgspec.structs.replace(
                recipe.pretrain, method="full", precision=section.finetune.precision
            ),
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
    new_head = 1  # epochs of a head that the checkpoint lacks
    for other, times, more in (
        (section.silver, len(section.seeds), 0), (section.unlabelled, 1, new_head),
    ):  # fmt: skip
        if other is not None and Path(other.table).is_file():
            rows, _ = _rows_of(Path(other.table))
            costs.append((times, cost_of(rows, other.epochs + more)))
    return replace(
        plan,
        tokens=sum(times * cost.tokens for times, cost in costs),
        seconds=sum(times * cost.seconds for times, cost in costs),
        peak_bytes=max(cost.peak_bytes for _, cost in costs),
    )


def _baseline_cost(plan: PlannedStage, recipe: Recipe, raw_bytes: float | None) -> PlannedStage:
    """The texts read and clustered; of TF-IDF, the fits of all folds, of settings, and for use."""
    from trialese.tasks.finetune import fits_on_everything
    from trialese.tasks.folds import define_task, folds_of
    from trialese.tasks.system import combinations_of

    task, _, system = plan.name.partition("/")
    definition = define_task(task, recipe.tasks)
    section = definition.section
    texts, tokens_a_text = _texts(recipe, definition, raw_bytes)
    if texts is None:
        return plan
    rate = machine_speed().prepared_characters
    characters = texts * tokens_a_text * _CHARACTERS_A_TOKEN
    seconds = characters / (rate * _BASELINE_SHARE)
    if system == "tfidf":
        fits = len(folds_of(section)) * (1 - 1 / section.folds)
        combinations = combinations_of(section, system)
        if len(combinations) > 1:
            fits += fits * len(combinations) * (section.search_folds - 1)
        fits += fits_on_everything(section, is_model=False)
        seconds += characters * fits / (rate * _LINEAR_SHARE)
    return replace(plan, seconds=seconds, peak_bytes=_STAGE_BYTES)


def _judging_cost(plan: PlannedStage, recipe: Recipe, raw_bytes: float | None) -> PlannedStage:
    """Every tested text of every system, scored and resampled."""
    from trialese.tasks.folds import define_task, folds_of

    characters = 0.0
    for task in recipe.tasks.names:
        definition = define_task(task, recipe.tasks)
        section = definition.section
        texts, _ = _texts(recipe, definition, raw_bytes)
        if texts is None:
            return plan
        tested = texts * len(section.seeds) * len(folds_of(section)) / section.folds
        systems = sum(stage.name.startswith(f"{task}/") for stage in chain_stages(recipe))
        each = _JUDGED_CHARACTERS + _RESAMPLED_CHARACTERS * recipe.verdict.resamples
        characters += tested * systems * each
    seconds = characters / machine_speed().prepared_characters
    return replace(plan, seconds=seconds, peak_bytes=_STAGE_BYTES)


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
    return operations / (products_rate("fp32") * STEP_EFFICIENCY * 1e9)


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
