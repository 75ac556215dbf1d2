"""The verbs that look into artifacts, compare them, and measure models and classifiers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from trialese.cli.terminal import (
    MASKED_LM,
    ClassifierArgument,
    DryRunOption,
    ForceOption,
    IdColumnOption,
    JsonOption,
    ModelSizeOption,
    OutOption,
    RecipeOption,
    SetOption,
    SnapshotArgument,
    folded,
    hanging,
    or_shipped,
    print_json,
    print_plan,
    read_recipe,
    tree_lines,
    watch,
    writing,
)
from trialese.errors import ArtifactError, RecordError

if TYPE_CHECKING:
    from trialese.records import Manifest

__all__ = ["VERBS", "print_artifact"]

_NCT_LINES = re.compile(rb"([A-Z]+[-\w]*\n)*[-\w]*")


def show(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder of any artifact.")],
    as_json: JsonOption = False,
) -> None:
    """Print what an artifact holds.

    Of a snapshot the counts by status, phase, year and sex; of a corpus its leakage table; of a
    verdict the tables; of anything else its manifest.
    """
    from trialese.artifacts import read_manifest

    artifact = or_shipped(artifact)
    manifest = read_manifest(artifact)
    details = _details(artifact, manifest)
    print_artifact(artifact, as_json=as_json, more=details)
    for line in () if as_json else _detail_lines(manifest, details):
        print(line)


def diff(
    older: Annotated[Path, typer.Argument(metavar="OLDER", help="Snapshot to compare with.")],
    newer: Annotated[Path, typer.Argument(metavar="NEWER", help="Snapshot that is looked at.")],
    ids: Annotated[
        Path | None, typer.Option(help="Folder for new.txt, changed.txt and vanished.txt.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """List what is new, changed or gone between two snapshots.

    Trials are the same by NCT number, aliases included.
    """
    from trialese.artifacts import refuse_file, replacing_anything, write_bytes
    from trialese.collect.diff import changed_fields, compare_snapshots
    from trialese.collect.snapshot import open_snapshot

    new, old = open_snapshot(newer), open_snapshot(older)
    changes = compare_snapshots(new, old)
    fields = changed_fields(new, old, changes)
    lists = {"new": changes.new, "changed": changes.changed, "vanished": changes.vanished}
    if ids:
        with replacing_anything(force):
            for name in lists:
                refuse_file(ids / f"{name}.txt", ours=_lists_trials)
            for name, members in lists.items():
                write_bytes(ids / f"{name}.txt", "".join(f"{each}\n" for each in members).encode())
    if as_json:
        print_json({"changes": changes, "fields": fields})
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


def _lists_trials(begins: bytes) -> bool:
    return _NCT_LINES.fullmatch(begins) is not None


def quality(
    snapshot: SnapshotArgument,
    as_json: JsonOption = False,
) -> None:
    """List what to look at before trusting a snapshot."""
    from trialese.collect.snapshot import open_snapshot
    from trialese.collect.summary import quality_report

    findings = quality_report(open_snapshot(snapshot))
    for finding in findings:
        if as_json:
            print_json(finding)
        else:
            head = f"{finding.trials:>9,}  {finding.name:<28} "
            for line in hanging(head, finding.meaning):
                print(line)
            if finding.examples:
                print(f"{'':>11}{', '.join(finding.examples)}")


def staleness(
    snapshot: SnapshotArgument,
    backbone: Annotated[str, typer.Option("--backbone", "--model", help=MASKED_LM)],
    adapter: Annotated[
        Path | None, typer.Option(help="Its adapter, such as OUT/adapter/adapter.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="What it was trained on: those trials are not read again.")
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="Masked-LM to compare with; default: the control or base of the same run, or its "
            "adapter for a base. none: match trials by condition."
        ),
    ] = "",
    trained_until: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Newest trial it learnt from; default: by the corpus."),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Trials read of each quarter.")] = 40,
    pll_sample: Annotated[int, typer.Option(min=0, help="Of these, for pseudo-perplexity.")] = 6,
    dry_run: DryRunOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for staleness.html and .json.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model reads each quarter's trials.

    And say whether to adapt it again.
    """
    from trialese.artifacts import refuse_file, refuse_other, replacing_anything
    from trialese.collect.snapshot import open_snapshot, read_trials
    from trialese.corpus.store import open_corpus
    from trialese.hub import locate_model
    from trialese.pretrain.staleness import (
        PLL_TOKENS,
        find_reference,
        load_reader,
        load_reference,
        measure_staleness,
        quarter_of,
        read_training,
    )
    from trialese.pretrain.staleness_page import as_dict, as_table, write_page
    from trialese.settings import BackboneSettings

    if trained_until is not None:
        try:
            date.fromisoformat(trained_until)
        except ValueError:
            why = f"--trained-until {trained_until}: no date; write YYYY-MM-DD"
            raise typer.BadParameter(why) from None
    sibling, era = find_reference(locate_model(backbone), has_adapter=adapter is not None)
    trained_on: frozenset[str] = frozenset()
    newest = ""
    if corpus:
        trained_on, newest = read_training(open_corpus(corpus), era=era)
    until = trained_until or newest
    if not until:
        raise typer.BadParameter("say --trained-until DATE, or --corpus with dated trials")
    beside = str(sibling) if sibling and not reference else ""
    taken = beside or ("" if reference == "none" else reference)
    trials = read_trials(open_snapshot(snapshot))
    if dry_run:
        from trialese.pipeline.plan import plan_staleness

        quarters = Counter(
            quarter
            for trial in trials
            if trial.nct_id not in trained_on and (quarter := quarter_of(trial.first_posted))
        )
        planned = plan_staleness(
            quarters,
            [backbone, *filter(None, [taken])],
            sample=sample,
            pll_sample=pll_sample,
            pll_tokens=PLL_TOKENS,
        )
        print_plan(planned, as_json=as_json)
        return
    if out:
        with replacing_anything(force):
            refuse_other(out, None, inputs=[snapshot, *filter(None, (corpus, adapter))])
            for name in ("staleness.html", "staleness.json"):
                refuse_file(out / name, ours=lambda begins: b"trained" in begins)
    model, tokenizer = load_reader(BackboneSettings(name=backbone), adapter)
    named = f"the {sibling.parent.name} of the same run" if sibling and beside else taken
    other = load_reference(taken, tokenizer) if taken else None
    with watch() as progress:
        found = measure_staleness(
            trials,
            model,
            tokenizer,
            trained_until=until,
            trained_on=trained_on,
            reference=other,
            reference_name=named,
            sample=sample,
            pll_sample=pll_sample,
            progress=progress,
        )
    if out:
        reader = f"{backbone} + {adapter}" if adapter else backbone
        write_page(found, out, reader=reader, snapshot=snapshot.name)
    if as_json:
        print_json(as_dict(found))
    else:
        print(folded(as_table(found)))


