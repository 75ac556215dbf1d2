"""The verbs that make artifacts: one for each stage, and `run` for all of them."""

from __future__ import annotations

import logging
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from trialese.cli.look import print_artifact
from trialese.cli.terminal import (
    MASKED_LM,
    AllowOverlapOption,
    DryRunOption,
    ForceOption,
    IdColumnOption,
    JsonOption,
    LabelColumnOption,
    OutOption,
    PreferOption,
    RecipeOption,
    SetOption,
    SnapshotArgument,
    TextColumnOption,
    folded,
    print_json,
    print_plan,
    read_recipe,
    refuse_options,
    writing,
)

if TYPE_CHECKING:
    from trialese.pipeline.stages import Stage
    from trialese.settings import VerdictSettings

__all__ = ["VERBS", "FitProtocol", "JudgeProtocol"]

logger = logging.getLogger(__name__)


class FitProtocol(StrEnum):
    """How a classifier is fitted and tested."""

    honest = "honest"
    published = "published"


class JudgeProtocol(StrEnum):
    """Which predictions are judged."""

    honest = "honest"
    published = "published"
    both = "both"


def collect(
    out: OutOption,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES...", help="Files or folders of registry records."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="First posted on or after this date.")] = None,
    updated_since: Annotated[
        str | None, typer.Option(help="Updated on or after this date.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="The registry's own search terms.")] = None,
    ids: Annotated[Path | None, typer.Option(help="Only the NCT numbers in this file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole registry.")] = False,
    new_since: Annotated[
        Path | None,
        typer.Option(help="Only what this snapshot, or file of NCT numbers, lacks as it is."),
    ] = None,
    dry_run: DryRunOption = False,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Registry records -> snapshot.

    From files; from the live registry with --since, --updated-since, --query, --ids or --all;
    else from the synthetic sample. Interrupted, the same command goes on where it was.
    """
    from trialese.collect.collection import collect_snapshot, estimate_collection

    asked: dict[str, object] = {
        "since": since,
        "updated_since": updated_since,
        "query": query,
        "ids": ids,
        "whole": everything or None,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if files and asked:
        raise typer.BadParameter(f"FILES do not go with --{next(iter(asked))}")
    if files:
        asked = {"source": "files", "paths": files}
    elif asked:
        asked["source"] = "registry"
    if new_since:
        asked["new_since"] = new_since
    named = {f"collect.{name}": value for name, value in asked.items()}
    section = read_recipe(recipe, settings, named).collect
    if dry_run:
        found = estimate_collection(section)
        if as_json:
            print_json(found)
            return
        studies = "an unknown number of" if found.studies is None else f"{found.studies:,}"
        print(f"{studies} studies, about {found.json_bytes / 1e6:,.0f} MB of records")
        if found.requests:
            print(f"{found.requests:,} requests, at least {found.seconds:,.0f} s")
        return
    read = [*(files or ()), ids, new_since]
    with writing(out, "snapshot", inputs=read, force=force) as progress:
        collect_snapshot(section, out, progress=progress)
    print_artifact(out, as_json=as_json)


def corpus(
    snapshot: SnapshotArgument,
    out: OutOption,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Snapshot -> corpus: clean documents in their splits."""
    from trialese.collect.snapshot import open_snapshot
    from trialese.corpus.assemble import build_corpus

    section = read_recipe(recipe, settings).corpus
    with writing(out, "corpus", inputs=[snapshot], force=force) as progress:
        build_corpus(open_snapshot(snapshot), section, out, progress=progress)
    print_artifact(out, as_json=as_json)


def pretrain(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder that `corpus` wrote.")],
    out: OutOption,
    continue_from: Annotated[
        Path | None,
        typer.Option(help="A finished adapter that goes on with this corpus; makes no base."),
    ] = None,
    control: Annotated[
        bool,
        typer.Option("--control", help="Also OUT/control: gone on with old text for as long."),
    ] = False,
    dry_run: DryRunOption = False,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Corpus -> token blocks, base model and LoRA adapter.

    They stand in OUT/blocks, OUT/base and OUT/adapter.
    """
    from trialese.artifacts import read_manifest
    from trialese.corpus.store import open_corpus
    from trialese.settings import BackboneSettings

    tree = read_recipe(recipe, settings)
    backbone, blocks = tree.pretrain.backbone, tree.corpus.blocks
    if continue_from:
        read_manifest(continue_from, kind="adapter")
        backbone = BackboneSettings(name=str(continue_from / "model"))
    if dry_run:
        from trialese.pipeline.plan import plan_pretrain

        given = open_corpus(corpus)
        goes_on = continue_from is not None
        chosen = msgspec.structs.replace(tree.pretrain, backbone=backbone)
        tree = msgspec.structs.replace(tree, pretrain=chosen)
        planned = plan_pretrain(given, tree, continued=goes_on, control=control)
        print_plan(planned, as_json=as_json)
        return
    from trialese.pretrain.adapt import build_base, tokenise_corpus, train_adapter, train_control
    from trialese.pretrain.compute import join_workers, only_first

    read = [corpus, continue_from]
    with (
        writing(out, None, inputs=read, force=force) as progress,
        join_workers(tree.pretrain),
    ):
        only_first(
            lambda: tokenise_corpus(
                open_corpus(corpus), backbone, blocks, out / "blocks", progress=progress
            )
        )
        if continue_from is None:
            build_base(out / "blocks", tree.pretrain, out / "base", progress=progress)
        start = continue_from or out / "base"
        train_adapter(out / "blocks", start, tree.pretrain, out / "adapter", progress=progress)
        if control:
            train_control(out / "blocks", start, tree.pretrain, out / "control", progress=progress)
        only_first(lambda: print_artifact(out / "adapter", as_json=as_json))


def finetune(
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", help="stop-reasons, sex or one that the recipe declares."),
    ],
    out: OutOption,
    model: Annotated[str | None, typer.Option(help=MASKED_LM)] = None,
    system: Annotated[
        str,
        typer.Option(help="prior, keywords or tfidf; with --model any other name, such as base."),
    ] = "adapted",
    blend_of: Annotated[
        list[Path] | None,
        typer.Option(help="Twice: classifiers that become one, the mean of their log-odds."),
    ] = None,
    snapshot: Annotated[Path | None, typer.Option(help="Trials to take labels from.")] = None,
    allow_overlap: AllowOverlapOption = False,
    column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    id_column: IdColumnOption = None,
    protocol: Annotated[
        FitProtocol, typer.Option(help="published: as the prior art did, to measure its inflation.")
    ] = FitProtocol.honest,
    prefer: PreferOption = None,
    dry_run: DryRunOption = False,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Labelled texts -> classifier, with its held-out scores.

    Ends with the scores against the prior; `evaluate` compares systems.
    """
    from trialese.collect.snapshot import open_snapshot
    from trialese.tasks.finetune import blend_classifiers
    from trialese.tasks.finetune import finetune as fit
    from trialese.tasks.folds import define_task, with_columns

    if blend_of:
        fits = {
            "--model": model,
            "--snapshot": snapshot,
            "--column": column,
            "--label-column": label_column,
            "--id-column": id_column,
            "--allow-overlap": allow_overlap,
            "--protocol": protocol is not FitProtocol.honest,
            "--dry-run": dry_run,
        }
        refuse_options(fits, "--blend-of fits nothing")
        tree = read_recipe(recipe, settings)
        with writing(out, "classifier", inputs=blend_of, force=force):
            blend_classifiers(task, blend_of, system, out, prefer=prefer, settings=tree.tasks)
        _print_classifier(out, tree.verdict, as_json=as_json)
        return
    if protocol is not FitProtocol.honest:
        why = "--protocol published has no cut-offs of its own, and no plan"
        refuse_options({"--prefer": prefer, "--dry-run": dry_run}, why)
    tree = read_recipe(recipe, settings, {"tasks.allow_overlap": allow_overlap or None})
    section = with_columns(
        tree.tasks, task, text=column, label=label_column, id_=id_column, prefer=prefer
    )
    trials = open_snapshot(snapshot) if snapshot else None
    labelled = define_task(task, section).section.labelled
    if trials is not None and labelled is not None:
        logger.warning("%s: not read; labels of %s come from %s", snapshot, task, labelled)
    if dry_run:
        from trialese.pipeline.plan import plan_finetune

        tree = msgspec.structs.replace(tree, tasks=section)
        print_plan(plan_finetune(task, system, tree, model=model, snapshot=trials), as_json=as_json)
        return
    make = fit
    if protocol is not FitProtocol.honest:
        from trialese.tasks.published import finetune_published as make
    with writing(
        out, "classifier", inputs=[Path(model) if model else None, snapshot], force=force
    ) as progress:
        make(
            task,
            system,
            model=model,
            snapshot=trials,
            settings=section,
            path=out,
            progress=progress,
        )
    if protocol is FitProtocol.honest:
        _print_classifier(out, tree.verdict, as_json=as_json)
    else:
        print_artifact(out, as_json=as_json)


def _print_classifier(out: Path, settings: VerdictSettings, *, as_json: bool) -> None:
    """Print what was made, with its held-out scores against the prior."""
    from trialese.pipeline.evaluate import judge_alone
    from trialese.verdict.text import format_table

    scores = judge_alone(out, settings)
    print_artifact(out, as_json=as_json, more={"scores": scores})
    if not as_json:
        print(f"\n{folded(scores if isinstance(scores, str) else format_table(scores))}")


def init(
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="Labelled: CSV, TSV, JSON lines, Parquet, Excel."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Recipe to write; else TABLE's name .toml.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--label-column", "--column", metavar="NAME", help="Column of labels; else by its name."
        ),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of texts; else by its name.")
    ] = None,
    id_column: IdColumnOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Labelled table -> a recipe for `trialese run`."""
    from trialese.artifacts import refuse_file, replacing_anything, write_bytes
    from trialese.tasks.draft import DRAFT_BEGINS, draft_recipe

    path = out or Path(f"{table.stem}.toml")
    with replacing_anything(force):
        refuse_file(path, ours=lambda begins: begins.startswith(DRAFT_BEGINS), inputs=[table])
        text = draft_recipe(
            table, text_column=text_column, label_column=column, id_column=id_column
        )
        write_bytes(path, text.encode())
    if as_json:
        print_json({"recipe": str(path)})
    else:
        print(f"{path}  look it over, then:\n  trialese run {shlex.quote(str(path))}")


def evaluate(
    classifiers: Annotated[
        list[Path],
        typer.Argument(
            metavar="CLASSIFIERS...", help="Classifier folders of one or more tasks, with rivals."
        ),
    ],
    out: OutOption,
    protocol: Annotated[
        JudgeProtocol, typer.Option(help="both: the published and the honest way side by side.")
    ] = JudgeProtocol.honest,
    allow_overlap: AllowOverlapOption = False,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Saved predictions -> verdict: report, Markdown and JSON.

    OUT/report.html, verdict.md and verdict.json. Needs no torch.
    """
    from trialese.pipeline.evaluate import judge_classifiers

    section = read_recipe(recipe, settings).verdict
    with writing(out, "verdict", inputs=classifiers, force=force) as progress:
        judge_classifiers(
            classifiers,
            section,
            out,
            protocol=protocol.value,
            allow_overlap=allow_overlap,
            progress=progress,
        )
    print_artifact(out, as_json=as_json)


def run(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="TOML file, or the name of a ready one: quickstart."),
    ],
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """All stages of a recipe; finished ones are skipped."""
    from trialese.pipeline.stages import run_recipe

    tree = read_recipe(recipe, settings)
    if dry_run:
        from trialese.pipeline.plan import plan_recipe

        print_plan(plan_recipe(tree), as_json=as_json)
        return
    with writing(Path(tree.folder) / tree.name, None, force=force) as progress:
        folder = run_recipe(tree, progress=progress, on_stage=_announce)
    print_artifact(folder, as_json=as_json)
    if not as_json:
        print(f"\nreport: {folder / 'report.html'}")
        if tree.collect.source == "sample":
            _print_real_words(folder.parent)


_REAL_WORDS = (
    "Slow accrual, and two patients had severe hepatotoxicity",
    "Interim analysis showed futility",
)


def _print_real_words(folder: Path) -> None:
    """After made-up trials: what the classifiers that ship say of real words, and what is next."""
    from trialese.tasks.predict import predict_inputs
    from trialese.tasks.scorer import find_classifier
    from trialese.tasks.shipped import shipped_sizes

    if not shipped_sizes("stop-reasons"):  # a checkout that left them out
        return
    print("\nThese trials were made up. On real words, by a classifier that ships with trialese:")
    print(f"$ trialese predict stop-reasons {' '.join(map(shlex.quote, _REAL_WORDS))}")
    for row in predict_inputs(find_classifier(Path("stop-reasons")), _REAL_WORDS):
        print(row.as_line())
    print("\nnext:")
    print(f"  trialese explain stop-reasons {shlex.quote(_REAL_WORDS[0])}")
    print('  trialese predict sex "Pregnant women with gestational diabetes"')
    print("  trialese export stop-reasons -o stop-reasons-onnx")
    print(f"  trialese serve stop-reasons sex --snapshot {shlex.quote(str(folder / 'snapshot'))}")


def _announce(stage: Stage, finished: bool) -> None:
    if logger.isEnabledFor(logging.INFO):
        print(f"{'skip' if finished else 'make'}  {stage.path}", file=sys.stderr)


VERBS = (init, collect, corpus, pretrain, finetune, evaluate, run)
