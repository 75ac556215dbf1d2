"""What happened between two generations: new, changed and gone trials, as feeds and as a page."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import msgspec
from jinja2 import ChoiceLoader, PackageLoader

from trialese.artifacts import write_bytes
from trialese.collect.diff import changed_fields, compare_snapshots
from trialese.collect.snapshot import find_trials, read_rejects, read_rows
from trialese.errors import ArtifactError, RecordError
from trialese.generations import current_generation, list_generations, open_generation
from trialese.records import ATTRIBUTION, Snapshot, Trial
from trialese.verdict.report import environment

__all__ = [
    "CHANGES_NAME",
    "PAGE_NAME",
    "TrialChange",
    "find_changes",
    "order_of_fields",
    "read_changes",
    "refuse_loss",
    "render_page",
    "write_feeds",
]

CHANGES_NAME = "changes.jsonl"
PAGE_NAME = "report.html"
FEED_ENTRIES = 500
"""Of the Atom feed, the newest; the JSON lines hold every change of the generations kept."""
_FIRST_FIELDS = ("why_stopped", "eligibility_criteria", "overall_status")
_NO_LOSS = frozenset({"foreign", "no_study", "not_a_file"})
"""Reasons of rejects that never were records."""
_SHORT = 300
_SHOWN = 200
_DIFF_LINES = 12

logger = logging.getLogger(__name__)

What = Literal["new", "changed", "gone"]


class TrialChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one trial; a line of `changes.jsonl`."""

    generation: int
    what: What
    nct_id: str
    title: str
    data_timestamp: str | None = None
    """Of the data that first showed it; where they tell none, their newest update."""
    formerly: str = ""
    """Its number in the generation before, if that was another."""
    fields: tuple[str, ...] = ()
    """Of a changed trial, those that differ: the reason for stopping and the criteria first."""
    was: dict[str, Any] = {}
    """Field -> its former value, of the short ones."""
    now: dict[str, Any] = {}
    criteria: tuple[str, ...] = ()
    """Lines of the criteria that went (-) and came (+), the first of them."""


def order_of_fields(names: Iterable[str]) -> tuple[str, ...]:
    """The fields, those that matter most first."""
    known = [name for name in _FIRST_FIELDS if name in names]
    return (*known, *(name for name in sorted(names) if name not in known))


def find_changes(newer: Snapshot, older: Snapshot, generation: int) -> list[TrialChange]:
    """What is new, changed or gone in `newer`, seen from `older`; each by NCT id.

    Raises:
        ArtifactError: a snapshot is damaged.
    """
    found = compare_snapshots(newer, older)
    fields = changed_fields(newer, older, found)
    former = {new: old for old, new in found.renamed}
    renamed = sorted(former.keys() - set(found.changed))
    touched = [*found.changed, *renamed]
    after = find_trials(newer, [*found.new, *touched])
    before = find_trials(older, [*found.vanished, *(former.get(name, name) for name in touched)])
    timestamp = newer.manifest.notes.get("data_timestamp") or _newest_update(newer)

    def change(what: What, trial: Trial, **more: Any) -> TrialChange:
        title = trial.brief_title or trial.official_title
        return TrialChange(
            generation=generation,
            what=what,
            nct_id=trial.nct_id,
            title=title,
            data_timestamp=timestamp,
            **more,
        )

    changed = []
    for name in sorted(touched):
        was, now = before[former.get(name, name)], after[name]
        names = order_of_fields(fields.get(name, ()))
        short = [each for each in names if _is_short(was, each) and _is_short(now, each)]
        changed.append(
            change(
                "changed",
                now,
                formerly=former.get(name, ""),
                fields=names,
                was={each: getattr(was, each) for each in short},
                now={each: getattr(now, each) for each in short},
                criteria=_changed_lines(was, now) if "eligibility_criteria" in names else (),
            )
        )
    return [
        *(change("new", after[name]) for name in found.new),
        *changed,
        *(change("gone", before[name]) for name in found.vanished),
    ]


def refuse_loss(newer: Snapshot, older: Snapshot, changes: Iterable[TrialChange]) -> None:
    """Check that no trial is gone only because what holds it cannot be read today.

    Raises:
        RecordError: no trial is left, or some are gone and something cannot be read that held them,
            or may have: a file that has not wholly arrived.
    """
    gone = {change.nct_id for change in changes if change.what == "gone"}
    if not newer.manifest.counts["trials"]:
        raise RecordError(f"of {len(gone):,} trials the source holds none now; check it")
    if not gone or newer.manifest.notes.get("source") != "files":
        return
    before = {(each.origin, each.reason) for each in read_rejects(older)}
    for each in read_rejects(newer):
        known = (each.origin, each.reason) in before or each.reason in _NO_LOSS
        if not known and (not each.nct_id or each.nct_id in gone):
            raise RecordError(
                f"{each.origin}: {each.detail}; {len(gone):,} trials would go with it: wait until "
                "it has arrived, or take it away"
            )


def _newest_update(snapshot: Snapshot) -> str | None:
    tables = read_rows(snapshot, ["last_update_posted"])
    columns = (table["last_update_posted"].to_pylist() for table in tables)
    return max(filter(None, chain.from_iterable(columns)), default=None)


def _is_short(trial: Trial, name: str) -> bool:
    return len(str(getattr(trial, name))) <= _SHORT


