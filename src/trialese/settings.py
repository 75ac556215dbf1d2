"""Settings of every stage, one section each: units, limits and defaults.

A recipe is a tree of these sections, and a stage is handed its own. Ratios and shares are in
[0, 1]. In a recipe an empty string unsets what may be None."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

__all__ = [
    "BackboneSettings",
    "BlockSettings",
    "BoilerplateSettings",
    "CollectSettings",
    "CorpusSettings",
    "Count",
    "DeclaredTaskSettings",
    "DedupSettings",
    "FilterSettings",
    "FinetuneSettings",
    "Folds",
    "HeldoutSettings",
    "IsoDate",
    "LoraSettings",
    "MaskingSettings",
    "OpenShare",
    "PanelSettings",
    "PhaseSettings",
    "Precision",
    "PretrainSettings",
    "ReadLimits",
    "RenderSettings",
    "SampleSettings",
    "Section",
    "ServeSettings",
    "SexSettings",
    "Share",
    "SilverSettings",
    "SplitSettings",
    "StopReasonsSettings",
    "TaskSettings",
    "TasksSettings",
    "UnlabelledSettings",
    "VerdictSettings",
]

IsoDate = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")
]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
OpenShare = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Folds = Annotated[int, msgspec.Meta(ge=2)]
Precision = Literal["auto", "fp32", "bf16"]
"""`auto` is bf16 where the processor computes in it, else fp32."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the tree; unknown keys are refused."""


class SampleSettings(Section, frozen=True, kw_only=True):
    """The synthetic source."""

    studies: Count = 2000
    seed: int = 7
    from_date: IsoDate = "2018-01-01"
    to_date: IsoDate = "2024-12-31"
    months: int = 0  # after to_date, with new and stopped studies; `refresh` asks for the next


class ReadLimits(Section, frozen=True, kw_only=True):
    """How much is taken from files and servers that nobody vouches for; beyond it is an error. They
    change no record, so a snapshot does not note them."""

    document_bytes: Count = 64 * 2**20
    """One JSON or XML document, one study of a JSON array, one JSON line."""
    nesting: Count = 500
    """Of arrays and objects in JSON; a study has about 12."""
    xml_tags: Count = 1_000_000
    """In one XML document: each element takes about 200 bytes of memory."""
    unpacked_bytes: Count = 256 * 2**30
    """What one compressed file unpacks to, or one pipe brings."""
    unpacking_ratio: Count = 200
    """How many times its size a compressed file may unpack to, beyond the first 64 MiB."""
    archive_entries: Count = 2_000_000
    folder_depth: Count = 64
    rejects: Count = 250_000
    """Records refused in one collection; each is kept with its reason."""
    answer_bytes: Count = 256 * 2**20
    """One JSON answer of the registry, unpacked."""
    answer_seconds: float = 600.0
    """For one JSON answer to come whole; in a download, for each part of 64 KiB."""
    download_bytes: Count = 256 * 2**30
    """The registry's archive."""


class CollectSettings(Section, frozen=True, kw_only=True):
    """Where registry records come from."""

    source: Literal["sample", "registry", "files", "none"] = "sample"
    """`none`: no trials; tasks are fitted on labelled files, from the backbone as it is. That is
    the default where a task is `labelled`: nobody means to adapt to synthetic studies for it."""
    paths: tuple[str, ...] = ()
    """For `files`; relative to the working directory."""
    url: str = "https://clinicaltrials.gov/api/v2"
    since: IsoDate | None = None
    """First posted on or after this date (registry source)."""
    updated_since: IsoDate | None = None
    query: str | None = None
    ids: str | None = None
    """Only the studies whose NCT numbers stand in this file (registry source)."""
    whole: bool = False
    """The whole registry: as one zip where the registry gives it, else page by page."""
    new_since: str | None = None
    """Keep only what an earlier snapshot, or a file of NCT numbers, does not hold as it is."""
    page_size: Count = 1000
    pause_seconds: float = 1.0
    timeout_seconds: float = 60.0
    retries: int = 6
    sample: SampleSettings = SampleSettings()
    limits: ReadLimits = ReadLimits()


