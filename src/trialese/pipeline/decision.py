"""Whether to adapt the language model again, and whether what came of it may take over.

Every figure that a decision rests on stands in it, beside what was needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from trialese.collect.snapshot import read_rows, read_trials
from trialese.corpus.store import newest_posted, read_stored
from trialese.errors import ArtifactError
from trialese.generations import Generation, open_generation, read_pointer
from trialese.progress import Progress, silent
from trialese.recipe import RefreshSettings
from trialese.records import Corpus, Interval, Snapshot
from trialese.verdict.text import signed

if TYPE_CHECKING:
    from trialese.pretrain.staleness import Staleness
    from trialese.settings import RenderSettings

__all__ = [
    "DECISION_NAME",
    "TRAINING_NAME",
    "Action",
    "Comparison",
    "Decision",
    "Figure",
    "Training",
    "day_after",
    "decide",
    "last_tried",
    "read_decision",
    "read_learnt",
    "read_training",
    "rule_of",
    "weigh",
]

T = TypeVar("T")

DECISION_NAME = "decision.json"
TRAINING_NAME = "training.json"

Action = Literal[
    "adopted",
    "never",
    "no language model",
    "not yet",
    "no need",
    "cannot tell",
    "adapt",
    "promoted",
    "refused",
]
"""`adapt` stands for a while only: it becomes `promoted` or `refused`."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a decision, as text."""

    name: str
    value: str
    needed: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided of the language model, why, and by which rule: `decision.json`."""

    action: Action
    outcome: str
    """One sentence."""
    reason: str
    rule: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    new_trials: int = 0
    """Posted since the language model's training."""
    enough_on: str | None = None
    """The day by which there will be enough new trials at the present rate."""
    tried_at: int | None = None
    """How many new trials there were when a challenger was refused last."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What the language model learnt from: `training.json`."""

    until: str
    """First posting of the newest trial; "" where none is dated."""
    ids: tuple[str, ...]


def read_training(corpus: Corpus) -> Training:
    """What a language model trained on this corpus learnt from.

    Raises:
        ArtifactError: the corpus is damaged.
    """
    read = [row for row in read_stored(corpus, text=False) if row.split == "train"]
    until = newest_posted(corpus, (row.first_posted for row in read))
    return Training(until=until, ids=tuple(sorted(row.nct_id for row in read)))


def read_decision(generation: Generation) -> Decision:
    """The decision that was taken when the generation was made.

    Raises:
        ArtifactError: the file is damaged.
    """
    return _read(generation, DECISION_NAME, Decision)


def read_learnt(generation: Generation) -> Training:
    """What the generation's language model learnt from.

    Raises:
        ArtifactError: the file is damaged.
    """
    return _read(generation, TRAINING_NAME, Training)


def _read(generation: Generation, name: str, kind: type[T]) -> T:
    file = generation.path / name
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(
            f"{file}: damaged ({error}); turn to another generation with `trialese rollback`"
        ) from error


def rule_of(settings: RefreshSettings) -> tuple[str, ...]:
    """The rule by which it is decided, in sentences."""
    return (
        f"Fewer than {settings.least_new_trials:,} trials first posted since the language model's "
        "training: not yet. After a challenger was refused, "
        f"{settings.again_share:.0%} more must come first.",
        "Else its staleness is measured on trials that it did not learn from: what it loses from "
        "before the end of its training to since, less what its control loses on the same trials. "
        "It adapts again if the whole 95 % interval is above zero and the effect is larger than "
        "any at false borders inside the training period.",
        "The challenger goes on from the language model with the new text and some of the old; a "
        "control goes on with old text alone for as long.",
        "Classifiers are fitted on champion and challenger over the same folds. The challenger "
        "takes over if, in every task, the interval of the primary figure's difference stays "
        f"above -{settings.margin:g}, no difference on the newest labelled texts lies wholly below "
        "that, and the language model reads held-out new trials better: the whole interval of the "
        "change of its loss is below zero. Else the champion stays.",
    )


def day_after(day: str) -> str:
    """The first day after a day, a month or a year as the registry writes them, ISO 8601."""
    if len(day) == 10:
        return (date.fromisoformat(day) + timedelta(days=1)).isoformat()
    year, _, month = day.partition("-")
    if not month or month == "12":
        return f"{int(year) + 1}-01-01"
    return f"{year}-{int(month) + 1:02d}-01"


