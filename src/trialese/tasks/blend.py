"""A blend of classifiers of one task: the mean of their log-odds, the members within its folder.

`blend.json` names the members, their weights and their digests; `members/NAME` holds each as a
folder of its own. Whatever a member needs (torch, say) the blend needs, and nothing else but numpy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np

from trialese.errors import ArtifactError, RecordError, missing_module
from trialese.progress import Progress, silent
from trialese.records import Predictions, Task, Thresholds
from trialese.tasks.linear import linear_scores
from trialese.tasks.scorer import (
    Agreement,
    Description,
    LabelsTexts,
    Preprocessing,
    Preset,
    Scorer,
    as_texts,
    new_folder,
    read_description,
)
from trialese.temperature import Calibration, calibrate
from trialese.thresholds import log_odds

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLEND_NAME", "BlendClassifier", "Member", "blend_predictions", "describe_blend"]

BLEND_NAME = "blend.json"
_MEMBERS = "members"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One classifier of a blend, as `blend.json` names it."""

    name: Annotated[str, msgspec.Meta(pattern=r"\A\w[\w.+-]*\Z")]
    """Its system, and its folder below `members`."""
    weight: Annotated[float, msgspec.Meta(gt=0, le=1)]
    """Of its log-odds; those of all members sum to 1."""
    digest: str
    """sha256 over the names and bytes of its files."""
    engine: str
    """What computes its scores, such as "torch fp32"."""


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`blend.json`."""

    rule: Literal["mean of log-odds"] = "mean of log-odds"
    members: tuple[Member, ...]


@dataclass(slots=True)
class BlendClassifier(LabelsTexts):
    """Classifiers of one task with their weights, and the thresholds of what they say together."""

    task: Task
    preprocessing: Preprocessing
    members: tuple[Scorer, ...]
    about: tuple[Member, ...]
    """Of each member: name, weight, digest, engine."""
    folders: tuple[Path, ...]
    """The folder that each member was loaded from."""
    thresholds: Thresholds | None = None
    preset: Preset | None = None
    digest: str = ""
    calibration: Calibration | None = None
    """What makes the blended scores chances; None: they are scores."""

    @classmethod
    def of(cls, members: Sequence[tuple[str, Scorer, Path]]) -> BlendClassifier:
        """The blend of classifiers, given by name, as loaded, and by folder; all weigh the same.

        Raises:
            RecordError: they are of different tasks or labels, or read different texts.
        """
        names, scorers, folders = zip(*members, strict=True)
        first = scorers[0]
        for name, scorer in zip(names, scorers, strict=True):
            if (what := _differs(scorer, first)) is not None:
                raise RecordError(f"{name} and {names[0]} cannot be blended: {what}")
        most = max(scorer.preprocessing.max_tokens for scorer in scorers)
        return cls(
            task=first.task,
            preprocessing=msgspec.structs.replace(first.preprocessing, max_tokens=most),
            members=scorers,
            about=tuple(
                Member(name=name, weight=1 / len(names), digest=each.digest, engine=each.engine)
                for name, each in zip(names, scorers, strict=True)
            ),
            folders=folders,
        )

    @classmethod
    def load(cls, folder: Path, load_member: Callable[[Path], Scorer]) -> BlendClassifier:
        """The blend in a folder that `save_pretrained` wrote; `load_member` loads a member's.

        Raises:
            ArtifactError: a damaged blend; a member that is missing, altered, of another task or
                of other labels, or that needs what is not installed.
        """
        known = read_description(folder)
        about = describe_blend(folder)
        again = "copy the whole folder, or blend again"
        members, folders = [], []
        for each in about:
            home = folder / _MEMBERS / each.name
            if not home.is_dir():
                raise ArtifactError(f"{folder}: its member {each.name} is missing; {again}")
            try:
                member = load_member(home)
            except ModuleNotFoundError as error:
                told = missing_module(error.name or "")
                if told is None:
                    raise
                names = " and ".join(one.name for one in about)
                raise ArtifactError(f"{folder}: a blend of {names}; {each.name}: {told}") from error
            if member.digest != each.digest:
                raise ArtifactError(f"{home}: altered since it was blended; {again}")
            if (what := _differs(member, known)) is not None:
                raise ArtifactError(f"{home}: does not belong to this blend: {what}; {again}")
            members.append(member)
            folders.append(home)
        return cls(
            task=known.task,
            preprocessing=known.preprocessing,
            members=tuple(members),
            about=about,
            folders=tuple(folders),
            thresholds=known.thresholds,
            preset=known.preset,
            digest=known.digest,
            calibration=known.calibration,
        )

    @property
    def engine(self) -> str:
        """Such as "blend of torch fp32 and linear fp32 weights"."""
        return f"blend of {' and '.join(member.engine for member in self.members)}"

    @property
    def agreement(self) -> Agreement | None:
        """Of the member that is scored in another precision than fp32, if there is one."""
        found = (getattr(member, "agreement", None) for member in self.members)
        return next((each for each in found if each is not None), None)

    def predict_proba(
        self, texts: Sequence[str], *, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Probabilities (texts, labels): the weighted mean of the members' log-odds, as chances.

        Raises:
            RecordError: one text instead of several, or something that is no text.
        """
        given = as_texts(texts)
        scores = [member.predict_proba(given, progress=progress) for member in self.members]
        blended = _blend(self.task, scores, [each.weight for each in self.about])
        return calibrate(blended, self.calibration, kind=self.task.kind)

    def take_calibration(self, calibration: Calibration | None) -> None:
        """Calibrate the blended scores from now on."""
        self.calibration = calibration

    def shares(self, column: int) -> list[tuple[Scorer, float]]:
        """Each member with how much of its log-odds of a label goes into the blend's."""
        slope = 1.0 if self.calibration is None else self.calibration.slopes[column]
        return [
            (member, slope * each.weight)
            for member, each in zip(self.members, self.about, strict=True)
        ]

    def save_pretrained(self, path: str | Path) -> None:
        """Write the blend as a folder at `path`, a copy of every member within it.

        Raises:
            ArtifactError: something stands at `path` already.
        """
        with new_folder(Path(path), self) as folder:
            for each, home in zip(self.about, self.folders, strict=True):
                shutil.copytree(home, folder / _MEMBERS / each.name)
            saved = msgspec.json.encode(_Saved(members=self.about), order="deterministic")
            (folder / BLEND_NAME).write_bytes(msgspec.json.format(saved, indent=2) + b"\n")


