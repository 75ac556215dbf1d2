"""A classifier's folder and its use, whatever computes it: texts in, probabilities out.

Plain JSON beside the weights (task, preprocessing, thresholds) is the same for PyTorch, for ONNX
Runtime and for a linear model: what was done to a text in training is done to it in use. Nothing
here needs torch."""

from __future__ import annotations

import difflib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trialese.artifacts import MANIFEST_NAME, digest_of_folder, read_manifest, verify_owner
from trialese.errors import ArtifactError, RecipeError, RecordError, with_article
from trialese.progress import Progress, silent
from trialese.records import OperatingPoints, Task, Thresholds
from trialese.tasks.shipped import (
    SHIPPED,
    ModelSize,
    shipped_folder,
    shipped_sizes,
    why_not_large,
)
from trialese.temperature import Calibration
from trialese.thresholds import (
    PERSON_BELOW,
    PUBLISHED_CUT,
    decide,
    needs_person,
    prefer,
    read_preference,
)

__all__ = [
    "CPU_TOKENS",
    "ONNX_NAME",
    "OPEN_TARGETS_PRESET",
    "TOKENIZER_NAME",
    "Agreement",
    "Described",
    "Description",
    "LabelsTexts",
    "Preprocessing",
    "Preset",
    "Scorer",
    "as_texts",
    "encode_texts",
    "find_classifier",
    "given_labels",
    "left_to_person",
    "length_sorted_batches",
    "model_folder",
    "named_results",
    "new_folder",
    "origin_of",
    "padded",
    "read_description",
    "score_ids",
    "with_preference",
    "write_description",
]


logger = logging.getLogger(__name__)

_PREPROCESSING = "preprocessing.json"
_THRESHOLDS = "thresholds.json"
_CALIBRATION = "calibration.json"


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a text before the tokenizer sees it, and after how many tokens it ends."""

    max_tokens: int
    cleaning: Literal["faithful", "none"] = "faithful"
    fields: tuple[str, ...] = ()
    """Of a trial, the fields that are rendered; () for tasks that read one text of their own."""
    withhold: tuple[str, ...] = ()
    without_sex_words: bool = False

    def clean(self, text: str) -> str:
        """The text as the model reads it."""
        if self.cleaning == "none":
            return text
        from trialese.corpus.clean import clean_text

        return clean_text(text)


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """One cut-off for every label, and what to say where none reaches it."""

    cut: float
    fallback: str


OPEN_TARGETS_PRESET = Preset(cut=PUBLISHED_CUT, fallback="Uncategorised")


@dataclass(frozen=True, slots=True)
class Description:
    """A classifier but for its weights and its tokenizer."""

    task: Task
    preprocessing: Preprocessing
    thresholds: Thresholds | None = None
    preset: Preset | None = None
    calibration: Calibration | None = None
    digest: str = ""
    """sha256 over the names and bytes of the folder's files; "" before it is one."""


class Described(Protocol):
    """What a folder says of a classifier: a `Description`, or any that can be saved."""

    @property
    def task(self) -> Task: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def thresholds(self) -> Thresholds | None: ...
    @property
    def preset(self) -> Preset | None: ...
    @property
    def calibration(self) -> Calibration | None: ...


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`preprocessing.json`."""

    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: tuple[str, ...]
    description: str
    preprocessing: Preprocessing


class _SavedThresholds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`thresholds.json`."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    chosen_on: Literal["train", "tune", "test"]
    preset: Preset | None = None
    """What Open Targets' own pipeline uses instead of `values`, for their 17 labels."""
    points: tuple[OperatingPoints, ...] = ()
    prefer: str = "f1"
    usual: tuple[float, ...] = ()


def find_classifier(path: Path, size: ModelSize | None = None) -> Path:
    """The folder that is meant: `path`, or what ships with trialese under that name.

    A classifier that stands at `path` goes first, unless a `size` is asked for, which only those
    that ship have. Which one answers is logged where it is one that ships, or could be.

    Raises:
        ArtifactError: a size of something that does not ship, or that does not ship in that size.
    """
    name = str(path)
    if size is None and _weights_at(path):
        if shipped_sizes(name):
            logger.warning(
                "%s: the classifier in this folder answers, not the one that ships with trialese, "
                "which --model-size small or large would take",
                name,
            )
        return path
    if size is None and not shipped_sizes(name):
        return path
    if not shipped_sizes(name) and _weights_at(path):
        raise ArtifactError(f"{path}: only what ships with trialese has sizes; leave the size out")
    folder = shipped_folder(name, size)
    logger.info("%s, %s: ships with trialese%s", name, folder.name, why_not_large(name, size))
    return folder


