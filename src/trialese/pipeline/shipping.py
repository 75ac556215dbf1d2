"""The making of the classifiers that ship with trialese: fitted, judged, made small, with cards.

`make models` runs it: `python -m trialese.pipeline.shipping RECIPE WORK OUT`. The same inputs give
the same bytes on one machine: everything is computed on one thread.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialese.artifacts import (
    digest_of,
    is_complete,
    read_manifest,
    replacing_anything,
    write_artifact,
)
from trialese.collect.collection import collect_snapshot
from trialese.collect.snapshot import open_snapshot
from trialese.hub import locate_model
from trialese.pipeline.evaluate import judge_classifiers
from trialese.progress import Progress, silent
from trialese.recipe import Recipe, load_recipe
from trialese.tasks.behaviour import BehaviourReport, behaviour_tests, check_behaviour
from trialese.tasks.finetune import finetune
from trialese.tasks.folds import build_examples, define_task, describe_section
from trialese.tasks.linear import LinearClassifier
from trialese.tasks.scorer import given_labels
from trialese.tasks.shipped import FITTED_ON, name_of_text
from trialese.verdict.report import load_verdicts
from trialese.verdict.text import classification_report, in_brackets

if TYPE_CHECKING:
    from trialese.records import Example, Manifest, Verdict
    from trialese.tasks.scorer import Scorer
    from trialese.tasks.shipped import ModelSize

__all__ = ["format_card", "make_models"]

logger = logging.getLogger(__name__)

_SYSTEMS: dict[ModelSize, str] = {"small": "tfidf", "large": "minilm"}

_FILES = {"stop-reasons": "gold.tsv", "sex": "the registry"}

_RANK = 96
"""Of each matrix's difference from MiniLM."""

_SOURCES = {
    "stop-reasons": (
        "Human labels of Open Targets, Apache-2.0: opentargets/evidence_datasource_parsers, commit "
        "e0bfd19a (Razuvayevskaya et al. 2023). No text of it is in this folder."
    ),
    "sex": (
        "Records of ClinicalTrials.gov, in the public domain, as collected by "
        "reesewang25/enrollment_and_studylength, Marc-Morcos/ClinicalTrials-Urology-Database-Word-"
        "Counter (MIT) and partrita/clinicaltrial-watch-tigit (MIT). Registry text: courtesy of "
        "the U.S. National Library of Medicine; not current; no endorsement implied. No text of "
        "it is in this folder. Nearly half of the trials for men come from one urology collection."
    ),
}


def make_models(recipe: Recipe, work: Path, out: Path, *, progress: Progress = silent) -> None:
    """Fit, judge and write every classifier that ships, in `out`/NAME/SIZE.

    What is in between goes to `work`, where what is finished is not made again.

    Raises:
        RecordError: labelled texts that cannot be understood.
        ArtifactError: the embedded MiniLM is not installed, or the disk refused.
    """
    _make(recipe, "sex", ("small",), work, out, progress)
    _make(recipe, "stop-reasons", ("small", "large"), work, out, progress)


def _make(
    recipe: Recipe,
    name: str,
    sizes: tuple[ModelSize, ...],
    work: Path,
    out: Path,
    progress: Progress,
) -> None:
    settings = recipe.tasks
    definition = define_task(name, settings)
    snapshot = None
    if definition.section.labelled is None:
        if not (work / "snapshot").is_dir():
            collect_snapshot(recipe.collect, work / "snapshot", progress=progress)
        snapshot = open_snapshot(work / "snapshot")
    found = build_examples(name, settings, snapshot)
    tests = behaviour_tests(definition.task, definition.section.behaviour_tests)
    texts = [example.text for example in found.examples]
    fitted = {size: work / f"{name}-{size}" for size in sizes}
    for size, folder in fitted.items():
        section = describe_section(definition.section, is_model=size == "large")
        if is_complete(folder):
            before = read_manifest(folder).settings["section"]
            if digest_of(before) == digest_of(section):  # JSON knows no tuples
                continue
        model = locate_model("minilm") if size == "large" else None
        finetune(
            name, _SYSTEMS[size], path=folder, model=model, snapshot=snapshot,
            settings=settings, progress=progress,
        )  # fmt: skip
    with replacing_anything():
        verdict_folder = judge_classifiers(
            [*fitted.values()], recipe.verdict, work / f"{name}-verdict"
        )
    (verdict,) = load_verdicts(verdict_folder)
    for size, folder in fitted.items():
        made = read_manifest(folder, verify=True)
        inputs = {"classifier": made.digest}
        described = {"task": name, "system": _SYSTEMS[size], "size": size}
        described["section"] = made.settings["section"]
        target = out / name / size
        with (
            replacing_anything(),
            write_artifact(target, kind="classifier", settings=described, inputs=inputs) as draft,
        ):
            given, kept = _write_small(folder, draft.folder / "model", size)
            behaviour = check_behaviour(kept, tests) if tests else None
            draft.notes |= {key: made.notes[key] for key in ("model", "synthetic")}
            draft.notes["licence"] = _SOURCES[name]
            (draft.folder / FITTED_ON).write_text(_names_of(found.examples), encoding="utf-8")
            draft.notes["must_not_be_tested_on"] = (
                f"the {len(texts):,} texts of {_FILES[name]} that {FITTED_ON} lists"
            )
            draft.notes["made_small"] = _compare(given, kept, texts)
            card = "\n".join(format_card(verdict, size, made, behaviour, draft.notes))
            (draft.folder / "README.md").write_text(card + "\n", encoding="utf-8")
        logger.info("%s: %s", target, draft.notes["made_small"])


