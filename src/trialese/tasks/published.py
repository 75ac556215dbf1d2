"""The prior art's fine-tuning and scoring, re-made so that its inflation can be measured.

A rival, not a tool. From its notebooks (github.com/ilaananta/ClinicalTrialBioBert_FineTuned,
DownstreamTasks, at 56829236): texts lower-cased, contractions opened, hyphens and mentions cut;
batches of 32; AdamW at 5e-5, weight decay 0.01, linear decay without warm-up, gradients clipped at
1; binary cross-entropy (one label a text: cross-entropy) averaged over all cells; in place of the
classifier two layers, hidden size to 50, ReLU, 50 to labels; the model with the best micro-F1 on
the 10 % is kept.

Two departures, which save most of the time here and move no score but by chance: texts are padded
to the longest of their batch, not to 177 (padded positions are masked, so that outputs are equal),
and batches are drawn from texts of similar length.

The protocol, to the letter. Stop reasons: rows divided at random, 90 to 10 with seed 42, fitted on
the 90 %, the best epoch chosen on the 10 %, scored at a cut-off of 0.3 over *all* rows. Sex: rows
0-361,264 divided in the same way, scored on rows 0-40,140, nine in ten of which were fitted on.
Nothing here may be used to say how good a model is; `finetune` and the verdict do that.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from trialese.artifacts import digest_of
from trialese.corpus.dedup import normalise
from trialese.errors import RecipeError
from trialese.predictions import save_predictions
from trialese.pretrain.backbone import longest_text, quiet_transformers
from trialese.progress import Progress, silent
from trialese.records import Example, Manifest, Snapshot, Split, Task
from trialese.settings import TasksSettings
from trialese.tasks.baselines import fit_baseline
from trialese.tasks.classifier import Classifier, Preprocessing, labels_layer, load_masked_lm
from trialese.tasks.finetune import begin_classifier
from trialese.tasks.folds import as_predictions
from trialese.tasks.task import encode_labels
from trialese.thresholds import PUBLISHED_CUT, decide, f1_averages, probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PublishedFit",
    "count_known",
    "divide_published",
    "finetune_published",
    "fit_published",
    "published_text",
    "two_layer_head",
]


_HEAD_WIDTH = 50
_REWRITTEN = (
    ("what's", "what is "), ("won't", "will not "), ("'s", " "), ("'ve", " have "),
    ("can't", "can not "), ("n't", " not "), ("i'm", "i am "), ("'re", " are "), ("'d", " would "),
    ("'ll", " will "), ("'scuse", " excuse "), ("'\n", " "), ("-", " "), ("'\xa0", " "),
)  # fmt: skip
"""In this order, each wherever it stands: "can't" is gone before "n't" is looked for."""


@dataclass(frozen=True, slots=True)
class PublishedFit:
    """What differs between the prior art's two tasks."""

    epochs: int
    max_tokens: int
    eval_steps: int | None
    """Steps from one look at the 10 % to the next; None: once an epoch."""
    patience: int | None
    """Stop after so many looks without a better one; None: never."""


def published_text(text: str) -> str:
    """The text as the prior art's classifiers read it."""
    text = text.lower()
    for written, read in _REWRITTEN:
        text = text.replace(written, read)
    text = re.sub(r"@[^\n]*?\s", " ", text).replace("&amp;", "&")
    return " ".join(text.split())


def two_layer_head(hidden: int, labels: int) -> torch.nn.Sequential:
    """The head that takes the place of the stock linear classifier."""
    return torch.nn.Sequential(
        torch.nn.Linear(hidden, _HEAD_WIDTH), torch.nn.ReLU(), torch.nn.Linear(_HEAD_WIDTH, labels)
    )


