"""Readers: one module per source (docstrings, files, digits, the Hub)."""
