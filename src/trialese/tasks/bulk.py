"""Files of any size -> labels: streamed, resumable, by one process or several.

Records are taken in windows of a fixed number. The labels of a window are a function of its
records alone and stand in a file of their own in `.OUT.work` until all are there and are joined
in order. So a run that was killed goes on where it was; several processes divide the windows
among themselves (RANK and WORLD_SIZE, as `torchrun` and most schedulers set them); and the result
is the same bytes. The first process alone joins, after doing whatever others left undone.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from trialese.artifacts import digest_of, digest_of_file, locked, work_folder, write_bytes
from trialese.errors import ArtifactError, RecordError
from trialese.progress import Progress, silent
from trialese.settings import CollectSettings
from trialese.tasks.reading import read_records, texts_of
from trialese.tasks.scorer import Scorer
from trialese.tasks.writing import (
    About,
    Layout,
    about_file,
    format_of,
    layout_of,
    read_finished,
)

__all__ = ["Share", "own_share", "predict_file"]

WINDOW_RECORDS = 4096
_WAIT_SECONDS = 600.0
_PAUSE_SECONDS = 0.1


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
    progress: Progress = silent,
) -> About | None:
    """Write the labels of every record of `source` to `out`; None in any process but the first.

    `source` is a snapshot or any file that `read_records` knows; the format is that of the
    extension or `format_name`. Nothing is done if `out` holds just that already.

    Raises:
        RecordError: an input that cannot be understood, or that holds no text for the task.
        RecipeError: an unknown format.
        ArtifactError: the disk refused, or another process writes there.
    """
    share = share or own_share()
    if not source.exists():
        raise RecordError(f"{source}: no such file; check the path")
    layout = layout_of(scorer, format_of(out, format_name))
    job = _Job(scorer, layout, source, out, window_records, share)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out) if share.rank == 0 else nullcontext():
            if not job.begin():
                return job.finished if share.rank == 0 else None
            windows = done = 0
            for window, records in job.windows():
                if window % share.of == share.rank:
                    job.do(window, records)
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
        out: Path,
        window_records: int,
        share: Share,
    ) -> None:
        self._scorer, self._layout, self._source, self._out = scorer, layout, source, out
        self._window_records, self._first = window_records, share.rank == 0
        self._folder = work_folder(out)
        self._mark = self._folder / "job.json"
        self._key = _key_of(scorer, source, layout, window_records)
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

    def windows(self) -> Iterator[tuple[int, list[object]]]:
        """Each window's number and records."""
        stream = read_records(self._source)
        window = 0
        while records := list(islice(stream, self._window_records)):
            yield window, records
            window += 1

    def do(self, window: int, records: list[object]) -> None:
        """Write the window's part, unless it is there or all is over."""
        if self._counted(window).is_file() or not self._mark.is_file():
            return
        left_out: dict[str, int] = {}
        how = self._scorer.preprocessing
        texts = texts_of(records, window * self._window_records + 1, how, left_out)
        scores = self._scorer.predict([each.text for each in texts])
        counted = _Counted(records=len(records), texts=len(texts), left_out=left_out)
        try:
            write_bytes(self._part(window), self._layout.part(texts, scores))
            write_bytes(self._counted(window), msgspec.json.encode(counted))
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
            for window, records in self.windows():
                self.do(window, records)
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
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
            raise RecordError(
                f"{self._source}: no text for {self._scorer.task.name} in {records_read:,} records"
                f"{f' ({reasons})' if reasons else ''}; give a file with a text in it"
            )
        joined = self._folder / "joined"
        self._layout.join(map(self._part, range(total)), joined)
        with joined.open("rb") as file:
            os.fsync(file.fileno())
        about = self._about(records_read, texts, left_out, digest_of_file(joined))
        joined.replace(self._out)
        text = msgspec.json.format(msgspec.json.encode(about), indent=2)
        write_bytes(about_file(self._out), text + b"\n")
        self._clear()
        return about

    def _about(self, records: int, texts: int, left_out: dict[str, int], digest: str) -> About:
        from trialese import __version__

        layout, scorer = self._layout, self._scorer
        return About(
            key=self._key,
            source=self._source.name,
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


def _key_of(scorer: Scorer, source: Path, layout: Layout, window_records: int) -> str:
    from trialese import __version__
    from trialese.collect import snapshot_inputs

    inputs = snapshot_inputs(CollectSettings(source="files", paths=(str(source),)))
    return digest_of(
        {
            "inputs": inputs,
            "model": scorer.digest,
            "engine": scorer.engine,
            "format": layout.format,
            "window_records": window_records,
            "code_version": __version__,
        }
    )
