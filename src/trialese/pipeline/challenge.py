"""A challenger: the language model gone on with new text, its control, and classifiers on both.

Champion and challenger are fitted by the same settings on the same folds of the same texts, the
answers of annotators among them, so that what differs between them is the language model alone.
"""

from __future__ import annotations

import csv
import io
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trialese.artifacts import as_settings, digest_of, is_complete, read_manifest, write_bytes
from trialese.collect.snapshot import read_rows
from trialese.corpus.assemble import build_corpus
from trialese.corpus.store import open_corpus
from trialese.errors import ArtifactError, RecipeError, TrialeseError
from trialese.generations import Generation, lasting_base
from trialese.hub import locate_labelled
from trialese.pipeline.decision import Comparison, Training, day_after, read_training
from trialese.pipeline.stages import digest_of_input, read_ledger, write_ledger
from trialese.predictions import load_predictions, take_rows
from trialese.progress import Progress
from trialese.recipe import Recipe
from trialese.records import Interval, Predictions, Snapshot
from trialese.settings import BackboneSettings, TasksSettings
from trialese.tasks.finetune import finetune
from trialese.tasks.folds import define_task, files_of, with_section
from trialese.tasks.labelled import read_labelled
from trialese.verdict.judge import judge

__all__ = ["Challenger", "adapt", "challenge", "is_on_language_model", "join_answers"]

FEWEST_NEWEST = 30
"""Labelled texts below which no difference on the newest is told."""
_ANSWERED = "answer "
_TRAINED = ("adapter", "control")
_LAUNCHER_SECONDS = 30.0
"""A launcher that is to end is killed after so long."""


@dataclass(frozen=True, slots=True)
class Challenger:
    """What could take over."""

    language_model: Path
    control: Path
    training: Training


def is_on_language_model(classifier: Path) -> bool:
    """Whether the classifier was fitted from a language model, rather than on words alone."""
    return "model" in read_manifest(classifier).inputs


def adapt(
    current: Generation,
    snapshot: Snapshot,
    recipe: Recipe,
    training: Training,
    work: Path,
    *,
    launcher: str = "",
    progress: Progress,
) -> Challenger:
    """The language model gone on from its stable checkpoint with the trials posted since.

    `launcher` is what stands before `-m trialese pretrain ...` where several processes or another
    machine are to train, such as `torchrun --nproc-per-node 2`; the folders must be theirs too.

    Raises:
        RecipeError: no new trial is long enough to be learnt from, or the launcher failed.
        ArtifactError: a model is missing or damaged, or the disk refused.
    """
    from trialese.pretrain.adapt import tokenise_corpus, train_adapter, train_control

    base = lasting_base(current)
    corpus_settings = msgspec.structs.replace(recipe.corpus, new_from=day_after(training.until))
    corpus, out = work / "corpus", work / "pretrain"

    def run(name: str, made_from: Any, make: Callable[[], object]) -> None:
        _once(work, name, digest_of(made_from), make)

    run(
        "corpus",
        [snapshot.manifest.digest, as_settings(corpus_settings)],
        lambda: build_corpus(snapshot, corpus_settings, corpus, progress=progress),
    )
    start = read_manifest(base).digest
    made_from = [read_manifest(corpus).digest, start, as_settings(recipe.pretrain)]
    if launcher:
        command = [
            *shlex.split(launcher), "-m", "trialese", "pretrain", str(corpus), "-o", str(out),
            "--continue-from", str(base), "--control", *_options(recipe),
        ]  # fmt: skip
        run("pretrain/control", made_from, lambda: _launch(command, corpus, start, out))
    else:
        blocks, backbone = out / "blocks", BackboneSettings(name=str(base / "model"))
        run(
            "pretrain/blocks",
            [*made_from, as_settings(recipe.corpus.blocks)],
            lambda: tokenise_corpus(
                open_corpus(corpus), backbone, recipe.corpus.blocks, blocks, progress=progress
            ),
        )
        for name, train in zip(_TRAINED, (train_adapter, train_control), strict=True):
            run(
                f"pretrain/{name}",
                [*made_from, read_manifest(blocks).digest],
                lambda name=name, train=train: train(  # type: ignore[misc]
                    blocks, base, recipe.pretrain, out / name, progress=progress
                ),
            )
    return Challenger(out / "adapter", out / "control", read_training(open_corpus(corpus)))


