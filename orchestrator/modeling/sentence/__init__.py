"""Sentence vectors: the statement of a package, and its computation."""
