"""The panel: encoders side by side on what the registry itself labels, as an artifact."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import msgspec

from trialese.artifacts import digest_of_folder, read_manifest, write_artifact
from trialese.errors import ArtifactError, RecordError
from trialese.progress import Progress, silent
from trialese.records import BASELINES, Difference, Manifest, Snapshot
from trialese.settings import VerdictSettings
from trialese.tasks.probes import (
    PROBE_TARGETS,
    SUBWORDS,
    count_terms,
    encode_states,
    probe_predictions,
    probe_texts,
)
from trialese.verdict.encoders import EncoderPanel, PanelRow, conclude_pairs, format_panel
from trialese.verdict.judge import judge

__all__ = ["make_panel", "read_panel"]

_METRIC = "macro-f1"


def make_panel(
    snapshot: Snapshot,
    models: Mapping[str, Path],
    path: Path,
    *,
    most_trials: int = 3000,
    max_tokens: int = 128,
    folds: int = 5,
    settings: VerdictSettings | None = None,
    allow_empty: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """The manifest of the panel written at `path`: panel.json, panel.md and panel.png.

    `models` maps a name, such as base, control or adapted, to a masked-LM folder. Every encoder,
    the words and the subwords are read by the same regression over the same clusters and folds.
    Encoders are compared with one another and with the best system without one, target by target;
    all p-values are one family (Holm). Where nothing can be probed, `allow_empty` asks for a panel
    that says why, instead of an error.

    Raises:
        RecordError: no model, one with the name of a rival, or too few trials or labels.
        ArtifactError: no masked-LM in a folder, or the disk refused.
    """
    if not models:
        raise RecordError("no model to look at; give the folder of a masked-LM")
    if taken := set(models) & {SUBWORDS, *BASELINES}:
        raise RecordError(
            f"{', '.join(taken)}: the panel has a system of that name; name the model NAME=FOLDER"
        )
    settings = settings or VerdictSettings()
    try:
        panel = _probe(snapshot, models, most_trials, max_tokens, folds, settings, progress)
    except RecordError as error:
        if not allow_empty:
            raise
        panel = EncoderPanel(
            systems=(),
            encoders=tuple(models),
            trials=0,
            max_tokens=max_tokens,
            rows=(),
            differences=(),
            left_out={"every target": str(error)},
        )
    chosen = {"most_trials": most_trials, "max_tokens": max_tokens, "folds": folds}
    inputs = {"snapshot": snapshot.manifest.digest} | {
        name: digest_of_folder(folder) for name, folder in models.items()
    }
    with write_artifact(path, kind="panel", settings=chosen, inputs=inputs) as draft:
        (draft.folder / "panel.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(panel)) + b"\n"
        )
        (draft.folder / "panel.md").write_text(format_panel(panel) + "\n", encoding="utf-8")
        if panel.rows:
            (draft.folder / "panel.png").write_bytes(_picture(panel))
        draft.counts.update(trials=panel.trials, targets=len(panel.rows))
    assert draft.manifest is not None
    return draft.manifest


def _probe(
    snapshot: Snapshot,
    models: Mapping[str, Path],
    most_trials: int,
    max_tokens: int,
    folds: int,
    settings: VerdictSettings,
    progress: Progress,
) -> EncoderPanel:
    texts = probe_texts(snapshot, most_trials=most_trials)
    states, subwords = {}, None
    for name, folder in models.items():
        states[name], counted = encode_states(
            folder,
            [text.text for text in texts],
            max_tokens=max_tokens,
            name=name,
            progress=progress,
        )
        subwords = subwords or counted
    assert subwords is not None
    terms = count_terms([text.text for text in texts], subwords)
    family = len(PROBE_TARGETS) * (len(models) * (len(models) - 1) // 2 + len(models))
    # So many that the smallest p-value, adjusted for the whole family, can lie below 5 %.
    settings = msgspec.structs.replace(settings, resamples=max(settings.resamples, 40 * family))
    rows: list[PanelRow] = []
    compared: list[tuple[str, Difference]] = []
    left_out = {}
    for number, target in enumerate(PROBE_TARGETS, start=1):
        try:
            runs = probe_predictions(target, texts, states, terms, folds=folds)
            verdict = judge(runs, settings)
        except RecordError as error:
            left_out[target.name] = f"{target.name}: {str(error).removeprefix(f'{target.name}: ')}"
            continue
        scores = {score.system: score.averages["macro"].f1 for score in verdict.scores}
        rows.append(
            PanelRow(target=target.name, labels=verdict.labels, texts=verdict.rows, scores=scores)
        )
        others = [name for name in scores if name not in models]
        best = max(others, key=lambda name: scores[name].point)
        compared += [
            (target.name, each)
            for each in verdict.differences
            if each.metric == _METRIC and each.system in models and each.rival in {*models, best}
        ]
        progress("panel: targets probed", number, len(PROBE_TARGETS))
    if not rows:
        raise RecordError(f"no target could be probed: {'; '.join(left_out.values())}")
    systems = tuple(rows[0].scores)
    return EncoderPanel(
        systems=systems,
        encoders=tuple(name for name in systems if name in models),
        trials=len(texts),
        max_tokens=max_tokens,
        rows=tuple(rows),
        differences=conclude_pairs(compared, seed_spread=settings.seed_spread),
        left_out=left_out,
        seed_spread=settings.seed_spread,
    )


def read_panel(path: Path) -> EncoderPanel:
    """The panel in an artifact that `make_panel` wrote.

    Raises:
        ArtifactError: no panel there, or a damaged one.
    """
    read_manifest(path, kind="panel")
    try:
        return msgspec.json.decode((path / "panel.json").read_bytes(), type=EncoderPanel)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{path}: damaged panel ({error}); make it again") from error


def _picture(panel: EncoderPanel) -> bytes:
    """A PNG: macro-F1 with its interval, a row a target and a mark a system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.55 * len(panel.rows)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    step = 0.7 / len(panel.systems)
    for place, system in enumerate(panel.systems):
        marks = [row.scores[system] for row in panel.rows]
        heights = [number + (place + 0.5) * step - 0.35 for number in range(len(marks))]
        reach = [[m.point - m.low for m in marks], [m.high - m.point for m in marks]]
        axes.errorbar(
            [mark.point for mark in marks],
            heights,
            xerr=reach,
            fmt="osD^v<>"[place % 7],
            markersize=4,
            linewidth=1,
            color=f"C{place}",
            label=system,
        )
    axes.set_yticks(range(len(panel.rows)), [row.target for row in panel.rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("macro-F1 of a linear probe, 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
