"""The verbs that use a finished classifier, and `publish`, which sends any artifact to the hub."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from trialese.cli.look import print_artifact
from trialese.cli.terminal import (
    AnswersOption,
    ClassifierArgument,
    DryRunOption,
    ForceOption,
    IdColumnOption,
    JsonOption,
    ModelSizeOption,
    OutOption,
    PreferOption,
    RecipeOption,
    SetOption,
    TextColumnOption,
    or_shipped,
    print_json,
    print_plan,
    read_recipe,
    refuse_options,
    watch,
    writing,
)
from trialese.errors import ArtifactError, RecipeError
from trialese.settings import Precision

if TYPE_CHECKING:
    from trialese.tasks.formats import AskedColumns
    from trialese.tasks.history import HeldPrediction

__all__ = ["VERBS"]


_Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT... | - | FILE", help="Texts, stdin, a file or a snapshot."),
]
_Precision = Annotated[
    Precision,
    typer.Option(
        help="fp32: the same labels on every chip. bf16: faster. auto: bf16 if it has it."
    ),
]


def predict(
    model: ClassifierArgument,
    inputs: _Inputs = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; goes on where it was.")
    ] = None,
    changed_since: Annotated[
        int | None,
        typer.Option(
            metavar="GENERATION",
            help="Of a run that `refresh` keeps: the trials whose prediction changed since.",
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format", help="table, csv, tsv, jsonl, parquet or xlsx; else by extension."
        ),
    ] = None,
    column: TextColumnOption = None,
    id_column: IdColumnOption = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Print so many likeliest labels, given or not.")
    ] = None,
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Print every label with its probability.")
    ] = False,
    precision: _Precision = "fp32",
    prefer: PreferOption = None,
    model_size: ModelSizeOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Texts or trials -> labels with their probabilities.

    With -o, files of any size: the same command goes on after an interruption, and processes
    started by torchrun divide the work.
    """
    from trialese.artifacts import replacing_anything
    from trialese.tasks.formats import AskedColumns, format_of, person_line
    from trialese.tasks.predict import predict_inputs, stream_inputs
    from trialese.tasks.scorer import find_classifier

    if changed_since is not None:
        others = {
            "the texts": inputs, "--out": out, "--format": format_name, "--column": column,
            "--id-column": id_column, "--top": top, "--all-scores": all_scores,
            "--precision": precision != "fp32", "--prefer": prefer, "--model-size": model_size,
            "--dry-run": dry_run, "--force": force,
        }  # fmt: skip
        refuse_options(others, "--changed-since takes the folder of a run, and --json alone")
        _print_changed(model, changed_since, as_json=as_json)
        return
    if not inputs:
        raise typer.BadParameter(
            f"no text: {str(model)!r} was taken for the classifier; give one, then texts, - or a "
            "file"
        )
    columns = AskedColumns(column, id_column)
    some = top is not None or all_scores
    _refuse_together(inputs, columns, some=some, lines=out is None and format_name is None)
    if as_json and format_name is not None and out is None and not dry_run:
        raise typer.BadParameter("--json and --format do not go together; leave one out")
    labels = {"--top": top, "--all-scores": all_scores}
    refuse_options(labels if dry_run else {}, "--dry-run labels nothing")
    refuse_options({"--force": force and out is None}, "nothing is written without -o")
    model = find_classifier(model, model_size)
    if dry_run:
        format_of(out or Path("-.csv"), format_name)
        _plan_predict(model, inputs, precision, columns, prefer, as_json=as_json)
        return
    if out is not None:
        with replacing_anything(force):
            _predict_file(
                model, inputs, out, format_name, precision, columns, prefer, as_json=as_json
            )
        return
    with _as_files(inputs, columns) as (given, stdin):
        if format_name is not None:
            parts = stream_inputs(
                model,
                given,
                format_name,
                stdin=stdin,
                precision=precision,
                columns=columns,
                prefer=prefer,
            )
            sys.stdout.buffer.writelines(parts)
            return
        for row in predict_inputs(
            model, given, stdin=stdin, precision=precision, columns=columns, prefer=prefer
        ):
            if not some:
                print_json(row) if as_json else print(row.as_line())
                continue
            likeliest = sorted(row.scores, key=row.scores.__getitem__, reverse=True)[:top]
            if as_json:
                scores = {label: row.scores[label] for label in likeliest}
                print_json(msgspec.structs.replace(row, scores=scores))
            else:
                print(person_line(row.nct_id, likeliest, row.scores, row.text))