def _launch(command: list[str], corpus: Path, start: str, out: Path) -> None:
    """Let the command train in `out`, and check that it did: on this corpus, from that start.

    Whatever ends us ends it too. Its stdout is our stderr: our own is for the summary.
    """
    shown = f"`{shlex.join(command[:6])} ...`"
    try:
        process = subprocess.Popen(command, stdout=2)
    except OSError as error:
        raise RecipeError(
            f"--launcher {command[0]}: {error.strerror}; check the command"
        ) from error
    try:
        status = process.wait()
    except BaseException:
        process.terminate()  # which it hands on to what it started itself
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAUNCHER_SECONDS)
        process.kill()
        process.wait()
        raise
    if status:
        raise RecipeError(
            f"--launcher: {shown} ended with {status}; what it said stands above, and the same "
            "command goes on"
        )
    if not all(_made_from(out / name, out / "blocks", corpus, start) for name in _TRAINED):
        raise RecipeError(
            f"--launcher: {shown} ended with 0 and left no {out / 'control'} of this corpus; it "
            "must run `-m trialese pretrain`, and write into folders of this machine"
        )


def _made_from(model: Path, blocks: Path, corpus: Path, start: str) -> bool:
    """Whether the model learnt from the corpus and went on from that start."""
    with suppress(ArtifactError):
        read, made = read_manifest(blocks), read_manifest(model)
        corpus_read, blocks_read = read.inputs.get("corpus"), made.inputs.get("blocks")
        wanted = (read_manifest(corpus).digest, read.digest, start)
        return (corpus_read, blocks_read, made.inputs.get("base")) == wanted
    return False


def _options(recipe: Recipe) -> Iterator[str]:
    """The settings of pretraining as options of the command line."""
    sections = {"pretrain": recipe.pretrain, "corpus.blocks": recipe.corpus.blocks}
    for name, section in sections.items():
        for key, value in _leaves(as_settings(section), name):
            if value != [] and not key.startswith("pretrain.backbone."):
                text = "" if value is None else msgspec.json.encode(value).decode()
                yield from ("--set", f"{key}={text}")


