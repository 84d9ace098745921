"""Engines: one interface for a model with its optimizer, in one process or on several ranks."""
