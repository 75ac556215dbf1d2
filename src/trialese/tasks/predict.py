"""Prediction over texts, trials or files of any size: streamed, resumable, by several processes.

Records are taken in windows of a fixed number. The labels of a window are a function of its
records alone and stand in a file of their own in `.OUT.work` until all are there and are joined
in order. So a run that was killed goes on where it was; several processes divide the windows
among themselves (RANK and WORLD_SIZE, as `torchrun` and most schedulers set them); and the result
is the same bytes. The first process alone joins, after doing whatever others left undone.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec

from trialese.artifacts import digest_of, digest_of_file, locked, work_folder, write_bytes
from trialese.collect.delimited import is_unicode
from trialese.errors import ArtifactError, RecipeError, RecordError
from trialese.progress import Progress, silent
from trialese.settings import Precision
from trialese.tasks.blend import BLEND_NAME, BlendClassifier
from trialese.tasks.formats import (
    KNOWN_COLUMNS,
    STDIN_SUFFIX,
    About,
    AskedColumns,
    Layout,
    Record,
    TextToLabel,
    about_file,
    count_characters,
    describe_cuts,
    format_of,
    is_nct_number,
    layout_of,
    person_line,
    read_finished,
    read_records,
    texts_of,
)
from trialese.tasks.linear import LINEAR_NAME, LinearClassifier
from trialese.tasks.scorer import (
    ONNX_NAME,
    Scorer,
    find_classifier,
    model_folder,
    named_results,
    with_preference,
)

if TYPE_CHECKING:
    from trialese.tasks.classifier import Classifier
    from trialese.tasks.onnx_scorer import OnnxScorer
    from trialese.tasks.shipped import ModelSize

__all__ = [
    "LabelledText",
    "Share",
    "divide_records",
    "exists",
    "label_texts",
    "load_classifier",
    "load_scorer",
    "looks_like_a_file",
    "no_text_error",
    "open_scorer",
    "own_share",
    "predict_file",
    "predict_inputs",
    "refuse_no_text",
    "stream_inputs",
]


def load_classifier(
    name: str | Path, *, size: ModelSize | None = None, precision: Precision = "fp32"
) -> Classifier | LinearClassifier | BlendClassifier | OnnxScorer:
    """The classifier that ships under a name, such as "stop-reasons", or that stands in a folder.

    Its `predict` gives the labels of each text, `predict_proba` probabilities (texts, labels) in
    the order of `labels`. `size` is that of one that ships; without it the strongest that can run
    here. The others are those of `load_scorer`.

    Raises:
        ArtifactError: no such name or folder, a damaged one, or its engine is not installed.
        RecipeError: a precision that the machine does not have.
    """
    return load_scorer(find_classifier(Path(name), size), precision=precision)


def load_scorer(
    path: Path, *, precision: Precision = "fp32"
) -> Classifier | LinearClassifier | BlendClassifier | OnnxScorer:
    """The classifier in a folder that `finetune` or `export` wrote.

    `precision` is that of PyTorch; in fp32, scores do not depend on the chip, in `auto` (bf16
    where the processor computes in it) they do. An exported graph has its own.

    Raises:
        ArtifactError: no classifier there, a damaged one, or its engine is not installed.
        RecipeError: a precision that the machine does not have, or that is none.
    """
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise RecipeError(f"precision {precision!r} is unknown; use one of {known}")
    folder = model_folder(path)
    if (folder / ONNX_NAME).is_file():
        from trialese.tasks.onnx_scorer import OnnxScorer

        return OnnxScorer.load(folder)
    if (folder / LINEAR_NAME).is_file():
        return LinearClassifier.from_pretrained(folder)
    if (folder / BLEND_NAME).is_file():
        return BlendClassifier.load(folder, lambda home: load_scorer(home, precision=precision))
    from trialese.tasks.classifier import Classifier

    return Classifier.from_pretrained(folder, precision=precision)


def open_scorer(path: Path, *, precision: Precision = "fp32", prefer: str | None = None) -> Scorer:
    """`load_scorer`, with the cut-offs preferred; logs what they are for, unless it is F1, and
    where its scores are no chances.

    Raises:
        ArtifactError: no classifier there, a damaged one, or its engine is not installed.
        RecipeError: a precision that the machine does not have, or a preference not to be kept.
    """
    scorer = with_preference(load_scorer(path, precision=precision), prefer)
    if scorer.calibration is None:
        logger.info("%s: its scores are not calibrated: their order counts, not their size", path)
    cuts = scorer.thresholds
    if cuts is not None and cuts.prefer != "f1":
        logger.info("%s: cut-offs for %s, chosen on %s", path, cuts.prefer, cuts.chosen_on)
    return scorer


logger = logging.getLogger(__name__)

_CHUNK_RECORDS = 1024


class LabelledText(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One text with the labels it is given and the probability of every label."""

    row: int = 0
    """Position of its record in the input, from 1; of lines, blank ones are counted."""
    text: str
    labels: tuple[str, ...]
    scores: dict[str, float]
    nct_id: str = ""
    thresholds: str = "tune"
    """"tune", or "0.5" where the classifier carries no thresholds of its own; with a promise that
    they keep, such as "tune, precision=0.9"."""
    needs_person: bool = False
    """Whether somebody should look at it: see `thresholds.needs_person`."""
    prefer: str = ""
    """What the cut-offs are for: f1, or a promise such as precision=0.9; "": they are 0.5."""
    model: str = ""
    """First twelve digits of the sha256 of the model's files."""
    engine: str = ""
    """What computed the scores, such as "torch fp32"."""

    def as_line(self) -> str:
        """A line for people: labels with probabilities, then the beginning of the text."""
        return person_line(
            self.nct_id, self.labels, self.scores, self.text, needs_person=self.needs_person
        )


