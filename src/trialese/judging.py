"""Classifier folders in, the folder of their verdict out: what `evaluate` and a run end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trialese.artifacts import read_manifest
from trialese.errors import RecordError
from trialese.predictions import load_predictions
from trialese.progress import Progress, silent
from trialese.records import Predictions
from trialese.settings import VerdictSettings

__all__ = ["judge_classifiers"]


def judge_classifiers(
    classifiers: Sequence[Path],
    settings: VerdictSettings,
    path: Path,
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Path:
    """The folder of the verdict over the predictions in classifier folders, task by task.

    Raises:
        RecordError: two folders hold the same system of one task.
        LeakageError, ArtifactError: see `verdict.judge` and `read_manifest`.
    """
    from trialese.verdict import judge, write_report

    runs: dict[str, dict[str, list[Predictions]]] = {}
    inputs: dict[str, str] = {}
    for folder in classifiers:
        manifest = read_manifest(folder, kind="classifier")
        task, system = manifest.settings["task"], manifest.settings["system"]
        if system in runs.setdefault(task, {}):
            raise RecordError(f"{folder}: a second {system!r} for {task}; give each system once")
        runs[task][system] = load_predictions(folder / "predictions.parquet")
        inputs[f"{task}/{system}"] = manifest.digest
    verdicts = []
    for number, systems in enumerate(runs.values(), start=1):
        verdicts.append(judge(systems, settings))
        progress("verdict: tasks judged", number, len(runs))
    return write_report(path, verdicts, curves=curves, context=context or {}, inputs=inputs)
