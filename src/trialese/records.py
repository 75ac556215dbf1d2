"""The nouns that the stages hand to one another. They hold data and do no work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ATTRIBUTION",
    "BASELINES",
    "SPLITS",
    "WEIGHTLESS",
    "Adapter",
    "Audit",
    "Average",
    "Corpus",
    "Difference",
    "Document",
    "Drop",
    "Example",
    "Interval",
    "LabelScore",
    "Manifest",
    "OperatingPoints",
    "Predictions",
    "Scores",
    "Snapshot",
    "Split",
    "Task",
    "Thresholds",
    "TokenBlocks",
    "Trial",
    "Verdict",
]

ATTRIBUTION = (
    "Registry text: courtesy of the U.S. National Library of Medicine (ClinicalTrials.gov). "
    "It may not be current, and no endorsement by the Library is implied."
)
"""Stands wherever registry text does."""

WEIGHTLESS = ("prior", "keywords")
"""Baselines of which only predictions are kept, no classifier to use."""
BASELINES = (*WEIGHTLESS, "tfidf")
"""Systems without a language model, the weakest first; every other name counts as a model."""

Split = Literal["train", "tune", "test"]
SPLITS: tuple[Split, ...] = ("train", "tune", "test")


class Trial(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One registered study as parsed, whatever its source.

    Text is as the registry holds it (escapes and line breaks included); cleaning is the corpus's
    work. A missing text is "", a missing choice None. Dates are ISO 8601, possibly only
    YYYY-MM or YYYY as the registry has them, so they compare as strings. Choices follow the
    words of API v2 (`overall_status="COMPLETED"`, `phases=("PHASE2", "PHASE3")`), except
    `sex`, which is "All", "Female" or "Male".
    """

    nct_id: str
    nct_id_aliases: tuple[str, ...] = ()
    org_study_id: str = ""
    brief_title: str = ""
    official_title: str = ""
    acronym: str = ""
    brief_summary: str = ""
    detailed_description: str = ""
    eligibility_criteria: str = ""
    sex: Literal["All", "Female", "Male"] | None = None
    gender_based: bool | None = None
    gender_description: str = ""
    healthy_volunteers: bool | None = None
    minimum_age: str = ""
    maximum_age: str = ""
    overall_status: str | None = None
    why_stopped: str = ""
    study_type: str | None = None
    phases: tuple[str, ...] = ()
    allocation: str | None = None
    intervention_model: str | None = None
    primary_purpose: str | None = None
    masking: str | None = None
    enrollment: int | None = None
    conditions: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    interventions: tuple[str, ...] = ()
    primary_outcomes: tuple[str, ...] = ()
    lead_sponsor: str = ""
    first_posted: str | None = None
    last_update_posted: str | None = None
    start_date: str | None = None
    completion_date: str | None = None
    synthetic: bool = False
    """True for a study that the `sample` source made up."""
    synthetic_stop_reasons: tuple[str, ...] = ()
    """The stop-reason labels that the grammar meant; always empty for a real study."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an artifact is and what it was made from; written last, so its presence means whole."""

    kind: str
    """One of snapshot, corpus, blocks, model, adapter, classifier, verdict."""
    code_version: str
    key: str
    """sha256 of kind, settings and input digests: equal keys need not be made again."""
    digest: str
    """sha256 of the key and of every file: the artifact's identity for later stages."""
    settings: dict[str, Any] = {}
    """The resolved section of the recipe that the stage was handed."""
    inputs: dict[str, str] = {}
    """Digest of each input, by its role."""
    files: dict[str, str] = {}
    """sha256 of each file, by its path inside the folder."""
    counts: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    """Facts that no other field has room for: source, data timestamp, a new head, ..."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Handle on collected trials: a folder of Parquet with its manifest."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Document:
    """What the model reads of one trial."""

    nct_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Something removed, and why (a short snake_case reason); counted, never silent."""

    nct_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Handle on cleaned documents with cluster, split and era: a folder with its manifest."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class TokenBlocks:
    """Token ids in blocks of one length, memory-mapped when read from disk.

    Token types are all 0; no token attends to padding (`pad_id`).
    """

    ids: NDArray[np.integer[Any]]  # (blocks, block_tokens), uint16 or uint32
    special: NDArray[np.bool_]  # (blocks, block_tokens): [CLS], [SEP], [PAD], never masked
    owner: NDArray[np.int64]  # (blocks,): row in `nct_ids` of the first document in the block
    nct_ids: tuple[str, ...]
    pad_id: int
    digest: str
    isolated: bool = False
    """Each [CLS] begins a text of its own: attention and positions must not cross it."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Handle on a trained adapter: `path/adapter` (PEFT) and `path/model` (merged)."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Task:
    """A classification task: its labels and its kind are declared, never guessed from data."""

    name: str
    labels: tuple[str, ...]
    kind: Literal["multilabel", "multiclass"]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text. `cluster` names its group of duplicates, which is never divided."""

    example_id: str
    text: str
    labels: tuple[str, ...]
    cluster: str = ""
    split: Split | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """One system's scores on one split of one fold. What is judged; no model is needed for it."""

    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: tuple[str, ...]
    system: str
    """Such as adapted, base, tfidf, keywords or prior."""
    split: Split
    seed: int
    fold: int
    ids: tuple[str, ...]  # (rows,)
    clusters: tuple[str, ...]  # (rows,)
    scores: NDArray[np.float64]  # (rows, labels), probabilities in [0, 1]
    truth: NDArray[np.bool_]  # (rows, labels)
    trained_on: frozenset[str] = frozenset()
    """Clusters of every text that weights were fitted or stopped on."""
    model_digest: str = ""