def model_folder(path: Path, size: ModelSize | None = None) -> Path:
    """The folder with the weights: `path`, or `path/model` in what `finetune` wrote; of a name
    that ships with trialese and is no folder here, that classifier's, of that size if there is one.

    Raises:
        ArtifactError: no classifier there.
    """
    found = _weights_at(path)
    if found is None and shipped_sizes(str(path)):
        kept = size if size in shipped_sizes(str(path)) else None
        found = _weights_at(shipped_folder(str(path), kept))
    if found is None:
        raise ArtifactError(f"{path}: no classifier here: {_what_instead(path)}")
    return found


def _weights_at(path: Path) -> Path | None:
    """The folder of a classifier's description at `path` or in its `model`; None: no classifier."""
    folders = (path / "model", path)
    return next((each for each in folders if (each / _PREPROCESSING).is_file()), None)


def _what_instead(path: Path) -> str:
    names = [name for name in SHIPPED if shipped_sizes(name)]
    cure = "give a folder that `trialese finetune` or `export` wrote"
    if names:
        cure += f", or {' or '.join(names)}, which ship with trialese"
    if near := difflib.get_close_matches(str(path), names, n=1):
        cure = f"did you mean {near[0]}?"
    if not path.exists():
        return f"no such folder; {cure}"
    try:
        manifest = read_manifest(path)
    except ArtifactError as error:
        return str(error).removeprefix(f"{path}: ") + f"; {cure}"
    if manifest.kind != "classifier":
        return f"this is {with_article(manifest.kind)}; {cure}"
    system = manifest.settings.get("system", "this")
    if "blend_of" in manifest.settings:
        return (
            f"{system} is a blend of which only the predictions are kept, for `trialese evaluate`; "
            "blend two classifiers that can be used"
        )
    return (
        f"{system} is a baseline, of which only the predictions are kept, for `trialese "
        "evaluate`; give one fitted from a language model"
    )


def origin_of(model: Path) -> str:
    """What the masked-LM is, as its artifact tells it; "" for a folder that is none of ours."""
    if not (model.parent / MANIFEST_NAME).is_file():
        return ""
    manifest = read_manifest(model.parent)
    notes = manifest.notes
    facts = (str(notes.get("backbone", "")), str(notes.get("head") or ""))
    adapted = "first adapted to the old trials" if notes.get("adapted_to_old") else ""
    last = ""
    if manifest.kind == "adapter":
        last = "gone on with new text"
        if "control" in notes:
            last = "gone on with old text for as many steps as adapted with new"
    return "; ".join(filter(None, (*facts, adapted, last)))


