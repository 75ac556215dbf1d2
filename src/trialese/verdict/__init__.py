"""Predictions in, Verdict out: scores with rivals, intervals and a signature, and their report.

Nothing here needs torch: saved predictions are enough (`trialese.predictions`).
"""

from trialese.verdict.judgement import judge
from trialese.verdict.thresholds import choose_thresholds

__all__ = ["choose_thresholds", "judge"]
