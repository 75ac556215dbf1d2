"""Trials or labelled texts in, Classifier and Predictions out."""