def predict_inputs(
    model: Path,
    inputs: Sequence[str],
    *,
    stdin: Iterable[str] | None = None,
    precision: Precision = "fp32",
    columns: AskedColumns = KNOWN_COLUMNS,
    prefer: str | None = None,
) -> Iterator[LabelledText]:
    """One result a text or trial, in their order, streamed.

    `inputs` are texts, or the path of one snapshot or file: `.txt` with a text a line, or any kind
    that `collect` knows. With `stdin`, its lines are the texts. `columns` go with a table.
    `prefer` chooses the cut-offs: see `thresholds.prefer`.

    Raises:
        ArtifactError: no classifier at `model`.
        RecipeError: a preference that cannot be read or kept.
        RecordError: an empty text, a file that cannot be understood, or no text at all.
    """
    scorer = open_scorer(model, precision=precision, prefer=prefer)
    for texts in _chunks(scorer, inputs, stdin, columns):
        yield from label_texts(scorer, texts)
    _tell_agreement(scorer)


def stream_inputs(
    model: Path,
    inputs: Sequence[str],
    format_name: str,
    *,
    stdin: Iterable[str] | None = None,
    precision: Precision = "fp32",
    columns: AskedColumns = KNOWN_COLUMNS,
    prefer: str | None = None,
) -> Iterator[bytes]:
    """The bytes of the results in a format that can be streamed; see `predict_inputs`.

    Raises:
        RecipeError: Parquet or a workbook, or an unknown format.
        RecordError: see `predict_inputs`.
    """
    format_ = format_of(Path(), format_name)
    if format_ in ("parquet", "xlsx"):
        raise RecipeError(f"{format_} cannot be streamed; name a file with -o")
    scorer = open_scorer(model, precision=precision, prefer=prefer)
    layout = layout_of(scorer, format_)
    begin = layout.header()  # of nothing there is none
    for texts in _chunks(scorer, inputs, stdin, columns):
        yield begin + layout.part(texts, scorer.predict_proba([each.text for each in texts]))
        begin = b""
    _tell_agreement(scorer)


