"""The panel: encoders side by side on what the registry itself labels, as an artifact."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import msgspec

from trialese.artifacts import digest_of_folder, read_manifest, write_artifact
from trialese.errors import ArtifactError, RecordError
from trialese.progress import Progress, silent
from trialese.records import Interval, Manifest, Snapshot
from trialese.settings import VerdictSettings
from trialese.tasks.probes import (
    PROBE_TARGETS,
    count_terms,
    encode_states,
    probe_predictions,
    probe_texts,
)
from trialese.verdict.judge import judge
from trialese.verdict.significance import holm

__all__ = [
    "EncoderPanel",
    "PanelDifference",
    "PanelRow",
    "format_panel",
    "make_panel",
    "read_panel",
]

_METRIC = "macro-f1"
_ALPHA = 0.05


class PanelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One target: its labels, how many texts, and each system's macro-F1 with its interval."""

    target: str
    labels: tuple[str, ...]
    texts: int
    scores: dict[str, Interval]


class PanelDifference(msgspec.Struct, frozen=True, kw_only=True):
    """`system - rival` in macro-F1 on one target; the p-value is Holm's over all targets."""

    target: str
    system: str
    rival: str
    interval: Interval
    p_value: float
    conclusion: str
    """better, worse or no difference."""


class EncoderPanel(msgspec.Struct, frozen=True, kw_only=True):
    """All targets and systems, and the paired differences between the encoders."""

    systems: tuple[str, ...]
    trials: int
    max_tokens: int
    rows: tuple[PanelRow, ...]
    differences: tuple[PanelDifference, ...]
    left_out: dict[str, str]
    """Target -> why it could not be probed."""


def make_panel(
    snapshot: Snapshot,
    models: Mapping[str, Path],
    path: Path,
    *,
    most_trials: int = 3000,
    max_tokens: int = 128,
    folds: int = 5,
    settings: VerdictSettings | None = None,
    progress: Progress = silent,
) -> Manifest:
    """The manifest of the panel written at `path`: panel.json, panel.md and panel.png.

    `models` maps a name, such as base, control or adapted, to a masked-LM folder. Every encoder,
    the words and the subwords are read by the same regression over the same clusters and folds.

    Raises:
        RecordError: no model, or too few trials or labels to probe anything.
        ArtifactError: no masked-LM in a folder, or the disk refused.
    """
    if not models:
        raise RecordError("no model to look at; give the folder of a masked-LM")
    settings = settings or VerdictSettings()
    texts = probe_texts(snapshot, most_trials=most_trials)
    states, subwords = {}, None
    for name, folder in models.items():
        states[name], counted = encode_states(
            folder, [text.text for text in texts], max_tokens=max_tokens, progress=progress
        )
        subwords = subwords or counted
    assert subwords is not None
    terms = count_terms([text.text for text in texts], subwords)
    rows, compared, left_out = [], [], {}
    for number, target in enumerate(PROBE_TARGETS, start=1):
        try:
            runs = probe_predictions(target, texts, states, terms, folds=folds)
        except RecordError as error:
            left_out[target.name] = str(error)
            continue
        verdict = judge(runs, settings)
        scores = {score.system: score.averages["macro"].f1 for score in verdict.scores}
        rows.append(
            PanelRow(target=target.name, labels=verdict.labels, texts=verdict.rows, scores=scores)
        )
        compared += [
            (target.name, difference)
            for difference in verdict.differences
            if difference.metric == _METRIC
            and difference.system in models
            and (difference.rival in models or difference.rival == "tfidf")
        ]
        progress("panel: targets probed", number, len(PROBE_TARGETS))
    if not rows:
        raise RecordError(f"no target could be probed: {'; '.join(left_out.values())}")
    differences = []
    for pair in dict.fromkeys((each.system, each.rival) for _, each in compared):
        of_pair = [(t, each) for t, each in compared if (each.system, each.rival) == pair]
        for (name, each), p_value in zip(
            of_pair, holm([each.p_value for _, each in of_pair]), strict=True
        ):
            sure = p_value < _ALPHA
            low, high = each.interval.low, each.interval.high
            word = "better" if low > 0 else "worse" if high < 0 else "no difference"
            differences.append(
                PanelDifference(
                    target=name,
                    system=each.system,
                    rival=each.rival,
                    interval=each.interval,
                    p_value=round(p_value, 10),
                    conclusion=word if sure else "no difference",
                )
            )
    panel = EncoderPanel(
        systems=tuple(rows[0].scores),
        trials=len(texts),
        max_tokens=max_tokens,
        rows=tuple(rows),
        differences=tuple(differences),
        left_out=left_out,
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
        (draft.folder / "panel.png").write_bytes(_picture(panel))
        draft.counts.update(trials=panel.trials, targets=len(panel.rows))
    assert draft.manifest is not None
    return draft.manifest


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


def format_panel(panel: EncoderPanel) -> str:
    """The panel as Markdown: macro-F1 a target and system, then what differs and what was left."""
    head = ["target", "labels", "texts", *panel.systems]
    lines = [
        f"Macro-F1 of linear probes on frozen states, {panel.trials:,} trials of at most "
        f"{panel.max_tokens} tokens, 95 % intervals over clusters of duplicates.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for row in panel.rows:
        cells = [f"{f.point:.2f} [{f.low:.2f}, {f.high:.2f}]" for f in row.scores.values()]
        lines.append(
            f"| {' | '.join([row.target, str(len(row.labels)), f'{row.texts:,}', *cells])} |"
        )
    lines.append("")
    pairs = dict.fromkeys((each.system, each.rival) for each in panel.differences)
    for system, rival in pairs:
        of_pair = [d for d in panel.differences if (d.system, d.rival) == (system, rival)]
        told = [
            f"{len(found)} {word}" + (f" ({', '.join(found)})" if word != "no difference" else "")
            for word in ("better", "worse", "no difference")
            if (found := [each.target for each in of_pair if each.conclusion == word])
        ]
        lines.append(
            f"{system} against {rival}, {len(of_pair)} targets, Holm-adjusted: {'; '.join(told)}."
        )
    lines += [f"Left out: {reason}" for reason in panel.left_out.values()]
    return "\n".join(lines)


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
