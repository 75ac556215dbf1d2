"""How fast this machine is: a calibration of about a second, kept in the user's cache.

What is timed is processor time, the best of several short runs, so that other work on the machine
changes the figures little. They are kept under chip, threads and versions, so that a plan says the
same from call to call.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from trialese import __version__
from trialese.artifacts import write_bytes
from trialese.errors import TrialeseError
from trialese.hub import cache_home
from trialese.parallel import count_cores, count_threads

if TYPE_CHECKING:
    from trialese.tasks.scorer import Scorer

__all__ = ["MachineSpeed", "calibrate", "machine_speed", "scoring_rate"]

_Kept = TypeVar("_Kept")

_SECONDS = 0.15
"""Each figure is the best of what fits into so much processor time, of three runs at least."""
_PRODUCT_SIZE = 1024
_STUDIES = 20
_SCORED_TEXTS = 64


class MachineSpeed(msgspec.Struct, frozen=True):
    """What one processor core, or the GPU, does in a second of its time."""

    fp32_gflops: float
    """Of matrix products; of the whole machine."""
    bf16_gflops: float | None
    """None where bf16 is not multiplied in hardware, or torch is not installed."""
    parsed_bytes: float
    """Of raw JSON studies, parsed; of one core."""
    prepared_characters: float
    """Of trials, rendered as clean documents with fingerprints; of one core."""


def machine_speed() -> MachineSpeed:
    """The speed of this machine: from the cache, or measured now and kept there."""
    return _kept("speed.json", _machine(), MachineSpeed, calibrate)


def scoring_rate(scorer: Scorer, texts: Sequence[str]) -> float:
    """Characters a second that the classifier scores, measured once on some of these texts."""
    used = list(texts[:_SCORED_TEXTS])
    # a linear classifier computes in one thread, the others in all
    threads = 1 if scorer.engine.startswith("linear") else count_threads()

    def measure() -> float:
        scorer.predict_proba(used[:8])  # what is loaded at the first call is loaded now
        seconds = _best_seconds(lambda: scorer.predict_proba(used), runs=2)
        return sum(map(len, used)) * threads / seconds

    return _kept("scoring.json", f"{scorer.digest}, {scorer.engine}, {_machine()}", float, measure)


def _kept(name: str, key: str, kind: type[_Kept], measure: Callable[[], _Kept]) -> _Kept:
    """What the file of that name in the cache holds under the key, or what is measured now."""
    file = cache_home() / name
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=dict[str, kind])  # type: ignore[valid-type]
    except (OSError, msgspec.MsgspecError):
        kept = {}
    if key not in kept:
        kept[key] = measure()
        with contextlib.suppress(OSError, TrialeseError):  # then it is measured each time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
    return kept[key]


def calibrate() -> MachineSpeed:
    """Measure now: about a second, and where torch is installed as long as it takes to load."""
    from trialese.collect.parse import parse_trial
    from trialese.collect.sample import sample_study
    from trialese.collect.source import RawStudy
    from trialese.corpus.dedup import Fingerprinter
    from trialese.corpus.render import render_document
    from trialese.settings import DedupSettings, RenderSettings, SampleSettings

    settings, render = SampleSettings(), RenderSettings()
    studies = [msgspec.json.encode(sample_study(settings, index)) for index in range(_STUDIES)]
    raw = [RawStudy(f"sample:{index}", "v2", study) for index, study in enumerate(studies)]
    trials = [parse_trial(each) for each in raw]
    fingerprint = Fingerprinter(DedupSettings())
    characters = sum(len(render_document(trial, render).text) for trial in trials)

    def prepare() -> None:
        for trial in trials:
            fingerprint(render_document(trial, render).text)

    fp32, bf16 = _product_rates()
    parsing = _best_seconds(lambda: [parse_trial(each) for each in raw])
    return MachineSpeed(
        fp32_gflops=fp32,
        bf16_gflops=bf16,
        parsed_bytes=sum(map(len, studies)) / parsing,
        prepared_characters=characters / _best_seconds(prepare),
    )


def _best_seconds(action: Callable[[], object], runs: int = 3) -> float:
    """Processor seconds of the fastest of so many runs, or more if they are short."""
    best, spent, done = float("inf"), 0.0, 0
    while spent < _SECONDS or done < runs:
        begun = time.process_time()
        action()
        took = time.process_time() - begun
        best, spent, done = min(best, took), spent + took, done + 1
    return max(best, 1e-9)


def _product_rates() -> tuple[float, float | None]:
    """GFLOP/s of fp32 and of bf16, by torch where that is installed, as it does the work."""
    if find_spec("torch") is not None:
        from trialese.pretrain.compute import product_rates

        return product_rates()
    square = np.ones((_PRODUCT_SIZE, _PRODUCT_SIZE), dtype=np.float32)
    seconds = _best_seconds(lambda: square @ square)  # of all threads together
    return 2 * _PRODUCT_SIZE**3 / seconds / 1e9 * count_cores(), None


def _machine() -> str:
    """What decides the speed: chip, cores, and what computes."""
    chip = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                chip = line.partition(":")[2].strip()
                break
    torch = "none"
    with contextlib.suppress(PackageNotFoundError):
        torch = version("torch")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return f"{chip}, {count_cores()} cores {threads}, trialese {__version__}, torch {torch}"
