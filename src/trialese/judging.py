"""Classifier folders in, the folder of their verdict out: what `evaluate` and a run end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trialese.artifacts import read_manifest
from trialese.errors import RecordError
from trialese.predictions import load_predictions
from trialese.progress import Progress, silent
from trialese.records import Audit, Predictions
from trialese.settings import VerdictSettings

__all__ = ["judge_classifiers"]


def judge_classifiers(
    classifiers: Sequence[Path],
    settings: VerdictSettings,
    path: Path,
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
    read_unlabelled: frozenset[str] = frozenset(),
    allow_overlap: bool = False,
    progress: Progress = silent,
) -> Path:
    """The folder of the verdict over the predictions in classifier folders, task by task.

    `read_unlabelled` are ids of trials that a masked-LM was trained on: how many of them are
    judged is told in an audit, since their labels stayed unseen but their text did not.

    Raises:
        RecordError: two folders hold the same system of one task.
        LeakageError, ArtifactError: see `verdict.judge` and `read_manifest`.
    """
    from trialese.verdict import judge, write_report

    runs: dict[str, dict[str, list[Predictions]]] = {}
    inputs: dict[str, str] = {}
    about: dict[str, dict[str, Any]] = {}
    for folder in classifiers:
        manifest = read_manifest(folder, kind="classifier")
        task, system = manifest.settings["task"], manifest.settings["system"]
        if system in runs.setdefault(task, {}):
            raise RecordError(f"{folder}: a second {system!r} for {task}; give each system once")
        runs[task][system] = load_predictions(folder / "predictions.parquet")
        inputs[f"{task}/{system}"] = manifest.digest
        facts = about.setdefault(task, {"synthetic": False, "models": {}})
        facts["synthetic"] |= bool(manifest.notes.get("synthetic"))
        if manifest.notes.get("masked_lm"):
            facts["models"][system] = manifest.notes["masked_lm"]
    verdicts = []
    for number, (task, systems) in enumerate(runs.items(), start=1):
        audits = _audit_reading(systems, read_unlabelled)
        verdicts.append(
            judge(
                systems,
                settings,
                allow_overlap=allow_overlap,
                audits=audits,
                about=about[task],
            )
        )
        progress("verdict: tasks judged", number, len(runs))
    synthetic = any(facts["synthetic"] for facts in about.values())
    context = {"synthetic": synthetic, **(context or {})}
    return write_report(path, verdicts, curves=curves, context=context, inputs=inputs)


def _audit_reading(
    systems: Mapping[str, Sequence[Predictions]], read_unlabelled: frozenset[str]
) -> list[Audit]:
    tested = {
        name for runs in systems.values() for run in runs if run.split == "test" for name in run.ids
    }
    read = len(tested & read_unlabelled)
    if not read:
        return []  # texts without NCT ids cannot be looked up, and are not of these trials
    finding = f"{read:,} of {len(tested):,} test trials were in it, their labels unseen"
    return [Audit(name="masked-LM training read the test trials", passed=False, finding=finding)]
