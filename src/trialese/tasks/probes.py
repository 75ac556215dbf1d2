"""Linear probes: what a frozen encoder knows of trials, by targets that the registry itself labels.

Nothing of the encoder learns. Each text becomes the mean of its tokens' last states, and one
logistic regression a target reads the label off them (Alain and Bengio 2017; Conneau et al. 2018).
A word model and a bag of the encoder's own subwords are read by the same regression, so that what
the states add is seen. The fields that answer any target are withheld from every text.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trialese.collect.snapshot import read_trials
from trialese.corpus.dedup import cluster_texts
from trialese.corpus.render import render_document
from trialese.errors import RecordError
from trialese.progress import Progress, silent
from trialese.records import Example, Predictions, Snapshot, Task, Trial
from trialese.settings import DedupSettings, Precision, RenderSettings
from trialese.tasks.folds import as_predictions, split_fold
from trialese.tasks.scorer import length_sorted_batches, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PROBE_TARGETS",
    "SUBWORDS",
    "ProbeTarget",
    "ProbeText",
    "count_terms",
    "encode_states",
    "probe_predictions",
    "probe_texts",
]

SUBWORDS = "subwords"
"""The system that sees how often each of the first encoder's subwords stands in a text."""

_STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse strengths C of the regression; the one with the best macro-F1 on tune is kept."""
_STRENGTHS_OF_TERMS = (1.0, 10.0, 100.0)
"""The same where a text is a row of length 1 over its words, instead of standardised states."""
_FEWEST_TEXTS = 10
"""A label with fewer texts is left out of its target, with its texts."""
_READ = (
    "brief_title",
    "official_title",
    "brief_summary",
    "detailed_description",
    "eligibility_criteria",
)
_ANSWERS = (
    "sex",
    "gender_based",
    "gender_description",
    "healthy_volunteers",
    "minimum_age",
    "maximum_age",
    "overall_status",
    "why_stopped",
    "study_type",
    "phases",
    "allocation",
    "intervention_model",
    "primary_purpose",
    "masking",
)
"""Fields that answer a target; what a text repeats of them as "name: value" is cut out of it."""


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """One question that the registry answers for a trial; None where it does not."""

    name: str
    label_of: Callable[[Trial], str | None]


def _phase(trial: Trial) -> str | None:
    known = [phase for phase in trial.phases if phase.startswith(("PHASE", "EARLY"))]
    return {"EARLY_PHASE1": "PHASE1"}.get(known[-1], known[-1]) if known else None


def _healthy(trial: Trial) -> str | None:
    return None if trial.healthy_volunteers is None else ("No", "Yes")[trial.healthy_volunteers]


def _masking(trial: Trial) -> str | None:
    blind = {"TRIPLE": "DOUBLE or more", "QUADRUPLE": "DOUBLE or more", "DOUBLE": "DOUBLE or more"}
    return None if trial.masking is None else blind.get(trial.masking, trial.masking)


def _stopped(trial: Trial) -> str | None:
    ended = {"COMPLETED": "completed"} | dict.fromkeys(("TERMINATED", "WITHDRAWN"), "stopped")
    return ended.get(trial.overall_status or "")


def _size(trial: Trial) -> str | None:
    if not trial.enrollment:  # 0 of a withdrawn trial is no plan
        return None
    for most, name in ((30, "under 30"), (100, "30 to 99"), (300, "100 to 299")):
        if trial.enrollment < most:
            return name
    return "300 and more"


def _ages(trial: Trial) -> str | None:
    number, _, unit = trial.minimum_age.partition(" ")
    if not number.isdigit():
        return None
    return "adults" if unit.startswith("Year") and int(number) >= 18 else "children too"


PROBE_TARGETS = (
    ProbeTarget("sex", lambda trial: trial.sex),
    ProbeTarget("ages", _ages),
    ProbeTarget("healthy volunteers", _healthy),
    ProbeTarget("study type", lambda trial: trial.study_type),
    ProbeTarget("phase", _phase),
    ProbeTarget("allocation", lambda trial: trial.allocation),
    ProbeTarget("intervention model", lambda trial: trial.intervention_model),
    ProbeTarget("masking", _masking),
    ProbeTarget("primary purpose", lambda trial: trial.primary_purpose),
    ProbeTarget("stopped or completed", _stopped),
    ProbeTarget("enrolment", _size),
)


@dataclass(frozen=True, slots=True)
class ProbeText:
    """One trial's text, its cluster of duplicates, and its label for each target that it has."""

    nct_id: str
    text: str
    cluster: str
    labels: Mapping[str, str]


