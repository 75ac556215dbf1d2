"""Predictions in, Verdict out: scores with rivals, intervals and a signature, and their report.

Nothing here needs torch: saved predictions are enough (`trialese.predictions`).
"""

from trialese.verdict.judgement import judge
from trialese.verdict.report import load_verdicts, write_report
from trialese.verdict.thresholds import choose_thresholds
from trialese.verdict.words import format_table

__all__ = ["choose_thresholds", "format_table", "judge", "load_verdicts", "write_report"]