def _changed_lines(was: Trial, now: Trial) -> tuple[str, ...]:
    before, after = was.eligibility_criteria.splitlines(), now.eligibility_criteria.splitlines()
    found = difflib.unified_diff(before, after, n=0, lineterm="")
    lines = [line for line in found if line[:1] in "+-"]
    told = [line[:_SHORT] for line in lines[2:] if line[1:].strip()]
    left = len(told) - _DIFF_LINES
    return (*told[:_DIFF_LINES], *([f"and {left} more lines"] if left > 0 else []))


def read_changes(generation: Path) -> list[TrialChange]:
    """The changes in a generation's folder.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    file = generation / CHANGES_NAME
    try:
        return msgspec.json.Decoder(TrialChange).decode_lines(file.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{file}: damaged ({error})") from error


def render_page(
    changes: Sequence[TrialChange], about: Mapping[str, Any], decision: Mapping[str, Any]
) -> str:
    """The page of one generation, which loads nothing: decision and figures, then what happened.

    `about` are the notes of its manifest, `decision` what `decision.json` holds.
    """
    engine = environment()
    assert engine.loader is not None
    engine.loader = ChoiceLoader([PackageLoader("trialese.pipeline", "."), engine.loader])
    parts = {what: [c for c in changes if c.what == what] for what in ("new", "changed", "gone")}
    parts["changed"].sort(key=_importance)
    return engine.get_template("generation.html.jinja").render(
        about=about,
        decision=decision,
        parts={what: found[:_SHOWN] for what, found in parts.items()},
        counts={what: len(found) for what, found in parts.items()},
        fields=_count_fields(parts["changed"]),
        attribution=ATTRIBUTION,
    )


def _importance(change: TrialChange) -> tuple[int, str]:
    ranks = [_FIRST_FIELDS.index(name) for name in change.fields if name in _FIRST_FIELDS]
    return min(ranks, default=len(_FIRST_FIELDS)), change.nct_id


def _count_fields(changes: Sequence[TrialChange]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for change in changes:
        for name in change.fields:
            counts[name] = counts.get(name, 0) + 1
    first = [name for name in _FIRST_FIELDS if name in counts]
    others = sorted(counts.keys() - set(first), key=lambda name: (-counts[name], name))
    return [(name, counts[name]) for name in (*first, *others)]


def write_feeds(run: Path) -> None:
    """Write `feed.jsonl` and `feed.xml` of the generations in use, newest last and first.

    Only of those that the current generation comes from: what was rolled back did not happen. An
    earlier one that is damaged is left out, with a warning.

    Raises:
        ArtifactError: the disk refused.
    """
    now = current_generation(run)
    if now is None:
        return
    told: list[list[TrialChange]] = []
    for number in list_generations(run):
        if number in now.lineage:
            try:
                told.append(read_changes(open_generation(run, number).path))
            except ArtifactError as error:
                logger.warning("%s; left out of the feeds", error)
    lines = msgspec.json.Encoder().encode_lines(chain.from_iterable(told))
    write_bytes(run / "feed.jsonl", lines)
    newest = list(islice(chain.from_iterable(reversed(told)), FEED_ENTRIES))
    write_bytes(run / "feed.xml", _atom(newest, now.manifest.notes))


def _atom(changes: Sequence[TrialChange], notes: Mapping[str, Any]) -> bytes:
    """RFC 4287; ids are made of run, generation and number, so that a reader shows each once."""
    name, urn = str(notes["run"]), f"urn:trialese:{quote(str(notes['run']), safe='')}"
    days = [change.data_timestamp or "" for change in changes]
    updated = _instant(notes.get("data_timestamp") or max(days, default=""))
    made_up = bool(notes["synthetic"])
    rights = [] if made_up else [f"<rights>{escape(ATTRIBUTION)}</rights>"]
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<title>{escape(_plain(name))}: trials that came, changed or went</title>",
        f"<id>{urn}</id>",
        f"<updated>{updated}</updated>",
        "<author><name>trialese</name></author>",
        *rights,
    ]
    for change in changes:
        link = f"https://clinicaltrials.gov/study/{change.nct_id}"
        told = f"{change.what}: {change.title}"
        summary = escape(_plain(_summary(change)))
        where = [f"<link href={quoteattr(link)}/>", f"<summary>{summary}</summary>"]
        parts += [
            "<entry>",
            f"<title>{escape(_plain(told))}</title>",
            f"<id>{urn}:{change.generation}:{escape(change.nct_id)}</id>",
            f"<updated>{_instant(change.data_timestamp)}</updated>",
            f"<category term={quoteattr(change.what)}/>",
            *([f"<content>{summary}</content>"] if made_up else where),
            "</entry>",
        ]
    return ("\n".join([*parts, "</feed>"]) + "\n").encode()


def _summary(change: TrialChange) -> str:
    if change.what != "changed":
        return f"{change.nct_id} is {change.what}."
    told = [f"{change.nct_id}: {', '.join(change.fields) or 'its number'} changed."]
    for name in ("why_stopped", "overall_status"):
        if change.now.get(name):
            told.append(f"{name}: {change.now[name]}")
    return " ".join(told)


def _plain(text: str) -> str:
    """The text without the control characters that XML 1.0 forbids."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _instant(timestamp: str | None) -> str:
    """A time as RFC 3339 wants it: the registry's has no zone; a month begins on its first day."""
    day, _, clock = (timestamp or "1970").partition("T")
    first = "-".join([*day.split("-"), "01", "01"][:3])
    try:
        found = datetime.fromisoformat(f"{first}T{clock or '00:00:00'}")
    except ValueError:
        return _instant(None)
    found = found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    return found.isoformat(timespec="seconds").replace("+00:00", "Z")