def check_dropin(
    classifier: ClassifierArgument,
    as_json: JsonOption = False,
) -> None:
    """Check that Open Targets could use a classifier as it is.

    A classifier of stop reasons, in the place of their own.
    """
    from trialese.tasks.linear import refuse_linear
    from trialese.tasks.opentargets import check_dropin as check
    from trialese.tasks.scorer import find_classifier, model_folder

    found = find_classifier(classifier)
    refuse_linear(model_folder(found))
    audits = check(found)
    if as_json:
        print_json(audits)
    for audit in audits if not as_json else ():
        print(f"{'passed' if audit.passed else 'FAILED'}  {audit.name}: {audit.finding}")
    if not all(audit.passed for audit in audits):
        raise typer.Exit(1)


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="An artifact, or a folder that holds some.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare artifacts' files with their digests."""
    from trialese.artifacts import MANIFEST_NAME, read_manifest, verify_files

    folder = or_shipped(folder)
    found = sorted(file.parent for file in folder.rglob(MANIFEST_NAME))
    if not found:
        read_manifest(folder)  # says what is wrong with it
    damages: dict[str, str] = {}
    for artifact in found:
        try:
            verify_files(artifact)
            kind = read_manifest(artifact).kind
        except ArtifactError as error:
            damages[str(artifact)] = str(error)
        if not as_json:
            print(damages.get(str(artifact)) or f"whole  {kind:<10}  {artifact}")
    if as_json:
        print_json({"whole": len(found) - len(damages), "damaged": damages})
    if damages:
        raise typer.Exit(1)


def print_artifact(
    artifact: Path, *, as_json: bool = False, more: Mapping[str, object] | None = None
) -> None:
    """Print the manifest's notes and counts, or a verdict's tables; or the manifest as JSON, with
    what is given beside it."""
    from trialese.artifacts import read_manifest

    manifest = read_manifest(artifact)
    if as_json:
        told = {**_verdicts(artifact, manifest), **(more or {})}
        print_json({**msgspec.to_builtins(manifest), **msgspec.to_builtins(told)})
        return
    if (artifact / "twin.md").is_file():
        print((artifact / "twin.md").read_text(encoding="utf-8").rstrip())
        return
    if manifest.kind == "verdict":
        from trialese.verdict.report import load_context, load_verdicts
        from trialese.verdict.text import format_table, language_model_lines

        tables = [format_table(verdict) for verdict in load_verdicts(artifact)]
        model = "\n".join(language_model_lines(load_context(artifact)))
        print(folded("\n\n".join(filter(None, [model, *tables]))))
        return
    print(f"{manifest.kind}  {artifact}  {manifest.digest[:12]}")
    for line in tree_lines({**manifest.notes, **manifest.counts}):
        print(line)


