"""One system of a task, fitted to rounds of texts, its settings chosen inside each fold.

A setting that was ranked on the very texts that are tested makes their scores too good, whoever
ranked it. Where a grid is given, every combination is fitted on inner folds of what lies outside
the test fold and scored on the part that each fit has not seen; the best one serves the fold (Varma
and Simon 2006). Language models and TF-IDF are searched alike, each over its own grid.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trialese.errors import RecipeError, suggest
from trialese.progress import Progress, silent
from trialese.records import Example, Predictions, Task
from trialese.settings import FinetuneSettings, TaskSettings
from trialese.tasks.baselines import Baseline, fit_baseline
from trialese.tasks.folds import ExampleSet, Round, inner_rounds
from trialese.tasks.labelled import Silver
from trialese.tasks.linear import (
    LinearChoices,
    LinearClassifier,
    Regularisation,
    fit_linear,
    tune_score,
)
from trialese.tasks.task import TaskDefinition, encode_labels
from trialese.temperature import Calibration, fit_calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trialese.tasks.classifier import Classifier

__all__ = [
    "FINAL",
    "Combination",
    "Search",
    "SilverStart",
    "System",
    "average_weights",
    "check_search",
    "combinations_of",
    "score_held",
]

Combination = dict[str, Any]
"""Setting -> value; {}: what the recipe says."""

_SEARCHED: dict[str, type[msgspec.Struct]] = {"finetune": FinetuneSettings, "tfidf": LinearChoices}


def check_search(name: str, section: TaskSettings) -> None:
    """Refuse a grid of the task called `name` that cannot be searched.

    Raises:
        RecipeError: systems or settings that nobody knows, a value that one cannot have, no value.
    """
    for system, grid in section.search.items():
        where = f"tasks, {name}: search.{system}"
        if system not in _SEARCHED:
            raise RecipeError(f"{where}: no such systems; {suggest(system, _SEARCHED)}")
        kind = _SEARCHED[system]
        for setting, values in grid.items():
            if setting not in kind.__struct_fields__:
                cure = suggest(setting, kind.__struct_fields__)
                raise RecipeError(f"{where}.{setting}: no such setting; {cure}")
            if not values:
                raise RecipeError(f"{where}.{setting}: no value to try; give some or leave it out")
            for value in values:
                try:
                    msgspec.convert({setting: value}, kind)
                except msgspec.ValidationError as error:
                    raise RecipeError(
                        f"{where}.{setting}: {value!r} will not do ({error})"
                    ) from error
        for combination in combinations_of(section, system):
            try:
                msgspec.convert(combination, kind)
            except msgspec.ValidationError as error:
                raise RecipeError(f"{where}: {combination} will not do ({error})") from error


def combinations_of(section: TaskSettings, system: str) -> list[Combination]:
    """Every combination of a grid, "finetune" (language models) or "tfidf"; [{}] without one."""
    grid = section.search.get(system, {})
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


class Search:
    """The choices of one system of a task, fold by fold."""

    def __init__(self, task: Task, section: TaskSettings, system: str) -> None:
        self._task, self._section = task, section
        self.combinations = combinations_of(section, system)
        self._chosen: dict[int, Combination] = {}
        self._scores: dict[int, list[float]] = {}

    def choose(
        self,
        texts: Sequence[Example],
        extra: Sequence[Example],
        fit: Callable[[Combination, list[Example], list[Example]], Baseline],
        *,
        fold: int,
        progress: Progress = silent,
    ) -> Combination:
        """The combination with the highest micro-F1 + macro-F1 over the inner folds together.

        Args:
            texts: all that lie outside the test fold, and nothing else.
            extra: further texts to learn from, never scored.
            fit: combination, train and held texts -> what predicts.
            fold: the test fold, which names the inner ones.
            progress: hears of each fit.

        The cut-off is the best common one on the same texts, for every combination alike. Which
        inner fold a text is in follows from its cluster. The first of equally good ones is taken;
        where there is one alone, nothing is fitted.

        Raises:
            RecordError: an inner fold without any text.
        """
        section, tried = self._section, self.combinations
        if len(tried) == 1:
            return tried[0]
        rounds = inner_rounds(texts, [], section.search_folds, fold=fold, seed=section.split_seed)
        truth = np.concatenate([encode_labels(self._task, held) for _, held in rounds])
        scores: list[float] = []
        for number, combination in enumerate(tried):
            found = []
            for inner, (train, held) in enumerate(rounds):
                done, total = number * len(rounds) + inner, len(tried) * len(rounds)
                progress(f"{self._task.name}: fits to choose settings", done, total)
                predict = fit(combination, [*train, *extra], held)
                found.append(predict([text.text for text in held]))
            scores.append(tune_score(self._task, np.concatenate(found), truth))
        self._chosen[fold] = tried[int(np.argmax(scores))]
        self._scores[fold] = scores
        return self._chosen[fold]

    @property
    def commonest(self) -> Combination:
        """The combination that served most folds, the earlier of equals."""
        counts = Counter(map(str, self._chosen.values()))
        return max(
            self._chosen.values(),
            key=lambda each: counts[str(each)],
            default=self.combinations[0],
        )

    def as_notes(self) -> dict[str, Any]:
        """The search budget and what came of it, as a manifest holds it; {} without a grid."""
        if not self._chosen:
            return {}
        folds, tried = self._section.search_folds, len(self.combinations)
        return {
            "settings": tried,
            "inner_folds": folds,
            "fits": tried * folds * len(self._chosen),
            "chosen": {str(fold): chosen for fold, chosen in self._chosen.items()},
            "scores": {
                str(fold): [round(score, 6) for score in scores]
                for fold, scores in self._scores.items()
            },
        }


FINAL = -1
"""In the log of fits, the fold of those on everything."""


def score_held(
    rounds: Sequence[Round], predicts: Sequence[Callable[[Sequence[str]], NDArray[np.float64]]]
) -> tuple[list[Example], NDArray[np.float64]]:
    """Every round's held texts, and their scores (texts, labels) by the round's own fit."""
    held = [replace(text, split="tune") for _, texts in rounds for text in texts]
    scores = [
        predict([text.text for text in texts])
        for (_, texts), predict in zip(rounds, predicts, strict=True)
    ]
    return held, np.concatenate(scores)


def average_weights(classifiers: Sequence[Classifier]) -> Classifier:
    """The first classifier with the mean of all their weights; the others are left alone."""
    first, *others = classifiers
    if others:
        states = [each.model.state_dict() for each in classifiers]
        first.model.load_state_dict(
            {
                name: sum(state[name] for state in states) / len(states)
                if value.is_floating_point()
                else value
                for name, value in states[0].items()
            }
        )
    return first


class System:
    """One system of a task: a baseline, TF-IDF, or a language model (`model` is its folder)."""

    def __init__(
        self,
        definition: TaskDefinition,
        system: str,
        model: Path | None,
        silver: Silver | None,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._definition, self._system, self._model = definition, system, model
        self._progress, self._starts = progress, None
        self._how = definition.section.finetune
        if silver is not None and model is not None:
            self._starts = SilverStart(silver, model, self._how, folder, progress)
            self._how = self._starts.then
        self._plain, self._choices = self._how, LinearChoices()
        searched = "finetune" if model is not None else system
        self._search = Search(definition.task, definition.section, searched)
        self.classifier: Classifier | None = None
        """Of a language model: the mean of the last rounds' fits."""
        self.logs: list[dict[str, Any]] = []
        self.regularisations: list[Regularisation] = []
        """Of TF-IDF, what each round chose."""

    def prepare(
        self, rounds: list[Round], extra: list[Example], near: Collection[str], fold: int
    ) -> list[Round]:
        """Take the settings that serve the fold, and return its rounds with the extra texts.

        Texts with ids in `near` are not learnt from.
        """
        train, held = rounds[0]  # together all texts that the fold does not test
        texts = [text for text in (*train, *held) if text.example_id not in near]
        fit, progress = self._fit_once, self._progress
        self._use(self._search.choose(texts, extra, fit, fold=fold, progress=progress))
        return [
            ([text for text in train if text.example_id not in near] + extra, held)
            for train, held in rounds
        ]

    def _use(self, combination: Combination) -> None:
        if self._model is None:
            self._choices = msgspec.convert(combination, LinearChoices)
        else:
            self._how = msgspec.structs.replace(self._plain, **combination)

    def _fit_once(
        self, combination: Combination, train: list[Example], held: list[Example]
    ) -> Baseline:
        """A fit of the first seed, to try the combination with; it leaves no trace."""
        logs, regularisations = list(self.logs), list(self.regularisations)
        self._use(combination)
        (predict,) = self.rounds([(train, held)], FINAL, self._definition.section.seeds[0])
        self.logs, self.regularisations = logs, regularisations
        return predict

    def about_search(self) -> dict[str, Any]:
        """What was tried on texts that are not tested: the search budget, for the manifest."""
        linear = self._model is None
        tried = len(self._choices.regularisations) if linear else 1
        epochs = {} if linear or self._how.average_last else {"epochs": self._how.epochs}
        return {"search": self._search.as_notes() or {"settings": tried, "inner_folds": 0} | epochs}

    def rounds(self, rounds: Sequence[Round], fold: int, seed: int) -> list[Baseline]:
        """What each round's fit predicts: texts -> probabilities (texts, labels)."""
        if self._model is None:
            task, words = self._definition.task, self._definition.keywords
            if self._system == "tfidf":
                fits = [fit_linear(task, *texts, choices=self._choices) for texts in rounds]
                self.regularisations += [each.regularisation for each in fits]
                return [each.scores_of for each in fits]
            return [fit_baseline(self._system, task, *texts, keywords=words) for texts in rounds]
        start = self._starts.of(seed) if self._starts else self._model
        members = []
        for train, held in rounds:
            member, log = _fit(
                self._definition, self._how, start, train, held, seed, self._progress
            )
            members.append(member)
            self.logs.append({"fold": fold, "seed": seed, **log})
        self._members = members
        return [member.predict_proba for member in members]

    def scores_of(self, members: Sequence[Baseline], texts: list[str]) -> NDArray[np.float64]:
        """(texts, labels) by all fits of the last rounds together."""
        if self._model is not None:
            self.classifier = average_weights(self._members)
            return self.classifier.predict_proba(texts)
        return np.asarray(np.mean([predict(texts) for predict in members], axis=0))

    @property
    def is_classifier(self) -> bool:
        """Whether it can be used after the scores are known."""
        return self._model is not None or self._system == "tfidf"

    def calibration_of(self, tune: Predictions) -> Calibration | None:
        """What turns these scores into chances; None for rules of thumb."""
        if not self.is_classifier:
            return None
        how = self._definition.section.calibration
        return fit_calibration(tune.scores, tune.truth, tune.clusters, kind=tune.kind, how=how)

    def everything(
        self, found: ExampleSet, extra: Sequence[Example], pooled: Predictions
    ) -> tuple[Classifier | LinearClassifier, Predictions]:
        """(the classifier fitted on all texts that are not given as test, scores of texts by fits
        that had not seen them): `pooled` of the folds, or with inner folds its own members'."""
        section = self._definition.section
        texts = [example for example in found.examples if example.split != "test"]
        self._use(self._search.commonest)
        if self._model is None:
            of_all = (found, extra, self._choices, self.regularisations)
            return _fit_on_everything(self._definition, *of_all), pooled
        seed = section.seeds[0]
        if section.inner_folds:
            inner = inner_rounds(
                texts, [], section.inner_folds, fold=section.folds, seed=section.split_seed
            )
            rounds = [([*train, *extra], held) for train, held in inner]
            members = self.rounds(rounds, FINAL, seed)
            held, scores = score_held(rounds, members)
            pooled = replace(
                pooled,
                ids=tuple(example.example_id for example in held),
                clusters=tuple(example.cluster for example in held),
                scores=scores,
                truth=encode_labels(found.task, held),
            )
        else:
            how = self._how
            if not how.average_last:  # no text is left to choose an epoch by
                best = sorted(log["best_epoch"] for log in self.logs)
                epochs = best[len(best) // 2]
                how = msgspec.structs.replace(how, epochs=epochs, average_last=1)
            self._how, chosen = how, self._how
            self.rounds([([*texts, *extra], texts[:1])], FINAL, seed)
            self._how = chosen
        return average_weights(self._members), pooled

    def discard(self) -> None:
        """Remove what was kept on disk to start from."""
        if self._starts is not None:
            self._starts.discard()


def _fit_on_everything(
    definition: TaskDefinition,
    found: ExampleSet,
    extra: Sequence[Example],
    choices: LinearChoices,
    chosen: Sequence[Regularisation],
) -> LinearClassifier:
    """The classifier to use: of all texts that are not given as test, with the commonest choice."""
    texts = [example for example in found.examples if example.split != "test"]
    known = [each for each in chosen if each in choices.regularisations]
    (most, _), *_ = Counter(known).most_common(1)
    final = fit_linear(
        found.task,
        [*texts, *extra],
        texts[:1],
        preprocessing=definition.preprocessing,
        regularisations=(most,),
        choices=choices,
    )
    final.preset = definition.preset
    return final


class SilverStart:
    """The model that every fit of a seed starts from: fitted on the silver texts when first asked
    for, kept in `folder` until `discard`."""

    def __init__(
        self,
        silver: Silver,
        model: Path,
        settings: FinetuneSettings,
        folder: Path,
        progress: Progress = silent,
    ) -> None:
        self._silver, self._model, self._folder, self._progress = silver, model, folder, progress
        self._settings = msgspec.structs.replace(
            settings,
            epochs=silver.settings.epochs,
            lr=silver.settings.lr or settings.lr,
            average_last=1,  # there is nothing here to choose an epoch by
        )
        self.then = msgspec.structs.replace(settings, pooler="random", label_words=False)
        """Settings of the fits that start from it: pooler and labels are learnt already."""

    def of(self, seed: int) -> Path:
        """The folder of the seed's model.

        Raises:
            ArtifactError: no usable model to begin with.
        """
        from trialese.tasks.fit import fit_classifier

        out = self._folder / str(seed)
        if not out.exists():
            examples = self._silver.examples
            fit_classifier(
                self._silver.task,
                examples,
                examples[:1],
                self._model,
                self._settings,
                seed=seed,
                progress=self._progress,
            )[0].save_pretrained(out)
        return out

    def discard(self) -> None:
        """Remove the models."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _fit(
    definition: TaskDefinition,
    how: FinetuneSettings,
    model: Path,
    train: list[Example],
    tune: list[Example],
    seed: int,
    progress: Progress,
) -> tuple[Classifier, dict[str, Any]]:
    from trialese.tasks.fit import fit_classifier

    classifier, log = fit_classifier(
        definition.task,
        train,
        tune,
        model,
        how,
        seed=seed,
        preprocessing=definition.preprocessing,
        progress=progress,
    )
    return classifier, {
        "best_epoch": log.best_epoch,
        "epochs": len(log.losses),
        "loss": [round(loss, 6) for loss in log.losses],
        "tune_f1": [[round(micro, 6), round(macro, 6)] for micro, macro in log.tune_scores],
        "new_pooler": log.new_pooler,
        "precision": log.precision,
    }