class OperatingPoints(msgspec.Struct, frozen=True, kw_only=True):
    """What cut-offs of one label do, on texts scored by fits that had not seen them."""

    support: int
    """Texts with the label."""
    cuts: tuple[float, ...]
    """Falling; each just below the score of a text with the label."""
    given: tuple[int, ...]
    """Texts whose score reaches the cut-off."""
    hits: tuple[int, ...]
    """Those of them that have the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Cut-off per label, and the split that they were chosen on."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    chosen_on: Split
    chosen_from: frozenset[str] = frozenset()
    """Clusters of the rows that they were chosen on."""
    points: tuple[OperatingPoints, ...] = ()
    """Of each label, for cut-offs that keep a promise; (): not known."""
    prefer: str = "f1"
    """What they are good for: f1, or a promise such as precision=0.9."""
    usual: tuple[float, ...] = ()
    """The cut-offs for F1, where these are others."""


class Interval(msgspec.Struct, frozen=True):
    """A figure with its confidence interval."""

    point: float
    low: float
    high: float


class LabelScore(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the per-label table; `f1` carries its interval."""

    label: str
    precision: float
    recall: float
    f1: Interval
    support: int


class Average(msgspec.Struct, frozen=True, kw_only=True):
    """One average ("micro", "macro", "weighted" or "samples") of precision, recall and F1."""

    precision: Interval
    recall: Interval
    f1: Interval


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Everything measured of one system."""

    system: str
    seeds: tuple[int, ...]
    labels: tuple[LabelScore, ...]
    averages: dict[str, Average]
    extra: dict[str, Interval] = {}
    """Further figures: accuracy over labels, subset accuracy, calibration error, ..."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Paired difference `system - rival` of one metric over the same rows and seeds."""

    system: str
    rival: str
    metric: str
    interval: Interval
    p_value: float
    raw_p_value: float | None = None
    """Before any adjustment for the number of comparisons; None in older verdicts."""
    conclusion: str
    """One of better, worse, no significant difference, too few texts (earlier: cannot tell)."""
    primary: bool = False
    """Whether the verdict rests on it; its p-value is adjusted for all that are (Holm)."""
    detectable: float | None = None
    """The smallest true difference that a test set like this one finds four times in five."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """One check of the data or the protocol: what was looked for and what was found."""

    name: str
    passed: bool
    finding: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Scores, rivals, differences and audits of one task, with the signature that names them."""

    task: str
    kind: str
    labels: tuple[str, ...]
    signature: str
    rows: int
    clusters: int
    scores: tuple[Scores, ...]
    differences: tuple[Difference, ...]
    audits: tuple[Audit, ...]
    notes: dict[str, Any] = {}