class RenderSettings(Section, frozen=True, kw_only=True):
    """Trial -> text."""

    fields: tuple[str, ...] = (
        "brief_title",
        "official_title",
        "brief_summary",
        "detailed_description",
        "eligibility_criteria",
    )
    withhold: tuple[str, ...] = ()
    """Fields never rendered, and whose text is cut out where another field repeats it verbatim."""
    markers: bool = True
    """A section name before each field, such as "Eligibility criteria:"."""
    cleaning: Literal["faithful", "published"] = "faithful"
    """`published` is the prior art's clean-up, which deletes `[](){}:@#$%^&*` and digits' signs."""


class FilterSettings(Section, frozen=True, kw_only=True):
    """Which documents are kept."""

    min_characters: int = 200
    max_characters: int = 200_000
    min_letters_share: Share = 0.5


class BoilerplateSettings(Section, frozen=True, kw_only=True):
    """Paragraphs that stand in many trials (site contacts, consent formulas)."""

    min_words: int = 8
    """Shorter lines are headings and short criteria, not boilerplate."""
    min_documents: int = 50
    """A paragraph in at least so many documents is counted as boilerplate."""
    listed: int = 100
    """So many of the most frequent ones are written to `boilerplate.parquet`."""
    cap_documents: int | None = None
    """Keep each paragraph in so many documents (by ascending id) and cut it from the rest."""


class DedupSettings(Section, frozen=True, kw_only=True):
    """Exact and near-duplicate clusters (MinHash LSH over word shingles)."""

    near: bool = True
    jaccard: float = 0.8
    shingle_words: int = 5
    permutations: int = 128
    drop: Literal["none", "exact", "near"] = "exact"
    """Copies removed from a corpus: none, those of equal words, or all but one of each cluster."""
    seed: int = 7


class SplitSettings(Section, frozen=True, kw_only=True):
    """Cluster -> split: by hash, or the youngest clusters held out."""

    by: Literal["hash", "date"] = "hash"
    """`date`: a cluster's split follows from the earliest `first_posted` among its trials."""
    tune_share: Share = 0.05
    test_share: Share = 0.10
    tune_from: IsoDate | None = None
    """`date` only: clusters first posted from this date on, but before `test_from`, are tune."""
    test_from: IsoDate | None = None
    """`date` only: clusters first posted from this date on are test."""
    seed: int = 7


class BlockSettings(Section, frozen=True, kw_only=True):
    """Documents -> blocks of token ids."""

    block_tokens: Count = 128
    packing: Literal["across", "within"] = "across"
    """`across`: documents are concatenated and cut; `within`: none crosses a block, ends padded."""
    truncate_tokens: int | None = None
    """Cut documents to so many tokens, special ones included (the prior art: 2109)."""
    drop_remainder_documents: int | None = None
    """`across` only: concatenate so many documents at a time and drop what does not fill a block
    (the prior art: 16, through `group_texts`). Tokens lost either way are counted."""


class CorpusSettings(Section, frozen=True, kw_only=True):
    """Clean text, clusters, splits and blocks."""

    new_from: IsoDate | None = "2022-12-04"
    """Trials first posted on or after this date are *new*, the rest *old*; None: all are new."""
    render: RenderSettings = RenderSettings()
    filters: FilterSettings = FilterSettings()
    boilerplate: BoilerplateSettings = BoilerplateSettings()
    dedup: DedupSettings = DedupSettings()
    split: SplitSettings = SplitSettings()
    blocks: BlockSettings = BlockSettings()


class BackboneSettings(Section, frozen=True, kw_only=True):
    """A pinned checkpoint."""

    name: str = "minilm"
    """`minilm` or `mpnet` (weights inside installed packages), a local folder, or a hub id."""
    revision: str | None = None
    """For a hub id: a commit. A branch or tag is resolved to a commit and recorded."""
    tokenizer: str | None = None
    """Where to take the tokenizer from, if the checkpoint has none; default: the checkpoint."""


class LoraSettings(Section, frozen=True, kw_only=True):
    """The adapter (Hu et al. 2021)."""

    rank: Count = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    """Module names, or `all-linear`: every linear layer of the encoder (never the head)."""
    rslora: bool = False
    dora: bool = False


class MaskingSettings(Section, frozen=True, kw_only=True):
    """Which tokens are hidden in training: of the chosen, 80 % [MASK], 10 % random, 10 % kept."""

    ratio: Share = 0.30
    whole_word: bool = False


