"""Halving policies, one file each: which models train another epoch after a complete rung."""
