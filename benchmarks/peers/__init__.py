"""Contenders of `benchmarks/pretraining.py`, and the time that each takes to start."""
