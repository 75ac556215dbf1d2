"""Snapshot in, Corpus and TokenBlocks out."""