def probe_texts(
    snapshot: Snapshot, *, most_trials: int = 3000, dedup: DedupSettings | None = None
) -> list[ProbeText]:
    """The texts that are probed, ordered by NCT id: at most so many trials, chosen by hash.

    Raises:
        RecordError: fewer than 50 trials have any text.
    """
    settings = RenderSettings(fields=_READ, withhold=_ANSWERS, markers=False)
    rows = ((hashlib.sha256(t.nct_id.encode()).digest(), t) for t in read_trials(snapshot))
    chosen = heapq.nsmallest(most_trials, rows, key=lambda row: row[0])
    trials = sorted((trial for _, trial in chosen), key=lambda trial: trial.nct_id)
    texts = [(trial, render_document(trial, settings).text) for trial in trials]
    texts = [(trial, text) for trial, text in texts if text.strip()]
    if len(texts) < 50:
        raise RecordError(
            f"{snapshot.path}: {len(texts)} trials with text, too few to probe; give 50 or more"
        )
    clusters = cluster_texts(
        ((trial.nct_id, text) for trial, text in texts), dedup or DedupSettings()
    )
    return [
        ProbeText(
            trial.nct_id,
            text,
            clusters[trial.nct_id],
            {t.name: label for t in PROBE_TARGETS if (label := t.label_of(trial)) is not None},
        )
        for trial, text in texts
    ]


def encode_states(
    folder: Path,
    texts: Sequence[str],
    *,
    max_tokens: int = 128,
    precision: Precision = "auto",
    name: str = "",
    progress: Progress = silent,
) -> tuple[NDArray[np.float32], list[Counter[int]]]:
    """The mean last state of each text (texts, hidden size), and how often each subword stands.

    The encoder of a masked-LM folder reads the first `max_tokens` tokens, special ones included;
    means leave padding out. `name` is what its progress is called.

    Raises:
        ArtifactError: no masked-language model in the folder.
    """
    import torch

    from trialese.pretrain.backbone import (
        check_vocabulary,
        family_of,
        load_masked_lm,
        longest_text,
        read_tokenizer,
    )
    from trialese.pretrain.compute import computes_in_bf16
    from trialese.pretrain.encoder import Encoder

    whole = load_masked_lm(folder)[0]
    tokenizer = read_tokenizer(folder)
    check_vocabulary(tokenizer, whole, folder)
    limit, model = min(max_tokens, longest_text(whole)), whole.base_model.eval()
    dtype = torch.bfloat16 if computes_in_bf16(precision, "cpu") else torch.float32
    encoder = Encoder(whole, dtype=dtype) if family_of(whole) else None
    encoded = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    states: NDArray[np.float32] = np.zeros((len(texts), model.config.hidden_size), np.float32)
    done = 0
    with torch.inference_mode():
        for rows in length_sorted_batches([len(ids) for ids in encoded], 32, 4096):
            ids, mask = (
                torch.from_numpy(each)
                for each in padded([encoded[row] for row in rows], int(tokenizer.pad_token_id))
            )
            if encoder is None:
                last = model(input_ids=ids, attention_mask=mask).last_hidden_state
            else:
                places = torch.arange(ids.shape[1]).expand_as(ids)
                last = encoder.states(ids, mask.bool(), places).view(*ids.shape, -1).float()
            share = mask[..., None] / mask.sum(dim=1)[:, None, None]
            states[rows] = (last * share).sum(dim=1).float().numpy()
            done += len(rows)
            progress(f"panel: texts read by {name or folder.name}", done, len(texts))
    return states, [Counter(ids) for ids in encoded]


def probe_predictions(
    target: ProbeTarget,
    texts: Sequence[ProbeText],
    states: Mapping[str, NDArray[np.float32]],
    terms: Mapping[str, Any],
    *,
    folds: int = 5,
    seed: int = 7,
) -> dict[str, list[Predictions]]:
    """Predictions on tune and test of every fold, by system: each encoder, subwords, tfidf, prior.

    `states` holds each encoder's (texts, hidden size), `terms` what `count_terms` gave.

    Raises:
        RecordError: not two labels with ten texts each, or too few texts for the folds.
    """
    from threadpoolctl import threadpool_limits

    counts = Counter(text.labels[target.name] for text in texts if target.name in text.labels)
    labels = tuple(sorted(label for label, times in counts.items() if times >= _FEWEST_TEXTS))
    if len(labels) < 2:
        raise RecordError(
            f"{target.name}: fewer than two labels with {_FEWEST_TEXTS} texts; leave it out"
        )
    task = Task(target.name, labels, "multiclass", f"Probe of {target.name}.")
    rows = [place for place, text in enumerate(texts) if text.labels.get(target.name) in labels]
    examples = [
        Example(t.nct_id, t.text, (t.labels[target.name],), t.cluster)
        for t in (texts[place] for place in rows)
    ]
    truth = np.array([labels.index(example.labels[0]) for example in examples])
    with threadpool_limits(1):  # products this small only wait for a second thread
        return _probe_folds(task, examples, rows, truth, states, terms, folds=folds, seed=seed)


