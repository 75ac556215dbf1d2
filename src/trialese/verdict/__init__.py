"""Predictions in, Verdict out. Nothing here needs torch."""
