"""Processors: from the fields of a row to the inputs of a model (token ids, pixels, frames)."""
