"""Made-up predictions of plausible systems: what the verdict and its report are tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from trialese.records import Predictions

Runs = dict[str, list[Predictions]]

REASONS = (
    "Another_Study", "Business_Administrative", "Covid19", "Endpoint_Met", "Ethical_Reason",
    "Insufficient_Data", "Insufficient_Enrollment", "Interim_Analysis", "Invalid_Reason",
    "Logistics_Resources", "Negative", "No_Context", "Regulatory", "Safety_Sideeffects",
    "Study_Design", "Study_Staff_Moved", "Success",
)  # fmt: skip
SKILL = {"adapted": 2.6, "base": 2.4, "tfidf": 1.9, "keywords": 1.0, "prior": 0.0}


def make_runs(
    *,
    task: str = "stop-reasons",
    kind: str = "multilabel",
    labels: Sequence[str] = REASONS,
    systems: Sequence[str] = ("adapted", "base", "tfidf", "keywords", "prior"),
    rows: int = 400,
    folds: int = 3,
    run_folds: int | None = None,
    seeds: Sequence[int] = (1,),
    skill: dict[str, float] | None = None,
    random_seed: int = 0,
) -> Runs:
    """Each system's tune and test predictions: noisy log-odds of the truth, honest folds."""
    random = np.random.default_rng(random_seed)
    rates = np.geomspace(0.25, 0.02, len(labels))
    truth = random.random((rows, len(labels))) < rates
    if kind == "multiclass":
        chosen = random.choice(len(labels), rows, p=rates / rates.sum())
        truth = np.eye(len(labels), dtype=bool)[chosen]
    clusters = np.array([f"c{i * 9 // 10:05d}" for i in range(rows)])
    ids = np.array([f"t{i:05d}" for i in range(rows)])
    part = np.array([int(c[1:]) * 7919 % (folds * 20) for c in clusters])
    skill = {**SKILL, **(skill or {})}
    hardness = random.normal(0, 0.7, truth.shape)
    runs: Runs = {system: [] for system in systems}
    for seed in seeds:
        for fold in range(run_folds or folds):
            test = part % folds == fold
            tune = ~test & (part // folds < 4)
            for system in systems:
                noise = hardness + random.normal(0, 0.7, truth.shape)
                if skill[system] == 0.0:
                    noise = np.zeros(truth.shape)
                logits = np.log(rates / (1 - rates)) + skill[system] * 1.4 * (truth - rates) + noise
                scores = 1 / (1 + np.exp(-logits))
                if kind == "multiclass":
                    scores = scores / scores.sum(axis=1, keepdims=True)
                for split, rows_in in (("tune", tune), ("test", test)):
                    runs[system].append(
                        Predictions(
                            task=task,
                            kind=kind,  # type: ignore[arg-type]
                            labels=tuple(labels),
                            system=system,
                            split=split,  # type: ignore[arg-type]
                            seed=seed,
                            fold=fold,
                            ids=tuple(ids[rows_in].tolist()),
                            clusters=tuple(clusters[rows_in].tolist()),
                            scores=scores[rows_in],
                            truth=truth[rows_in],
                            trained_on=frozenset(clusters[~test].tolist()),
                            model_digest=f"{system}-{seed}-{fold}",
                        )
                    )
    return runs


def with_changes(run: Predictions, **changes: Any) -> Predictions:
    """The run with some fields replaced."""
    values = {name: getattr(run, name) for name in Predictions.__slots__}
    return Predictions(**(values | changes))


@pytest.fixture
def runs() -> Runs:
    return make_runs()


@pytest.fixture
def made() -> Callable[..., Runs]:
    return make_runs


@pytest.fixture
def changed() -> Callable[..., Predictions]:
    return with_changes
