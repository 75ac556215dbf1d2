"""Settings of tasks and verdict: what is classified, how it is fitted, how it is judged."""

from __future__ import annotations

from typing import Literal

from trialese.settings.learning import LoraSettings
from trialese.settings.section import Count, Folds, IsoDate, OpenShare, Precision, Section, Share
from trialese.settings.text import DedupSettings

__all__ = [
    "DeclaredTaskSettings",
    "FinetuneSettings",
    "SexSettings",
    "SilverSettings",
    "StopReasonsSettings",
    "TasksSettings",
    "VerdictSettings",
]


class FinetuneSettings(Section, frozen=True, kw_only=True):
    """Fitting one classifier."""

    method: Literal["full", "lora"] = "full"
    lora: LoraSettings = LoraSettings()
    epochs: int = 12
    patience: int = 3
    """Stop after so many epochs without a better score on tune; the best epoch is kept."""
    batch_texts: Count = 32
    batch_tokens: Count = 8192
    """A batch ends where one text more would make it larger than this, padding included."""
    max_tokens: Count = 128
    lr: float = 1e-4
    head_lr: float = 1e-3
    layer_decay: float = 1.0
    """Each layer below the top learns at this share of the rate of the one above it."""
    frozen_layers: int | None = None
    """Embeddings and so many of the lowest layers stay as they are; None: everything learns."""
    weight_decay: float = 0.01
    warmup_share: Share = 0.1
    dropout: float = 0.1
    """Of hidden states; attention weights are not dropped."""
    pooler: Literal["random", "identity"] = "identity"
    """How the pooler starts: tanh of the [CLS] state itself, or as the checkpoint has it (at random
    where it has none). MiniLM's own was never trained with its sentence embeddings."""
    label_words: bool = False
    """Start each label's weights from the words of its name instead of at random."""
    loss: Literal["ranking", "cross-entropy", "focal"] = "ranking"
    """Of tasks with several labels a text; the others use cross-entropy. `ranking`: Su et al. 2022
    (ZLPR, arXiv 2208.02955); `focal`: Lin et al. 2017, gamma 2."""
    positive_weight: float = 0.0
    """Exponent on negatives / positives of each label in the loss; 0: every label alike."""
    label_smoothing: float = 0.0
    average_last: int = 0
    """Average the weights of the last so many epochs and keep no best one; 0: keep the best."""
    precision: Precision = "auto"


class SilverSettings(Section, frozen=True, kw_only=True):
    """Texts that carry a model's labels: no truth, but something to learn from."""

    table: str
    """Any labelled file; texts near a labelled one are left out, whatever fold that is in."""
    column: str = "labels"
    """Holds each row's label, or several joined by `|`."""
    epochs: Count = 2
    """Of a language model over the silver texts, before the epochs over the labelled ones."""
    lr: float | None = None
    """Its rate meanwhile; None: `finetune.lr`, which the labelled texts have."""


class StopReasonsSettings(Section, frozen=True, kw_only=True):
    """Why a trial stopped."""

    labelled: str | None = None
    """Labelled file, or `owner/name@commit` on the hub, such as
    `opentargets/clinical_trial_reason_to_stop`; None: the labels that synthetic trials carry."""
    test_labelled: str | None = None
    """Labelled file whose texts are tested, and no others; needs run_folds = 1."""
    dedup: DedupSettings = DedupSettings(shingle_words=1)
    """Reasons have seven words: one that differs would hide a duplicate from longer shingles."""
    folds: Folds = 5
    run_folds: Count | None = None
    """Evaluate only so many folds; None: all."""
    first_fold: int = 0
    """Begin with this one, so that several processes can share the folds."""
    tune_share: Share = 0.15
    """Of the clusters outside the test fold."""
    inner_folds: int = 0
    """0: fit on train; stop and choose cut-offs on tune. From 2 up: so many fits over both, each
    scoring the part that it has not seen (`tasks/crossfit.py`), then averaged into one model."""
    sentences: int = 0
    """So many times the hand-written sentences of each label (`tasks/sentences.py`) stand among the
    texts that every system, baselines too, is fitted on; no text to be scored is among them."""
    silver: SilverSettings | None = None
    """Language models are fitted on these texts first, baselines on them and the labelled ones
    (`tasks/silver.py`). The verdict says so: who gave the labels may have seen the test's."""
    split_seed: int = 7
    """Which cluster is in which fold; the same for every system and every seed of the weights."""
    seeds: tuple[int, ...] = (1,)
    finetune: FinetuneSettings = FinetuneSettings()


