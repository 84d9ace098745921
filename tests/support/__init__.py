"""Shared by several tests: clusters, small models."""
