"""Contenders of `benchmarks/pretraining.py`, and the time they take to start."""