def _refuse_together(inputs: list[str], columns: AskedColumns, *, some: bool, lines: bool) -> None:
    from trialese.tasks.predict import exists

    if some and not lines:
        raise typer.BadParameter("--top and --all-scores go with lines; a file holds all scores")
    if any(columns) and not (len(inputs) == 1 and (inputs[0] == "-" or exists(inputs[0]))):
        raise typer.BadParameter("--column and --id-column go with one file, a table")


def _plan_predict(
    model: Path,
    inputs: list[str],
    precision: Precision,
    columns: AskedColumns,
    prefer: str | None,
    *,
    as_json: bool,
) -> None:
    from trialese.collect.files import is_pipe
    from trialese.pipeline.plan import plan_predict
    from trialese.tasks.predict import exists, open_scorer

    if not (len(inputs) == 1 and exists(inputs[0])) or is_pipe(Path(inputs[0])):
        raise typer.BadParameter("--dry-run goes with one file or snapshot")
    scorer = open_scorer(model, precision=precision, prefer=prefer)
    print_plan(plan_predict(scorer, Path(inputs[0]), columns), as_json=as_json)


def _print_changed(run: Path, since: int, *, as_json: bool) -> None:
    from trialese.generations import current_generation
    from trialese.tasks.history import predictions_changed_since

    now = current_generation(run)
    if now is None:
        raise ArtifactError(f"{run}: no generation yet; `trialese refresh {run}` makes one")
    if since not in now.lineage:
        known = ", ".join(map(str, now.lineage))
        raise ArtifactError(
            f"{run}: the one in use does not come from a generation {since}; it comes from {known}"
        )
    for task in now.classifiers:
        for change in predictions_changed_since(now.predictions(task), since):
            if as_json:
                print_json({"task": task, **msgspec.to_builtins(change)})
            else:
                both = [_told_prediction(each) for each in (change.before, change.now)]
                print(f"{task}\t{change.nct_id}\t{both[0]}\t->\t{both[1]}")


def _told_prediction(row: HeldPrediction | None) -> str:
    if row is None:
        return "nothing"
    if row.state != "scored":
        return row.state.replace("_", " ")
    given = ", ".join(f"{label} {row.scores[label]:.3f}" for label in row.labels)
    return f"{given or 'no label'} ({row.model[:8]})"


@contextmanager
def _as_files(
    inputs: list[str], columns: AskedColumns
) -> Iterator[tuple[list[str], Iterator[str] | None]]:
    """The inputs, with a file in place of a pipe, which can be read once only; and, of standard
    input that is no table and no file of records, its lines."""
    from trialese.collect.delimited import text_lines
    from trialese.collect.files import is_pipe
    from trialese.collect.tables import begins_as_a_file

    source: Path | io.BufferedReader = Path(inputs[0])
    if inputs == ["-"]:
        source = _stdin()
        if not (any(columns) or begins_as_a_file(source, _STDIN)):
            with text_lines(source, _STDIN) as lines:
                yield inputs, iter(lines)
            return
    elif not (len(inputs) == 1 and is_pipe(Path(inputs[0]))):
        yield inputs, None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield [str(_spooled(source, Path(folder)))], None


_STDIN = "standard input"


def _spooled(source: Path | io.BufferedReader, folder: Path, suffix: str = "") -> Path:
    """What comes once only, through a pipe, as a file of the folder under the name that it goes by
    in messages."""
    from trialese.collect.files import spool

    name = source.name if isinstance(source, Path) else _STDIN
    folder.mkdir(parents=True, exist_ok=True)
    return spool(source, folder / f"{name}{suffix}")


def _stdin() -> io.BufferedReader:
    """Standard input as bytes, of which one can look at the first."""
    given: Any = sys.stdin.buffer
    return given if hasattr(given, "peek") else io.BufferedReader(given)


