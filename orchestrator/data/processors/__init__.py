"""Processors: from the fields of a row to what a model reads (token ids, pixels, frames)."""