def _probe_folds(
    task: Task,
    examples: Sequence[Example],
    rows: Sequence[int],
    truth: NDArray[np.intp],
    states: Mapping[str, NDArray[np.float32]],
    terms: Mapping[str, Any],
    *,
    folds: int,
    seed: int,
) -> dict[str, list[Predictions]]:
    found: dict[str, list[Predictions]] = {}
    for fold in range(folds):
        divided = split_fold(examples, folds=folds, fold=fold, tune_share=0.15, seed=seed)
        places = {
            split: [n for n, example in enumerate(divided) if example.split == split]
            for split in ("train", "tune", "test")
        }
        features: dict[str, Any] = {
            **{name: _scaled(array[rows], places["train"]) for name, array in states.items()},
            **{name: _weighed(table[rows], places["train"]) for name, table in terms.items()},
            "prior": None,
        }
        for system, matrix in features.items():
            model = _fit(matrix, truth, places, len(task.labels))
            for split in ("tune", "test"):
                found.setdefault(system, []).append(
                    as_predictions(
                        task,
                        [divided[n] for n in places[split]],
                        model(places[split]),
                        system=system,
                        split=split,
                        seed=1,
                        fold=fold,
                        trained_on=frozenset(divided[n].cluster for n in places["train"]),
                        model_digest="",
                    )
                )
    return found


def _scaled(states: NDArray[np.float32], train: Sequence[int]) -> NDArray[np.float32]:
    """The states with mean 0 and standard deviation 1 over the training texts."""
    spread = states[train].std(axis=0)
    return np.asarray((states - states[train].mean(axis=0)) / np.where(spread > 0, spread, 1))


def _weighed(counts: Any, train: Sequence[int]) -> Any:
    """TF-IDF of counts (texts, terms), sparse; how rare a term is, the training texts tell.

    Of the terms in training texts alone: the penalty leaves all others without a weight.
    """
    from sklearn.feature_extraction.text import TfidfTransformer

    known = counts[:, np.unique(counts[train].indices)]
    return TfidfTransformer(sublinear_tf=True).fit(known[train]).transform(known)


def count_terms(texts: Sequence[str], subwords: Sequence[Counter[int]]) -> dict[str, Any]:
    """Counts (texts, terms) as sparse arrays: of words and pairs of words, and of subwords."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(n_features=2**18, ngram_range=(1, 2), alternate_sign=False, norm=None)
    pieces = [{str(token): times for token, times in counted.items()} for counted in subwords]
    return {SUBWORDS: DictVectorizer().fit_transform(pieces), "tfidf": words.transform(texts)}


def _fit(
    matrix: Any, truth: NDArray[np.intp], places: Mapping[str, Sequence[int]], labels: int
) -> Callable[[Sequence[int]], NDArray[np.float64]]:
    """Probabilities (texts, labels) by place, from the strength that is best on tune.

    Without a matrix, the shares of the training texts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    train, tune = places["train"], places["tune"]
    seen = np.unique(truth[train])
    if matrix is None or len(seen) < 2:
        shares = np.bincount(truth[train], minlength=labels) / len(train)
        return lambda rows: np.tile(shares, (len(rows), 1))
    best: tuple[float, Any] | None = None
    for strength in _STRENGTHS if isinstance(matrix, np.ndarray) else _STRENGTHS_OF_TERMS:
        model = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
        model.fit(matrix[train], truth[train])
        score = f1_score(truth[tune], model.predict(matrix[tune]), average="macro", zero_division=0)
        if best is None or score > best[0]:
            best = (float(score), model)
    assert best is not None
    chosen = best[1]

    def predict(rows: Sequence[int]) -> NDArray[np.float64]:
        scores = np.zeros((len(rows), labels))
        scores[:, seen] = chosen.predict_proba(matrix[rows])
        return scores

    return predict