def _predict_file(
    model: Path,
    inputs: list[str],
    out: Path,
    format_name: str | None,
    precision: Precision,
    columns: AskedColumns,
    prefer: str | None,
    *,
    as_json: bool,
) -> None:
    from trialese.artifacts import refuse_file
    from trialese.collect.files import is_pipe
    from trialese.collect.tables import begins_as_a_file
    from trialese.tasks.formats import STDIN_SUFFIX, about_file
    from trialese.tasks.predict import (
        exists,
        looks_like_a_file,
        open_scorer,
        own_share,
        predict_file,
        refuse_no_text,
    )

    one = inputs[0] if len(inputs) == 1 else ""
    source = Path(one)
    named = bool(one) and one != "-" and (exists(one) or looks_like_a_file(one))
    once = not named or is_pipe(source)
    if once and own_share().of > 1:
        raise typer.BadParameter("several processes can share one file or snapshot only")
    refuse_file(
        out,
        ours=lambda begins: about_file(out).is_file(),
        inputs=[source, model] if named else [model],
    )
    with ExitStack() as ends:
        if once:
            # Of a name that stays: the same command goes on with what an interrupted one has done.
            aside = out.with_name(f".{out.name}.spooled")
            ends.callback(shutil.rmtree, aside, ignore_errors=True)
            if named:
                source = _spooled(source, aside)
            elif one == "-":
                stdin = _stdin()
                is_table = any(columns) or begins_as_a_file(stdin, _STDIN)
                source = _spooled(stdin, aside, "" if is_table else STDIN_SUFFIX)
            else:
                for place, text in enumerate(inputs, start=1):
                    refuse_no_text(text, f"text {place}")
                lines = "".join(f"{' '.join(text.split())}\n" for text in inputs).encode()
                source = _spooled(io.BufferedReader(io.BytesIO(lines)), aside, STDIN_SUFFIX)
        scorer = open_scorer(model, precision=precision, prefer=prefer)
        with watch() as progress:
            about = predict_file(
                scorer, source, out, format_name=format_name, columns=columns, progress=progress
            )
    if about is None:  # in all processes but the first
        return
    if as_json:
        print_json(about)
    else:
        print(f"{out}  {about.texts:,} texts of {about.records:,} records  {about.sha256[:12]}")
        for reason, count in about.left_out.items():
            print(f"  left out: {count:,} {reason}")


