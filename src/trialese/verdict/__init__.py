"""Predictions in, Verdict out: scores with rivals, intervals and a signature, and their report.

Nothing here needs torch: saved predictions are enough (`trialese.predictions`).
"""

from trialese.verdict.audits import audit_giveaways
from trialese.verdict.card import format_data_card, format_model_card
from trialese.verdict.judgement import judge
from trialese.verdict.report import load_verdicts, write_report
from trialese.verdict.thresholds import choose_thresholds
from trialese.verdict.twin import compare_protocols, write_twin
from trialese.verdict.words import format_table

__all__ = [
    "audit_giveaways",
    "choose_thresholds",
    "compare_protocols",
    "format_data_card",
    "format_model_card",
    "format_table",
    "judge",
    "load_verdicts",
    "write_report",
    "write_twin",
]