def read_description(folder: Path) -> Description:
    """The description in a model folder.

    Raises:
        ArtifactError: missing or damaged.
    """
    thresholds = preset = calibration = None
    try:
        saved = msgspec.json.decode((folder / _PREPROCESSING).read_bytes(), type=_Saved)
        if (folder / _THRESHOLDS).is_file():
            cut = msgspec.json.decode((folder / _THRESHOLDS).read_bytes(), type=_SavedThresholds)
            thresholds = Thresholds(
                labels=cut.labels, values=cut.values, chosen_on=cut.chosen_on, points=cut.points,
                prefer=cut.prefer, usual=cut.usual,
            )  # fmt: skip
            if len(cut.points) not in (0, len(cut.labels)):
                raise ValueError(f"{_THRESHOLDS} has points of another number of labels")
            preset = cut.preset
        if (folder / _CALIBRATION).is_file():
            calibration = msgspec.json.decode(
                (folder / _CALIBRATION).read_bytes(), type=Calibration
            )
            if not len(saved.labels) == len(calibration.slopes) == len(calibration.offsets):
                raise ValueError(f"{_CALIBRATION} is of another number of labels")
        if thresholds is not None and thresholds.labels != saved.labels:
            raise ValueError(f"{_THRESHOLDS} is of other labels")
        verify_owner(folder)
        if thresholds is not None and len(thresholds.values) != len(saved.labels):
            raise ValueError(
                f"{_THRESHOLDS} has {len(thresholds.values)} values for {len(saved.labels)} labels"
            )
        if thresholds is not None and not all(0 <= value <= 1 for value in thresholds.values):
            raise ValueError(f"{_THRESHOLDS} has a value that is no probability")
        digest = digest_of_folder(folder)
    except (msgspec.DecodeError, OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: damaged classifier ({error}); fit it again") from error
    task = Task(saved.task, saved.labels, saved.kind, saved.description)
    return Description(task, saved.preprocessing, thresholds, preset, calibration, digest)


@contextmanager
def new_folder(path: Path, known: Described) -> Iterator[Path]:
    """A folder to put weights into, which becomes `path` with the description beside them.

    Raises:
        ArtifactError: something stands at `path` already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArtifactError(f"{path}: something stands there already; choose a new folder")
    aside = path.with_name(f".{path.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    write_description(aside, known)
    if path.exists():
        path.rmdir()
    aside.rename(path)


def write_description(folder: Path, known: Described) -> None:
    """Write the files that describe a classifier into the folder of its weights."""
    task, thresholds = known.task, known.thresholds
    saved = _Saved(
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        description=task.description,
        preprocessing=known.preprocessing,
    )
    _write_json(folder / _PREPROCESSING, saved)
    if thresholds is not None:
        cut = _SavedThresholds(
            labels=thresholds.labels,
            values=thresholds.values,
            chosen_on=thresholds.chosen_on,
            preset=known.preset,
            points=thresholds.points,
            prefer=thresholds.prefer,
            usual=thresholds.usual,
        )
        _write_json(folder / _THRESHOLDS, cut)
    if known.calibration is not None:
        _write_json(folder / _CALIBRATION, known.calibration)


def _write_json(path: Path, value: Any) -> None:
    text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2)
    path.write_bytes(text + b"\n")


ONNX_NAME = "model.onnx"
TOKENIZER_NAME = "tokenizer.json"
CPU_TOKENS = 512
"""Of a batch: enough rows for the matrix products, few enough for the caches."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How scores in another number format agree with those in fp32, measured on texts given."""

    texts: int
    """So many were scored twice."""
    same_labels: int
    """Of these, with exactly the labels of fp32."""
    largest_difference: float
    """Between two probabilities."""

    def __str__(self) -> str:
        return (
            f"of {self.texts:,} texts that were scored in fp32 as well, {self.same_labels:,} have "
            f"its labels; probabilities differ by at most {self.largest_difference:.4f}"
        )


class Scorer(Protocol):
    """What every classifier can do, fitted here or exported."""

    @property
    def task(self) -> Task:
        """Its labels and whether several hold at once."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What happens to a text first."""
        ...

    @property
    def thresholds(self) -> Thresholds | None:
        """Cut-offs chosen on tune; None: 0.5, or the largest of a multiclass task."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """What makes its scores chances; None: they are scores."""
        ...

    @property
    def digest(self) -> str:
        """sha256 that names the model's files."""
        ...

    @property
    def engine(self) -> str:
        """What computes the scores, such as "torch fp32"; those of two engines differ a little."""
        ...

    def predict_proba(
        self, texts: Sequence[str], *, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Probabilities (texts, labels) of raw texts, in their order."""
        ...


class LabelsTexts:
    """What a classifier does with its own probabilities, whatever computes them."""

    __slots__ = ()

    @property
    def agreement(self) -> Agreement | None:
        """With fp32, on the texts scored so far; None: the scores are those of fp32, or of an
        exported graph, which was compared when it was made."""
        return None

    @property
    def labels(self: Scorer) -> tuple[str, ...]:
        """The labels, in the order of the columns of `predict_proba`."""
        return self.task.labels

    def predict(
        self: Scorer, texts: Sequence[str], *, progress: Progress = silent
    ) -> list[tuple[str, ...]]:
        """The labels of each text, by the classifier's cut-offs; () where none reaches its own.

        Raises:
            RecordError: one text instead of several, or something that is no text.
        """
        scores = self.predict_proba(texts, progress=progress)
        return [labels for labels, _, _ in named_results(self, scores)]


def as_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        RecordError: one text instead of several, or something that is no text; names its place.
    """
    if isinstance(texts, str):
        raise RecordError(
            f"several texts are needed, and this is one; give a list: [{texts!r:.60}]"
        )
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise RecordError(
                f"text {place} is {text!r:.60}, of type {type(text).__name__}; give a str, or "
                "leave it out"
            )
    return found


def given_labels(
    task: Task, thresholds: Thresholds | None, scores: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Label sets (texts, labels) of scores of that shape, by the classifier's cut-offs or 0.5."""
    cuts = 0.5 if thresholds is None else np.array(thresholds.values)
    return decide(scores, task.kind, cuts)


def named_results(
    scorer: Scorer, scores: NDArray[np.float64]
) -> Iterator[tuple[tuple[str, ...], dict[str, float], bool]]:
    """Of each row of scores (texts, labels): its label set, all probabilities to six places, and
    whether a person should look at it."""
    labels = scorer.task.labels
    given = given_labels(scorer.task, scorer.thresholds, scores)
    unsure = left_to_person(scorer, scores, given)
    for row, held, asks in zip(scores, given, unsure, strict=True):
        yield (
            tuple(labels[column] for column in np.flatnonzero(held)),
            {label: round(float(score), 6) for label, score in zip(labels, row, strict=True)},
            bool(asks),
        )


def left_to_person(
    scorer: Scorer, scores: NDArray[np.float64], given: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which of the texts (rows) somebody should look at; see `thresholds.needs_person`. Scores that
    are no chances say nothing of how sure they are."""
    below = PERSON_BELOW if scorer.calibration is not None else 0.0
    return needs_person(scores, given, scorer.task.kind, scorer.thresholds, below=below)


def with_preference(scorer: Scorer, preference: str | None) -> Scorer:
    """The classifier with cut-offs for a use (see `thresholds.prefer`), each label that cannot keep
    the promise logged; None: as it is.

    Raises:
        RecipeError: a preference that cannot be read or kept.
    """
    if preference is None:
        return scorer
    read_preference(preference)
    if scorer.thresholds is None:
        raise RecipeError(
            f"prefer {preference}: this classifier has no cut-offs of its own; fit it again"
        )
    chosen, unable = prefer(scorer.thresholds, scorer.task.kind, preference)
    if unable:
        told = "; ".join(f"{label} {why}" for label, why in unable.items())
        logger.warning("%s cannot be promised for %s", chosen.prefer, told)
    given: Scorer = replace(scorer, thresholds=chosen)  # type: ignore[type-var]
    return given


def encode_texts(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text by a `tokenizers.Tokenizer`, special ones included, cut."""
    if (tokenizer.truncation or {}).get("max_length") != max_tokens:
        tokenizer.enable_truncation(max_tokens)  # changing it while another thread encodes fails
    if tokenizer.padding is not None:
        tokenizer.no_padding()
    try:
        return [encoded.ids for encoded in tokenizer.encode_batch_fast(list(texts))]
    except BaseException as error:
        if not _is_panic(error):
            raise
        if len(texts) > 1:  # which text is it?
            for text in texts:
                encode_texts(tokenizer, [text], max_tokens)
        raise RecordError(
            f"the tokenizer cannot read {texts[0]!r:.60} ({error}); leave this text out"
        ) from error


def _is_panic(error: BaseException) -> bool:
    """Whether it is how a tokenizer written in Rust ends; such an error is no `Exception`."""
    return type(error).__name__ == "PanicException"


def padded(
    ids: Sequence[Sequence[int]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and attention mask, both (texts, tokens of the longest)."""
    lengths = np.array([len(text) for text in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    block = np.full(mask.shape, pad_id, np.int64)
    block[mask] = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
    return block, mask.astype(np.int64)


def score_ids(
    ids: Sequence[Sequence[int]],
    logits: Callable[[list[Sequence[int]]], NDArray[Any]],
    labels: int,
    *,
    batch_texts: int,
    batch_tokens: int = CPU_TOKENS,
    progress: Progress = silent,
) -> NDArray[np.float64]:
    """Logits (texts, labels), `logits` being asked for batches of near-equal length.

    Texts that become the same token ids are scored once: 36 % of stop reasons share their
    normalised text with another trial, and the model cannot tell them apart.
    """
    row_of: dict[tuple[int, ...], int] = {}
    rows = [row_of.setdefault(tuple(text), len(row_of)) for text in ids]
    distinct = list(row_of)
    found = np.zeros((len(distinct), labels), np.float64)
    done = 0
    for batch in length_sorted_batches([len(text) for text in distinct], batch_texts, batch_tokens):
        found[batch] = logits([distinct[row] for row in batch])
        done += len(batch)
        progress("predict: distinct texts", done, len(distinct))
    return found[rows]


def length_sorted_batches(
    lengths: Sequence[int], batch_texts: int, batch_tokens: int = 16_384
) -> list[list[int]]:
    """Rows in batches of near-equal length, longest first; each row stands in exactly one.

    A batch holds at most `batch_texts` texts and `batch_tokens` tokens, padding included, but at
    least one text.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    widest = 0
    for row in order:
        full = batches and len(batches[-1]) < batch_texts
        if full and (len(batches[-1]) + 1) * widest <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            widest = lengths[row]
    return batches
