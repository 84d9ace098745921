"""Prices of units: the error that each adds in each kind, from two gradients."""
