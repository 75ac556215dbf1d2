"""A classifier that needs no weights, for tests of what happens around one; also a program.

python toy_scorer.py SOURCE OUT WINDOW_RECORDS [CALLS_UNTIL_KILLED]
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialese.progress import Progress, silent
from trialese.records import Task, Thresholds
from trialese.tasks.scorer import Preprocessing

TASK = Task("toy", ("Long", "Vowels"), "multilabel")
READS = Preprocessing(max_tokens=9)
CUTS = Thresholds(labels=TASK.labels, values=(0.2, 0.3), chosen_on="tune")


@dataclass(slots=True)
class ToyScorer:
    """Scores how long a text is and what share of it is vowels."""

    calls_until_killed: int | None = None
    task: Task = TASK
    preprocessing: Preprocessing = READS
    thresholds: Thresholds | None = CUTS
    digest: str = "0123456789abcdef" * 4
    engine: str = "toy"
    calibration: None = None
    seen: list[str] = field(default_factory=list)

    def predict_proba(
        self, texts: Sequence[str], *, progress: Progress = silent
    ) -> NDArray[np.float64]:
        if self.calls_until_killed is not None:
            self.calls_until_killed -= 1
            if self.calls_until_killed < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        self.seen.extend(texts)
        rows = [
            [min(1, len(t) / 50), sum(t.count(v) for v in "aeiou") / max(1, len(t))] for t in texts
        ]
        return np.array(rows, np.float64).reshape(-1, 2)


if __name__ == "__main__":
    from trialese.tasks.predict import predict_file

    source, out, window, *killed = sys.argv[1:]
    scorer = ToyScorer(int(killed[0]) if killed else None)
    about = predict_file(scorer, Path(source), Path(out), window_records=int(window))
    if about is not None:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sys.stdout.write(f"{about.texts} {peak}\n")