class HeldoutSettings(Section, frozen=True, kw_only=True):
    """How the masked-language model is measured."""

    masking_ratio: Share = 0.15
    max_blocks: Count = 512
    """Of each era and split, at most so many blocks, chosen by hash."""
    every_steps: Count = 100
    every_epochs: Count | None = None
    """Instead of `every_steps`, if given."""
    batch_blocks: Count = 32
    seed: int = 7
    """Of the fixed masks and the choice of blocks; runs to be compared must share it."""


class PhaseSettings(Section, frozen=True, kw_only=True):
    """One run of the training loop. Lengths: `steps` if given, else `epochs`."""

    epochs: float = 1.0
    steps: Count | None = None
    batch_blocks: Count = 16
    accumulation: Count = 1
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["linear", "constant", "wsd"] = "linear"
    warmup_share: Share = 0.06
    decay_share: Share = 0.2
    """Of a `wsd` (warm-up, stable, decay) schedule, the last part."""
    restart_every_epochs: Count | None = None
    """Begin schedule and optimiser anew (the prior art re-created its Trainer every 5 epochs)."""
    gradient_clip: float = 1.0


class PretrainSettings(Section, frozen=True, kw_only=True):
    """Masked-language modelling: first the base on old trials if it needs one, then the adapter."""

    backbone: BackboneSettings = BackboneSettings()
    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    masking: MaskingSettings = MaskingSettings()
    heldout: HeldoutSettings = HeldoutSettings()
    base: Literal["auto", "always", "never"] = "auto"
    """Adapt the backbone to the *old* trials first; `auto`: if it has no masked-LM head."""
    head_phase: PhaseSettings = PhaseSettings(steps=400, lr=2e-3)
    """For a new head: train it alone, encoder frozen, before anything else."""
    base_phase: PhaseSettings = PhaseSettings(epochs=1.0)
    adapt_phase: PhaseSettings = PhaseSettings(epochs=3.0)
    train_head: bool = True
    """Whether a *new* head goes on learning with the adapter; a pretrained head stays frozen."""
    replay_share: Share = 0.05
    """Share of old blocks mixed into each epoch of new ones."""
    precision: Precision = "auto"
    """bf16 is for products; adapters and optimiser stay fp32. `auto`: where the chip has it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """torch.compile the training step (pays on a GPU; a minute to compile)."""
    packed_weights: bool | None = None
    """Frozen weights packed once for oneDNN (CPU, twice their memory); None: where it is faster."""
    backbone_dropout: float = 0.0
    """The prior art keeps 0.1; LoRA's own dropout is `lora.dropout`."""
    data_workers: Count = 1
    """Threads that mask the next batches while a step runs; the result does not depend on them."""
    checkpoint_every_steps: Count = 200
    seed: int = 7
    control: bool = True
    """In a run: a second continuation of the base, on *old* text for as many steps."""


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
    """How the pooler starts: tanh of the [CLS] state itself, or as the checkpoint has it."""
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
    final_fit: bool | None = None
    """After the folds one fit on all texts, for use; None: where more than one fold is run."""


class SilverSettings(Section, frozen=True, kw_only=True):
    """Texts that carry a model's labels: no truth, but something to learn from."""

    table: str
    """Any labelled file; texts near a labelled one are left out, whatever fold that is in."""
    column: str = "labels"
    """Holds each row's label, or several joined by `|`."""
    text_column: str | None = None  # None: the one with a known name
    epochs: Count = 2
    """Of a language model over the silver texts, before the epochs over the labelled ones."""
    lr: float | None = None
    """Its rate meanwhile; None: `finetune.lr`, which the labelled texts have."""


class UnlabelledSettings(Section, frozen=True, kw_only=True):
    """Texts without labels, which a language model reads with words masked before it is fitted to
    labelled ones (Gururangan et al. 2020, arXiv 2004.10964)."""

    table: str
    """Any file of texts; none of its labels is read, texts near a labelled one are left out."""
    column: str | None = None
    """Holds the texts; None: the one with a known name."""
    epochs: Count = 4
    lr: float = 5e-5
    """Of all weights; a new masked-LM head, alone at first, has `pretrain.head_phase`'s default."""


_LATER_SETTINGS = (
    "text_column", "label_column", "id_column", "prefer", "unlabelled", "behaviour_tests",
)  # fmt: skip
_WHO_AND_WHAT = ("brief_title", "official_title", "brief_summary", "eligibility_criteria")


