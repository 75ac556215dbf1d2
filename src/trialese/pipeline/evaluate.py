"""The verdict on the saved predictions in classifier folders, as an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from trialese.artifacts import read_manifest
from trialese.collect.snapshot import read_trials
from trialese.collect.vocabulary import broad_area
from trialese.corpus.dedup import normalise
from trialese.errors import RecordError, TrialeseError
from trialese.predictions import load_predictions
from trialese.progress import Progress, silent
from trialese.records import Audit, Example, Manifest, Predictions, Snapshot, Verdict
from trialese.settings import TasksSettings, VerdictSettings
from trialese.tasks.folds import build_examples, defined_in
from trialese.thresholds import PUBLISHED_CUT
from trialese.verdict.audits import audit_giveaways, audit_sources
from trialese.verdict.judge import judge
from trialese.verdict.protocols import write_protocols
from trialese.verdict.report import write_report
from trialese.verdict.systems import guess_prior, share_folds

__all__ = [
    "Protocol",
    "examine_texts",
    "judge_alone",
    "judge_classifiers",
    "slice_by_length",
    "slice_by_novelty",
]


Protocol = Literal["honest", "published", "both"]


@dataclass(slots=True)
class _Entry:
    """What was given for one task under one protocol."""

    runs: dict[str, list[Predictions]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each system whose folder can be used, which weights it holds, and what they have seen."""
    silver: dict[str, int] = field(default_factory=dict)
    """Of each system that learnt from another model's labels, from how many texts."""
    behaviour: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of each system that can be used, its pass rate on each group of behavioural tests."""
    search: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each system, what was tried to choose its settings."""
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
    read_unlabelled: Mapping[str, Mapping[str, frozenset[str]]] | None = None,
    slices: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None,
    audits: Mapping[str, Sequence[Audit]] | None = None,
    allow_overlap: bool = False,
    progress: Progress = silent,
) -> Path:
    """The folder of the verdict over the predictions in classifier folders, task by task.

    Under the published protocol the cut-off is the prior art's 0.3 and overlap is what it is
    about; `both` gives the report on the two side by side. A system alone is judged against the
    prior of its own tune texts; systems of unequal folds on those that they share, which an audit
    says. `read_unlabelled` are, by task and system, ids of trials that its masked-LM was trained
    on: how many of them are judged is told in an audit, since their labels stayed unseen but their
    text did not. `slices` (task -> name -> id -> part) and `audits` (by task) go to `judge`.

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
            *_give_rivals(entry),
            *_audit_silver(entry.silver),
            *_audit_reading(entry.runs, (read_unlabelled or {}).get(task, {})),
            *(audits or {}).get(task, ()),
        ]
        parts = (slices or {}).get(task, {})
        verdicts[way, task] = _judge(way, entry, settings, found, allow_overlap, parts)
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


def judge_alone(classifier: Path, settings: VerdictSettings) -> Verdict | str:
    """One classifier's held-out scores against the prior.

    Where its folds are too small to be judged, the reason in one line.
    """
    try:
        entries, _ = _read([classifier])
        (((way, _), entry),) = entries.items()
        found = [*_give_rivals(entry), *_audit_silver(entry.silver)]
        return _judge(way, entry, settings, found, allow_overlap=True, slices={})
    except TrialeseError as error:
        return f"no held-out scores: {error}"


def examine_texts(
    task: str,
    settings: TasksSettings,
    snapshot: Snapshot | None,
    files: Mapping[str, str] | None = None,
) -> tuple[list[Audit], dict[str, dict[str, str]]]:
    """What the texts of a task give away, and the parts they fall into: (audits, slices).

    The audit looks for single words that all but name a label. The slices are thirds by
    length and by likeness to the nearest text of another cluster, which may be one that was trained
    on, and for trials of the snapshot the year of first posting, the phase, the area of medicine,
    and the file that they come from (`files`: NCT id -> name), which is audited too.
    """
    found = build_examples(task, settings, snapshot)
    texts = [(example.text, example.labels) for example in found.examples]
    audit = audit_giveaways(texts, found.task.labels, lambda text: normalise(text).split())
    lengths = {example.example_id: len(example.text.split()) for example in found.examples}
    slices = {
        "length": slice_by_length(lengths),
        "nearest other text": slice_by_novelty(found.examples),
        **_slice_trials(set(lengths), snapshot),
    }
    audits = [audit]
    come = [(files[e.example_id], e) for e in found.examples if files and e.example_id in files]
    if len({file for file, _ in come}) > 1:
        slices["source file"] = {example.example_id: file for file, example in come}
        audits.append(audit_sources([(file, e.labels) for file, e in come], found.task.labels))
    return audits, {name: parts for name, parts in slices.items() if parts}


def slice_by_length(words: Mapping[str, int]) -> dict[str, str]:
    """Each text's third by length, in words, such as "1: up to 5 words"."""
    if not words:
        return {}
    ordered = sorted(words.values())
    short, middle = (ordered[(len(ordered) - 1) * third // 3] for third in (1, 2))
    names = (f"1: up to {short} words", f"2: up to {middle} words", f"3: over {middle} words")
    return {
        text: names[0 if count <= short else 1 if count <= middle else 2]
        for text, count in words.items()
    }


def slice_by_novelty(examples: Sequence[Example]) -> dict[str, str]:
    """Each text's third by likeness to its nearest text of another cluster, the newest first.

    Likeness is the cosine of TF-IDF vectors of words, 0 to 1; of at most 10,000 texts, {} for more.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not 3 <= len(examples) <= _MOST_COMPARED:
        return {}
    try:
        vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(each.text for each in examples)
    except ValueError:  # no word in any text
        return {}
    clusters = np.array([each.cluster or each.example_id for each in examples])
    nearest = np.empty(len(examples))
    for start in range(0, len(examples), 500):
        part = slice(start, start + 500)
        likeness = (vectors[part] @ vectors.T).toarray()
        likeness[clusters[part, None] == clusters[None, :]] = 0.0
        nearest[part] = likeness.max(axis=1)
    limits = np.sort(nearest)[[(len(nearest) - 1) * third // 3 for third in (1, 2)]]
    names = [
        f"1: likeness up to {limits[0]:.2f}",
        f"2: up to {limits[1]:.2f}",
        f"3: over {limits[1]:.2f}",
    ]
    places = (nearest[:, None] > limits).sum(axis=1)
    return {each.example_id: names[place] for each, place in zip(examples, places, strict=True)}


_MOST_COMPARED = 10_000


def _slice_trials(ids: set[str], snapshot: Snapshot | None) -> dict[str, dict[str, str]]:
    years: dict[str, str] = {}
    phases: dict[str, str] = {}
    areas: dict[str, str] = {}
    for trial in read_trials(snapshot) if snapshot else ():
        if trial.nct_id in ids:
            if trial.first_posted:
                years[trial.nct_id] = trial.first_posted[:4]
            phases[trial.nct_id] = "/".join(trial.phases) or "none given"
            areas[trial.nct_id] = broad_area(trial)
    return {"year of first posting": years, "phase": phases, "area of medicine": areas}


def _read(classifiers: Sequence[Path]) -> tuple[_Entries, dict[str, str]]:
    """The predictions by protocol and task, and the digest of each folder."""
    entries: _Entries = {}
    inputs: dict[str, str] = {}
    for folder in classifiers:
        manifest = read_manifest(folder, kind="classifier", verify=True)
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
        blended = manifest.settings.get("blend_of")
        about = [manifest.notes.get("masked_lm")]
        if blended:
            about.insert(0, f"a blend of {' and '.join(blended)}")
        if "silver" in manifest.notes:
            entry.silver[system] = manifest.notes["silver"]["texts"]
            about.append(f"learnt from {entry.silver[system]:,} texts that a model labelled")
        if "search" in manifest.notes:
            entry.search[system] = manifest.notes["search"]
        if any(about):
            entry.models[system] = "; ".join(filter(None, about))
        entry.weights[system] = {
            key: manifest.notes[key] for key in _ABOUT_WEIGHTS if key in manifest.notes
        }
        if "behaviour" in manifest.notes:
            entry.behaviour[system] = manifest.notes["behaviour"]
        if way == "published":
            entry.overlap |= _overlap(system, manifest)
        inputs[f"{task}/{system}" + ("/published" if way == "published" else "")] = manifest.digest
    return entries, inputs


_ABOUT_WEIGHTS = ("model", "must_not_be_tested_on", "members")


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
    slices: Mapping[str, Mapping[str, str]],
) -> Verdict:
    if way == "published":
        settings = msgspec.structs.replace(settings, threshold=PUBLISHED_CUT)
    return judge(
        entry.runs,
        settings,
        allow_overlap=allow_overlap or way == "published",
        audits=audits,
        groups=entry.groups or None,
        slices=slices,
        about={
            "synthetic": entry.synthetic,
            "models": entry.models,
            "weights": {name: told for name, told in entry.weights.items() if told},
            "protocol": way,
            **({"search": entry.search} if entry.search else {}),
            **({"silver": entry.silver} if entry.silver else {}),
            **({"behaviour": entry.behaviour} if entry.behaviour else {}),
        },
    )


def _give_rivals(entry: _Entry) -> list[Audit]:
    """What is missing for a comparison: a rival for a system alone, equal folds for all."""
    if len(entry.runs) == 1 and "prior" not in entry.runs:
        (given,) = entry.runs.values()
        entry.runs["prior"] = guess_prior(given)
        entry.models["prior"] = "the shares of the labels among the tune texts, for want of a rival"
    entry.runs, left_out = share_folds(entry.runs)
    if not left_out:
        return []
    finding = f"left out: {'; '.join(left_out)}"
    return [Audit(name="systems were tested on the same folds", passed=False, finding=finding)]


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
    systems: Mapping[str, Sequence[Predictions]], read_unlabelled: Mapping[str, frozenset[str]]
) -> list[Audit]:
    """How many of the test trials the masked-LM of each system had read, without their labels."""
    told = []
    for system, known in read_unlabelled.items():
        runs = [run for run in systems.get(system, ()) if run.split == "test"]
        tested = {name for run in runs for name in run.ids}
        if tested & known:  # texts without NCT ids are not of these trials
            told.append(f"{system}'s {len(tested & known):,} of {len(tested):,}")
    if not told:
        return []
    finding = f"test trials whose text it read, their labels unseen: {', '.join(told)}"
    return [Audit(name="masked-LM training read the test trials", passed=False, finding=finding)]