def decide(
    current: Generation,
    snapshot: Snapshot,
    settings: RefreshSettings,
    *,
    force: bool = False,
    never: bool = False,
    tried_at: int | None = None,
    render: RenderSettings | None = None,
    progress: Progress = silent,
) -> Decision:
    """Whether the language model of `current` should learn from what is new in `snapshot`.

    `tried_at` is how many new trials there were when a challenger was refused, or rolled back.

    Raises:
        ArtifactError: the snapshot or a model is damaged.
    """
    rule = rule_of(settings)
    if current.language_model is None:
        return Decision(
            action="no language model",
            outcome="There is nothing to adapt.",
            reason="the classifiers stand on no language model",
            rule=(),
        )
    training = read_learnt(current)
    posted, days = _new_trials(snapshot, training)
    needed = settings.least_new_trials
    if tried_at:
        needed = max(needed, math.ceil(tried_at * (1 + settings.again_share)))
    figures = [
        Figure(name="end of the language model's training", value=training.until or "not dated"),
        Figure(
            name="trials first posted since", value=f"{posted:,}", needed=f"at least {needed:,}"
        ),
    ]
    if days > 0:
        figures.append(Figure(name="of these a day", value=f"{posted / days:.2f}"))
    if tried_at:
        figures.append(Figure(name="when a challenger was refused last", value=f"{tried_at:,}"))
    enough_on = None
    if posted < needed and posted and days > 0:
        until = date.fromisoformat(training.until[:10])
        with suppress(OverflowError):  # in no year that calendars know
            enough_on = (until + timedelta(days=math.ceil(needed * days / posted))).isoformat()

    action, reason = _without_measuring(
        posted, needed, training.until, enough_on, force=force, never=never
    )
    if not action:
        measured = _staleness(current, snapshot, training, settings, render, progress)
        figures += _staleness_figures(measured)
        effect, least = measured.effect, measured.least_effect
        action, reason = "no need", measured.advice
        if effect is None or least is None:
            action = "cannot tell"
        elif effect.loss.low > 0 and effect.loss.point > least:
            action = "adapt"
    return Decision(
        action=action,
        outcome="The language model " + ("goes on." if action == "adapt" else "stays."),
        reason=reason,
        rule=rule,
        figures=tuple(figures),
        new_trials=posted,
        enough_on=enough_on,
        tried_at=tried_at,
    )


def last_tried(current: Generation, before: Decision) -> int | None:
    """How many new trials there were when a challenger was refused last, or turned back from.

    `before` is the decision of `current`. Of a generation that somebody turned back from those
    count too that it came from, as far as they are not what `current` came from.

    Raises:
        ArtifactError: `current.json` is damaged.
    """
    run = current.path.parents[1]
    pointer = read_pointer(run)
    tried = [before.tried_at or 0]
    if pointer is not None and pointer.rolled_back is not None:
        with suppress(ArtifactError):
            left = open_generation(run, pointer.rolled_back)
            for number in set(left.lineage) - set(current.lineage):
                with suppress(ArtifactError):
                    taken = read_decision(open_generation(run, number))
                    told = taken.new_trials if taken.action == "promoted" else taken.tried_at
                    tried.append(told or 0)
    return max(tried) or None


def _without_measuring(
    posted: int, needed: int, until: str, enough_on: str | None, *, force: bool, never: bool
) -> tuple[Action | Literal[""], str]:
    """The action that needs no staleness, and why; "" where that decides."""
    if never:
        return "never", "`--never` was given"
    if posted == 0:
        return "not yet", f"no trial was first posted after {until or 'its training'}"
    if force:
        return "adapt", "`--force` was given"
    if posted < needed:
        when = f"; at this rate there will be enough on {enough_on}" if enough_on else ""
        return "not yet", f"{posted:,} of {needed:,} trials were first posted since {until}{when}"
    return "", ""


def _new_trials(snapshot: Snapshot, training: Training) -> tuple[int, int]:
    """(trials first posted since the training and not learnt from, days since)."""
    if not training.until:
        return 0, 0
    learnt = frozenset(training.ids)
    posted, newest = 0, training.until
    for table in read_rows(snapshot, ["first_posted"]):
        for name, day in zip(
            table["nct_id"].to_pylist(), table["first_posted"].to_pylist(), strict=True
        ):
            if day and day > training.until and name not in learnt:
                posted += 1
                newest = max(newest, day)
    # Nothing was posted after the data; a record's date that lies beyond is an error of its own.
    newest = str(snapshot.manifest.notes.get("data_timestamp") or newest)
    try:
        days = (date.fromisoformat(newest[:10]) - date.fromisoformat(training.until[:10])).days
    except ValueError:
        days = 0
    return posted, days