def describe_blend(folder: Path) -> tuple[Member, ...]:
    """The members of the blend in a model folder.

    Raises:
        ArtifactError: a damaged `blend.json`.
    """
    try:
        found = msgspec.json.decode((folder / BLEND_NAME).read_bytes(), type=_Saved).members
        if len(found) < 2 or len({each.name for each in found}) < len(found):
            raise ValueError("a blend needs several members of different names")
        if abs(sum(each.weight for each in found) - 1) > 1e-9:
            raise ValueError("the members' weights do not sum to 1")
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ArtifactError(
            f"{folder / BLEND_NAME}: damaged classifier ({error}); blend again"
        ) from error
    return found


def blend_predictions(
    one: Sequence[Predictions], other: Sequence[Predictions], *, system: str
) -> list[Predictions]:
    """Each run of `one` with the mean of its log-odds and those of the same run of `other`.

    What either was trained on counts as seen by the blend.

    Raises:
        RecordError: a run without its partner, or partners with other rows.
    """
    partners = {(run.task, run.seed, run.fold, run.split): run for run in other}
    blended = []
    for run in one:
        key = (run.task, run.seed, run.fold, run.split)
        partner = partners.get(key)
        name = f"{run.task}, {run.split} of seed {run.seed}, fold {run.fold}"
        if partner is None or len(one) != len(other):
            raise RecordError(f"{name}: not in both systems; fit both with the same recipe")
        if (run.labels, run.clusters) != (partner.labels, partner.clusters) or (
            run.ids != partner.ids
        ):
            raise RecordError(f"{name}: the systems saw different rows; fit both with one recipe")
        task = Task(run.task, run.labels, run.kind)
        blended.append(
            replace(
                run,
                system=system,
                scores=_blend(task, (run.scores, partner.scores), (0.5, 0.5)),
                trained_on=run.trained_on | partner.trained_on,
                model_digest=f"{run.model_digest}+{partner.model_digest}",
            )
        )
    return blended


def _blend(
    task: Task, scores: Sequence[NDArray[np.float64]], weights: Sequence[float]
) -> NDArray[np.float64]:
    """The scores (texts, labels) whose log-odds are the weighted mean; one label a text: made to
    sum to 1."""
    mean = sum(weight * log_odds(each) for weight, each in zip(weights, scores, strict=True))
    return linear_scores(task, np.asarray(mean))


def _differs(scorer: Scorer, other: Scorer | Description) -> str | None:
    """What keeps a classifier out of a blend with another: task, labels, or the text it reads."""
    mine, theirs = scorer.task, other.task
    if mine.name != theirs.name:
        return f"it is of {mine.name}, not of {theirs.name}"
    if (mine.kind, mine.labels) != (theirs.kind, theirs.labels):
        return "it has other labels"
    read = (msgspec.structs.replace(each.preprocessing, max_tokens=1) for each in (scorer, other))
    return "it reads other texts" if len(set(read)) > 1 else None
