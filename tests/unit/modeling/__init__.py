"""Tests of orchestrator.modeling."""
