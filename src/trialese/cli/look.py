"""The verbs that look: into an artifact, between two snapshots, at the state of a model.

The verbs that study a classifier: what it lives on, and how far it agrees with other labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from trialese.cli.terminal import (
    JsonOption,
    OutOption,
    RecipeOption,
    SetOption,
    read_recipe,
    tree_lines,
    watch,
)

if TYPE_CHECKING:
    from trialese.records import Manifest

__all__ = ["VERBS", "print_artifact"]


def show(artifact: Path, as_json: JsonOption = False) -> None:
    """What an artifact holds.

    Of a snapshot the counts by status, phase, year and sex; of a corpus its leakage table; of a
    verdict the tables; of anything else its manifest.
    """
    from trialese.artifacts import read_manifest

    manifest = read_manifest(artifact)
    if as_json:
        print(msgspec.json.encode(manifest).decode())
        return
    print_artifact(artifact)
    for line in _details(artifact, manifest):
        print(line)


def diff(
    older: Path,
    newer: Path,
    ids: Annotated[
        Path | None, typer.Option(help="Folder for new.txt, changed.txt and vanished.txt.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What is new, changed or gone between two snapshots, by NCT number with aliases."""
    from trialese.artifacts import write_bytes
    from trialese.collect.diff import changed_fields, compare_snapshots
    from trialese.collect.snapshot import open_snapshot

    new, old = open_snapshot(newer), open_snapshot(older)
    changes = compare_snapshots(new, old)
    fields = changed_fields(new, old, changes)
    lists = {"new": changes.new, "changed": changes.changed, "vanished": changes.vanished}
    if ids:
        ids.mkdir(parents=True, exist_ok=True)
        for name, members in lists.items():
            write_bytes(ids / f"{name}.txt", "".join(f"{each}\n" for each in members).encode())
    if as_json:
        print(msgspec.json.encode({"changes": changes, "fields": fields}).decode())
        return
    counts = {name: len(members) for name, members in lists.items()}
    for line in tree_lines(counts | {"unchanged": changes.unchanged}):
        print(line)
    if changes.not_compared:
        print(f"not compared, since one side cannot hold it: {', '.join(changes.not_compared)}")
    for name, members in lists.items():
        for nct_id in members[:10]:
            print(f"{name:<9} {nct_id}  {', '.join(fields.get(nct_id, ()))}".rstrip())
        if len(members) > 10:
            print(f"{name:<9} and {len(members) - 10:,} more; --ids FOLDER or --json lists them")


def quality(snapshot: Path, as_json: JsonOption = False) -> None:
    """What somebody should look at before trusting a snapshot's records."""
    from trialese.collect.snapshot import open_snapshot
    from trialese.collect.summary import quality_report

    findings = quality_report(open_snapshot(snapshot))
    for finding in findings:
        if as_json:
            print(msgspec.json.encode(finding).decode())
        else:
            print(f"{finding.trials:>9,}  {finding.name:<28} {finding.meaning}")
            if finding.examples:
                print(f"{'':>11}{', '.join(finding.examples)}")


