"""A recipe as a chain of stages: finished ones are skipped, changed ones are made again.

Each room is imported only while its stage runs. `run.json` remembers from which key each stage's
artifact was made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from trialese.artifacts import (
    as_settings,
    digest_of,
    digest_of_file,
    digest_of_folder,
    is_complete,
    read_manifest,
    write_bytes,
)
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.hub import refuse_long_blocks
from trialese.pipeline.evaluate import examine_texts, judge_classifiers
from trialese.progress import Progress, silent
from trialese.recipe import Recipe
from trialese.settings import VerdictSettings

__all__ = [
    "LEDGER_NAME",
    "Stage",
    "chain_stages",
    "digest_of_input",
    "is_finished",
    "read_ledger",
    "refuse_impossible",
    "run_recipe",
    "write_ledger",
]


LEDGER_NAME = "run.json"

Ledger = dict[str, dict[str, str]]


def digest_of_input(path: Path) -> str:
    """sha256 of an input file from outside the run, or of every file in a folder by its path.

    Raises:
        RecordError: nothing there.
    """
    if path.is_dir():
        return digest_of_folder(path, (file for file in path.rglob("*") if file.is_file()))
    if not path.is_file():
        raise RecordError(f"{path}: no such input file; check the path in the recipe")
    return digest_of_file(path)


def read_ledger(home: Path) -> Ledger:
    """Stage -> key and digest of its artifact; a lost ledger only means that stages run again."""
    try:
        return msgspec.json.decode((home / LEDGER_NAME).read_bytes(), type=Ledger)
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def write_ledger(home: Path, ledger: Ledger) -> None:
    """Put the ledger into the run's folder, at once."""
    write_bytes(home / LEDGER_NAME, msgspec.json.encode(ledger, order="sorted"))


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """One artifact to be made: where, from which settings and stages, and by what."""

    home: Path
    """The run's folder."""
    name: str
    """Also the artifact's place under `home`, such as "corpus" or "sex/base"."""
    settings: dict[str, Any]
    needs: tuple[Stage, ...]
    make: Callable[[Progress], object]
    files: tuple[Path, ...] = ()
    """Input files from outside the run."""

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return self.home / self.name

    @property
    def key(self) -> str:
        """Digest of settings, finished inputs and input files; needs every input finished."""
        inputs = {stage.name: read_manifest(stage.path).digest for stage in self.needs}
        files = {str(file): digest_of_input(file) for file in self.files}
        return digest_of({"settings": self.settings, "inputs": inputs, "files": files})


def chain_stages(recipe: Recipe) -> list[Stage]:
    """Every stage of the recipe, in the order in which data flows."""
    home = Path(recipe.folder) / recipe.name
    if recipe.collect.source == "none":
        classifiers = _task_stages(recipe, home, None, {})
        return [*classifiers, _verdict_stage(recipe, home, None, None, {}, classifiers, None)]
    snapshot = _collect_stage(recipe, home)
    corpus, blocks = _corpus_stages(recipe, home, snapshot)
    models = _pretrain_stages(recipe, home, blocks)
    classifiers = _task_stages(recipe, home, snapshot, models)
    panel = _panel_stage(recipe, home, snapshot, models) if recipe.panel.trials else None
    verdict = _verdict_stage(recipe, home, snapshot, corpus, models, classifiers, panel)
    probed = [panel] if panel else []
    return [snapshot, corpus, blocks, *models.values(), *classifiers, *probed, verdict]


def is_finished(stage: Stage) -> bool:
    """Whether the stage's artifact is whole, unaltered, and made from what the recipe says now."""
    if not all(is_complete(need.path) for need in stage.needs):
        return False
    if not is_complete(stage.path, verify=True):
        return False
    return read_ledger(stage.home).get(stage.name) == _entry_of(stage)


def run_recipe(
    recipe: Recipe,
    *,
    progress: Progress = silent,
    on_stage: Callable[[Stage, bool], None] = lambda stage, finished: None,
) -> Path:
    """The folder of the verdict, after every unfinished stage of the recipe has been run.

    `on_stage` hears of each stage before it runs, and whether it is finished already.
    """
    stages = chain_stages(recipe)
    home = Path(recipe.folder) / recipe.name
    for file in (file for stage in stages for file in stage.files):
        digest_of_input(file)  # a missing file is told now, not after hours of training
    refuse_impossible(recipe, stages)
    for stage in stages:
        finished = is_finished(stage)
        on_stage(stage, finished)
        if not finished:
            stage.make(progress)
            write_ledger(home, read_ledger(home) | {stage.name: _entry_of(stage)})
    write_bytes(
        home / "recipe.json",
        msgspec.json.format(msgspec.json.encode(recipe), indent=2) + b"\n",
    )
    return stages[-1].path