def _verdicts(artifact: Path, manifest: Manifest) -> dict[str, Any]:
    if manifest.kind != "verdict":
        return {}
    from trialese.verdict.report import load_verdicts

    return {"verdicts": msgspec.to_builtins(load_verdicts(artifact))}


def _details(artifact: Path, manifest: Manifest) -> dict[str, Any]:
    """What is counted anew of a snapshot or a corpus, beside its manifest."""
    if manifest.kind == "snapshot":
        from trialese.collect.snapshot import open_snapshot
        from trialese.collect.summary import summarise_snapshot

        return {"summary": msgspec.to_builtins(summarise_snapshot(open_snapshot(artifact)))}
    if manifest.kind == "corpus":
        from trialese.corpus.split import leakage_table
        from trialese.corpus.store import open_corpus

        return {"leakage": msgspec.to_builtins(leakage_table(open_corpus(artifact)))}
    return {}


def _detail_lines(manifest: Manifest, details: dict[str, Any]) -> Iterator[str]:
    summary = details.get("summary", {})
    yield from tree_lines({name: summary[name] for name in summary if name not in manifest.counts})
    if "leakage" in details:
        yield "leakage: held-out documents with a copy in another split"
        yield f"  {'split':<6} {'kind':<6} {'documents':>10} {'leaked':>7}   in a random split"
    for row in details.get("leakage", ()):
        yield (
            f"  {row['held_out']:<6} {row['kind']:<6} {row['documents']:>10,} {row['leaked']:>7,}"
            f"   {row['random_leaked']:,} of {row['random_documents']:,}"
        )
    if "leakage" in details and (passages := manifest.counts.get("passages_shared")):
        yield "passages: of held-out documents, 8-grams of words that stand in training ones"
        yield f"  {'documents':<10} {'number':>10} {'mean':>7} {'over half':>10}"
        for name, found in passages.items():
            share = found["over_half"] / found["documents"]
            yield (
                f"  {name.replace('-', ' '):<10} {found['documents']:>10,} "
                f"{found['mean']:>7.1%} {share:>10.1%}"
            )