def staleness(
    snapshot: Path,
    backbone: Annotated[str, typer.Option(help="Masked-LM: a folder, such as OUT/base/model.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Its adapter, such as OUT/adapter/adapter.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="What it was trained on: those trials are not read again.")
    ] = None,
    trained_until: Annotated[
        str | None, typer.Option(help="Newest trial it learnt from; default: by the corpus.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Trials read of each quarter.")] = 40,
    pll_sample: Annotated[int, typer.Option(help="Of these, for pseudo-perplexity.")] = 6,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for staleness.html and .json.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How well a model reads trials by the quarter they were posted in, and whether to adapt."""
    from trialese.collect.snapshot import open_snapshot, read_trials
    from trialese.corpus.store import open_corpus
    from trialese.pretrain.staleness import (
        as_dict,
        as_table,
        load_reader,
        measure_staleness,
        read_training,
    )
    from trialese.pretrain.staleness_page import write_page
    from trialese.settings import BackboneSettings

    trained_on, newest = read_training(open_corpus(corpus)) if corpus else (frozenset(), "")
    until = trained_until or newest
    if not until:
        raise typer.BadParameter("say --trained-until DATE, or --corpus with dated trials")
    trials = read_trials(open_snapshot(snapshot))
    model, tokenizer = load_reader(BackboneSettings(name=backbone), adapter)
    with watch() as progress:
        found = measure_staleness(
            trials,
            model,
            tokenizer,
            trained_until=until,
            trained_on=trained_on,
            sample=sample,
            pll_sample=pll_sample,
            progress=progress,
        )
    if out:
        reader = f"{backbone} + {adapter}" if adapter else backbone
        write_page(found, out, reader=reader, snapshot=snapshot.name)
    print(msgspec.json.encode(as_dict(found)).decode() if as_json else as_table(found))


def check_dropin(model: Path) -> None:
    """Whether Open Targets' pipeline could use a stop-reasons classifier as it is."""
    from trialese.tasks.opentargets import check_dropin as check

    audits = check(model)
    for audit in audits:
        print(f"{'passed' if audit.passed else 'FAILED'}  {audit.name}: {audit.finding}")
    if not all(audit.passed for audit in audits):
        raise typer.Exit(1)


def print_artifact(artifact: Path) -> None:
    """Print the manifest's notes and counts, or a verdict's tables."""
    from trialese.artifacts import read_manifest

    manifest = read_manifest(artifact)
    if (artifact / "twin.md").is_file():
        print((artifact / "twin.md").read_text(encoding="utf-8").rstrip())
        return
    if manifest.kind == "verdict":
        from trialese.verdict.report import load_context, load_verdicts
        from trialese.verdict.text import format_table, language_model_lines

        tables = [format_table(verdict) for verdict in load_verdicts(artifact)]
        model = "\n".join(language_model_lines(load_context(artifact)))
        print("\n\n".join(filter(None, [model, *tables])))
        return
    print(f"{manifest.kind}  {artifact}  {manifest.digest[:12]}")
    for line in tree_lines({**manifest.notes, **manifest.counts}):
        print(line)


def _details(artifact: Path, manifest: Manifest) -> Iterator[str]:
    if manifest.kind == "snapshot":
        from trialese.collect.snapshot import open_snapshot
        from trialese.collect.summary import summarise_snapshot

        summary: dict[str, Any] = msgspec.to_builtins(summarise_snapshot(open_snapshot(artifact)))
        yield from tree_lines(summary)
    elif manifest.kind == "corpus":
        from trialese.corpus.split import leakage_table
        from trialese.corpus.store import open_corpus

        yield "leakage: held-out documents with a copy in another split"
        yield f"  {'split':<6} {'kind':<6} {'documents':>10} {'leaked':>7}   in a random split"
        for row in leakage_table(open_corpus(artifact)):
            yield (
                f"  {row.held_out:<6} {row.kind:<6} {row.documents:>10,} {row.leaked:>7,}"
                f"   {row.random_leaked:,} of {row.random_documents:,}"
            )


def ablate(
    snapshot: Path,
    out: OutOption,
    model: Annotated[
        Path | None, typer.Option(help="Masked-LM folder; without it, TF-IDF is fitted.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="full, titles, criteria or no-sex-words; repeatable. All if not given."),
    ] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Whether the sex classifier reads or peeks: the same trials with less to read."""
    from trialese.collect.snapshot import open_snapshot
    from trialese.pipeline.evaluate import judge_classifiers
    from trialese.tasks.ablate import VARIANTS, ablate_sex

    tree = read_recipe(recipe, settings)
    with watch() as progress:
        made = ablate_sex(
            open_snapshot(snapshot),
            model,
            tree.tasks,
            out,
            variants=variant or tuple(VARIANTS),
            progress=progress,
        )
        judge_classifiers(made, tree.verdict, out / "verdict", progress=progress)
    print_artifact(out / "verdict")
    print(f"\nreport: {out / 'verdict' / 'report.html'}")


def agree(
    classifier: Annotated[Path, typer.Argument(help="Classifier folder.")],
    table: Annotated[Path, typer.Argument(help="Texts with somebody else's labels.")],
    column: Annotated[str, typer.Option(help="The column of those labels.")] = "prediction",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="TSV file for every disagreement.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How far a classifier agrees with labels that are no truth, and which rows to look at."""
    from trialese.tasks.agreement import compare_labels, write_disagreements
    from trialese.tasks.formats import beginning
    from trialese.tasks.predict import load_scorer

    with watch() as progress:
        found = compare_labels(load_scorer(classifier), table, column, progress=progress)
    if out:
        write_disagreements(out, found)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    left_out = ", ".join(f"{count:,} {why}" for why, count in found.left_out.items()) or "none"
    print(f"{found.rows:,} rows ({found.texts:,} texts); left out: {left_out}")
    for what, count in (("among ours", found.given_too), ("our likeliest", found.first_too)):
        print(f"their label is {what}: {count:,} rows, {count / found.rows:.1%}")
    print(f"Cohen's kappa of their label and our likeliest: {found.kappa:.3f}\n")
    width = max(len(each.label) for each in found.labels)
    print(f"{'label':<{width}} {'theirs':>7} {'given too':>10} {'first too':>10} {'ours':>7}")
    for each in found.labels:
        shares = [
            f"{count / each.theirs:.1%}" if each.theirs else "-"
            for count in (each.given_too, each.first_too)
        ]
        cells = f"{each.theirs:>7,} {shares[0]:>10} {shares[1]:>10} {each.ours:>7,}"
        print(f"{each.label:<{width}} {cells}")
    print(f"\n{len(found.disagreements):,} texts whose label we do not give; the surest:")
    for odd in found.disagreements[:10]:
        text = beginning(odd.text, 90)
        print(f"  {odd.likeliest} {odd.chance:.3f}, not {odd.theirs}: {text}")
    if out:
        print(f"all of them: {out}")


VERBS = (ablate, agree, show, diff, quality, staleness, check_dropin)