def _names_of(examples: Sequence[Example]) -> str:
    """A line a text: its NCT number, or what names a text without one."""
    names = {name_of_text(example.example_id, example.text) for example in examples}
    return "".join(f"{name}\n" for name in sorted(names))


def _write_small(folder: Path, target: Path, size: ModelSize) -> tuple[Scorer, Scorer]:
    """(the classifier as fitted, the one that was written in a tenth of the bytes)."""
    if size == "small":
        linear = LinearClassifier.from_pretrained(folder)
        linear.save_pretrained(target, compact=True)
        return linear, LinearClassifier.from_pretrained(target)
    from trialese.tasks.classifier import Classifier  # loads torch

    whole = Classifier.from_pretrained(folder)
    whole.save_adapter(target, rank=_RANK)
    return whole, Classifier.from_pretrained(target)


def _compare(whole: Scorer, kept: Scorer, texts: list[str]) -> str:
    """What making it small has changed."""
    one, other = whole.predict_proba(texts), kept.predict_proba(texts)
    same = np.mean(
        (
            given_labels(whole.task, whole.thresholds, one)
            == given_labels(kept.task, kept.thresholds, other)
        ).all(axis=1)
    )
    return (
        f"largest difference of a probability from the weights as fitted: "
        f"{np.abs(one - other).max():.4f}; same labels on {same:.2%} of {len(texts):,} texts"
    )


def format_card(
    verdict: Verdict,
    size: ModelSize,
    made: Manifest,
    behaviour: BehaviourReport | None,
    notes: dict[str, object],
) -> Iterator[str]:
    """The lines of the README.md beside a classifier that ships."""
    system = _SYSTEMS[size]
    scores = next(each for each in verdict.scores if each.system == system)
    several = "several labels at once" if verdict.kind == "multilabel" else "one label a text"
    yield f"# {verdict.task}, {size}\n"
    yield f"{len(verdict.labels)} labels, {several}. `trialese predict {verdict.task} TEXT`\n"
    yield f"- **Weights**: {notes['model']}."
    yield f"- **Must not be tested on**: {notes['must_not_be_tested_on']}."
    yield f"- **Learnt from**: {notes['licence']}"
    yield f"- **Made small**: {notes['made_small']}."
    calibrated = "fitted out of fold, applied to texts of other folds"
    yield f"- **Probabilities**: calibrated; the scores below are of a calibration {calibrated}.\n"
    yield (
        "It reads English registry text and was made for research on registries, not for care: no "
        "decision about a person should rest on it.\n"
    )
    yield "## Scores, each text by a fit that had not seen it\n"
    yield f"{verdict.rows:,} texts in {verdict.clusters:,} clusters. `{verdict.signature}`\n"
    yield from classification_report(scores, verdict)
    if behaviour is not None:
        yield "## Behavioural tests (`trialese check-behaviour`)\n"
        yield "| group | passed | of | rate |"
        yield "|---|--:|--:|---|"
        for each in (*behaviour.groups, behaviour.total):
            rate = f"{each.rate.point:.2f} {in_brackets(each.rate)}"
            yield f"| {each.group} | {each.passed} | {each.texts} | {rate} |"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make_models(load_recipe(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
