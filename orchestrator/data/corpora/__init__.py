"""Corpora on disk: token blocks, sentence borders, examples and labelled rows."""
