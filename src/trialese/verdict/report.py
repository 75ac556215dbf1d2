"""Verdict -> a folder with JSON for machines, Markdown for a page, and one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trialese.artifacts import read_manifest, write_artifact
from trialese.errors import ArtifactError, RecordError
from trialese.records import Verdict
from trialese.verdict.card import format_data_card, format_model_card
from trialese.verdict.lineup import BASELINES
from trialese.verdict.page import render_page
from trialese.verdict.words import format_markdown

__all__ = ["encode_verdicts", "load_verdicts", "write_report"]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """What verdict.json holds."""

    format: int = 1
    verdicts: list[Verdict]
    curves: list[dict[str, Any]] = []
    context: dict[str, Any] = {}


def write_report(
    path: Path,
    verdicts: Sequence[Verdict],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """`path`, now an artifact: `verdict.json`, `verdict.md`, `report.html` and `cards/`.

    Args:
        path: the folder to make.
        verdicts: one a task.
        curves: rows of pretraining's metrics.jsonl (`step`, `tokens`, `era`, `split`, `loss`,
            `top1`), each with the name of its run under `stage`.
        context: facts of the data card: `source`, `data_timestamp`, `attribution`, `synthetic`
            (true puts a banner on top), `recipe`, and counts and notes under any other name.
        inputs: digests of what was judged, for the manifest.

    Raises:
        RecordError: there is no verdict.
        ArtifactError: the folder cannot be written.
    """
    if not verdicts:
        raise RecordError("no verdict to report; judge at least one task")
    context = dict(context or {})
    settings = verdicts[0].notes["settings"]
    with write_artifact(path, kind="verdict", settings=settings, inputs=inputs) as draft:
        (draft.folder / "verdict.json").write_bytes(encode_verdicts(verdicts, curves, context))
        (draft.folder / "verdict.md").write_text(format_markdown(verdicts), encoding="utf-8")
        page = render_page(verdicts, curves=curves, context=context)
        (draft.folder / "report.html").write_text(page, encoding="utf-8")
        _write_cards(draft.folder / "cards", verdicts, context)
        draft.counts.update(tasks=len(verdicts), texts=sum(verdict.rows for verdict in verdicts))
        draft.notes.update(signatures=[verdict.signature for verdict in verdicts])
    return path


def encode_verdicts(
    verdicts: Sequence[Verdict],
    curves: Sequence[Mapping[str, Any]],
    context: Mapping[str, Any],
) -> bytes:
    """What verdict.json holds, the same bytes for the same verdicts."""
    rows = [dict(row) for row in curves]
    contents = _File(verdicts=list(verdicts), curves=rows, context=dict(context))
    return msgspec.json.format(msgspec.json.encode(contents, order="sorted")) + b"\n"


def _write_cards(folder: Path, verdicts: Sequence[Verdict], context: Mapping[str, Any]) -> None:
    """`data.md`, and for each task's models a README.md to lay into their folders."""
    folder.mkdir()
    (folder / "data.md").write_text(format_data_card(verdicts, context), encoding="utf-8")
    for verdict in verdicts:
        for system in (scores.system for scores in verdict.scores):
            if system not in BASELINES:
                home = folder / f"{verdict.task}-{system}"
                home.mkdir()
                card = format_model_card(verdict, system, context=context)
                (home / "README.md").write_text(card, encoding="utf-8")


def load_verdicts(path: Path) -> list[Verdict]:
    """The verdicts in a folder that `write_report` or `write_twin` made.

    Raises:
        ArtifactError: no such folder, one of another kind, or a damaged file.
    """
    read_manifest(path, kind="verdict")
    file = path / "verdict.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=_File).verdicts
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); judge again") from error