def _tell_agreement(scorer: Scorer) -> None:
    found = getattr(scorer, "agreement", None)
    if found is not None:
        logger.info("%s: %s", scorer.engine, found)


def _chunks(
    scorer: Scorer, inputs: Sequence[str], stdin: Iterable[str] | None, columns: AskedColumns
) -> Iterator[list[TextToLabel]]:
    """What is to be labelled, about a thousand texts at a time."""
    if stdin is not None:
        records: Iterator[Record] = map(str.strip, stdin)
    elif len(inputs) == 1 and exists(inputs[0]):
        records = read_records(Path(inputs[0]), columns)
    else:
        for position, text in enumerate(inputs, start=1):
            refuse_no_text(text, f"text {position}")
        records = iter(inputs)
    where = "standard input" if stdin is not None else inputs[0]
    left_out: dict[str, int] = {}
    row, found = 1, False
    for chunk in divide_records(records, _CHUNK_RECORDS):
        if texts := texts_of(chunk, row, scorer.preprocessing, left_out):
            found = True
            yield texts
        row += len(chunk)
    if not found:
        raise no_text_error(Path(where).name, scorer, row - 1, left_out)
    for reason, count in left_out.items():
        logger.warning("%s: %d records left out: %s", Path(where).name, count, reason)


def no_text_error(
    where: str, scorer: Scorer, records: int, left_out: Mapping[str, int]
) -> RecordError:
    """That an input of so many records holds no text for the task, with what was left out."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return RecordError(
        f"{where}: no text for {scorer.task.name} in {records:,} records"
        f"{f' ({reasons})' if reasons else ''}; give a file with a text in it"
    )


def label_texts(scorer: Scorer, texts: Sequence[TextToLabel]) -> Iterator[LabelledText]:
    """One result for each text, in their order."""
    scores = scorer.predict_proba([each.text for each in texts])
    chosen_on = describe_cuts(scorer.thresholds)
    for each, (labels, chances, asks) in zip(texts, named_results(scorer, scores), strict=True):
        yield LabelledText(
            row=each.row,
            text=each.text,
            labels=labels,
            scores=chances,
            nct_id=each.name,
            thresholds=chosen_on,
            needs_person=asks,
            prefer=scorer.thresholds.prefer if scorer.thresholds is not None else "",
            model=scorer.digest[:12],
            engine=scorer.engine,
        )


def looks_like_a_file(text: str) -> bool:
    """A mistyped path must not be classified as if it were a text."""
    ends = r"txt|tab|[ct]sv|jsonl?|ndjson|xml|zip|gz|zst|parquet|arrow|xlsx?|ods"
    return re.fullmatch(rf".+\.({ends})", text, re.IGNORECASE) is not None


def refuse_no_text(text: str, which: str = "the text") -> None:
    """Do nothing with a text; what was surely meant as something else must not be labelled.

    Raises:
        RecordError: nothing, bytes that are no text, the name of a file, or a mere NCT number.
    """
    if not text.strip():
        raise RecordError(f"{which} is empty; write one or leave it out")
    if not is_unicode(text):
        raise RecordError(f"{which} is no UTF-8: {text!r:.60}; write it as UTF-8")
    if looks_like_a_file(text):
        if exists(text):
            raise RecordError(f"{text}: a file among texts; predict takes one by itself")
        raise RecordError(f"{text}: no such file; check the path")
    if is_nct_number(text):
        raise RecordError(
            f"{text}: the number of a trial, not its text; give a snapshot or a file that holds "
            "the trial, or look it up on the page (`trialese serve --snapshot SNAPSHOT`)"
        )


def exists(text: str) -> bool:
    """Whether the text is the path of something."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a text too long for a path, or with a NUL in it
        return False


WINDOW_RECORDS = 4096
WINDOW_CHARACTERS = 64 * 2**20
"""A window ends sooner where its records have more characters, so that memory stays bounded."""
_WAIT_SECONDS = 600.0
_PAUSE_SECONDS = 0.1