def _leaves(tree: Mapping[str, Any], trail: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{trail}.{name}")
        else:
            yield f"{trail}.{name}", value


def challenge(
    current: Generation,
    challenger: Challenger,
    snapshot: Snapshot,
    recipe: Recipe,
    training: Training,
    work: Path,
    *,
    answers: Mapping[str, Path],
    labelled_folder: Path,
    progress: Progress,
) -> tuple[dict[str, Path], list[Comparison]]:
    """(task -> the challenger's classifier, comparisons), of the tasks with a language model.

    `training` is what the champion learnt from; `answers` are tables of annotators' answers by
    task, which are joined with the labelled texts in `labelled_folder`.

    Raises:
        RecordError: labelled texts that cannot be understood, or too few.
        ArtifactError: a model is damaged, or the disk refused.
    """
    assert current.language_model is not None
    models = {"champion": current.language_model, "challenger": challenger.language_model}
    made: dict[str, Path] = {}
    comparisons = []
    for task, classifier in current.classifiers.items():
        if not is_on_language_model(classifier):
            continue
        settings, told = join_answers(task, recipe.tasks, answers.get(task), labelled_folder)
        section = define_task(task, settings).section
        tables = map(Path, files_of(section, is_model=True))
        files = [digest_of_input(table) for table in tables if table.exists()]
        trials = snapshot.manifest.digest
        for system, model in models.items():
            name = f"challenge/{task}/{system}"
            _once(
                work,
                name,
                digest_of([read_manifest(model).digest, as_settings(section), files, trials]),
                lambda task=task, system=system, model=model, settings=settings, name=name: (
                    finetune(  # type: ignore[misc]
                        task,
                        system,
                        model=model / "model",
                        snapshot=snapshot,
                        settings=settings,
                        path=work / name,
                        progress=progress,
                    )
                ),
            )
        made[task] = work / "challenge" / task / "challenger"
        comparisons.append(
            _compare(task, work / "challenge" / task, recipe, snapshot, training, told)
        )
    return made, comparisons


def _compare(
    task: str, folder: Path, recipe: Recipe, snapshot: Snapshot, training: Training, told: str
) -> Comparison:
    runs = {
        system: load_predictions(folder / system / "predictions.parquet")
        for system in ("challenger", "champion")
    }
    difference, rows = _difference(runs, recipe)
    tested = {name for run in runs["champion"] if run.split == "test" for name in run.ids}
    newest = {name for name in tested if name.startswith(_ANSWERED)}
    newest |= tested & _posted_after(snapshot, training.until)
    found, why = None, f"{len(newest):,} texts; at least {FEWEST_NEWEST} are needed"
    if len(newest) >= FEWEST_NEWEST:
        try:
            only = {
                system: [_restricted(run, newest) for run in given]
                for system, given in runs.items()
            }
            found, _ = _difference(only, recipe)
        except TrialeseError as error:
            why = f"not told: {error}"
    return Comparison(
        task=task,
        metric=recipe.verdict.primary,
        difference=difference,
        rows=rows,
        newest=found,
        newest_rows=len(newest),
        newest_told=why,
        answers=told,
    )


def _difference(runs: Mapping[str, list[Predictions]], recipe: Recipe) -> tuple[Interval, int]:
    verdict = judge(runs, recipe.verdict)
    primary = next(each for each in verdict.differences if each.primary)
    return primary.interval, verdict.rows


def _restricted(run: Predictions, ids: set[str]) -> Predictions:
    """The predictions, of which only these texts are tested."""
    if run.split != "test":
        return run
    rows = [place for place, name in enumerate(run.ids) if name in ids]
    return take_rows(run, rows)


def _posted_after(snapshot: Snapshot, day: str) -> set[str]:
    found: set[str] = set()
    for table in read_rows(snapshot, ["first_posted"]):
        names, days = table["nct_id"].to_pylist(), table["first_posted"].to_pylist()
        found.update(name for name, posted in zip(names, days, strict=True) if (posted or "") > day)
    return found


def join_answers(
    task: str, settings: TasksSettings, answers: Path | None, folder: Path
) -> tuple[TasksSettings, str]:
    """(settings whose labelled file holds the annotators' answers too, what became of them).

    Answers are rows like any other: duplicates are put into one cluster before the folds are made.

    Raises:
        RecordError: a labelled file that cannot be understood.
    """
    if answers is None:
        return settings, ""
    definition = define_task(task, settings)
    section = definition.section
    if section.labelled is None:
        return settings, "left out: the labels of this task come from the trials"
    examples = read_labelled(
        locate_labelled(section.labelled),
        definition.task,
        missing_label=definition.missing_label,
        leave_out_others=definition.leave_out_other_values,
        text_column=section.text_column,
        label_column=section.label_column,
        id_column=section.id_column,
    )
    given = read_labelled(answers, definition.task)
    rows = [(each.example_id, each.text, each.labels) for each in examples]
    rows += [(f"{_ANSWERED}{each.example_id}", each.text, each.labels) for each in given]
    out = io.StringIO(newline="")
    table = csv.writer(out, delimiter="\t", lineterminator="\n")
    table.writerow(["id", "text", "labels"])
    for name, text, labels in rows:
        table.writerow([name, text, "|".join(labels) or "none"])
    path = folder / f"{task}.tsv"
    write_bytes(path, out.getvalue().encode())
    changed = msgspec.structs.replace(
        section, labelled=str(path), text_column="text", label_column="labels", id_column="id"
    )
    return with_section(settings, section, changed), f"{len(given):,} joined the labelled texts"


def _once(work: Path, name: str, key: str, make: Callable[[], object]) -> None:
    """Make the artifact, unless an interrupted refresh left it whole and made from the same."""
    path = work / name
    if is_complete(path, verify=True):
        entry = {"key": key, "digest": read_manifest(path).digest}
        if read_ledger(work).get(name) == entry:
            return
    make()
    entry = {"key": key, "digest": read_manifest(path).digest}
    write_ledger(work, read_ledger(work) | {name: entry})
