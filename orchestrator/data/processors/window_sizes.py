"""Sizes of the windows of long contexts; imported by configs, so without the tokenizer."""

OVERLAP = 64
"""Tokens that neighbouring windows share; at most half a window."""