def ablate(
    snapshot: SnapshotArgument,
    out: OutOption,
    model: Annotated[
        str | None, typer.Option(help=f"{MASKED_LM} Without it, TF-IDF is fitted.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="full, titles, criteria or no-sex-words; repeatable. All if not given."),
    ] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge the sex classifier with less and less to read.

    On the same trials and folds.
    """
    from trialese.collect.snapshot import open_snapshot
    from trialese.pipeline.evaluate import judge_classifiers
    from trialese.tasks.ablate import VARIANTS, ablate_sex

    tree = read_recipe(recipe, settings)
    with writing(
        out, None, inputs=[snapshot, Path(model) if model else None], force=force
    ) as progress:
        made = ablate_sex(
            open_snapshot(snapshot),
            model,
            tree.tasks,
            out,
            variants=variant or tuple(VARIANTS),
            progress=progress,
        )
        judge_classifiers(made, tree.verdict, out / "verdict", progress=progress)
    print_artifact(out / "verdict", as_json=as_json)
    if not as_json:
        print(f"\nreport: {out / 'verdict' / 'report.html'}")


def agree(
    classifier: ClassifierArgument,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Texts with somebody else's labels.")
    ],
    column: Annotated[
        str,
        typer.Option("--label-column", "--column", metavar="NAME", help="Column of those labels."),
    ] = "prediction",
    text_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of texts; else by its name."),
    ] = None,
    id_column: IdColumnOption = None,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Compare although most rows must be left out."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="TSV file for every disagreement.")
    ] = None,
    model_size: ModelSizeOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a classifier's labels with somebody else's.

    And list the rows to look at.
    """
    from trialese.artifacts import refuse_file, replacing_anything
    from trialese.tasks.agreement import compare_labels, write_disagreements
    from trialese.tasks.formats import beginning
    from trialese.tasks.predict import load_scorer
    from trialese.tasks.scorer import find_classifier
    from trialese.tasks.shipped import fitted_on

    if out:
        with replacing_anything(force):
            refuse_file(out, ours=lambda begins: begins.startswith(b"id\trows\t"), inputs=[table])
    folder = find_classifier(classifier, model_size)
    with watch() as progress:
        found = compare_labels(
            load_scorer(folder),
            table,
            column,
            text_column=text_column,
            id_column=id_column,
            allow_missing=allow_missing,
            fitted_on=fitted_on(folder),
            progress=progress,
        )
    if out:
        write_disagreements(out, found)
    if as_json:
        print_json(found)
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
        head = f"  {odd.likeliest} {odd.chance:.3f}, not {odd.theirs}: "
        print(head + beginning(odd.text, max(20, 80 - len(head))))
    if out:
        print(f"all of them: {out}")


def check_behaviour(
    classifier: ClassifierArgument,
    tests: Annotated[
        Path | None,
        typer.Option(help="Table of group, text, must, must_not, beside the shipped tests."),
    ] = None,
    model_size: ModelSizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test a classifier on texts whose labels are evident."""
    from trialese.tasks.behaviour import behaviour_tests, check_behaviour
    from trialese.tasks.predict import load_scorer
    from trialese.tasks.scorer import find_classifier
    from trialese.tasks.shipped import fitted_on

    folder = find_classifier(classifier, model_size)
    scorer = load_scorer(folder)
    given = behaviour_tests(scorer.task, str(tests) if tests else None)
    with watch() as progress:
        report = check_behaviour(scorer, given, fitted_on=fitted_on(folder), progress=progress)
    if as_json:
        print_json(report)
        return
    for failure in report.failures:
        what = [f"lacks {', '.join(failure.missing)}"] if failure.missing else []
        what += [f"has {', '.join(failure.wrong)}"] if failure.wrong else []
        print(folded(f"{failure.group}: {failure.text!r} {' and '.join(what)}"))
    width = max(len(each.group) for each in report.groups)
    print(f"\n{'group':<{width}} passed      rate")
    for each in (*report.groups, report.total):
        rate = f"{each.rate.point:.2f} [{each.rate.low:.2f}, {each.rate.high:.2f}]"
        print(f"{each.group:<{width}} {each.passed:>3} of {each.texts:<3} {rate}")


def panel(
    snapshot: SnapshotArgument,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODELS...", help=f"Each as MODEL or NAME=MODEL. {MASKED_LM}"),
    ],
    out: OutOption,
    trials: Annotated[int, typer.Option(min=1, help="At most so many, chosen by hash.")] = 3000,
    max_tokens: Annotated[
        int, typer.Option(min=3, help="Of each text, special ones included.")
    ] = 128,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare what encoders know of trials, by linear probes.

    On their frozen states, for what the registry itself labels.
    """
    from trialese.collect.snapshot import open_snapshot
    from trialese.pipeline.panel import make_panel, read_panel
    from trialese.settings import VerdictSettings
    from trialese.verdict.encoders import panel_lines

    named: dict[str, Path] = {}
    for name, folder in map(_named_folder, models):
        if name in named:
            raise RecordError(f"two models are called {name!r}; write NAME=MODEL for one of them")
        named[name] = folder
    if dry_run:
        from trialese.pipeline.plan import plan_panel

        opened = open_snapshot(snapshot)
        planned = plan_panel(opened, named, most_trials=trials, max_tokens=max_tokens)
        print_plan(planned, as_json=as_json)
        return
    with writing(out, "panel", inputs=[snapshot, *named.values()], force=force) as progress:
        make_panel(
            open_snapshot(snapshot),
            named,
            out,
            most_trials=trials,
            max_tokens=max_tokens,
            settings=VerdictSettings(seed_spread=0.0),  # given models are compared as they are
            progress=progress,
        )
    found = read_panel(out)
    if as_json:
        print_json(found)
    else:
        print(folded(panel_lines(found)))


def _named_folder(given: str) -> tuple[str, Path]:
    """Name and masked-LM folder of `NAME=MODEL` or `MODEL`; an artifact holds it in `model`."""
    from trialese.hub import locate_model

    name, _, model = given.rpartition("=")
    path = Path(model)
    whole = path / "model" if (path / "model" / "config.json").is_file() else model
    own = path.resolve().parent.name if path.name == "model" else path.name.partition("@")[0]
    return name or own, locate_model(whole)


VERBS = (
    ablate,
    agree,
    check_behaviour,
    panel,
    show,
    diff,
    quality,
    staleness,
    check_dropin,
    verify,
)