def divide_records(records: Iterator[Record], most: int) -> Iterator[list[Record]]:
    """Windows of at most `most` records and about `WINDOW_CHARACTERS`; where they end follows from
    the records alone."""
    held: list[Record] = []
    characters = 0
    for record in records:
        held.append(record)
        characters += count_characters(record)
        if len(held) == most or characters >= WINDOW_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


class _Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Beside each part; written last, so its presence means that the part is whole."""

    records: int
    texts: int
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class Share:
    """Which of several processes this is."""

    rank: int = 0
    of: int = 1


def own_share(environment: Mapping[str, str] = os.environ) -> Share:
    """This process's share of the work, as `torchrun` tells it; alone, all of it.

    Raises:
        RecordError: the two variables do not go together.
    """
    rank, size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not (rank.isdigit() and size.isdigit() and int(rank) < int(size)):
        raise RecordError(f"RANK={rank} does not go with WORLD_SIZE={size}; set both or neither")
    return Share(int(rank), int(size))


def predict_file(
    scorer: Scorer,
    source: Path,
    out: Path,
    *,
    format_name: str | None = None,
    share: Share | None = None,
    window_records: int = WINDOW_RECORDS,
    columns: AskedColumns = KNOWN_COLUMNS,
    progress: Progress = silent,
) -> About | None:
    """Write the labels of every record of `source` to `out`; None in any process but the first.

    `source` is a snapshot or any file that `read_records` knows; the format is that of the
    extension or `format_name`; `columns` go with a table. Nothing is done if `out` holds just
    that already.

    Raises:
        RecordError: an input that cannot be understood, or that holds no text for the task.
        RecipeError: an unknown format.
        ArtifactError: the disk refused, or another process writes there.
    """
    share = share or own_share()
    if not source.exists():
        raise RecordError(f"{source}: no such file; check the path")
    layout = layout_of(scorer, format_of(out, format_name))
    job = _Job(scorer, layout, source, columns, out, window_records, share)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out) if share.rank == 0 else nullcontext():
            if not job.begin():
                return job.finished if share.rank == 0 else None
            windows = done = 0
            for window, row, records in job.windows():
                if window % share.of == share.rank:
                    job.do(window, row, records)
                windows, done = window + 1, done + len(records)
                progress("predict: records", done, None)
            return job.finish(windows) if share.rank == 0 else None
    except OSError as error:
        raise ArtifactError(
            f"{out}: cannot write ({error.strerror}); free some space or choose another place; "
            "the same command goes on from here"
        ) from error


class _Job:
    """One run, or one process's share of it."""

    def __init__(
        self,
        scorer: Scorer,
        layout: Layout,
        source: Path,
        columns: AskedColumns,
        out: Path,
        window_records: int,
        share: Share,
    ) -> None:
        self._scorer, self._layout, self._source, self._out = scorer, layout, source, out
        self._columns = columns
        self._name = source.name.removesuffix(STDIN_SUFFIX)
        self._window_records, self._first = window_records, share.rank == 0
        self._folder = work_folder(out)
        self._mark = self._folder / "job.json"
        self._key = _key_of(scorer, source, columns, layout, window_records)
        self.finished: About | None = None

    def begin(self) -> bool:
        """Whether there is something to do. The first process makes the folder, or keeps it if it
        is of the same job; others wait for it.

        Raises:
            ArtifactError: the first process did not come.
        """
        until = time.monotonic() + _WAIT_SECONDS
        while self._marked() != self._key:
            self.finished = read_finished(self._out, self._key)
            if self.finished is not None:
                return False
            if self._first:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir()
                write_bytes(self._mark, msgspec.json.encode({"key": self._key}))
            elif time.monotonic() > until:
                raise ArtifactError(
                    f"{self._folder}: the process of rank 0 did not begin; start it as well"
                )
            else:
                time.sleep(_PAUSE_SECONDS)
        return True

    def windows(self) -> Iterator[tuple[int, int, list[Record]]]:
        """Each window's number, the row of its first record, and its records."""
        row = 1
        stream = read_records(self._source, self._columns)
        for window, records in enumerate(divide_records(stream, self._window_records)):
            yield window, row, records
            row += len(records)

    def do(self, window: int, row: int, records: list[Record]) -> None:
        """Write the window's part, unless it is there or all is over."""
        if self._counted(window).is_file() or not self._mark.is_file():
            return
        left_out: dict[str, int] = {}
        how = self._scorer.preprocessing
        texts = texts_of(records, row, how, left_out)
        scores = self._scorer.predict_proba([each.text for each in texts])
        counted = _Counted(records=len(records), texts=len(texts), left_out=left_out)
        try:
            part = self._layout.part(texts, scores)
            write_bytes(self._part(window), part, parents=False)
            write_bytes(self._counted(window), msgspec.json.encode(counted), parents=False)
        except ArtifactError:
            if self._first or self._mark.is_file():
                raise
            # the first process did this window as well, and has joined everything

    def finish(self, total: int) -> About:
        """Join all parts, having done those of processes that are slow or gone.

        Raises:
            RecordError: there was no text at all.
        """
        if not all(self._counted(window).is_file() for window in range(total)):
            for window, row, records in self.windows():
                self.do(window, row, records)
        found = [
            msgspec.json.decode(self._counted(window).read_bytes(), type=_Counted)
            for window in range(total)
        ]
        left_out: dict[str, int] = {}
        for each in found:
            for reason, count in each.left_out.items():
                left_out[reason] = left_out.get(reason, 0) + count
        records_read, texts = sum(each.records for each in found), sum(each.texts for each in found)
        if not texts:
            self._clear()
            raise no_text_error(self._name, self._scorer, records_read, left_out)
        joined = self._folder / "joined"
        self._layout.join(map(self._part, range(total)), joined)
        with joined.open("rb") as file:
            os.fsync(file.fileno())
        about = self._about(records_read, texts, left_out, digest_of_file(joined))
        joined.replace(self._out)
        text = msgspec.json.format(msgspec.json.encode(about), indent=2)
        write_bytes(about_file(self._out), text + b"\n")
        _tell_agreement(self._scorer)
        self._clear()
        return about

    def _about(self, records: int, texts: int, left_out: dict[str, int], digest: str) -> About:
        from trialese import __version__

        layout, scorer = self._layout, self._scorer
        return About(
            key=self._key,
            source=self._name,
            task=scorer.task.name,
            kind=scorer.task.kind,
            thresholds=dict(zip(layout.labels, layout.cuts, strict=True)),
            chosen_on=layout.chosen_on,
            model=scorer.digest,
            engine=scorer.engine,
            code_version=__version__,
            records=records,
            texts=texts,
            left_out=dict(sorted(left_out.items())),
            sha256=digest,
            agreement=getattr(scorer, "agreement", None),
        )

    def _clear(self) -> None:
        """Take the folder away at once, so that no late process writes into what is going."""
        gone = self._folder.with_name(f"{self._folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        self._folder.rename(gone)
        shutil.rmtree(gone)

    def _marked(self) -> str | None:
        try:
            found = msgspec.json.decode(self._mark.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return None
        return found.get("key")

    def _part(self, window: int) -> Path:
        return self._folder / f"{window:08d}.part"

    def _counted(self, window: int) -> Path:
        return self._folder / f"{window:08d}.json"


def _key_of(
    scorer: Scorer, source: Path, columns: AskedColumns, layout: Layout, window_records: int
) -> str:
    from trialese import __version__
    from trialese.collect.files import FilesSource, digests_by_name

    (path,) = FilesSource((str(source),)).paths
    inputs = {f"0:{name}": digest for name, digest in digests_by_name(path).items()}
    return digest_of(
        {
            "inputs": inputs,
            "model": scorer.digest,
            "engine": scorer.engine,
            "format": layout.format,
            "window_records": window_records,
            "code_version": __version__,
            "columns": list(columns),
            "cuts": [layout.chosen_on, *layout.cuts],
        }
    )