class TaskSettings(Section, frozen=True, kw_only=True):
    """What every task can be told, whoever defines it."""

    undescribed: ClassVar[tuple[str, ...]] = _LATER_SETTINGS
    """Settings that came to this task later: left out of manifests while they have their default,
    so that what was fitted before stays finished."""

    labelled: str | None = None
    """Labelled file, or `owner/name@commit` on the hub; None: labels from the trials."""
    test_labelled: str | None = None
    """Labelled file whose texts are tested, and no others; needs run_folds = 1."""
    test_from: IsoDate | None = None
    """Test the clusters first posted on or after this date, and no others; needs run_folds = 1."""
    max_trials: int | None = None
    """At most so many trials, chosen by hash of their ids; None: all."""
    text_column: str | None = None
    """Of labelled files, the column of texts; None: the one with a known name."""
    label_column: str | None = None
    """Of labelled files, the column of labels; None: `labels`, `label`, or a 0/1 column a label."""
    id_column: str | None = None
    """Of labelled files, the column that names the rows; None: the one with a known name."""
    dedup: DedupSettings = DedupSettings()
    folds: Folds = 5
    run_folds: Count | None = None
    """Evaluate only so many folds; None: all."""
    first_fold: int = 0
    """Begin with this one, so that several processes can share the folds."""
    tune_share: Share = 0.15
    """Of the clusters outside the test fold."""
    inner_folds: int = 0
    """0: fit on train; stop and choose cut-offs on tune. From 2 up: so many fits over both, each
    scoring the part that it has not seen (`tasks/finetune.py`), then averaged into one model."""
    sentences: int = 0
    """So many times each label's hand-written sentences stand among the texts that every system,
    baselines too, is fitted on; no scored text and no behavioural test is among them."""
    silver: SilverSettings | None = None
    """Language models are fitted on these texts first, baselines on them and the labelled ones
    (`tasks/labelled.py`). The verdict says so: who gave the labels may have seen the test's."""
    unlabelled: UnlabelledSettings | None = None
    """Language models read these texts first, as a masked-LM (`tasks/unlabelled.py`)."""
    behaviour_tests: str | None = None
    """Table of group, text, must, must_not, beside the shipped ones (`tasks/behaviour.py`)."""
    split_seed: int = 7
    """Which cluster is in which fold; the same for every system and every seed of the weights."""
    seeds: tuple[int, ...] = (1,)
    calibration: Literal["labels", "temperature", "none"] = "labels"
    """What makes scores chances, fitted on tune: a line a label, one for all (`temperature.py`)."""
    prefer: str | None = None
    """Cut-offs that the classifier gets, such as "precision=0.9"; None: those for the best F1."""
    finetune: FinetuneSettings = FinetuneSettings()
    search: dict[str, dict[str, tuple[bool | int | float | str, ...]]] = {}
    """What to choose inside each fold, such as `finetune.lr` or `tfidf.C`, with the values to try:
    all combinations, on inner folds of what the fold does not test (`tasks/system.py`)."""
    search_folds: Folds = 3


class StopReasonsSettings(TaskSettings, frozen=True, kw_only=True):
    """Why a trial stopped; without `labelled`, by the labels that synthetic trials carry."""

    undescribed: ClassVar[tuple[str, ...]] = ("test_from", "max_trials", *_LATER_SETTINGS)

    dedup: DedupSettings = DedupSettings(shingle_words=1)
    """Reasons have seven words: one that differs would hide a duplicate from longer shingles."""


class SexSettings(TaskSettings, frozen=True, kw_only=True):
    """Who may enrol; `labelled` is such as `Kira-Asimov/gender_clinical_trial@COMMIT`."""

    undescribed: ClassVar[tuple[str, ...]] = ("sentences", "silver", *_LATER_SETTINGS)

    missing: Literal["drop", "label"] = "drop"
    """Trials without the field: dropped (and counted), or given the label "None"."""
    fields: tuple[str, ...] = _WHO_AND_WHAT
    without_sex_words: bool = False
    """Leave out every sentence that says women, men, pregnant, ...; for the input ablation."""
    run_folds: Count | None = 1
    finetune: FinetuneSettings = FinetuneSettings(epochs=3, patience=1)


