"""TF-IDF of words and characters with one logistic regression a label: fitted, used, explained.

Fitting needs scikit-learn; a finished classifier is JSON and arrays without pickle, and needs
numpy alone. It reads n-grams exactly as scikit-learn's `TfidfVectorizer` does.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np

from trialese.errors import ArtifactError
from trialese.progress import Progress, silent
from trialese.records import Example, Task, Thresholds
from trialese.tasks.scorer import (
    LabelsTexts,
    Preprocessing,
    Preset,
    as_texts,
    model_folder,
    new_folder,
    read_description,
)
from trialese.tasks.task import encode_labels
from trialese.temperature import Calibration, calibrate
from trialese.thresholds import best_cut, decide, f1_averages, sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LINEAR_NAME",
    "LinearChoices",
    "LinearClassifier",
    "Regularisation",
    "fit_linear",
    "linear_scores",
    "refuse_linear",
    "tune_score",
]

LINEAR_NAME = "linear.json"
_ARRAYS = "linear.npz"

Regularisation = tuple[float, Literal["balanced"] | None]
"""Inverse strength C, and the weights of positives and negatives."""

_REGULARISATIONS: tuple[Regularisation, ...] = (
    (1.0, None), (10.0, None), (1.0, "balanced"), (10.0, "balanced"),
)  # fmt: skip
"""The best pair on tune is kept: a rival deserves what the model gets."""


class LinearChoices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a search may choose; None: as `fit_linear` has it."""

    C: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Inverse strength of the penalty."""
    class_weight: Literal["balanced", "none"] | None = None
    word_ngrams: Annotated[int, msgspec.Meta(ge=1, le=4)] | None = None
    """Words in the longest n-gram."""
    shortest_characters: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    longest_characters: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None

    def __post_init__(self) -> None:
        """Refuse n-grams of characters whose shortest is the longer (ValueError)."""
        if (self.shortest_characters or 1) > (self.longest_characters or 8):
            raise ValueError("shortest_characters is above longest_characters")

    @property
    def regularisations(self) -> tuple[Regularisation, ...]:
        """Of those that are tried, the ones that agree; a C of its own with either weight."""
        strengths = dict.fromkeys(c for c, _ in _REGULARISATIONS) if self.C is None else (self.C,)
        weights: tuple[Literal["balanced"] | None, ...] = (None, "balanced")
        if self.class_weight is not None:
            weights = (None,) if self.class_weight == "none" else ("balanced",)
        return tuple((strength, weight) for weight in weights for strength in strengths)


_LONG = 2_000_000
"""Characters in all, from which rare n-grams are left out: it keeps minutes to seconds."""

_MOST_TERMS = 25_000
"""N-grams of words, and of characters, that are kept of such texts: the most frequent ones."""

_WORD = re.compile(r"(?u)\b\w\w+\b")


class _Vocabulary(msgspec.Struct, frozen=True):
    """N-grams of words, or of characters within words, in the order of their weights."""

    unit: Literal["word", "character"]
    shortest: int
    longest: int
    terms: tuple[str, ...]

    def occurrences(self, text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Each n-gram of the text, and the places of the blank-separated words that it lies in."""
        lower = text.lower()
        if self.unit == "character":
            for place, bare in enumerate(lower.split()):
                word = f" {bare} "
                for size in range(self.shortest, self.longest + 1):
                    for start in range(max(1, len(word) - size + 1)):
                        yield word[start : start + size], (place,)
                    if size >= len(word):
                        break  # scikit-learn counts a word that is shorter only once
            return
        starts = [found.start() for found in re.finditer(r"\S+", lower)]
        tokens = list(_WORD.finditer(lower))
        places = np.searchsorted(starts, [token.start() for token in tokens], side="right") - 1
        for size in range(self.shortest, self.longest + 1):
            for first in range(len(tokens) - size + 1):
                run = tokens[first : first + size]
                where = tuple(places[first : first + size].tolist())
                yield " ".join(token.group() for token in run), where


class _Saved(msgspec.Struct, frozen=True):
    """`linear.json`."""

    vocabularies: tuple[_Vocabulary, ...]
    regularisation: Regularisation


