"""The verbs that study a classifier: what it lives on, and how far it agrees with other labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from trialese.cli.look import print_artifact
from trialese.cli.options import JsonOption, OutOption, RecipeOption, SetOption, read_recipe, watch

__all__ = ["VERBS"]


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
    from trialese.collect import open_snapshot
    from trialese.judging import judge_classifiers
    from trialese.tasks import ablate_sex
    from trialese.tasks.ablation import VARIANTS

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
    from trialese.tasks import compare_labels, load_scorer, write_disagreements
    from trialese.tasks.writing import beginning

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


VERBS = (ablate, agree)
