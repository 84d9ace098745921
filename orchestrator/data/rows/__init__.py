"""Labelled rows: reading, label columns, splits, and the labelled tasks."""
