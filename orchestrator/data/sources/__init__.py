"""Readers: one module a source (docstrings, files, digits, the Hub)."""