class SexSettings(Section, frozen=True, kw_only=True):
    """Who may enrol."""

    missing: Literal["drop", "label"] = "drop"
    """Trials without the field: dropped (and counted), or given the label "None"."""
    fields: tuple[str, ...] = (
        "brief_title",
        "official_title",
        "brief_summary",
        "eligibility_criteria",
    )
    without_sex_words: bool = False
    """Leave out every sentence that says women, men, pregnant, ...: what then remains is inference
    from the disease. For the input ablation."""
    labelled: str | None = None
    """Labelled file, or `owner/name@commit` on the hub, such as
    `Kira-Asimov/gender_clinical_trial`; None: labels from the trials."""
    test_labelled: str | None = None
    """Labelled file whose texts are tested, and no others; needs run_folds = 1."""
    test_from: IsoDate | None = None
    """Test the clusters first posted on or after this date, and no others; needs run_folds = 1."""
    max_trials: int | None = None
    """At most so many trials, chosen by hash of their ids; None: all."""
    dedup: DedupSettings = DedupSettings()
    folds: Folds = 5
    run_folds: Count | None = 1
    first_fold: int = 0
    tune_share: Share = 0.15
    inner_folds: int = 0
    split_seed: int = 7
    seeds: tuple[int, ...] = (1,)
    finetune: FinetuneSettings = FinetuneSettings(epochs=3, patience=1)


class DeclaredTaskSettings(Section, frozen=True, kw_only=True):
    """A task of your own, from a field of the trials or from a labelled file."""

    name: str
    labels: tuple[str, ...]
    kind: Literal["multilabel", "multiclass"]
    description: str = ""
    field: str | None = None
    """The field of `Trial` that holds the label; withheld from the text. True is "Yes"."""
    labelled: str | None = None
    """Labelled file, or `owner/name@commit` on the hub."""
    test_labelled: str | None = None
    """Labelled file whose texts are tested, and no others; needs run_folds = 1."""
    test_from: IsoDate | None = None
    """Test the clusters first posted on or after this date, and no others; needs run_folds = 1."""
    fields: tuple[str, ...] = (
        "brief_title",
        "official_title",
        "brief_summary",
        "eligibility_criteria",
    )
    """What of a trial is read."""
    withhold: tuple[str, ...] = ()
    """Further fields that give the answer away."""
    dedup: DedupSettings = DedupSettings()
    folds: Folds = 5
    run_folds: Count | None = None
    first_fold: int = 0
    tune_share: Share = 0.15
    inner_folds: int = 0
    split_seed: int = 7
    seeds: tuple[int, ...] = (1,)
    finetune: FinetuneSettings = FinetuneSettings()


class TasksSettings(Section, frozen=True, kw_only=True):
    """Classifiers, base and adapted, with their baselines."""

    names: tuple[str, ...] = ("stop-reasons", "sex")
    stop_reasons: StopReasonsSettings = StopReasonsSettings()
    sex: SexSettings = SexSettings()
    declared: tuple[DeclaredTaskSettings, ...] = ()
    """`[[tasks.declared]]`; its name goes into `names` to be run."""
    baselines: tuple[Literal["prior", "keywords", "tfidf"], ...] = ("prior", "keywords", "tfidf")
    allow_overlap: bool = False
    """Test texts of `test_labelled` that are trained on too: False refuses them."""
    threshold_shrinkage: float = 10.0
    """For the cut-offs saved with a classifier; see `verdict.threshold_shrinkage`."""


class VerdictSettings(Section, frozen=True, kw_only=True):
    """How scores are judged."""

    resamples: Count = 2000
    confidence: OpenShare = 0.95
    seed: int = 7
    threshold_shrinkage: float = 10.0
    """Positives' worth of pull of each label's cut-off towards the common one."""
    threshold: float | None = None
    """One fixed cut-off for every label, such as the prior art's 0.3; None: chosen on tune."""
    miss_rate: Share = 0.1
    """Promise of the conformal label sets: at most this share of a text's labels is missing."""
    most_labels: int = 3
    """A text whose conformal set has more labels is left to a person (multiclass: more than 1)."""
