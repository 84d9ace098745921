"""Measurements of a plan: accuracy, distance from the float model, time."""
