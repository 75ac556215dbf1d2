"""The verbs that look: into an artifact, between two snapshots, at the state of a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from trialese.cli.options import JsonOption, watch
from trialese.cli.terminal import tree_lines

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
    from trialese.collect import changed_fields, compare_snapshots, open_snapshot

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
    for name, members in lists.items():
        for nct_id in members[:10]:
            print(f"{name:<9} {nct_id}  {', '.join(fields.get(nct_id, ()))}".rstrip())
        if len(members) > 10:
            print(f"{name:<9} and {len(members) - 10:,} more; --ids FOLDER or --json lists them")


def quality(snapshot: Path, as_json: JsonOption = False) -> None:
    """What somebody should look at before trusting a snapshot's records."""
    from trialese.collect import open_snapshot, quality_report

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
    from trialese.collect import open_snapshot, read_trials
    from trialese.corpus import open_corpus
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
    from trialese.tasks.dropin import check_dropin as check

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
        from trialese.verdict import format_table, load_verdicts

        print("\n\n".join(format_table(verdict) for verdict in load_verdicts(artifact)))
        return
    print(f"{manifest.kind}  {artifact}  {manifest.digest[:12]}")
    for line in tree_lines({**manifest.notes, **manifest.counts}):
        print(line)


def _details(artifact: Path, manifest: Manifest) -> Iterator[str]:
    if manifest.kind == "snapshot":
        from trialese.collect import open_snapshot, summarise_snapshot

        summary: dict[str, Any] = msgspec.to_builtins(summarise_snapshot(open_snapshot(artifact)))
        yield from tree_lines(summary)
    elif manifest.kind == "corpus":
        from trialese.corpus import leakage_table, open_corpus

        yield "leakage: held-out documents with a copy in another split"
        yield f"  {'split':<6} {'kind':<6} {'documents':>10} {'leaked':>7}   in a random split"
        for row in leakage_table(open_corpus(artifact)):
            yield (
                f"  {row.held_out:<6} {row.kind:<6} {row.documents:>10,} {row.leaked:>7,}"
                f"   {row.random_leaked:,} of {row.random_documents:,}"
            )


VERBS = (show, diff, quality, staleness, check_dropin)
