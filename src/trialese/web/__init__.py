"""Classifier in, page and API out. The only room that knows the web framework."""