class DeclaredTaskSettings(TaskSettings, frozen=True, kw_only=True):
    """A task of your own, from a field of the trials or from a labelled file."""

    undescribed: ClassVar[tuple[str, ...]] = (
        "max_trials", "sentences", "silver", "keywords", "label_sentences", "groups",
        "label_descriptions", "leave_out_other_values", *_LATER_SETTINGS,
    )  # fmt: skip

    name: str
    labels: tuple[str, ...]
    kind: Literal["multilabel", "multiclass"]
    description: str = ""
    field: str | None = None
    """The field of `Trial` that holds the label; withheld from the text. True is "Yes"."""
    leave_out_other_values: bool = False
    """Trials and rows with a value that is none of the labels are left out, and counted, instead of
    refused: two statuses of many, say."""
    fields: tuple[str, ...] = _WHO_AND_WHAT
    """What of a trial is read."""
    withhold: tuple[str, ...] = ()
    """Further fields that give the answer away."""
    keywords: dict[str, tuple[str, ...]] = {}
    """Label -> lower-case words of the baseline `keywords`; {}: the words of each label's name."""
    label_sentences: dict[str, tuple[str, ...]] = {}
    """Label, or several joined by `|` -> sentences that say it, to be learnt `sentences` times."""
    groups: dict[str, str] = {}
    """Label -> a coarser group, by which the verdict scores too; all labels or none."""
    label_descriptions: dict[str, str] = {}
    """Label -> what it means, for people who read or give labels."""


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
    label_sets: Literal["common", "by_label"] = "common"
    """Conformal sets: one level that keeps the promise on average, or one for every label."""
    primary: Literal["macro-f1", "micro-f1", "weighted-f1"] = "macro-f1"
    """The figure that decides; differences in any other are exploratory."""
    seed_spread: Annotated[float, msgspec.Meta(ge=0)] = 0.02
    """Standard deviation over training runs that a difference of averages is taken to have where
    each system was trained once; one label's is larger by the root of the number of labels."""


class PanelSettings(Section, frozen=True, kw_only=True):
    """What base, control and adapted know of trials: linear probes of a run's encoders."""

    trials: Annotated[int, msgspec.Meta(ge=0)] = 3000
    """At most so many, chosen by hash; 0 leaves the panel out."""
    max_tokens: Count = 128
    """Of each text, special ones included."""
    folds: Folds = 5


class ServeSettings(Section, frozen=True, kw_only=True):
    """Page and API."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    body_bytes: Count = 2_000_000
    """Larger requests are refused; uploads of jobs have their own limit."""
    request_texts: Count = 256
    """At most so many texts, trials or NCT ids in one request."""
    batch_texts: Count = 32
    """At most so many texts, of however many requests, go through a model at once."""
    queue_texts: Count = 2048
    """Requests are refused while more texts than these wait for a model."""
    queue_explanations: Count = 16
    """Likewise for explanations, each of which takes as long as dozens of predictions."""
    requests: Count = 512
    """At most so many requests under way."""
    request_seconds: float = 30.0
    """A request that waits longer is given up."""
    stuck_seconds: float = 120.0
    """`/readyz` says 503 while one batch has been under way for longer."""
    hosts: tuple[str, ...] = ()
    """Names that the server answers to, beside its own address and, with a token, all others."""
    connections: Count = 2000
    """Open at most; the quietest of the busiest peer makes room for a new one."""
    peer_connections: Count = 512
    """Likewise for those of one address."""
    header_seconds: float = 10.0
    """The head of a request must be there so long after its first byte, or after connecting."""
    idle_seconds: Count = 30
    """A connection is closed so long after its last answer."""
    body_seconds: float = 30.0
    """A body must be there so long after its head, and a second later for each of the next."""
    body_bytes_per_second: Count = 10_000
    """See `body_seconds`."""
    arriving_bytes: Count = 256_000_000
    """Bodies under way together; uploads, which go to disk, are not among them."""
    drain_seconds: Count = 30
    """At the end, requests under way have so long to finish."""
    upload_bytes: Count = 2_000_000_000
    """Of one file to be labelled as a job."""
    waiting_jobs: Count = 100
    """Jobs are refused while so many wait."""
    jobs_bytes: Count = 20_000_000_000
    """Of all uploads and their labels together; more uploads are refused."""
    job_memory_bytes: Count = 2_000_000_000
    """Of the process that reads one uploaded file; a file that takes more has failed."""
    job_cpu_seconds: Count = 14_400
    """Processor time of that process; the model's own time is not counted."""
    job_silent_seconds: float = 600.0
    """That process is ended when nothing has come of the file for so long."""
    job_open_files: Count = 256
    """Files that it may hold open."""
    live: bool = False
    """Ask the registry for trials that the snapshot lacks."""