def fit_published(
    task: Task,
    train: Sequence[Example],
    held: Sequence[Example],
    model: Path,
    how: PublishedFit,
    *,
    cut: float,
    seed: int,
    progress: Progress = silent,
) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """Texts -> probabilities (texts, labels), of a model fitted on `train`, chosen on `held`.

    The caller's random generators are left as they were.

    Raises:
        ArtifactError: no usable model at `model`.
        RecipeError: accelerate, which the stock Trainer needs, is not installed.
    """
    with _own_randomness(seed):
        classifier = _new_classifier(task, model, how.max_tokens)
        with tempfile.TemporaryDirectory() as folder, quiet_transformers():
            chooser = _Chooser(how.patience, progress)
            arguments = _arguments(Path(folder), how, seed)
            trainer = transformers.Trainer(
                model=classifier.model,
                args=arguments,
                train_dataset=_rows(classifier, train),
                eval_dataset=_rows(classifier, held),
                data_collator=transformers.DataCollatorWithPadding(classifier.tokenizer),
                compute_metrics=lambda found: {
                    "f1": _micro_f1(task, found.predictions, found.label_ids, cut)
                },
                callbacks=[chooser],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
    if chooser.best is not None:
        classifier.model.load_state_dict(chooser.best)
    return lambda texts: classifier.predict_proba([published_text(text) for text in texts])


def _arguments(folder: Path, how: PublishedFit, seed: int) -> transformers.TrainingArguments:
    try:
        return transformers.TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=how.epochs,
            learning_rate=5e-5,
            weight_decay=0.01,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=32,
            eval_strategy="steps" if how.eval_steps else "epoch",
            eval_steps=how.eval_steps,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
            data_seed=seed,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
        )
    except ImportError as error:
        raise RecipeError(
            "the published protocol fits with the stock Trainer, which needs accelerate; "
            "pip install accelerate"
        ) from error


def _new_classifier(task: Task, folder: Path, max_tokens: int) -> Classifier:
    model, tokenizer, _ = load_masked_lm(task, folder)
    place, last = labels_layer(model)
    model.set_submodule(place, two_layer_head(last.in_features, len(task.labels)))
    limit = min(max_tokens, longest_text(model))
    return Classifier(task, model, tokenizer, Preprocessing(max_tokens=limit, cleaning="none"))