def _staleness(
    current: Generation,
    snapshot: Snapshot,
    training: Training,
    settings: RefreshSettings,
    render: RenderSettings | None,
    progress: Progress,
) -> Staleness:
    from trialese.pretrain.staleness import load_reader, load_reference, measure_staleness
    from trialese.settings import BackboneSettings

    assert current.language_model is not None
    model, tokenizer = load_reader(
        BackboneSettings(name=str(current.language_model / "model")), None
    )
    control = current.control
    reference = load_reference(str(control / "model"), tokenizer) if control else None
    return measure_staleness(
        read_trials(snapshot),
        model,
        tokenizer,
        trained_until=training.until,
        trained_on=frozenset(training.ids),
        reference=reference,
        reference_name="its control" if control else "",
        render=render,
        sample=settings.staleness_sample,
        pll_sample=0,
        progress=progress,
    )


def _staleness_figures(measured: Staleness) -> list[Figure]:
    found = []
    if measured.effect is not None:
        effect = measured.effect
        found.append(
            Figure(
                name="staleness: loss since, less before, against the control (nats a token)",
                value=f"{signed(effect.loss)} on {effect.since:,} trials and {effect.before:,}",
                needed="interval above 0",
            )
        )
    if measured.least_effect is not None:
        found.append(
            Figure(
                name=f"largest effect of {len(measured.false_borders)} false borders",
                value=f"{measured.least_effect:.4f}",
                needed="smaller than the effect",
            )
        )
    return found


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Challenger less champion in the primary figure of one task."""

    task: str
    metric: str
    difference: Interval
    rows: int
    newest: Interval | None = None
    """The same on the newest labelled texts."""
    newest_rows: int = 0
    newest_told: str = ""
    """Why there is no figure for those."""
    answers: str = ""
    """What became of the annotators' answers."""


def weigh(
    decided: Decision,
    comparisons: Sequence[Comparison],
    language_model: Mapping[str, Any],
    settings: RefreshSettings,
) -> Decision:
    """The decision on a challenger: "promoted", or "refused" with every reason.

    `language_model` is what `pretrain.heldout.compare_models` tells of challenger and control.
    """
    figures, against = list(decided.figures), list[str]()
    figures.append(Figure(name="why the language model went on", value=decided.reason))
    new = language_model.get("new")
    if new is None:
        against.append("there are no held-out new trials to read")
    else:
        change = _interval(new["loss"]["adapted - base"])
        figures.append(
            Figure(
                name="loss on held-out new trials, challenger - champion (nats a token)",
                value=f"{signed(change)} on {new['documents']:,} documents",
                needed="interval below 0",
            )
        )
        if change.high >= 0:
            against.append(f"the language model does not read new trials better ({signed(change)})")
        if "adapted - control" in new["loss"]:
            value = signed(_interval(new["loss"]["adapted - control"]))
            name = "the same, challenger - control (what new text brought)"
            figures.append(Figure(name=name, value=value))
    for each in comparisons:
        figures += _comparison_figures(each, settings)
        if each.difference.low <= -settings.margin:
            against.append(
                f"{each.task}: {each.metric} may be lower by the margin or more "
                f"({signed(each.difference)})"
            )
        if each.newest is not None and each.newest.high < -settings.margin:
            against.append(
                f"{each.task}: {each.metric} is lower on the newest labelled texts "
                f"({signed(each.newest)})"
            )
    return msgspec.structs.replace(
        decided,
        action="refused" if against else "promoted",
        outcome="The champion stays." if against else "The challenger takes over.",
        reason="; ".join(against) or "no task is worse by the margin, and new trials read better",
        figures=tuple(figures),
        tried_at=decided.new_trials if against else None,
    )


def _comparison_figures(each: Comparison, settings: RefreshSettings) -> list[Figure]:
    found = [
        Figure(
            name=f"{each.task}: {each.metric}, challenger - champion",
            value=f"{signed(each.difference)} on {each.rows:,} texts",
            needed=f"interval above -{settings.margin:g}",
        ),
        Figure(
            name=f"{each.task}: the same on the newest labelled texts",
            value=each.newest_told
            if each.newest is None
            else f"{signed(each.newest)} on {each.newest_rows:,} texts",
            needed=f"not wholly below -{settings.margin:g}",
        ),
    ]
    if each.answers:
        found.append(Figure(name=f"{each.task}: answers of annotators", value=each.answers))
    return found


def _interval(plain: Mapping[str, float]) -> Interval:
    return msgspec.convert(plain, Interval)