def explain(
    model: ClassifierArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to be explained.")],
    label: Annotated[
        str | None, typer.Option(help="Without it, the label with the highest probability.")
    ] = None,
    model_size: ModelSizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """A text -> the words that carried a label.

    With their weights, in log-odds.
    """
    from trialese.tasks.explain import explain as explain_text
    from trialese.tasks.predict import open_scorer, refuse_no_text
    from trialese.tasks.scorer import find_classifier

    refuse_no_text(text)
    found = explain_text(open_scorer(find_classifier(model, model_size)), text, label)
    if as_json:
        print_json(found)
        return
    print(f"{found.label} {found.probability:.3f}")
    for span in found.spans:
        print(f"{span.weight:+8.3f}  {found.text[span.start : span.end]}")


def export(
    model: ClassifierArgument,
    out: OutOption,
    to: Annotated[
        Literal["onnx", "onnx-int8"], typer.Option(help="Full precision, or 8-bit weights.")
    ] = "onnx",
    texts: Annotated[
        Path | None,
        typer.Option(help="File of real texts to compare labels on; onnx-int8 needs it."),
    ] = None,
    column: TextColumnOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """A classifier -> a folder that runs without torch.

    On ONNX Runtime; nothing is kept unless both agree.
    """
    from trialese.tasks.formats import AskedColumns, read_texts
    from trialese.tasks.linear import refuse_linear
    from trialese.tasks.scorer import find_classifier, model_folder

    if column is not None and texts is None:
        raise typer.BadParameter("--column goes with --texts, a table")
    model = find_classifier(model)
    refuse_linear(model_folder(model))
    from trialese.tasks.export import export_classifier  # loads torch

    with writing(out, "export", inputs=[model, texts], force=force):
        given = read_texts(texts, model, columns=AskedColumns(column)) if texts else ()
        export_classifier(model, to, out, texts=given)
    print_artifact(out, as_json=as_json)


def publish(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Classifier, export, adapter, model, corpus or snapshot."
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="Repository of the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make it private; a public one is refused.")
    ] = False,
    verdict: Annotated[
        Path | None, typer.Option(help="Verdict that judged the classifier; else its run's own.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Of an adapter, its base model on the hub."),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """An artifact with its card -> the Hugging Face hub.

    As one commit. The token is the one that `hf auth login` stored. Nothing is sent without a card.
    """
    from trialese.pipeline.publish import prepare_publication
    from trialese.pipeline.publish import publish as send

    folder = or_shipped(folder)
    made = prepare_publication(folder, to, verdict=verdict, base=base)
    sizes = made.sizes()
    page = "" if dry_run else send(made, private=private)
    if as_json:
        print_json({"repository": to, "kind": made.kind, "files": sizes, "sent": page or None})
        return
    for name, size in sizes.items():
        print(f"{size:>14,}  {name}")
    print(f"{sum(sizes.values()):>14,}  bytes, {'not sent' if dry_run else page}")


def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CLASSIFIERS...",
            help="Classifier folders or names; the first is default. Without any: what ships.",
        ),
    ] = None,
    snapshot: Annotated[Path | None, typer.Option(help="Trials to look up and search.")] = None,
    verdict: Annotated[Path | None, typer.Option(help="Verdict to show.")] = None,
    labels: AnswersOption = None,
    queue: Annotated[
        Path | None, typer.Option(help="Texts of your own to label: CSV, TSV, xlsx, text, ...")
    ] = None,
    column: TextColumnOption = None,
    id_column: IdColumnOption = None,
    guidelines: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="What annotators are told.")
    ] = None,
    jobs: Annotated[Path, typer.Option(help="Folder of uploaded files and their labels.")] = Path(
        "runs/serve"
    ),
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one.")] = None,
    token: Annotated[str | None, typer.Option(help="Secret that requests must carry.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the secret, which no process list shows.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask ClinicalTrials.gov for trials not in the snapshot.")
    ] = False,
    model_size: ModelSizeOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Classifiers -> a web page and an API, until stopped.

    With the folder of a run that `refresh` keeps up to date: whatever generation is in use.
    """
    from trialese.generations import read_pointer
    from trialese.tasks.formats import AskedColumns
    from trialese.tasks.scorer import find_classifier
    from trialese.tasks.shipped import SHIPPED, shipped_sizes
    from trialese.web.app import serve as run
    from trialese.web.models import open_served, open_served_generation

    if token_file is not None:
        token = _read_token(token_file)
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise RecipeError("--token: printable ASCII only, and not empty")
    asked = {"serve.host": host, "serve.port": port, "serve.live": live or None}
    section = read_recipe(recipe, settings, asked).serve
    if queue is not None and labels is None:
        raise typer.BadParameter("--queue needs --labels FILE.sqlite, where the answers go")
    columns = AskedColumns(column, id_column)
    if any(columns) and queue is None:
        raise typer.BadParameter("--column and --id-column go with --queue, a table")
    if models and len(models) == 1 and read_pointer(models[0]) is not None:
        others = {"--snapshot": snapshot, "--model-size": model_size}
        refuse_options(others, "a run's generation has its own")
        open_generation = partial(
            open_served_generation,
            verdict=verdict,
            labels=labels,
            jobs=jobs,
            queue=queue,
            columns=columns,
            guidelines=guidelines,
        )
        with watch():
            run(open_generation, section, token=token, run=models[0], jobs=jobs)
        return
    shipped = [Path(name) for name in SHIPPED if shipped_sizes(name)]
    folders = [find_classifier(each, model_size) for each in models or shipped]
    served = open_served(
        folders,
        snapshot=snapshot,
        verdict=verdict,
        labels=labels,
        jobs=jobs,
        queue=queue,
        columns=columns,
        guidelines=guidelines,
    )
    with watch():
        run(served, section, token=token)


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--token-file {path}: cannot be read ({error})") from error


VERBS = (predict, explain, export, publish, serve)