def _rows(classifier: Classifier, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Tokens and labels of each example as the Trainer takes them."""
    ids = classifier.encode([published_text(example.text) for example in examples])
    truth = encode_labels(classifier.task, examples)
    several = classifier.task.kind == "multilabel"
    return [
        {
            "input_ids": each,
            "attention_mask": [1] * len(each),
            "labels": row.astype(float).tolist() if several else int(row.argmax()),
        }
        for each, row in zip(ids, truth, strict=True)
    ]


def _micro_f1(task: Task, logits: NDArray[np.float32], labels: NDArray[Any], cut: float) -> float:
    scores = probabilities(logits, task.kind)
    truth = labels.astype(bool) if labels.ndim == 2 else np.eye(len(task.labels))[labels] > 0
    return f1_averages(truth, decide(scores, task.kind, cut))[0]


class _Chooser(transformers.TrainerCallback):  # type: ignore[misc]
    """Keeps the weights of the best look at the 10 %, stops after `patience` without a better."""

    def __init__(self, patience: int | None, progress: Progress) -> None:
        self.patience, self.progress = patience, progress
        self.best: dict[str, torch.Tensor] | None = None
        self.best_f1, self.since_best = -1.0, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress("fit, published: steps", state.global_step, state.max_steps)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, *, metrics: dict[str, float], **more: Any
    ) -> None:
        self.since_best += 1
        if metrics["eval_f1"] > self.best_f1:
            self.best_f1, self.since_best = metrics["eval_f1"], 0
            self.best = {k: v.detach().clone() for k, v in more["model"].state_dict().items()}
        if self.patience is not None and self.since_best >= self.patience:
            control.should_training_stop = True


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """The Trainer seeds every global generator; they are put back afterwards."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


_SEED = 42


@dataclass(frozen=True, slots=True)
class _Protocol:
    """How the prior art fits one task and which rows it scores."""

    fit: PublishedFit
    rows: int | None = None
    """Of its table; shorter tables are cut in the same proportion. None: all are used for all."""
    fitted_rows: int = 0
    """The first so many are divided into those fitted on and those an epoch is chosen on."""
    scored_rows: int = 0


_PROTOCOLS = {
    "stop-reasons": _Protocol(PublishedFit(20, max_tokens=177, eval_steps=None, patience=None)),
    "sex": _Protocol(
        PublishedFit(3, max_tokens=256, eval_steps=1000, patience=5),
        rows=401_406,
        fitted_rows=361_265,
        scored_rows=40_141,
    ),
}


def finetune_published(
    name: str,
    system: str,
    *,
    path: str | Path,
    model: str | Path | None = None,
    snapshot: Snapshot | None = None,
    settings: TasksSettings = TasksSettings(),  # noqa: B008 - a frozen struct
    progress: Progress = silent,
) -> Manifest:
    """The manifest of a classifier artifact at `path` that was fitted the published way.

    It holds predictions alone: of the 10 % as tune, of the rows that the prior art scored as test,
    with what each was trained on. `evaluate` judges them with `--protocol published` or `both`.

    Raises:
        RecipeError: no such task or baseline, a task that the prior art has not, a model missing or
            one too many.
        RecordError: examples that cannot be understood, or too few.
        ArtifactError: no usable model, or the disk refused.
    """
    given = begin_classifier(name, system, model, snapshot, settings)
    found = given.found
    fitted, held, scored = divide_published(found.task.name, found.examples)
    described = {"task": name, "system": system, "protocol": "published"}
    with given.draft(Path(path), described) as draft:
        if given.model is None:
            keywords = given.definition.keywords
            predict = fit_baseline(system, found.task, fitted, held, keywords=keywords)
        else:
            predict = fit_published(
                found.task,
                fitted,
                held,
                given.model,
                _PROTOCOLS[found.task.name].fit,
                cut=PUBLISHED_CUT,
                seed=_SEED,
                progress=progress,
            )
        known = frozenset(example.cluster for example in fitted)
        chosen_on = frozenset(example.cluster for example in held)
        parts: tuple[tuple[Split, list[Example], frozenset[str]], ...] = (
            ("tune", held, known),
            ("test", scored, known | chosen_on),
        )
        runs = [
            as_predictions(
                found.task,
                rows,
                predict([example.text for example in rows]),
                system=system,
                split=split,
                seed=_SEED,
                fold=0,
                trained_on=trained_on,
                model_digest=digest_of([given.inputs, described]),
            )
            for split, rows, trained_on in parts
        ]
        save_predictions(draft.folder / "predictions.parquet", runs)
        draft.notes["overlap"] = {
            **{f"scored_{what}": n for what, n in count_known(scored, fitted).items()},
            **{f"held_out_{what}": n for what, n in count_known(held, fitted).items()},
        }
        tune = runs[0]
        averages = f1_averages(tune.truth, decide(tune.scores, tune.kind, PUBLISHED_CUT))
        draft.notes["held_out_f1"] = [round(value, 6) for value in averages]
    assert draft.manifest is not None
    return draft.manifest


def divide_published(
    task: str, examples: Sequence[Example]
) -> tuple[list[Example], list[Example], list[Example]]:
    """(rows fitted on, rows the epoch is chosen on, rows scored), whatever they share.

    Stop reasons are scored on all rows, sex on the first tenth; both divide what they train on as
    `datasets`' train_test_split(test_size=0.1, seed=42) does. Shorter tables of sex are cut in the
    same proportion.

    Raises:
        RecipeError: a task that the prior art has not.
    """
    if task not in _PROTOCOLS:
        known = " and ".join(_PROTOCOLS)
        raise RecipeError(f"{task}: the prior art has {known} only; judge it honestly")
    how = _PROTOCOLS[task]
    pool = scored = list(examples)
    if how.rows is not None:
        share = min(1.0, len(examples) / how.rows)
        pool, scored = (
            pool[: round(how.fitted_rows * share)],
            pool[: round(how.scored_rows * share)],
        )
    order = np.random.default_rng(_SEED).permutation(len(pool)).tolist()
    tenth = -(-len(pool) // 10)
    return [pool[row] for row in order[tenth:]], [pool[row] for row in order[:tenth]], scored


def count_known(rows: Sequence[Example], fitted: Sequence[Example]) -> dict[str, int]:
    """How many of the rows were fitted on: themselves, word for word, or as near-duplicates."""
    ids = {example.example_id for example in fitted}
    texts = {normalise(example.text) for example in fitted}
    clusters = {example.cluster for example in fitted}
    return {
        "rows": len(rows),
        "trained_on": sum(example.example_id in ids for example in rows),
        "trained_on_exactly": sum(normalise(example.text) in texts for example in rows),
        "trained_on_nearly": sum(example.cluster in clusters for example in rows),
    }
