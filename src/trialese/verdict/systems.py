"""The predictions of all systems on one task, matched row by row over the same folds and seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trialese.errors import RecordError
from trialese.predictions import check_predictions, take_rows
from trialese.records import BASELINES, Predictions, Thresholds

__all__ = [
    "Comparison",
    "Round",
    "RoundThresholds",
    "align_systems",
    "guess_prior",
    "share_folds",
]


_LEADERS = ("adapted", "control", "base")

RoundThresholds = Mapping[tuple[str, int, int], Thresholds]
"""Thresholds by system, seed and fold."""


@dataclass(frozen=True, slots=True)
class Round:
    """One fold of one seed: its test rows, ordered by id, and each system's predictions."""

    seed: int
    fold: int
    ids: tuple[str, ...]  # (rows,)
    clusters: tuple[str, ...]  # (rows,)
    truth: NDArray[np.bool_]  # (rows, labels)
    tune: dict[str, Predictions]
    test: dict[str, Predictions]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every system over the same rounds; adapted, control, base first, baselines last."""

    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: tuple[str, ...]
    systems: tuple[str, ...]
    rounds: tuple[Round, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The systems that are no baselines."""
        return tuple(name for name in self.systems if name not in BASELINES)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The systems without a language model."""
        return tuple(name for name in self.systems if name in BASELINES)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(sorted({each.seed for each in self.rounds}))

    def support(self) -> dict[str, float]:
        """Of each label, how many test texts have it, the mean over seeds."""
        total = sum(each.truth.sum(axis=0) for each in self.rounds) / len(self.seeds)
        return dict(zip(self.labels, np.asarray(total).tolist(), strict=True))

    def digest(self) -> str:
        """sha256 of what is judged: task, labels, and the rows with their truth."""
        total = hashlib.sha256(msgspec.json.encode([self.task, self.kind, self.labels]))
        for each in self.rounds:
            total.update(msgspec.json.encode([each.seed, each.fold, each.ids, each.clusters]))
            total.update(each.truth.tobytes())
        return total.hexdigest()


def guess_prior(given: Sequence[Predictions]) -> list[Predictions]:
    """A system "prior" beside another one: every text gets the shares of the labels in tune.

    For each tune and test run of `given`, from the tune rows of the same seed and fold.
    """
    rates = {
        (run.seed, run.fold): (run.truth.mean(axis=0), frozenset(run.clusters))
        for run in given
        if run.split == "tune" and run.ids
    }
    found = []
    for run in given:
        if (run.seed, run.fold) in rates:
            rate, clusters = rates[run.seed, run.fold]
            scores = np.broadcast_to(rate, run.truth.shape).astype(np.float64)
            found.append(
                replace(
                    run, system="prior", scores=scores, trained_on=clusters, model_digest="prior"
                )
            )
    return found


def share_folds(
    runs: Mapping[str, Sequence[Predictions]],
) -> tuple[dict[str, list[Predictions]], list[str]]:
    """The runs of the seeds and folds that every system has, and what was left out, in words.

    Raises:
        RecordError: no seed and fold that all have.
    """
    keys = {name: {(run.seed, run.fold) for run in given} for name, given in runs.items()}
    shared = set.intersection(*keys.values())
    if not shared:
        raise RecordError(
            f"{', '.join(runs)} share no seed and fold; fit them with the same seeds and run_folds"
        )
    left_out = []
    for seed, fold in sorted(set().union(*keys.values()) - shared):
        lacking = " and ".join(name for name, known in keys.items() if (seed, fold) not in known)
        left_out.append(f"seed {seed}, fold {fold} ({lacking} lacks it)")
    kept = {
        name: [run for run in given if (run.seed, run.fold) in shared]
        for name, given in runs.items()
    }
    return kept, left_out


def align_systems(runs: Mapping[str, Sequence[Predictions]]) -> Comparison:
    """The systems' tune and test predictions as rounds, rows ordered by id.

    Raises:
        RecordError: fewer than two systems, a missing tune or test run, a run twice, a text
            tested in two folds of one seed, or systems that differ in task, labels, rounds,
            rows or truth; a test fold that is empty, of one class or without any label.
    """
    if len(runs) < 2:
        known = ", ".join(runs) or "nothing"
        raise RecordError(f"only {known} was given; a verdict needs a rival, such as a baseline")
    sorted_in = {system: _by_round(system, given) for system, given in runs.items()}
    first = next(iter(runs.values()))[0]
    for system, given in runs.items():
        for run in given:
            if (run.task, run.kind, run.labels) != (first.task, first.kind, first.labels):
                raise RecordError(
                    f"{system} was given for {run.task} with {len(run.labels)} labels, "
                    f"{first.system} for {first.task} with {len(first.labels)}; judge one task "
                    "with one list of labels at a time"
                )
    rounds = tuple(_round(first.task, key, sorted_in) for key in sorted(_keys(sorted_in)))
    _refuse_repeats(first.task, rounds)
    order = [name for name in _LEADERS if name in runs]
    order += [name for name in runs if name not in (*_LEADERS, *BASELINES)]
    order += [name for name in reversed(BASELINES) if name in runs]
    return Comparison(first.task, first.kind, first.labels, tuple(order), rounds)


_Key = tuple[int, int]
_Halves = dict[_Key, dict[str, Predictions]]


def _by_round(system: str, given: Sequence[Predictions]) -> _Halves:
    """(seed, fold) -> split -> predictions, rows ordered by id."""
    found: _Halves = {}
    for run in given:
        check_predictions(run)
        halves = found.setdefault((run.seed, run.fold), {})
        if run.split in halves:
            raise RecordError(
                f"{system}: {run.split} of seed {run.seed}, fold {run.fold} was given twice"
            )
        halves[run.split] = _ordered(run)
    for (seed, fold), halves in found.items():
        for split in ("tune", "test"):
            if split not in halves:
                raise RecordError(
                    f"{system}: no {split} predictions of seed {seed}, fold {fold}; "
                    "a verdict needs both, so fit that fold again"
                )
        _refuse_pointless(halves["test"], f"{system}: the test of seed {seed}, fold {fold}")
    if not found:
        raise RecordError(f"{system}: no predictions; fit it or leave it out")
    return found


def _refuse_pointless(test: Predictions, name: str) -> None:
    """Nothing can be told of a fold without rows, or where every row has the same answer."""
    cure = "use fewer folds or more texts"
    totals = test.truth.sum(axis=0).tolist()
    held = [label for label, total in zip(test.labels, totals, strict=True) if total]
    if not test.ids:
        raise RecordError(f"{name} is empty; {cure}")
    if test.kind == "multiclass" and len(held) < 2 <= len(test.labels):
        raise RecordError(f"{name} holds only {held[0]}, so nothing can be told apart; {cure}")
    if not held:
        raise RecordError(f"{name} holds no label at all; {cure}")


def _keys(sorted_in: Mapping[str, _Halves]) -> set[_Key]:
    (leader, expected), *others = ((name, set(found)) for name, found in sorted_in.items())
    for name, keys in others:
        for seed, fold in sorted(keys ^ expected):
            lacking = name if (seed, fold) in expected else leader
            raise RecordError(
                f"{lacking} lacks seed {seed}, fold {fold}; systems are compared on the same "
                "seeds and folds only"
            )
    return expected


def _round(task: str, key: _Key, sorted_in: Mapping[str, _Halves]) -> Round:
    tune = {name: found[key]["tune"] for name, found in sorted_in.items()}
    test = {name: found[key]["test"] for name, found in sorted_in.items()}
    leader, first = next(iter(test.items()))
    for name, run in test.items():
        where = f"{task}, seed {key[0]}, fold {key[1]}: {name} and {leader}"
        if run.ids != first.ids:
            odd = sorted(set(run.ids) ^ set(first.ids))
            raise RecordError(f"{where} were tested on different texts, such as {odd[0]!r}")
        if run.clusters != first.clusters or not np.array_equal(run.truth, first.truth):
            raise RecordError(f"{where} disagree on the truth or the clusters of the same texts")
    return Round(key[0], key[1], first.ids, first.clusters, first.truth, tune, test)


def _refuse_repeats(task: str, rounds: Sequence[Round]) -> None:
    seen: dict[tuple[int, str], int] = {}
    for each in rounds:
        for text in each.ids:
            other = seen.setdefault((each.seed, text), each.fold)
            if other != each.fold:
                raise RecordError(
                    f"{task}: text {text!r} is tested in folds {other} and {each.fold} of seed "
                    f"{each.seed}; folds must not share texts"
                )


def _ordered(run: Predictions) -> Predictions:
    return take_rows(run, sorted(range(len(run.ids)), key=run.ids.__getitem__))