@dataclass(slots=True)
class LinearClassifier(LabelsTexts):
    """A task, vocabularies with their weights, thresholds and preprocessing."""

    task: Task
    vocabularies: tuple[_Vocabulary, ...]
    idf: NDArray[np.float32]
    """(features,) inverse document frequencies, vocabularies one after the other."""
    weights: NDArray[np.float32]  # (features, labels)
    bias: NDArray[np.float32]  # (labels,); infinite for a label that every text has, or none
    regularisation: Regularisation
    preprocessing: Preprocessing
    thresholds: Thresholds | None = None
    preset: Preset | None = None
    digest: str = ""
    calibration: Calibration | None = None
    """What makes its scores chances; None: they are scores."""
    _columns: list[dict[str, int]] | None = None

    @property
    def engine(self) -> str:
        """What computes the scores; they do not depend on the chip."""
        return "linear fp32 weights"

    def predict_proba(
        self, texts: Sequence[str], *, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Probabilities (texts, labels); one label a text: each label's, made to sum to 1.

        Raises:
            RecordError: one text instead of several, or something that is no text.
        """
        return self.scores_of([self.preprocessing.clean(text) for text in as_texts(texts)])

    def scores_of(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities (texts, labels) of texts that are clean."""
        index = self._index()
        odds = np.empty((len(texts), len(self.task.labels)))
        for row, text in enumerate(texts):
            columns, values, _ = self._features(text, index)
            odds[row] = values @ self.weights[columns].astype(np.float64) + self.bias
        scores = linear_scores(self.task, odds)
        return calibrate(scores, self.calibration, kind=self.task.kind)

    def take_calibration(self, calibration: Calibration | None) -> None:
        """Calibrate the scores from now on, those of several labels in the weights. Once only."""
        if calibration is not None and self.task.kind == "multilabel":
            slopes, offsets = (
                np.array(each, np.float32) for each in (calibration.slopes, calibration.offsets)
            )
            self.weights, self.bias = self.weights * slopes, self.bias * slopes + offsets
            calibration = msgspec.structs.replace(calibration, in_weights=True)
        self.calibration = calibration

    def word_weights(self, text: str, column: int) -> dict[int, float]:
        """Place of each blank-separated word of a clean text -> what it adds to the log-odds."""
        columns, values, found = self._features(text, self._index())
        gain = dict(zip(columns.tolist(), values * self.weights[columns, column], strict=True))
        times = Counter(feature for feature, _ in found)
        weights = dict.fromkeys(range(len(text.split())), 0.0)
        for feature, places in found:
            for place in places:
                weights[place] += float(gain[feature]) / times[feature] / len(places)
        return weights

    def save_pretrained(self, path: str | Path, *, compact: bool = False) -> None:
        """Write the classifier as a folder at `path`: JSON and plain arrays, nothing pickled.

        `compact` rounds each label's weights to 255 steps, at a sixth of the size.

        Raises:
            ArtifactError: something stands at `path` already.
        """
        with new_folder(Path(path), self) as folder:
            saved = _Saved(self.vocabularies, self.regularisation)
            (folder / LINEAR_NAME).write_bytes(msgspec.json.encode(saved))
            arrays: dict[str, Any] = {"idf": self.idf, "weights": self.weights, "bias": self.bias}
            if compact:
                arrays["scale"] = np.abs(self.weights).max(axis=0) / np.float32(127)
                steps = np.rint(self.weights / np.maximum(arrays["scale"], np.float32(1e-12)))
                arrays["weights"] = steps.astype(np.int8)
                np.savez_compressed(folder / _ARRAYS, **arrays)
            else:
                np.savez(folder / _ARRAYS, **arrays)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LinearClassifier:
        """The classifier in a folder that `save_pretrained` wrote, or the small one that ships with
        trialese under that name.

        Raises:
            ArtifactError: damaged files, or weights that do not fit the vocabulary and labels.
        """
        folder = model_folder(Path(folder), size="small")
        known = read_description(folder)
        if not (folder / LINEAR_NAME).is_file():
            raise ArtifactError(f"{folder}: no {LINEAR_NAME}; a classifier of another kind")
        try:
            saved = msgspec.json.decode((folder / LINEAR_NAME).read_bytes(), type=_Saved)
            with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
                idf, weights, bias = (arrays[name] for name in ("idf", "weights", "bias"))
                if "scale" in arrays:
                    weights = weights * arrays["scale"]
        except (OSError, ValueError, KeyError, EOFError, msgspec.DecodeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArtifactError(f"{folder}: damaged classifier ({first}); fit it again") from error
        features, labels = sum(len(v.terms) for v in saved.vocabularies), len(known.task.labels)
        shapes = (idf.shape, weights.shape, bias.shape)
        if shapes != ((features,), (features, labels), (labels,)):
            raise ArtifactError(
                f"{folder}: {_ARRAYS} holds {weights.shape} weights for {features:,} n-grams and "
                f"{labels} labels; fit it again"
            )
        if not (np.isfinite(idf).all() and np.isfinite(weights).all()) or np.isnan(bias).any():
            raise ArtifactError(f"{folder}: {_ARRAYS} holds numbers that are not finite")
        return cls(
            task=known.task,
            vocabularies=saved.vocabularies,
            idf=idf,
            weights=weights,
            bias=bias,
            regularisation=saved.regularisation,
            preprocessing=known.preprocessing,
            thresholds=known.thresholds,
            preset=known.preset,
            digest=known.digest,
            calibration=known.calibration,
        )

    def _index(self) -> list[dict[str, int]]:
        """Of each vocabulary, n-gram -> feature."""
        if self._columns is not None:
            return self._columns
        found: list[dict[str, int]] = []
        start = 0
        for vocabulary in self.vocabularies:
            found.append({term: start + place for place, term in enumerate(vocabulary.terms)})
            start += len(vocabulary.terms)
        self._columns = found
        return found

    def _features(
        self, text: str, index: Sequence[dict[str, int]]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], list[tuple[int, tuple[int, ...]]]]:
        """(features of the text, their values, each occurrence with its words' places)."""
        columns, values, found = [], [], []
        for vocabulary, feature_of in zip(self.vocabularies, index, strict=True):
            here = [
                (feature_of[term], places)
                for term, places in vocabulary.occurrences(text)
                if term in feature_of
            ]
            counts = Counter(feature for feature, _ in here)
            held = np.fromiter(counts, np.intp, len(counts))
            value = 1 + np.log(np.fromiter(counts.values(), np.float64, len(counts)))
            value *= self.idf[held]
            columns.append(held)
            values.append(value / max(float(np.linalg.norm(value)), 1e-12))
            found += here
        return np.concatenate(columns), np.concatenate(values), found


def refuse_linear(folder: Path) -> None:
    """Do nothing with the model folder of another classifier: for what needs a network.

    Raises:
        ArtifactError: a linear classifier.
    """
    if (folder / LINEAR_NAME).is_file():
        raise ArtifactError(
            f"{folder}: TF-IDF with logistic regression, no network: it is used as it is, by numpy "
            "alone (`trialese predict`; load it with trialese.LinearClassifier.from_pretrained); "
            "give a language model's"
        )


def linear_scores(task: Task, odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (texts, labels) of log-odds; one label a text: made to sum to 1."""
    scores = sigmoid(odds)
    if task.kind == "multiclass":
        scores = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12)
    return scores


def fit_linear(
    task: Task,
    train: Sequence[Example],
    tune: Sequence[Example],
    *,
    preprocessing: Preprocessing | None = None,
    regularisations: Sequence[Regularisation] | None = None,
    choices: LinearChoices = LinearChoices(),  # noqa: B008 - a frozen struct
) -> LinearClassifier:
    """The classifier fitted on `train`, with the regularisation that is best on `tune`.

    N-grams of words (1-2) and of characters (2-5), unless `choices` says otherwise. With one
    regularisation `tune` plays no part.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    long = sum(len(example.text) for example in train) > _LONG
    regularisations = regularisations or choices.regularisations
    shortest, longest = (3, 4) if long else (2, 5)
    shortest = choices.shortest_characters or min(shortest, choices.longest_characters or shortest)
    longest = choices.longest_characters or max(longest, shortest)
    words, most = choices.word_ngrams or 2, _MOST_TERMS if long else None
    vectorisers = (
        TfidfVectorizer(
            ngram_range=(1, words), sublinear_tf=True, min_df=2 if long else 1, max_features=most
        ),
        TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=(shortest, longest),
            sublinear_tf=True,
            min_df=5 if long else 1,
            max_features=most,
        ),
    )
    union = make_union(*vectorisers)
    matrix = union.fit_transform([example.text for example in train])
    compact, group, share = _merge_equal(matrix)
    truth, tune_truth = encode_labels(task, train), encode_labels(task, tune)
    held = union.transform([example.text for example in tune]) if len(regularisations) > 1 else None
    best: tuple[float, NDArray[np.float64], NDArray[np.float64], Regularisation] | None = None
    for chosen in regularisations:
        fits = [_logistic(compact, truth[:, place], chosen) for place in range(len(task.labels))]
        weights = np.stack([weight for weight, _ in fits], axis=1)[group] * share[:, None]
        bias = np.array([constant for _, constant in fits])
        score = 0.0
        if held is not None:
            score = tune_score(task, linear_scores(task, held @ weights + bias), tune_truth)
        if best is None or score > best[0]:
            best = (score, weights, bias, chosen)
    assert best is not None
    units: tuple[tuple[Literal["word", "character"], int, int], ...] = (
        ("word", 1, words), ("character", shortest, longest),
    )  # fmt: skip
    return LinearClassifier(
        task=task,
        vocabularies=tuple(
            _Vocabulary(*unit, tuple(vectoriser.get_feature_names_out().tolist()))
            for unit, vectoriser in zip(units, vectorisers, strict=True)
        ),
        idf=np.concatenate([vectoriser.idf_ for vectoriser in vectorisers]).astype(np.float32),
        weights=best[1].astype(np.float32),
        bias=best[2].astype(np.float32),
        regularisation=best[3],
        preprocessing=preprocessing or Preprocessing(max_tokens=512),
    )


def _merge_equal(matrix: Any) -> tuple[Any, NDArray[np.intp], NDArray[np.float64]]:
    """(matrix with each of its distinct columns once, column -> its group, its share of a weight).

    Two thirds of the n-grams stand in the same texts as another. k equal columns x get equal
    weights from the quadratic penalty, so that one column sqrt(k) x has the same best fit, and
    each of the k gets 1 / sqrt(k) of its weight: an exact change of variables.
    """
    from scipy.sparse import csc_matrix, diags

    probes = np.random.default_rng(0).standard_normal((matrix.shape[0], 2))
    keys = np.round(matrix.T @ probes, 9)  # columns that are equal have equal products
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    sizes = np.bincount(group)
    compact = csc_matrix(matrix)[:, first] @ diags(np.sqrt(sizes))
    return compact.tocsr(), group, 1 / np.sqrt(sizes[group])


def _logistic(
    matrix: Any, truth: NDArray[np.bool_], chosen: Regularisation
) -> tuple[NDArray[np.float64], float]:
    """(weights, constant) of one label."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if truth.all() or not truth.any():  # a label without examples here: nothing to fit
        return np.zeros(matrix.shape[1]), np.inf if truth.all() else -np.inf
    strength, weights = chosen
    for dual in (True, False):  # the dual needs no BLAS, whose threads took most of the time
        model = LogisticRegression(
            C=strength, class_weight=weights, solver="liblinear", dual=dual, random_state=0,
            max_iter=1000,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("error" if dual else "default", ConvergenceWarning)
            try:
                model.fit(matrix, truth)
            except ConvergenceWarning:
                continue
        break
    return model.coef_[0], float(model.intercept_[0])


def tune_score(task: Task, scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Micro-F1 + macro-F1 at the best common cut-off, by which settings are chosen."""
    cut = best_cut(scores.ravel(), truth.ravel(), near=0.5) if task.kind == "multilabel" else 0.5
    return sum(f1_averages(truth, decide(scores, task.kind, cut)))
