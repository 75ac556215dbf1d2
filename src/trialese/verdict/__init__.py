"""Predictions in, verdict out. Nothing here needs torch."""
