"""Shared helpers of tests: clusters, small models."""
