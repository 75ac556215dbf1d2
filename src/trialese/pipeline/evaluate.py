"""The verdict on the saved predictions in classifier folders, as an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from trialese.artifacts import read_manifest
from trialese.errors import RecordError
from trialese.predictions import load_predictions
from trialese.progress import Progress, silent
from trialese.records import Audit, Manifest, Predictions, Snapshot, Verdict
from trialese.settings import TasksSettings, VerdictSettings
from trialese.tasks.folds import build_examples, defined_in
from trialese.thresholds import PUBLISHED_CUT
from trialese.verdict.audits import audit_giveaways
from trialese.verdict.judge import judge
from trialese.verdict.protocols import write_protocols
from trialese.verdict.report import write_report

__all__ = ["Protocol", "audit_texts", "judge_classifiers"]


Protocol = Literal["honest", "published", "both"]


@dataclass(slots=True)
class _Entry:
    """What was given for one task under one protocol."""

    runs: dict[str, list[Predictions]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    silver: dict[str, int] = field(default_factory=dict)
    """Of each system that learnt from another model's labels, from how many texts."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """The task's coarser groups of labels."""
    synthetic: bool = False
    overlap: dict[str, Any] = field(default_factory=dict)
    """Of the published way: how many rows had been trained on, and F1 on the 10 %."""


_Entries = dict[tuple[str, str], _Entry]
"""By protocol and task."""


def judge_classifiers(
    classifiers: Sequence[str | Path],
    settings: VerdictSettings,
    path: str | Path,
    *,
    protocol: Protocol = "honest",
    curves: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
    read_unlabelled: frozenset[str] = frozenset(),
    audits: Mapping[str, Sequence[Audit]] | None = None,
    allow_overlap: bool = False,
    progress: Progress = silent,
) -> Path:
    """The folder of the verdict over the predictions in classifier folders, task by task.

    Under the published protocol the cut-off is the prior art's 0.3 and overlap is what it is
    about; `both` gives the twin report of the two. `read_unlabelled` are ids of trials that a
    masked-LM was trained on: how many of them are judged is told in an audit, since their labels
    stayed unseen but their text did not. `audits` are further findings, by task.

    Raises:
        RecordError: two folders hold the same system of one task, or a folder was fitted under
            another protocol than is asked for, or under only one of both.
        LeakageError, ArtifactError: see `verdict.judge` and `read_manifest`.
    """
    path = Path(path)
    entries, inputs = _read([Path(folder) for folder in classifiers])
    _check_protocols(entries, protocol)
    verdicts: dict[tuple[str, str], Verdict] = {}
    for number, ((way, task), entry) in enumerate(entries.items(), start=1):
        found = [
            *_audit_silver(entry.silver),
            *_audit_reading(entry.runs, read_unlabelled),
            *(audits or {}).get(task, ()),
        ]
        verdicts[way, task] = _judge(way, entry, settings, found, allow_overlap)
        progress("verdict: tasks judged", number, len(entries))
    synthetic = any(entry.synthetic for entry in entries.values())
    context = {"synthetic": synthetic, **(context or {})}
    if protocol != "both":
        return write_report(
            path, list(verdicts.values()), curves=curves, context=context, inputs=inputs
        )
    pairs = [
        (verdict, verdicts["honest", task])
        for (way, task), verdict in verdicts.items()
        if way == "published"
    ]
    overlap = {task: entry.overlap for (way, task), entry in entries.items() if way == "published"}
    return write_protocols(path, pairs, overlap=overlap, context=context, inputs=inputs)


def audit_texts(task: str, settings: TasksSettings, snapshot: Snapshot | None) -> list[Audit]:
    """What the texts of a task give away: single words that all but name a label."""
    # Here, because datasketch brings scipy along, which `evaluate` can do without.
    from trialese.corpus.dedup import normalise

    found = build_examples(task, settings, snapshot)
    texts = [(example.text, example.labels) for example in found.examples]
    return [audit_giveaways(texts, found.task.labels, lambda text: normalise(text).split())]


def _read(classifiers: Sequence[Path]) -> tuple[_Entries, dict[str, str]]:
    """The predictions by protocol and task, and the digest of each folder."""
    entries: _Entries = {}
    inputs: dict[str, str] = {}
    for folder in classifiers:
        manifest = read_manifest(folder, kind="classifier")
        task, system = manifest.settings["task"], manifest.settings["system"]
        way = manifest.settings.get("protocol", "honest")
        entry = entries.setdefault((way, task), _Entry())
        if system in entry.runs:
            raise RecordError(f"{folder}: a second {system!r} for {task}; give each system once")
        entry.runs[system] = load_predictions(folder / "predictions.parquet")
        definition = defined_in(manifest.settings)
        if definition is not None and definition.task.labels == entry.runs[system][0].labels:
            entry.groups = definition.groups
        entry.synthetic |= bool(manifest.notes.get("synthetic"))
        about = [manifest.notes.get("masked_lm")]
        if "silver" in manifest.notes:
            entry.silver[system] = manifest.notes["silver"]["texts"]
            about.append(f"learnt from {entry.silver[system]:,} texts that a model labelled")
        if any(about):
            entry.models[system] = "; ".join(filter(None, about))
        if way == "published":
            entry.overlap |= _overlap(system, manifest)
        inputs[f"{task}/{system}" + ("/published" if way == "published" else "")] = manifest.digest
    return entries, inputs


def _overlap(system: str, manifest: Manifest) -> dict[str, Any]:
    micro, macro = manifest.notes["held_out_f1"]
    said = f"micro-F1 {micro:.4f}, macro-F1 {macro:.4f}"
    return {**manifest.notes["overlap"], f"{system} on the 10 % held out": said}


def _check_protocols(entries: _Entries, protocol: Protocol) -> None:
    cure = "`trialese finetune --protocol` makes either"
    for way, task in entries:
        if protocol not in (way, "both"):
            raise RecordError(
                f"{task}: fitted the {way} way, but judged by --protocol {protocol}; "
                "leave it out, or judge by --protocol both"
            )
        other = "published" if way == "honest" else "honest"
        if protocol == "both" and (other, task) not in entries:
            raise RecordError(
                f"{task}: fitted the {way} way only; give the {other} one too; {cure}"
            )


def _judge(
    way: str,
    entry: _Entry,
    settings: VerdictSettings,
    audits: Sequence[Audit],
    allow_overlap: bool,
) -> Verdict:
    if way == "published":
        settings = msgspec.structs.replace(settings, threshold=PUBLISHED_CUT)
    return judge(
        entry.runs,
        settings,
        allow_overlap=allow_overlap or way == "published",
        audits=audits,
        groups=entry.groups or None,
        about={"synthetic": entry.synthetic, "models": entry.models, "protocol": way},
    )


def _audit_silver(silver: Mapping[str, int]) -> list[Audit]:
    """Labels that a model gave may carry what it had been told about the test texts."""
    if not silver:
        return []
    most = max(silver.values())
    finding = (
        f"{' and '.join(silver)} learnt from {most:,} texts that a model labelled, none near a "
        "labelled text; if that model had seen the test labels, these scores owe something to them"
    )
    return [Audit(name="no label was learnt from another model", passed=False, finding=finding)]


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