def refuse_impossible(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Refuse, before anything is made, what a later stage would only find out after hours.

    Raises:
        RecipeError: token blocks are longer than the backbone has positions.
    """
    if any(stage.name == "blocks" for stage in stages):
        with suppress(ArtifactError):  # no backbone: told when it is its turn
            refuse_long_blocks(recipe.pretrain.backbone, recipe.corpus.blocks.block_tokens)


def _entry_of(stage: Stage) -> dict[str, str]:
    return {"key": stage.key, "digest": read_manifest(stage.path).digest}


def _collect_stage(recipe: Recipe, home: Path) -> Stage:
    from trialese.collect.collection import describe_settings

    def make(progress: Progress) -> object:
        from trialese.collect.collection import collect_snapshot

        return collect_snapshot(recipe.collect, home / "snapshot", progress=progress)

    collect = recipe.collect
    named = [*(collect.paths if collect.source == "files" else ())]
    named += filter(None, (collect.ids, collect.new_since))
    manners = {
        "retries",
        "pause_seconds",
        "timeout_seconds",
        "page_size",
    }  # change no record
    settings = {k: v for k, v in describe_settings(collect).items() if k not in manners}
    return Stage(home, "snapshot", settings, (), make, tuple(map(Path, named)))


def _corpus_stages(recipe: Recipe, home: Path, snapshot: Stage) -> tuple[Stage, Stage]:
    settings = as_settings(recipe.corpus)
    block_settings = settings.pop("blocks")

    def make_corpus(progress: Progress) -> object:
        from trialese.collect.snapshot import open_snapshot
        from trialese.corpus.assemble import build_corpus

        collected = open_snapshot(snapshot.path)
        return build_corpus(collected, recipe.corpus, home / "corpus", progress=progress)

    corpus = Stage(home, "corpus", settings, (snapshot,), make_corpus)

    def make_blocks(progress: Progress) -> object:
        from trialese.corpus.store import open_corpus
        from trialese.pretrain.adapt import tokenise_corpus

        return tokenise_corpus(
            open_corpus(corpus.path),
            recipe.pretrain.backbone,
            recipe.corpus.blocks,
            home / "blocks",
            progress=progress,
        )

    block_settings["backbone"] = as_settings(recipe.pretrain.backbone)
    return corpus, Stage(home, "blocks", block_settings, (corpus,), make_blocks)


def _pretrain_stages(recipe: Recipe, home: Path, blocks: Stage) -> dict[str, Stage]:
    """The language models by the name of the system that stands on each."""
    settings = as_settings(recipe.pretrain)
    control = settings.pop("control")
    later = {"adapt_phase", "replay_share"}
    base_settings = {name: value for name, value in settings.items() if name not in later}

    def make_base(progress: Progress) -> object:
        from trialese.pretrain.adapt import build_base

        return build_base(blocks.path, recipe.pretrain, home / "base", progress=progress)

    base = Stage(home, "base", base_settings, (blocks,), make_base)

    def make_adapter(progress: Progress) -> object:
        from trialese.pretrain.adapt import train_adapter

        return train_adapter(
            blocks.path, base.path, recipe.pretrain, home / "adapter", progress=progress
        )

    models = {
        "base": base,
        "adapted": Stage(home, "adapter", settings, (blocks, base), make_adapter),
    }
    if not control:
        return models

    def make_control(progress: Progress) -> object:
        from trialese.pretrain.adapt import train_control

        return train_control(
            blocks.path, base.path, recipe.pretrain, home / "control", progress=progress
        )

    models["control"] = Stage(
        home, "control", {**settings, "text": "old"}, (blocks, base), make_control
    )
    return models


def _task_stages(
    recipe: Recipe, home: Path, snapshot: Stage | None, models: Mapping[str, Stage]
) -> list[Stage]:
    systems: dict[str, Stage | None] = {**dict.fromkeys(recipe.tasks.baselines), **models}
    if snapshot is None:
        systems["base"] = None
    return [
        _task_stage(recipe, home, task, system, snapshot, model)
        for task in recipe.tasks.names
        for system, model in systems.items()
    ]


def _task_stage(
    recipe: Recipe,
    home: Path,
    task: str,
    system: str,
    snapshot: Stage | None,
    model: Stage | None,
) -> Stage:
    """One classifier. Without trials, "base" starts from the backbone as it is."""
    from trialese.hub import is_hub_id, locate_backbone
    from trialese.tasks.folds import define_task, describe_section, files_of
    from trialese.tasks.system import check_search

    section = define_task(task, recipe.tasks).section
    check_search(task, section)
    from_backbone = snapshot is None and system == "base"
    is_model = model is not None or from_backbone
    tables = files_of(section, is_model=is_model)
    if snapshot is None and section.labelled is None:
        raise RecipeError(
            f"{task}: its labels come from trials, but the recipe names none; set collect.source "
            f"(sample: synthetic studies), or take {task} out of tasks.names"
        )
    settings = describe_section(section, is_model=is_model)
    if is_model:
        settings["threshold_shrinkage"] = recipe.tasks.threshold_shrinkage
    if from_backbone:
        settings["backbone"] = as_settings(recipe.pretrain.backbone)

    def make(progress: Progress) -> object:
        from trialese.collect.snapshot import open_snapshot
        from trialese.tasks.finetune import finetune

        folder = model.path / "model" if model else None
        if from_backbone:
            folder = locate_backbone(recipe.pretrain.backbone).folder
        return finetune(
            task,
            system,
            model=folder,
            snapshot=open_snapshot(snapshot.path) if snapshot else None,
            settings=recipe.tasks,
            path=home / task / system,
            progress=progress,
        )

    return Stage(
        home,
        f"{task}/{system}",
        settings,
        tuple(stage for stage in (snapshot, model) if stage is not None),
        make,
        tuple(Path(name) for name in tables if not is_hub_id(name)),
    )


def _panel_stage(recipe: Recipe, home: Path, snapshot: Stage, models: Mapping[str, Stage]) -> Stage:
    # Of the verdict's settings only the one that decides when a difference counts.
    settings = VerdictSettings(seed_spread=recipe.verdict.seed_spread)

    def make(progress: Progress) -> object:
        from trialese.collect.snapshot import open_snapshot
        from trialese.pipeline.panel import make_panel

        return make_panel(
            open_snapshot(snapshot.path),
            {system: stage.path / "model" for system, stage in models.items()},
            home / "panel",
            most_trials=recipe.panel.trials,
            max_tokens=recipe.panel.max_tokens,
            folds=recipe.panel.folds,
            settings=settings,
            allow_empty=True,
            progress=progress,
        )

    described = as_settings(recipe.panel) | {"seed_spread": settings.seed_spread}
    return Stage(home, "panel", described, (snapshot, *models.values()), make)


def _verdict_stage(
    recipe: Recipe,
    home: Path,
    snapshot: Stage | None,
    corpus: Stage | None,
    models: Mapping[str, Stage],
    classifiers: list[Stage],
    panel: Stage | None,
) -> Stage:
    def make(progress: Progress) -> object:
        from trialese.collect.snapshot import open_snapshot

        trials, tasks = open_snapshot(snapshot.path) if snapshot else None, recipe.tasks
        files = _files_of_trials(recipe) if trials else {}
        examined = {name: examine_texts(name, tasks, trials, files) for name in tasks.names}
        return judge_classifiers(
            [stage.path for stage in classifiers],
            recipe.verdict,
            home / "verdict",
            curves=[row for stage in models.values() for row in _read_rows(stage)],
            context=_context(recipe, snapshot, corpus, models, classifiers, panel),
            read_unlabelled=_read_unlabelled(recipe, corpus, models) if corpus else {},
            slices={name: slices for name, (_, slices) in examined.items()},
            audits={name: audits for name, (audits, _) in examined.items()},
            progress=progress,
        )

    needs = tuple(filter(None, (snapshot, corpus, *models.values(), *classifiers, panel)))
    return Stage(home, "verdict", as_settings(recipe.verdict), needs, make)


def _context(
    recipe: Recipe,
    snapshot: Stage | None,
    corpus: Stage | None,
    models: Mapping[str, Stage],
    classifiers: list[Stage],
    panel: Stage | None,
) -> dict[str, Any]:
    """What the report's data card tells: source, counts and notes of every stage."""
    about = {
        "recipe": as_settings(recipe),
        "tasks": {stage.name: _facts(stage) for stage in classifiers},
    }
    if snapshot is None or corpus is None:
        return about
    collected, documents = read_manifest(snapshot.path), read_manifest(corpus.path)
    return {
        **collected.notes,
        **about,
        "snapshot": collected.counts,
        "corpus": documents.counts,
        "models": {stage.name: _facts(stage) for stage in models.values()},
        "language_model": _compare_models(models),
        "language_model_parts": _compare_parts(snapshot, corpus, models),
        **({"panel": _read_panel(panel)} if panel else {}),
    }


def _compare_models(models: Mapping[str, Stage]) -> dict[str, Any]:
    """Adapter, control and base on the same held-out blocks, by era."""
    from trialese.pretrain.heldout import compare_models

    control = models["control"].path if "control" in models else None
    return compare_models(models["adapted"].path, control)


def _compare_parts(snapshot: Stage, corpus: Stage, models: Mapping[str, Stage]) -> dict[str, Any]:
    """The same by year of posting, by area of medicine, and by what training text holds already."""
    from trialese.collect.snapshot import find_trials, open_snapshot
    from trialese.collect.vocabulary import broad_area
    from trialese.corpus.blocks import open_blocks
    from trialese.corpus.split import overlap_table
    from trialese.corpus.store import open_corpus, read_overlap
    from trialese.pretrain.parts import compare_parts

    (blocks,) = (need for need in models["adapted"].needs if need.name == "blocks")
    eras: tuple[Literal["old", "new"], ...] = ("old", "new")
    held = {era: open_blocks(blocks.path, era=era, split="test") for era in eras}
    names: dict[str, tuple[str, ...]] = {era: each.nct_ids for era, each in held.items() if each}
    wanted = {name for era in names.values() for name in era}
    trials = find_trials(open_snapshot(snapshot.path), wanted)
    documents = open_corpus(corpus.path)
    shared = read_overlap(documents)
    if shared is None:
        shared = overlap_table(documents, nct_ids=wanted)
    control = models["control"].path if "control" in models else None
    return compare_parts(
        models["adapted"].path,
        control,
        names,
        {
            "year of first posting": {
                name: trial.first_posted[:4] for name, trial in trials.items() if trial.first_posted
            },
            "area": {name: broad_area(trial) for name, trial in trials.items()},
            "passages in training text": {
                row.nct_id: f"{row.era} trials, {('under half', 'half or more')[row.train >= 0.5]}"
                for row in shared
            },
        },
    )


def _files_of_trials(recipe: Recipe) -> dict[str, str]:
    """NCT id -> name of the file that it comes from, of several the last; {} of one source alone.

    The files are read once more, since a snapshot does not keep what its studies came from; not
    where that takes minutes.
    """
    from trialese.collect.files import read_raw
    from trialese.collect.parse import parse_study
    from trialese.collect.source import Reject, StudyError

    paths = [Path(path) for path in recipe.collect.paths]
    if recipe.collect.source != "files" or len(paths) < 2 or not all(p.is_file() for p in paths):
        return {}
    if sum(path.stat().st_size for path in paths) > _MOST_BYTES_READ_AGAIN:
        return {}
    found: dict[str, str] = {}
    for path in paths:
        for raw in read_raw(path, recipe.collect.limits):
            if isinstance(raw, Reject):
                continue
            try:
                found[parse_study(raw).trial.nct_id] = path.name
            except StudyError:
                continue  # counted when it was collected
    return found


_MOST_BYTES_READ_AGAIN = 200 * 2**20


def _read_panel(panel: Stage) -> dict[str, Any]:
    from trialese.pipeline.panel import read_panel

    found: dict[str, Any] = msgspec.to_builtins(read_panel(panel.path))
    return found


def _read_unlabelled(
    recipe: Recipe, corpus: Stage, models: Mapping[str, Stage]
) -> dict[str, dict[str, frozenset[str]]]:
    """By task and system, NCT ids of the trials whose text its masked-LM was trained on.

    Only of tasks that classify what the masked-LM reads: the reason why a trial stopped, for one,
    is not rendered.
    """
    from trialese.tasks.folds import define_task

    old, new = (_trained_ids(corpus, era) for era in ("old", "new"))
    adapted_to_old = bool(read_manifest(models["base"].path).notes.get("adapted_to_old"))
    base = old if adapted_to_old else frozenset[str]()
    replayed = old if recipe.pretrain.replay_share > 0 or not new else frozenset[str]()
    known = {"base": base, "control": old, "adapted": base | new | replayed}
    rendered = set(recipe.corpus.render.fields)
    return {
        task: {system: known[system] for system in known if system in models}
        for task in recipe.tasks.names
        if rendered & set(define_task(task, recipe.tasks).fields)
    }


def _trained_ids(corpus: Stage, era: str) -> frozenset[str]:
    from trialese.corpus.store import open_corpus, read_stored

    documents = read_stored(open_corpus(corpus.path), text=False)
    return frozenset(each.nct_id for each in documents if each.split == "train" and each.era == era)


def _facts(stage: Stage) -> dict[str, Any]:
    manifest = read_manifest(stage.path)
    return {**manifest.counts, **manifest.notes}


def _read_rows(stage: Stage) -> Iterator[dict[str, Any]]:
    with (stage.path / "metrics.jsonl").open("rb") as file:
        for line in file:
            yield {"stage": stage.name, **msgspec.json.decode(line)}
