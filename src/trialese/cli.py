"""The command line: arguments in, lines out. Results go to stdout, the rest to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from trialese.errors import TrialeseError
from trialese.progress import Progress
from trialese.recipe import Recipe, load_recipe, parse_recipe
from trialese.terminal import show_progress, tree_lines

if TYPE_CHECKING:
    from trialese.pipeline import Stage

__all__ = ["app", "main"]

app = typer.Typer(
    name="trialese",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Keep a language model of clinical-trial text up to date, and score it honestly.",
)

RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", "-r", help="TOML file; without it, the defaults.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting; repeatable."),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable lines on stdout.")]


@app.command()
def collect(
    out: OutOption,
    files: Annotated[list[Path] | None, typer.Argument(help="Files of registry records.")] = None,
    since: Annotated[
        str | None, typer.Option(help="First posted on or after this date (live registry).")
    ] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Registry records -> snapshot (from files, the live registry, or the synthetic sample)."""
    from trialese.collect import collect_snapshot

    section = _recipe(recipe, settings).collect
    if files:
        section = msgspec.structs.replace(
            section, source="files", paths=tuple(str(file) for file in files)
        )
    elif since:
        section = msgspec.structs.replace(section, source="registry", since=since)
    with _progress() as progress:
        collect_snapshot(section, out, progress=progress)
    _show(out)


@app.command()
def corpus(
    snapshot: Path, out: OutOption, recipe: RecipeOption = None, settings: SetOption = None
) -> None:
    """Snapshot -> clean, deduplicated, split documents."""
    from trialese.collect import open_snapshot
    from trialese.corpus import build_corpus

    section = _recipe(recipe, settings).corpus
    with _progress() as progress:
        build_corpus(open_snapshot(snapshot), section, out, progress=progress)
    _show(out)


@app.command()
def pretrain(
    corpus: Path, out: OutOption, recipe: RecipeOption = None, settings: SetOption = None
) -> None:
    """Corpus -> token blocks, base model and LoRA adapter, in OUT/blocks, base and adapter."""
    from trialese.corpus import build_blocks, open_corpus
    from trialese.pretrain import build_base, load_tokenizer, tokenizer_digest, train_adapter

    tree = _recipe(recipe, settings)
    tokenizer = load_tokenizer(tree.pretrain.backbone)
    with _progress() as progress:
        build_blocks(
            open_corpus(corpus),
            tokenizer.backend_tokenizer,
            tree.corpus.blocks,
            out / "blocks",
            tokenizer_digest=tokenizer_digest(tokenizer),
            progress=progress,
        )
        build_base(out / "blocks", tree.pretrain, out / "base", progress=progress)
        train_adapter(
            out / "blocks", out / "base", tree.pretrain, out / "adapter", progress=progress
        )
    _show(out / "adapter")


@app.command()
def finetune(
    task: Annotated[str, typer.Argument(help="stop-reasons or sex.")],
    out: OutOption,
    model: Annotated[
        Path | None, typer.Option(help="Masked-LM folder, such as OUT/adapter/model.")
    ] = None,
    system: Annotated[
        str, typer.Option(help="base or adapted (with --model); prior, keywords or tfidf.")
    ] = "adapted",
    snapshot: Annotated[Path | None, typer.Option(help="Trials to take labels from.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Labelled texts + model -> classifier and its honest predictions on held-out folds."""
    from trialese.collect import open_snapshot
    from trialese.tasks import finetune as fit

    section = _recipe(recipe, settings).tasks
    trials = open_snapshot(snapshot) if snapshot else None
    with _progress() as progress:
        fit(task, system, model, trials, section, out, progress=progress)
    _show(out)


@app.command()
def evaluate(
    classifiers: Annotated[
        list[Path], typer.Argument(help="Classifier folders of one or more tasks, with rivals.")
    ],
    out: OutOption,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Saved predictions -> verdict: report.html, verdict.md, verdict.json. Needs no torch."""
    from trialese.judging import judge_classifiers

    section = _recipe(recipe, settings).verdict
    judge_classifiers(classifiers, section, out)
    _show(out)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Classifier folder.")],
    inputs: Annotated[
        list[str], typer.Argument(metavar="TEXT... | - | FILE", help="Texts, stdin, or a file.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Texts or trials -> labels with probabilities."""
    from trialese.tasks import predict_inputs

    stdin = sys.stdin if inputs == ["-"] else None
    for row in predict_inputs(model, inputs, stdin=stdin):
        print(msgspec.json.encode(row).decode() if as_json else row.as_line())


@app.command()
def show(artifact: Path, as_json: JsonOption = False) -> None:
    """What an artifact holds: source, counts, notes; of a verdict, the tables."""
    _show(artifact, as_json=as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="TOML file, such as recipes/quickstart.toml.")],
    settings: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print stages, tokens, time and memory.")
    ] = False,
) -> None:
    """All stages of a recipe; finished ones are skipped."""
    from trialese.pipeline import run_recipe

    tree = load_recipe(recipe, overrides=settings or ())
    if dry_run:
        from trialese.plan import format_plan, plan_recipe

        print(format_plan(plan_recipe(tree)))
        return
    with _progress() as progress:
        folder = run_recipe(tree, progress=progress, on_stage=_announce)
    _show(folder)
    print(f"\nreport: {folder / 'report.html'}")


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("trialese").setLevel(logging.INFO)
    try:
        app()
    except TrialeseError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)


def _recipe(path: Path | None, overrides: list[str] | None) -> Recipe:
    if path is None:
        return parse_recipe("", overrides=overrides or (), origin="--set")
    return load_recipe(path, overrides=overrides or ())


def _announce(stage: Stage, finished: bool) -> None:
    print(f"{'skip' if finished else 'make'}  {stage.path}", file=sys.stderr)


def _show(artifact: Path, *, as_json: bool = False) -> None:
    from trialese.artifacts import read_manifest

    manifest = read_manifest(artifact)
    if as_json:
        print(msgspec.json.encode(manifest).decode())
        return
    if manifest.kind == "verdict":
        from trialese.verdict import format_table, load_verdicts

        print("\n\n".join(format_table(verdict) for verdict in load_verdicts(artifact)))
        return
    print(f"{manifest.kind}  {artifact}  {manifest.digest[:12]}")
    for line in tree_lines({**manifest.notes, **manifest.counts}):
        print(line)


@contextmanager
def _progress() -> Iterator[Progress]:
    try:
        with show_progress() as progress:
            yield progress
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped; what was finished stays", file=sys.stderr)
        raise typer.Exit(130) from stop
